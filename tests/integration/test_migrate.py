from __future__ import annotations

import asyncio
from itertools import chain
from pathlib import Path
from typing import Any

import asyncmy
import pytest

from cli.migrate import SAMPLE_LEVELS, migrate
from shared.errors import InvalidError, RetryError, StopServiceError
from shared.mysql_url import parse_mysql_url

STEPS = ["0001_tables", "0002_level_change_trigger", "0003_drops"]
TABLES = {"level", "contents", "update_history", "relocations", "drops", "alembic_version"}


async def query(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last statement."""
    connection = await asyncmy.connect(**parse_mysql_url(url).connect_arguments(), autocommit=True)
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return list(await cursor.fetchall())
    finally:
        await connection.ensure_closed()


async def schema(url: str) -> tuple[set[str], set[str]]:
    tables = await query(url, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
    triggers = await query(
        url,
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()",
    )
    return {row[0] for row in tables}, {row[0] for row in triggers}


async def test_empty_database_gets_everything(bare_database: str, level_root: Path) -> None:
    assert await migrate(bare_database, level_root) == [*STEPS, SAMPLE_LEVELS]
    assert await schema(bare_database) == (TABLES, {"contents_level_change"})
    assert await query(bare_database, "SELECT content_level, min_counts, max_counts, path FROM level ORDER BY 2") == [
        ("bronze", 0, 999, str(level_root / "bronze")),
        ("silver", 1000, 1999, str(level_root / "silver")),
        ("gold", 2000, 3001, str(level_root / "gold")),
    ]
    assert all((level_root / name).is_dir() for name in ("bronze", "silver", "gold"))


async def test_second_run_does_nothing(bare_database: str, level_root: Path) -> None:
    await migrate(bare_database, level_root)
    assert await migrate(bare_database, level_root) == []


async def test_two_places_at_once_apply_each_step_once(bare_database: str, level_root: Path) -> None:
    applied = await asyncio.gather(*(migrate(bare_database, level_root) for _ in range(4)))
    assert sorted(chain.from_iterable(applied)) == sorted([*STEPS, SAMPLE_LEVELS])
    assert await query(bare_database, "SELECT COUNT(*) FROM level") == [(3,)]


async def test_migration_waits_for_the_one_that_holds_the_lock(bare_database: str) -> None:
    holder = await asyncmy.connect(**parse_mysql_url(bare_database).connect_arguments())
    async with holder.cursor() as cursor:
        await cursor.execute("SELECT GET_LOCK(CONCAT('reshelve-migrate:', DATABASE()), 0)")
        assert await cursor.fetchone() == (1,)
    waiting = asyncio.create_task(migrate(bare_database, None))
    await asyncio.sleep(0.3)
    assert await schema(bare_database) == (set(), set())
    await holder.ensure_closed()
    assert await waiting == STEPS


@pytest.mark.parametrize(
    "undone",
    [
        # Killed after the first tables, before the version was written down.
        ["DROP TRIGGER contents_level_change", "DROP TABLE relocations, update_history", "DELETE FROM alembic_version"],
        # Killed between DROP TRIGGER and CREATE TRIGGER.
        ["DROP TRIGGER contents_level_change", "UPDATE alembic_version SET version_num = '0001'"],
        # Killed after CREATE TRIGGER, before the version was written down.
        ["UPDATE alembic_version SET version_num = '0001'"],
        ["DELETE FROM alembic_version"],
        ["DROP TABLE alembic_version"],
    ],
)
async def test_half_done_run_is_completed(bare_database: str, level_root: Path, undone: list[str]) -> None:
    await migrate(bare_database, level_root)
    await query(bare_database, "INSERT INTO contents (cid, content_level, filename) VALUES ('1', 'bronze', 'a')")
    await query(bare_database, *undone)
    assert (await migrate(bare_database, level_root))[-1] == STEPS[-1]
    assert await schema(bare_database) == (TABLES, {"contents_level_change"})
    assert await query(bare_database, "SELECT cid FROM contents") == [("1",)]
    assert await query(bare_database, "SELECT version_num FROM alembic_version") == [("0003",)]


async def test_sample_levels_stay_out_of_a_table_that_has_levels(bare_database: str, level_root: Path) -> None:
    await migrate(bare_database, None)
    assert await query(bare_database, "SELECT COUNT(*) FROM level") == [(0,)]
    await query(bare_database, "INSERT INTO level VALUES ('tape', 0, 10, '/tape')")
    assert await migrate(bare_database, level_root) == []
    assert await query(bare_database, "SELECT content_level FROM level") == [("tape",)]
    assert not (level_root / "bronze").exists()


async def test_level_change_by_hand_is_in_the_history(database: str) -> None:
    await query(
        database,
        "INSERT INTO contents VALUES ('7', 'bronze', 'g.mp4', '2020-01-01', '2020-01-01 00:00:00.123')",
        "UPDATE contents SET content_level = 'gold' WHERE cid = '7'",
    )
    rows = await query(
        database,
        "SELECT h.cid, CAST(old_update_time AS CHAR), old_content_level, new_content_level,"
        " new_update_time = c.update_time, ABS(TIMESTAMPDIFF(SECOND, new_update_time, UTC_TIMESTAMP(3))) < 60"
        " FROM update_history h JOIN contents c ON c.cid = h.cid",
    )
    assert rows == [("7", "2020-01-01 00:00:00.123", "bronze", "gold", 1, 1)]


async def test_other_changes_by_hand_are_not_in_the_history(database: str) -> None:
    rows = await query(
        database,
        "INSERT INTO contents VALUES ('7', 'bronze', 'g.mp4', '2020-01-01', '2020-01-01')",
        "UPDATE contents SET content_level = 'bronze', filename = 'h.mp4' WHERE cid = '7'",
        "SELECT CAST(update_time AS CHAR), (SELECT COUNT(*) FROM update_history) FROM contents",
    )
    assert rows == [("2020-01-01 00:00:00.000", 0)]


async def test_update_time_never_goes_back(database: str) -> None:
    rows = await query(
        database,
        "INSERT INTO contents VALUES ('7', 'bronze', 'g.mp4', '2020-01-01', '2999-01-01')",
        "UPDATE contents SET content_level = 'silver' WHERE cid = '7'",
        "SELECT CAST(update_time AS CHAR) FROM contents",
    )
    assert rows == [("2999-01-01 00:00:00.000",)]


async def test_times_are_utc_in_every_session(database: str) -> None:
    rows = await query(
        database,
        "SET time_zone = '+09:00'",
        "INSERT INTO contents (cid, content_level, filename) VALUES ('7', 'bronze', 'g.mp4')",
        "SELECT ABS(TIMESTAMPDIFF(SECOND, generate_time, UTC_TIMESTAMP(3))) < 60,"
        " ABS(TIMESTAMPDIFF(SECOND, update_time, UTC_TIMESTAMP(3))) < 60 FROM contents",
    )
    assert rows == [(1, 1)]


async def test_names_are_compared_byte_by_byte(database: str) -> None:
    rows = await query(
        database,
        "INSERT INTO contents (cid, content_level, filename) VALUES ('a', 'bronze', 'x'), ('A', 'bronze', 'X')",
        "SELECT COUNT(*) FROM contents WHERE cid = 'a' AND filename = 'x'",
    )
    assert rows == [(1,)]


async def test_level_with_contents_cannot_go(database: str) -> None:
    await query(database, "INSERT INTO contents (cid, content_level, filename) VALUES ('7', 'bronze', 'g.mp4')")
    with pytest.raises(asyncmy.errors.IntegrityError):
        await query(database, "DELETE FROM level WHERE content_level = 'bronze'")


async def test_schema_of_a_newer_version_is_left_alone(bare_database: str) -> None:
    await migrate(bare_database, None)
    await query(bare_database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StopServiceError, match=r"revision that this version does not know.*9999"):
        await migrate(bare_database, None)


async def test_server_that_is_not_there_is_worth_a_retry() -> None:
    with pytest.raises(RetryError, match=r"mysql unreachable: 127\.0\.0\.1:1"):
        await migrate("mysql://a:hunter2@127.0.0.1:1/x", None)


async def test_wrong_password_ends_it_without_showing_it(mysql_server_url: str) -> None:
    address = parse_mysql_url(mysql_server_url)
    wrong = f"mysql://{address.user}:hunter2@{address.host}:{address.port}/{address.database}"
    with pytest.raises(StopServiceError, match="1045") as raised:
        await migrate(wrong, None)
    assert "hunter2" not in str(raised.value)


async def test_level_root_that_cannot_be_made_is_named(bare_database: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidError, match=r"bronze cannot be made: .*choose another root"):
        await migrate(bare_database, tmp_path / "file")
