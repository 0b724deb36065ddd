"""Committing relocations in batches: the level change and its history, exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from shared.catalog import sql
from shared.catalog.connections import CatalogDuplicateError, Connections
from shared.messages import Placed

_WHY_MAX, _MOVER_MAX = 255, 128

Verdict = str
"""`commit`: change the level and record. `record`: the row is on the target already. `committed`: nothing to do.
Any other text says what in the catalog contradicts the relocation."""


def judge(placed: Placed, row: tuple[str, str] | None, paths: Mapping[str, str]) -> Verdict:
    """What to do about a placed copy that is not known to be committed, given its row's (level, filename). Pure.

    `paths`: those of the levels.
    """
    if row is None:
        return "the content is no longer in the catalog"
    contradiction = _contradiction(placed, row, paths)
    if contradiction:
        return contradiction
    return "commit" if row[0] == placed.from_level else "record"


def _contradiction(placed: Placed, row: tuple[str, str], paths: Mapping[str, str]) -> str:
    level, filename = row
    if filename != placed.filename:
        return f"the catalog names the file {filename!r}"
    if placed.to_level not in paths:
        return f"the level {placed.to_level} is no longer in the level table"
    if paths[placed.to_level] != placed.to_path:
        return f"the level {placed.to_level} now has the path {paths[placed.to_level]}"
    if level not in {placed.from_level, placed.to_level}:
        return f"the catalog has the content on {level}, neither {placed.from_level} nor {placed.to_level}"
    return ""


class Commitments:
    """The recorder's transaction."""

    def __init__(self, connections: Connections) -> None:
        """Writes through `connections`."""
        self._connections = connections

    async def commit(self, batch: Sequence[Placed], now_ms: int) -> list[Verdict]:
        """The verdict on each placed copy, all carried out in one transaction.

        Each cid stands in `batch` once. Safe to repeat: a committed move is found in `relocations`.
        Raises CatalogDownError, CatalogBusyError; whether the transaction took effect may then be unknown.
        """
        try:
            return await self._commit(batch, now_ms, ask_of_all=False)
        except CatalogDuplicateError:
            # Committed before, and moved back by hand since: the row alone does not tell.
            return await self._commit(batch, now_ms, ask_of_all=True)

    async def _commit(self, batch: Sequence[Placed], now_ms: int, *, ask_of_all: bool) -> list[Verdict]:
        async with self._connections.transaction() as cursor:
            await cursor.execute(sql.HOLD_LEVELS)
            paths = dict(await cursor.fetchall())
            await cursor.execute(sql.LOCK_CONTENTS, (tuple(sorted(placed.cid for placed in batch)),))
            rows = {cid: (level, filename) for cid, level, filename in await cursor.fetchall()}
            verdicts = [judge(placed, rows.get(placed.cid), paths) for placed in batch]
            # For the others the key of `relocations` tells: to ask of all would take longer than to fail now and then.
            doubtful = [
                p.move_id for p, verdict in zip(batch, verdicts, strict=True) if ask_of_all or verdict != "commit"
            ]
            if doubtful:
                await cursor.execute(sql.COMMITTED, (tuple(doubtful),))
                committed = {move_id for (move_id,) in await cursor.fetchall()}
                verdicts = [
                    "committed" if placed.move_id in committed else verdict
                    for placed, verdict in zip(batch, verdicts, strict=True)
                ]
            judged = sorted(zip(batch, verdicts, strict=True), key=lambda item: item[0].cid)
            changes = [(p.cid, p.from_level, p.to_level) for p, verdict in judged if verdict == "commit"]
            records = [_record(p, now_ms) for p, verdict in judged if verdict in {"commit", "record"}]
            if changes:
                await cursor.execute(sql.CHANGE_LEVELS, (orjson.dumps(changes).decode(),))
            if records:
                await cursor.execute(sql.RECORD + ", ".join(["%s"] * len(records)), records)
        return verdicts


def _record(placed: Placed, now_ms: int) -> tuple[str | int, ...]:
    return (
        placed.move_id,
        placed.cid,
        placed.from_level,
        placed.to_level,
        placed.count,
        placed.why[:_WHY_MAX],
        placed.bytes,
        placed.digest,
        placed.method,
        placed.mover[:_MOVER_MAX],
        placed.attempts,
        placed.planned_at,
        placed.placed_at,
        now_ms,
    )
