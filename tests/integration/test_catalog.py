from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncmy
import pytest
from msgspec import structs

from shared.catalog import (
    Catalog,
    CatalogDownError,
    CatalogRefusedError,
    Commitments,
    Connections,
    LevelInUseError,
    Registry,
    Row,
    TakenError,
    Verdict,
)
from shared.catalog.catalog import LevelChange, Relocation
from shared.catalog.connections import CatalogBusyError
from shared.errors import InvalidError
from shared.levels import Level, Levels
from shared.messages import Placed
from shared.mysql_url import parse_mysql_url
from tests.consumers import until
from tests.samples import a_placed
from tests.tables import Tables
from tests.wire import Lost, Wire

NOW = 1_700_000_000_500
HOSTILE = "dir/'quotes\" \\back%s %% é 日本 🎬 \t\n`; DROP TABLE contents;--"


@pytest.fixture
async def connections(database: str) -> AsyncIterator[Connections]:
    pool = Connections(database)
    yield pool
    await pool.close()


@pytest.fixture
def catalog(connections: Connections) -> Catalog:
    return Catalog(connections)


@pytest.fixture
def registry(connections: Connections) -> Registry:
    return Registry(connections)


@pytest.fixture
def commitments(connections: Connections) -> Commitments:
    return Commitments(connections)


@pytest.fixture
def tables(database: str) -> Tables:
    return Tables(database)


@pytest.fixture
def sample(level_root: Path) -> Levels:
    names = (("bronze", 0, 999), ("silver", 1000, 1999), ("gold", 2000, 3001))
    return Levels(Level(name, low, high, str(level_root / name)) for name, low, high in names)


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_the_level_table_is_read_as_it_stands(catalog: Catalog, sample: Levels) -> None:
    await catalog.ping()
    assert await catalog.levels() == sample


async def test_an_unsound_level_table_is_refused_with_its_fault(catalog: Catalog, tables: Tables) -> None:
    await tables.query("UPDATE level SET min_counts = 1500 WHERE content_level = 'silver'")
    with pytest.raises(InvalidError, match="leave 1000-1499 to nobody: start silver at 1000"):
        await catalog.levels()


async def test_a_row_has_the_count_of_its_latest_relocation(catalog: Catalog, tables: Tables) -> None:
    for cid in ("a", "b", "c", "A"):
        await tables.put(cid)
    await tables.put_relocation("a", "m1", count=10, committed_at=1000)
    await tables.put_relocation("a", "m2", count=30, committed_at=3000)
    await tables.put_relocation("a", "m3", count=20, committed_at=2000)
    await tables.put_relocation("b", "m5", count=5, committed_at=1000)
    await tables.put_relocation("b", "m4", count=4, committed_at=1000)
    await tables.put_relocation("gone", "m9", count=9)
    rows = await catalog.rows(["a", "b", "c", "A", "gone", "never", "a"])
    assert rows == {
        "a": Row("a", "bronze", "dir/a.mp4", 30),
        "b": Row("b", "bronze", "dir/b.mp4", 5),
        "c": Row("c", "bronze", "dir/c.mp4", None),
        "A": Row("A", "bronze", "dir/A.mp4", None),
    }


async def test_no_cids_need_no_query(catalog: Catalog, connections: Connections) -> None:
    assert await catalog.rows([]) == {}
    assert connections._pool is None


async def test_one_cid_is_as_good_as_many(catalog: Catalog, tables: Tables) -> None:
    await tables.put("a")
    assert (await catalog.rows(["a"])).keys() == {"a"}


async def test_pages_go_through_all_contents_in_order(catalog: Catalog, tables: Tables) -> None:
    for cid in ("b", "a", "B", "10", "9", "c"):
        await tables.put(cid)
    await tables.put_relocation("b", "m1")
    await tables.put_relocation("b", "m2")
    seen: list[tuple[str, bool]] = []
    while page := await catalog.page(seen[-1][0] if seen else "", 4):
        assert len(page) <= 4
        seen += page
    assert seen == [("10", False), ("9", False), ("B", False), ("a", False), ("b", True), ("c", False)]


