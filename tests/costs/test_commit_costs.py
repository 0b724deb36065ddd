"""What a recorder's batch asks of MySQL: as many statements for many relocations as for few."""

from __future__ import annotations

from pathlib import Path

from shared.catalog import Commitments, Connections, Registry
from tests.samples import a_placed

_STATEMENTS = 6
"""Begin; hold the levels, lock the rows, change, record; commit."""


async def _questions(connections: Connections) -> int:
    """Statements of the pool's one connection so far, this question among them."""
    async with connections.cursor() as cursor:
        await cursor.execute("SHOW SESSION STATUS LIKE 'Questions'")
        return int((await cursor.fetchone())[1])


async def test_a_batch_takes_the_same_statements_whatever_its_size(database: str, level_root: Path) -> None:
    connections = Connections(database, size=1)
    paths = {"from_path": str(level_root / "bronze"), "to_path": str(level_root / "silver")}
    try:
        for number in (1, 10, 200):
            cids = [f"{number}-{one}" for one in range(number)]
            await Registry(connections).register_many([(cid, f"dir/{cid}.mp4") for cid in cids], "bronze")
            batch = [a_placed(cid, **paths) for cid in cids]
            before = await _questions(connections)
            assert set(await Commitments(connections).commit(batch, 1)) == {"commit"}
            assert await _questions(connections) - before - 1 <= _STATEMENTS
    finally:
        await connections.close()
