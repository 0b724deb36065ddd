"""The words of `reshelve dead`: its commands, their options, their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.running import fail, run_interruptibly
from shared.errors import InvalidError
from shared.state.dead_letters import Filter, LetterId

app = typer.Typer(no_args_is_help=True, help="Look after dead letters: entries that were given up on.")

DataDir = Annotated[
    Path,
    typer.Option(envvar="RESHELVE_DATA_DIR", help="Where a running `up` left word of its servers.", file_okay=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Stream = Annotated[
    str | None, typer.Option(help="Only those from this stream: views, moves, placed, retires, or from later.")
]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason, such as `source missing`.")]
Cid = Annotated[str | None, typer.Option(help="Only those of this content.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Letters, as `list` shows them.")]
Everything = Annotated[bool, typer.Option("--all", help="All that the filters let through.")]
_DATA_DIR = Path(".reshelve")
_USAGE = 2


@app.command("list")
def list_(
    *,
    stream: Stream = None,
    reason: Reason = None,
    cid: Cid = None,
    limit: Annotated[int, typer.Option(min=0, help="How many at most; 0 for all.")] = 100,
    as_json: Json = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """List dead letters, oldest first within each partition."""
    from cli.dead import list_letters  # noqa: PLC0415

    wanted = _filter(stream, reason, cid)
    run_interruptibly(lambda: list_letters(wanted, limit, data_dir, as_json=as_json))


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A letter, as `list` shows it.")],
    *,
    as_json: Json = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Show a dead letter with what it holds.

    Exits with 1 when it is gone.
    """
    from cli.dead import show_letter  # noqa: PLC0415

    try:
        letter = LetterId.parse(id_)
    except InvalidError as error:
        fail(str(error), _USAGE)
    run_interruptibly(lambda: show_letter(letter, data_dir, as_json=as_json))


@app.command()
def retry(
    ids: Ids = None,
    *,
    everything: Everything = False,
    stream: Stream = None,
    reason: Reason = None,
    cid: Cid = None,
    as_json: Json = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Put dead letters back onto their streams, with all their attempts before them.

    A letter whose content has moved on is refused. Exits with 1 when one was refused or gone.
    """
    from cli.dead import Chosen, retry_letters  # noqa: PLC0415

    wanted = _filter(stream, reason, cid)
    try:
        chosen = Chosen.parse(ids or [], wanted, everything=everything)
    except InvalidError as error:
        fail(str(error), _USAGE)
    run_interruptibly(lambda: retry_letters(chosen, data_dir, as_json=as_json))


@app.command()
def drop(
    ids: Ids = None,
    *,
    why: Annotated[str, typer.Option(help="For the history of the contents.")],
    everything: Everything = False,
    stream: Stream = None,
    reason: Reason = None,
    cid: Cid = None,
    as_json: Json = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Drop dead letters; their contents come to rest where they are.

    The next view of such a content asks for a review. Exits with 1 when a letter was gone.
    """
    from cli.dead import Chosen, drop_letters  # noqa: PLC0415

    wanted = _filter(stream, reason, cid)
    try:
        chosen = Chosen.parse(ids or [], wanted, everything=everything)
    except InvalidError as error:
        fail(str(error), _USAGE)
    run_interruptibly(lambda: drop_letters(chosen, why, data_dir, as_json=as_json))


def _filter(stream: str | None, reason: str | None, cid: str | None) -> Filter:
    try:
        return Filter.parse(stream, reason, cid)
    except InvalidError as error:
        fail(str(error), _USAGE)