async def test_every_level_has_a_number_even_the_empty_one(catalog: Catalog, tables: Tables) -> None:
    await tables.put("a")
    await tables.put("b")
    await tables.put("c", "gold")
    assert await catalog.count_by_level() == {"bronze": 2, "silver": 0, "gold": 1}


async def test_a_level_change_by_hand_is_in_the_history(catalog: Catalog, tables: Tables) -> None:
    await tables.put("a")
    before = time.time_ns() // 1_000_000
    await tables.query("UPDATE contents SET content_level = 'gold' WHERE cid = 'a'")
    await tables.query("UPDATE contents SET filename = 'elsewhere' WHERE cid = 'a'")
    await tables.query("UPDATE contents SET content_level = 'gold' WHERE cid = 'a'")
    (change,) = await catalog.level_changes("a", 10)
    assert (change.old_content_level, change.new_content_level) == ("bronze", "gold")
    assert before - 5000 <= change.old_update_time <= change.new_update_time <= before + 10_000


async def test_level_changes_are_paged_newest_first(catalog: Catalog, tables: Tables) -> None:
    await tables.put("a")
    await tables.put("b")
    for level in ("silver", "gold", "bronze", "silver"):
        await tables.query("UPDATE contents SET content_level = %s", (level,))
    pages: list[list[LevelChange]] = []
    before = 2**53 - 1
    while page := await catalog.level_changes("a", 3, before):
        pages.append(page)
        before = page[-1].id
    assert [[change.new_content_level for change in page] for page in pages] == [
        ["silver", "bronze", "gold"],
        ["silver"],
    ]


async def test_relocations_are_paged_newest_first_even_within_one_millisecond(catalog: Catalog, tables: Tables) -> None:
    for n, at in enumerate((5, 5, 5, 9, 1)):
        await tables.put_relocation("a", f"m{n}", committed_at=at)
    await tables.put_relocation("b", "other", committed_at=5)
    seen: list[Relocation] = []
    before = (2**53 - 1, "")
    while page := await catalog.relocations("a", 2, before):
        seen += page
        before = (page[-1].committed_at, page[-1].move_id)
    assert [relocation.move_id for relocation in seen] == ["m3", "m2", "m1", "m0", "m4"]
    assert seen[0] == Relocation("m3", "bronze", "silver", 7, "why", 1, "", "link", "m", 1, 2, 3, 9)


# --- registering ------------------------------------------------------------------------------------------------------


async def test_a_registered_content_is_tracked(registry: Registry, catalog: Catalog) -> None:
    await registry.register("7", HOSTILE, "bronze")
    assert await catalog.rows(["7"]) == {"7": Row("7", "bronze", HOSTILE, None)}


async def test_a_taken_cid_and_a_taken_filename_are_told_apart(registry: Registry, catalog: Catalog) -> None:
    await registry.register("7", "g.mp4", "bronze")
    with pytest.raises(TakenError, match=r"^cid '7' is tracked already: choose another$"):
        await registry.register("7", "other.mp4", "bronze")
    with pytest.raises(TakenError, match=r"^filename 'g\.mp4' is tracked already: choose another$"):
        await registry.register("8", "g.mp4", "gold")
    with pytest.raises(TakenError, match=r"^cid '7'"):
        await registry.register("7", "g.mp4", "bronze")
    assert await catalog.rows(["7", "8"]) == {"7": Row("7", "bronze", "g.mp4", None)}


async def test_a_name_that_holds_the_other_keys_name_does_not_confuse(registry: Registry) -> None:
    await registry.register("7", "PRIMARY", "bronze")
    with pytest.raises(TakenError, match=r"^filename 'PRIMARY'"):
        await registry.register("8", "PRIMARY", "bronze")
    await registry.register("filename", "key 'PRIMARY'", "bronze")
    with pytest.raises(TakenError, match=r"^filename"):
        await registry.register("9", "key 'PRIMARY'", "bronze")
    with pytest.raises(TakenError, match=r"^cid 'filename'"):
        await registry.register("filename", "x", "bronze")


async def test_names_that_differ_in_case_are_two(registry: Registry, catalog: Catalog) -> None:
    await registry.register("a", "f.mp4", "bronze")
    await registry.register("A", "F.mp4", "bronze")
    assert len(await catalog.rows(["a", "A"])) == 2


