"""`reshelve dead`: entries that were given up on, and what an operator does about them."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.table import Table

from cli.running import fail
from cli.session import Session, opened
from cli.terminal import amount, console, shown
from shared.drop import Dropping, check_why
from shared.errors import InvalidError
from shared.state.dead_letters import DeadLetterQueue, Filter, GoneError, Letter, LetterId, RefusedError

_AT_ONCE = 200

Act = Callable[[Session, LetterId], Awaitable[str]]
"""Does something about one letter and says what came of it. Raises GoneError, RefusedError."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Letters named by their ids, or, where none is, all that the filter lets through."""

    ids: Sequence[LetterId]
    wanted: Filter

    @classmethod
    def parse(cls, ids: Sequence[str], wanted: Filter, *, everything: bool) -> Chosen:
        """Raises InvalidError unless either ids or --all are given: nothing is put back or dropped by accident."""
        if everything and ids:
            raise InvalidError("both ids and --all are given: name letters, or say --all, which filters narrow")
        if not everything and not ids:
            raise InvalidError("no letter is named: give ids, as `reshelve dead list` shows them, or --all")
        if ids and wanted != Filter():
            raise InvalidError("filters narrow --all: leave them out where ids are given")
        return cls([LetterId.parse(text) for text in ids], wanted)


async def list_letters(wanted: Filter, limit: int, data_dir: Path, *, as_json: bool) -> int:
    """Print at most `limit` letters; all where it is 0."""
    async with opened(data_dir) as session:
        found = [letter async for letter in _each(session, wanted, limit + 1 if limit else sys.maxsize)]
    taken = found[:limit] if limit else found
    if as_json:
        print(orjson.dumps([asdict(letter) for letter in taken]).decode())
    elif taken:
        console().print(_table(taken))
    else:
        print("no dead letters")
    if len(taken) < len(found):
        print(f"reshelve: there are more than {limit}: filter, or say --limit 0 for all", file=sys.stderr)
    return 0


async def show_letter(id_: LetterId, data_dir: Path, *, as_json: bool) -> int:
    """Print a letter with what it holds; 1 where it is gone."""
    async with opened(data_dir) as session:
        try:
            letter, fields = await DeadLetterQueue(session.scripts).show(id_)
        except GoneError as error:
            fail(str(error))
    if as_json:
        print(orjson.dumps({**asdict(letter), "fields": fields}).decode())
        return 0
    out = console()
    for name, value in {**asdict(letter), "died_at": _when(letter.died_at)}.items():
        out.print(f"{name:<11} {shown(str(value))}", soft_wrap=True)
    for name, value in fields.items():
        out.print(f"  {shown(name):<11} {shown(value)}", soft_wrap=True)
    return 0


async def retry_letters(chosen: Chosen, data_dir: Path, *, as_json: bool) -> int:
    """Put letters back onto their streams; 1 where one could not be."""

    async def retry(session: Session, id_: LetterId) -> str:
        await DeadLetterQueue(session.scripts).retry(id_)
        return "retried"

    return await _act(chosen, retry, "retried", data_dir, as_json=as_json)


async def drop_letters(chosen: Chosen, why: str, data_dir: Path, *, as_json: bool) -> int:
    """Drop letters, with `why` in the history of their contents; 1 where one was gone."""
    check_why(why)

    async def drop(session: Session, id_: LetterId) -> str:
        dropping = Dropping(DeadLetterQueue(session.scripts), session.drops)
        letter, outcome = await dropping.drop(id_, why, time.time_ns() // 1_000_000)
        return f"dropped, {letter.cid} rests" if outcome == "rests" else "dropped"

    return await _act(chosen, drop, "dropped", data_dir, as_json=as_json)


async def _act(chosen: Chosen, act: Act, done: str, data_dir: Path, *, as_json: bool) -> int:
    """One letter after the other, each with its line; safe to break off and to run again."""
    succeeded = failed = 0
    async with opened(data_dir) as session:
        async for id_ in _ids(session, chosen):
            try:
                outcome, error = await act(session, id_), None
            except (GoneError, RefusedError) as refusal:
                outcome, error = "refused", str(refusal)
            succeeded += error is None
            failed += error is not None
            if as_json:
                print(orjson.dumps({"id": str(id_), "outcome": outcome, "error": error}).decode())
            else:
                print(f"{id_}  {outcome}" if error is None else f"{id_}  not {done}: {shown(error)}")
    if not as_json:
        print(f"{done} {amount(succeeded, 'dead letter')}" + (f", {failed:,} not" if failed else ""))
    return 1 if failed else 0


async def _ids(session: Session, chosen: Chosen) -> AsyncIterator[LetterId]:
    for id_ in chosen.ids:
        yield id_
    if not chosen.ids:
        # Those that are dead now: a letter that is retried and dies again would be met over and over.
        for id_ in [LetterId.parse(letter.id) async for letter in _each(session, chosen.wanted, sys.maxsize)]:
            yield id_


async def _each(session: Session, wanted: Filter, limit: int) -> AsyncIterator[Letter]:
    letters = DeadLetterQueue(session.scripts)
    after: LetterId | None = None
    while limit > 0:
        found = await letters.list(wanted, min(limit, _AT_ONCE), after)
        for letter in found:
            yield letter
        if len(found) < _AT_ONCE:
            return
        limit -= len(found)
        after = LetterId.parse(found[-1].id)


def _table(letters: Sequence[Letter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True)
    for name in ("stream", "cid", "died", "attempts", "reason"):
        table.add_column(name)
    for letter in letters:
        reason = f"{letter.reason}: {letter.detail}" if letter.detail else letter.reason
        cells = (letter.id, letter.stream, letter.cid, _when(letter.died_at), str(letter.attempts), reason)
        table.add_row(*(shown(cell) for cell in cells))
    return table


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().isoformat(" ", "seconds")
