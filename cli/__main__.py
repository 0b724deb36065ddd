"""`python -m cli` is `reshelve`."""

from cli.main import app

app(prog_name="reshelve")