async def test_a_level_that_is_not_there_takes_nothing(registry: Registry, tables: Tables) -> None:
    with pytest.raises(CatalogRefusedError):
        await registry.register("7", "g.mp4", "platinum")
    assert await tables.levels_of() == {}


async def test_two_that_register_the_same_at_once_have_one_winner(registry: Registry, tables: Tables) -> None:
    answers = await asyncio.gather(
        *(registry.register("7", f"{n}.mp4", "bronze") for n in range(8)), return_exceptions=True
    )
    assert Counter(type(answer) for answer in answers) == {type(None): 1, TakenError: 7}
    assert len(await tables.levels_of()) == 1


async def test_many_are_registered_at_once_and_the_import_can_be_run_again(
    registry: Registry, catalog: Catalog, tables: Tables
) -> None:
    contents = [(f"c{n}", f"d/{n}.mp4") for n in range(2000)] + [("hostile", HOSTILE)]
    assert await registry.register_many(contents, "silver") == []
    assert await catalog.count_by_level() == {"bronze": 0, "silver": 2001, "gold": 0}
    assert (await catalog.rows(["hostile"]))["hostile"].filename == HOSTILE
    assert await registry.register_many(contents, "silver") == []
    assert await registry.register_many([*contents[:3], ("new", "new.mp4")], "gold") == []
    assert (await tables.levels_of())["c0"] == "silver"
    assert (await tables.levels_of())["new"] == "gold"


async def test_pairs_that_clash_are_refused_and_the_rest_is_registered(registry: Registry, tables: Tables) -> None:
    await registry.register("7", "g.mp4", "bronze")
    contents = [
        ("1", "1.mp4"),
        ("7", "7.mp4"),
        ("8", "g.mp4"),
        ("7", "g.mp4"),
        ("2", "2.mp4"),
        ("2", "x.mp4"),
        ("3", "2.mp4"),
    ]
    assert await registry.register_many(contents, "bronze") == [
        ("7", "7.mp4"),
        ("8", "g.mp4"),
        ("2", "x.mp4"),
        ("3", "2.mp4"),
    ]
    assert (await tables.levels_of()).keys() == {"7", "1", "2"}


