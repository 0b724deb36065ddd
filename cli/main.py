"""The operator's command `reshelve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.dead_commands import app as dead
from cli.running import run, run_interruptibly

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[
    Path,
    typer.Option(
        envvar="RESHELVE_DATA_DIR",
        help="Where `up` keeps its private servers, levels and logs; other commands find the servers there.",
        file_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Count = typer.Option(min=0, max=64, help="How many to run.")
_DATA_DIR = Path(".reshelve")

app.add_typer(dead, name="dead")


@app.callback()
def reshelve() -> None:
    """Keeps every file on the storage level that its popularity deserves.

    The servers are those in `RESHELVE_REDIS_URL` (`redis://user:password@host:port/0`) and `RESHELVE_MYSQL_URL`
    (`mysql://user:password@host:port/database`), or in the files that `RESHELVE_REDIS_URL_FILE` and
    `RESHELVE_MYSQL_URL_FILE` name. Where they are not set, `up` and `demo` start private ones, and the other commands
    use those of a running `up`.
    """


@app.command()
def up(
    *,
    data_dir: DataDir = _DATA_DIR,
    port: Annotated[
        int, typer.Option(envvar="RESHELVE_HTTP_PORT", min=0, max=65535, help="HTTP port; 0 takes a free one.")
    ] = 8080,
    ingests: Annotated[int, typer.Option(min=1, max=64, help="How many to run, all on the same port.")] = 1,
    movers: Annotated[int, Count] = 1,
    planners: Annotated[int, Count] = 1,
    recorders: Annotated[int, Count] = 1,
    level_root: Annotated[
        Path | None,
        typer.Option(
            envvar="RESHELVE_LEVEL_ROOT",
            help="Where the directories of the sample levels are made.  [default: levels in the data directory]",
            file_okay=False,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the services' logs too.")] = False,
) -> None:
    """Start everything on this machine, and stop it on Ctrl-C.

    Starts private servers where no URLs are set, brings the schema up to date, starts the four services and says where
    they listen. What is in the data directory stays for the next time.
    """
    from cli.system import Plan  # noqa: PLC0415
    from cli.up import up  # noqa: PLC0415

    replicas = {"ingest": ingests, "mover": movers, "planner": planners, "recorder": recorders}
    plan = Plan(data_dir, port, replicas, level_root, log_format="console" if verbose else None)
    run(lambda stop: up(plan, stop, verbose=verbose))


@app.command()
def demo(
    *,
    contents: Annotated[int, typer.Option(min=5, max=5000, help="Sample files.")] = 300,
    views: Annotated[int, typer.Option(min=1, max=1_000_000, help="View reports to send.")] = 20_000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave files, database and logs for a look.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed makes other files and views.")] = 7,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """See it work: files are made, viewed, and moved to where they belong.

    Starts everything in `demo` in the data directory, makes sample files on the lowest level, sends a stream of views
    over HTTP in which a few files get most of them, and shows the files move up. Then lowers some counts, so that files
    move down. At the end every file is looked for, and its history checked; exits with 1 if anything is wrong.
    """
    from cli.demo import Demo, demo  # noqa: PLC0415

    run(lambda stop: demo(Demo(contents, views, seed, keep), data_dir, stop))


@app.command()
def migrate(
    *,
    data_dir: DataDir = _DATA_DIR,
    level_root: Annotated[
        Path | None,
        typer.Option(
            envvar="RESHELVE_LEVEL_ROOT",
            help="Make the sample levels (bronze, silver, gold) here, if there are no levels yet.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Bring the database to the schema of this version.

    Safe to run twice, and from two places at once.
    """
    from cli.migrating import migrate_and_tell  # noqa: PLC0415

    run_interruptibly(lambda: migrate_and_tell(data_dir, level_root))


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A level's directory, or one below it.")],
    *,
    level: Annotated[str | None, typer.Option(help="Make sure that DIR lies on this level.")] = None,
    cid_from: Annotated[
        Literal["stem", "name", "path"],
        typer.Option(help="What becomes the cid: the name without its suffix, the name, or a hash of the path."),
    ] = "stem",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be registered; write nothing.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Files registered in one statement.")] = 1000,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Register files that lie on a level already.

    Looks at all regular files below DIR, follows no link, and leaves out what movers work on. Safe to break off and
    to run again. Exits with 1 when files were left out: those whose name or cid cannot be used or is taken.
    """
    from cli.importing import Import, import_files  # noqa: PLC0415

    wanted = Import(directory, level, cid_from, dry_run, batch)
    run_interruptibly(lambda: import_files(wanted, data_dir))


@app.command()
def status(
    *,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look every second, until Ctrl-C.")] = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Show levels, backlog, what waits, and who works."""
    from cli.status import show_status, watch_status  # noqa: PLC0415

    if watch:
        run(lambda stop: watch_status(data_dir, stop, as_json=as_json))
    run_interruptibly(lambda: show_status(data_dir, as_json=as_json))


@app.command()
def explain(
    cid: Annotated[str, typer.Argument(metavar="CID", help="The content's id.")],
    *,
    as_json: Json = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Say where a content is, and why.

    Exits with 1 when the content is unknown.
    """
    from cli.explain import show_explanation  # noqa: PLC0415

    run_interruptibly(lambda: show_explanation(cid, data_dir, as_json=as_json))


@app.command()
def audit(
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without guessing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --repair: say what would be done.")] = False,
    max_share: Annotated[
        float, typer.Option(min=0, max=1, help="Repair nothing if more than this share of the catalog is affected.")
    ] = 0.05,
    rate: Annotated[float, typer.Option(min=1, help="Look at no more files a second.")] = 10_000,
    min_age: Annotated[
        float, typer.Option(min=0, help="Leave parts and second copies alone that are younger than so many seconds.")
    ] = 600,
    as_json: Json = False,
    data_dir: DataDir = _DATA_DIR,
) -> None:
    """Compare MySQL, Redis and the disk.

    One line for each thing that is not as it should be, after a second look at it. Changes nothing without --repair.
    Exits with 0 when all is well or was mended, 1 when findings are left, 2 when it could not run or refused to repair.
    """
    from cli.audit.command import Wanted, audit  # noqa: PLC0415

    wanted = Wanted(repair, dry_run, max_share, rate, min_age, as_json)
    run_interruptibly(lambda: audit(wanted, data_dir))