async def test_two_imports_of_the_same_at_once_register_all_once(registry: Registry, tables: Tables) -> None:
    contents = [(f"c{n}", f"d/{n}.mp4") for n in range(300)]

    async def import_all(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        while True:
            try:
                return await registry.register_many(pairs, "bronze")
            except CatalogBusyError:
                await asyncio.sleep(0.01)

    assert list(await asyncio.gather(import_all(contents), import_all(contents[::-1]))) == [[], []]
    assert len(await tables.levels_of()) == 300


# --- forgetting -------------------------------------------------------------------------------------------------------


async def test_a_forgotten_content_is_gone_and_its_history_stays(registry: Registry, tables: Tables) -> None:
    await tables.put("7")
    await tables.query("UPDATE contents SET content_level = 'gold'")
    await tables.put_relocation("7", "m1")

    async def release() -> str:
        return ""

    assert await registry.forget("7", release) == ""
    assert await tables.levels_of() == {}
    assert await tables.history() == [("7", "bronze", "gold")]
    assert len(await tables.relocated()) == 1
    assert await registry.forget("7", release) is None


async def test_what_is_not_tracked_is_not_released(registry: Registry) -> None:
    async def release() -> str:
        raise AssertionError

    assert await registry.forget("7", release) is None


async def test_a_release_that_forbids_keeps_the_row(registry: Registry, tables: Tables) -> None:
    await tables.put("7")

    async def release() -> str:
        return "moving"

    assert await registry.forget("7", release) == "moving"
    assert await tables.levels_of() == {"7": "bronze"}


async def test_a_release_that_fails_keeps_the_row_and_frees_it(registry: Registry, tables: Tables) -> None:
    await tables.put("7")

    async def release() -> str:
        raise ValueError("redis is away")

    with pytest.raises(ValueError, match="redis is away"):
        await registry.forget("7", release)
    assert await tables.levels_of() == {"7": "bronze"}
    await tables.query("SELECT cid FROM contents WHERE cid = '7' FOR UPDATE NOWAIT")


async def test_nobody_changes_the_row_while_it_is_released(registry: Registry, tables: Tables) -> None:
    await tables.put("7")

    async def release() -> str:
        with pytest.raises(asyncmy.errors.MySQLError):
            await tables.query("SELECT cid FROM contents WHERE cid = '7' FOR UPDATE NOWAIT")
        return ""

    assert await registry.forget("7", release) == ""


# --- the level table --------------------------------------------------------------------------------------------------


def changed(levels: Levels, **levels_by_name: Level | None) -> Levels:
    by_name: dict[str, Level | None] = {level.content_level: level for level in levels}
    by_name |= levels_by_name
    return Levels(level for level in by_name.values() if level is not None)


async def test_ranges_can_change_on_levels_in_use(
    registry: Registry, catalog: Catalog, tables: Tables, sample: Levels
) -> None:
    await tables.put("a", "bronze")
    await tables.put("b", "silver")
    bronze, silver, gold = sample
    wanted = Levels(
        [replace(bronze, max_counts=99), replace(silver, min_counts=100), replace(gold, max_counts=9000)],
    )
    await registry.replace_levels(wanted)
    assert await catalog.levels() == wanted
    assert await tables.levels_of() == {"a": "bronze", "b": "silver"}
    await registry.replace_levels(wanted)
    assert await catalog.levels() == wanted


async def test_a_level_that_holds_contents_cannot_go(
    registry: Registry, catalog: Catalog, tables: Tables, sample: Levels
) -> None:
    await tables.put("b", "silver")
    bronze, _, gold = sample
    with pytest.raises(LevelInUseError, match=r"^level silver holds contents: keep it, with any range$"):
        await registry.replace_levels(Levels([bronze, replace(gold, min_counts=1000)]))
    assert await catalog.levels() == sample


async def test_a_level_that_holds_contents_cannot_change_its_path(
    registry: Registry, catalog: Catalog, tables: Tables, sample: Levels
) -> None:
    await tables.put("b", "silver")
    silver = sample.get("silver")
    assert silver is not None
    with pytest.raises(LevelInUseError, match=rf"^level silver holds contents: its path must stay {silver.path}$"):
        await registry.replace_levels(changed(sample, silver=replace(silver, path="/elsewhere")))
    assert await catalog.levels() == sample


async def test_unused_levels_can_go_come_and_swap_their_paths(
    registry: Registry, catalog: Catalog, tables: Tables, sample: Levels
) -> None:
    await tables.put("a", "bronze")
    bronze, silver, gold = sample
    swapped = Levels([bronze, replace(silver, path=gold.path), replace(gold, path=silver.path)])
    await registry.replace_levels(swapped)
    assert await catalog.levels() == swapped
    other = Levels([replace(bronze, max_counts=4), Level("platinum", 5, 6, gold.path)])
    await registry.replace_levels(other)
    assert await catalog.levels() == other


# --- committing relocations -------------------------------------------------------------------------------------------


def placed_on(level_root: Path, cid: str, source: str = "bronze", target: str = "silver") -> Placed:
    return a_placed(
        cid, from_level=source, to_level=target, from_path=str(level_root / source), to_path=str(level_root / target)
    )  # fmt: skip


async def patiently_committed(commitments: Commitments, batch: list[Placed]) -> list[Verdict]:
    """As the recorder does it."""
    while True:
        try:
            return await commitments.commit(batch, NOW)
        except CatalogBusyError:
            await asyncio.sleep(0.01)


async def test_a_commit_changes_the_level_and_writes_both_histories(
    commitments: Commitments, catalog: Catalog, tables: Tables, level_root: Path
) -> None:
    await tables.put("7")
    await tables.put("bystander")
    placed = placed_on(level_root, "7")
    assert await commitments.commit([placed], NOW) == ["commit"]
    assert await tables.levels_of() == {"7": "silver", "bystander": "bronze"}
    assert await tables.history() == [("7", "bronze", "silver")]
    assert await catalog.relocations("7", 10) == [
        Relocation(
            placed.move_id, "bronze", "silver", placed.count, placed.why, placed.bytes, placed.digest, placed.method,
            placed.mover, placed.attempts, placed.planned_at, placed.placed_at, NOW,
        )
    ]  # fmt: skip


async def test_one_batch_can_hold_every_verdict_and_be_repeated(
    commitments: Commitments, tables: Tables, level_root: Path
) -> None:
    await tables.put("commit")
    await tables.put("record", "silver")
    await tables.put("committed")
    await tables.put("elsewhere", "gold")
    await tables.put("renamed", filename="another.mp4")
    await tables.put("no-level")
    await tables.put("moved-level")
    committed = placed_on(level_root, "committed")
    assert await commitments.commit([committed], NOW) == ["commit"]
    await tables.query("UPDATE contents SET content_level = 'gold' WHERE cid = 'committed'")
    batch = [
        placed_on(level_root, "renamed"),
        placed_on(level_root, "untracked"),
        placed_on(level_root, "record"),
        committed,
        placed_on(level_root, "no-level", target="platinum"),
        placed_on(level_root, "commit"),
        structs.replace(placed_on(level_root, "moved-level"), to_path="/old"),
        placed_on(level_root, "elsewhere"),
    ]
    contradictions = [
        "the catalog names the file 'another.mp4'",
        "the content is no longer in the catalog",
        "the level platinum is no longer in the level table",
        f"the level silver now has the path {level_root}/silver",
        "the catalog has the content on gold, neither bronze nor silver",
    ]
    first, second, third, fourth, fifth = contradictions
    levels = {
        "commit": "silver", "record": "silver", "committed": "gold", "elsewhere": "gold", "renamed": "bronze",
        "no-level": "bronze", "moved-level": "bronze",
    }  # fmt: skip
    history = [("committed", "bronze", "silver"), ("committed", "silver", "gold"), ("commit", "bronze", "silver")]
    for verdict_on_two in (("record", "commit"), ("committed", "committed")):
        recorded, changed_level = verdict_on_two
        assert await commitments.commit(batch, NOW) == [
            first, second, recorded, "committed", third, changed_level, fourth, fifth,
        ]  # fmt: skip
        assert await tables.levels_of() == levels
        assert await tables.history() == history
        assert Counter(cid for _, cid, _, _ in await tables.relocated()) == {"commit": 1, "record": 1, "committed": 1}


async def test_a_later_relocation_of_the_same_content_is_another_row(
    commitments: Commitments, tables: Tables, level_root: Path
) -> None:
    await tables.put("7")
    steps = [("bronze", "silver"), ("silver", "gold"), ("gold", "silver"), ("silver", "gold")]
    for source, target in steps:
        assert await commitments.commit([placed_on(level_root, "7", source, target)], NOW) == ["commit"]
    assert await tables.history() == [("7", *step) for step in steps]
    assert len(await tables.relocated()) == 4


async def test_texts_that_are_too_long_are_cut_and_every_character_kept(
    commitments: Commitments, tables: Tables, level_root: Path
) -> None:
    await tables.put("7", filename=HOSTILE)
    placed = structs.replace(placed_on(level_root, "7"), filename=HOSTILE, why="🎬'\"\\" * 100, mover="m" * 500)
    assert await commitments.commit([placed], NOW) == ["commit"]
    assert await tables.query("SELECT why, mover FROM relocations") == [(("🎬'\"\\" * 100)[:255], "m" * 128)]


async def test_a_row_that_mysql_refuses_is_told_and_nothing_is_changed(
    commitments: Commitments, tables: Tables, level_root: Path
) -> None:
    await tables.put("7")
    await tables.put("8")
    async with tables.refusing("digest <> 'bad'"):
        bad = structs.replace(placed_on(level_root, "7"), digest="bad")
        with pytest.raises(CatalogRefusedError):
            await commitments.commit([bad, placed_on(level_root, "8")], NOW)
    assert await tables.levels_of() == {"7": "bronze", "8": "bronze"}
    assert (await tables.history(), await tables.relocated()) == ([], [])


async def test_hundreds_are_committed_in_one_transaction(
    commitments: Commitments, registry: Registry, tables: Tables, level_root: Path
) -> None:
    cids = [f"c{n}" for n in range(500)]
    await registry.register_many([(cid, f"dir/{cid}.mp4") for cid in cids], "bronze")
    assert await commitments.commit([placed_on(level_root, cid) for cid in cids], NOW) == ["commit"] * 500
    assert set((await tables.levels_of()).values()) == {"silver"}
    assert len(await tables.history()) == 500


async def test_two_recorders_on_overlapping_batches_commit_each_move_once(
    database: str, registry: Registry, tables: Tables, level_root: Path
) -> None:
    cids = [f"c{n:03}" for n in range(120)]
    await registry.register_many([(cid, f"dir/{cid}.mp4") for cid in cids], "bronze")
    one, two = Connections(database), Connections(database)
    recorders = [Commitments(one), Commitments(two)]
    source, target = "bronze", "silver"
    moves = 0
    try:
        for _ in range(6):
            batch = [placed_on(level_root, cid, source, target) for cid in cids]
            moves += len(batch)
            overlapping = [batch[:80], batch[40:][::-1]]
            answers = await asyncio.gather(
                *(patiently_committed(recorder, part) for recorder, part in zip(recorders, overlapping, strict=True))
            )
            verdicts: dict[str, list[Verdict]] = {}
            for part, answer in zip(overlapping, answers, strict=True):
                for placed, verdict in zip(part, answer, strict=True):
                    verdicts.setdefault(placed.cid, []).append(verdict)
            assert {tuple(sorted(of_one)) for of_one in verdicts.values()} == {("commit",), ("commit", "committed")}
            assert set((await tables.levels_of()).values()) == {target}
            source, target = target, source
    finally:
        await one.close()
        await two.close()
    assert len(await tables.relocated()) == moves
    assert len(await tables.history()) == moves


async def test_the_level_table_waits_for_a_commit_under_way(
    commitments: Commitments, registry: Registry, tables: Tables, level_root: Path, sample: Levels
) -> None:
    """Else the target's directory could change between the look at it and the commit."""
    await tables.put("7")
    async with tables.session() as run:
        await run("BEGIN")
        await run("SELECT cid FROM contents WHERE cid = '7' FOR UPDATE")
        commit = asyncio.create_task(commitments.commit([placed_on(level_root, "7")], NOW))
        await until(lambda: is_locked(tables, "SELECT * FROM level WHERE content_level = 'silver' FOR UPDATE NOWAIT"))
        bronze, _, gold = sample
        replacing = asyncio.create_task(registry.replace_levels(Levels([bronze, replace(gold, min_counts=1000)])))
        await asyncio.sleep(0.2)
        assert not replacing.done()
        assert not commit.done()
    assert await commit == ["commit"]
    with pytest.raises(LevelInUseError, match="silver"):
        await replacing


# --- what can go wrong ------------------------------------------------------------------------------------------------


async def is_locked(tables: Tables, sql: str) -> bool:
    try:
        await tables.query(sql)
    except asyncmy.errors.MySQLError:
        return True
    return False


async def test_a_connection_killed_within_the_transaction_leaves_one_history_row_after_the_repeat(
    commitments: Commitments, tables: Tables, level_root: Path
) -> None:
    for cid in ("a", "b"):
        await tables.put(cid)
    batch = [placed_on(level_root, "a"), placed_on(level_root, "b")]
    async with tables.session() as run:
        await run("BEGIN")
        await run("SELECT cid FROM contents WHERE cid = 'b' FOR UPDATE")
        commit = asyncio.create_task(commitments.commit(batch, NOW))
        await until(lambda: is_locked(tables, "SELECT cid FROM contents WHERE cid = 'a' FOR UPDATE NOWAIT"))
        assert await tables.kill("FORCE INDEX") == 1
        with pytest.raises(CatalogDownError):
            await commit
    assert (await tables.history(), await tables.relocated()) == ([], [])
    assert await commitments.commit(batch, NOW) == ["commit", "commit"]
    assert await tables.history() == [("a", "bronze", "silver"), ("b", "bronze", "silver")]
    assert len(await tables.relocated()) == 2


@pytest.mark.parametrize(("lost", "verdict"), [("request", "commit"), ("answer", "committed")])
async def test_a_connection_lost_at_the_commit_leaves_one_history_row_after_the_repeat(
    database: str, tables: Tables, level_root: Path, lost: Lost, verdict: Verdict
) -> None:
    """Whether it took effect cannot be known; the repeat finds out."""
    await tables.put("7")
    placed = placed_on(level_root, "7")
    async with Wire.to(database) as wire:
        pool = Connections(wire.url)
        try:
            # 3: a query. The driver sends the first COMMIT itself, when it connects.
            wire.lose(lost, [b"\x03COMMIT"], 2)
            with pytest.raises(CatalogDownError):
                await Commitments(pool).commit([placed], NOW)
            assert wire.breaks == 1
            assert await Commitments(pool).commit([placed], NOW) == [verdict]
        finally:
            await pool.close()
    assert await tables.levels_of() == {"7": "silver"}
    assert await tables.history() == [("7", "bronze", "silver")]
    assert len(await tables.relocated()) == 1


async def test_a_deadlock_is_busy_and_a_repeat_succeeds(
    commitments: Commitments, tables: Tables, level_root: Path
) -> None:
    for cid in ("a", "b", *(f"x{n}" for n in range(20))):
        await tables.put(cid)
    batch = [placed_on(level_root, "a"), placed_on(level_root, "b")]
    async with tables.session() as run:
        await run("BEGIN")
        # InnoDB gives up the transaction that has changed less.
        await run("UPDATE contents SET filename = CONCAT(filename, '.') WHERE cid LIKE 'x%%'")
        await run("SELECT cid FROM contents WHERE cid = 'b' FOR UPDATE")
        commit = asyncio.create_task(commitments.commit(batch, NOW))
        await until(lambda: is_locked(tables, "SELECT cid FROM contents WHERE cid = 'a' FOR UPDATE NOWAIT"))
        await run("SELECT cid FROM contents WHERE cid = 'a' FOR UPDATE")
        with pytest.raises(CatalogBusyError, match=r"[Dd]eadlock"):
            await commit
        await run("ROLLBACK")
    assert (await tables.history(), await tables.relocated()) == ([], [])
    assert await commitments.commit(batch, NOW) == ["commit", "commit"]
    assert len(await tables.history()) == 2


async def test_a_transaction_that_fails_is_rolled_back_and_holds_no_lock(
    connections: Connections, tables: Tables
) -> None:
    await tables.put("7")

    async def break_off() -> None:
        async with connections.transaction() as cursor:
            await cursor.execute("UPDATE contents SET content_level = 'gold'")
            raise ValueError("by ourselves")

    with pytest.raises(ValueError, match="by ourselves"):
        await break_off()
    assert await tables.levels_of() == {"7": "bronze"}
    await tables.query("SELECT cid FROM contents FOR UPDATE NOWAIT")


async def test_a_connection_cut_while_idle_is_replaced(database: str) -> None:
    pool = Connections(database, size=1)
    try:
        await Catalog(pool).ping()
        async with pool.cursor() as cursor:
            await cursor.execute("SELECT connection_id()")
            ((before,),) = await cursor.fetchall()
        await Tables(database).query(f"KILL {before}")
        await asyncio.sleep(0.05)
        async with pool.cursor() as cursor:
            await cursor.execute("SELECT connection_id()")
            assert await cursor.fetchall() != ((before,),)
    finally:
        await pool.close()


async def test_the_answer_of_a_read_that_was_given_up_does_not_reach_the_next(database: str) -> None:
    pool = Connections(database, size=1)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), pool.cursor() as cursor:
                await cursor.execute("SELECT 'old', SLEEP(1)")
        async with pool.cursor() as cursor:
            await cursor.execute("SELECT 'new'")
            assert list(await cursor.fetchall()) == [("new",)]
    finally:
        await pool.close()


@pytest.mark.parametrize("change", [{"port": 1}, {"password": "wrong"}, {"database": "reshelve_gone"}])
async def test_a_server_that_does_not_let_us_in_is_down(database: str, change: dict[str, str | int]) -> None:
    pool = Connections(replace(parse_mysql_url(database), **change).url())  # type: ignore[arg-type]
    try:
        with pytest.raises(CatalogDownError):
            await Catalog(pool).ping()
        with pytest.raises(CatalogDownError):
            await Commitments(pool).commit([a_placed("7")], NOW)
    finally:
        await pool.close()


async def test_the_sessions_clock_is_utc(connections: Connections) -> None:
    async with connections.cursor() as cursor:
        await cursor.execute("SELECT @@session.time_zone, @@session.autocommit")
        assert list(await cursor.fetchall()) == [("+00:00", 1)]
