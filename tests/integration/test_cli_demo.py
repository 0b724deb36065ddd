"""The demo, and what its proof is worth."""

from __future__ import annotations

import re
from pathlib import Path

import redis as redis_client

from cli.environment import OperatorSettings
from cli.samples import make_samples
from cli.session import session_at
from cli.verify import verify
from tests.cli_running import (
    Running,
    command_line,
    is_there,
    reshelve,
    reshelve_process,
    wait_until,
)
from tests.conftest import execute


def test_demo_proves_itself(tmp_path: Path) -> None:
    done = reshelve_process("demo", "--contents", "60", "--views", "2000", at=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 of 60 contents on the level for their count, 0 dead letters" in done.stdout
    told = re.search(r"(\d+) relocations \((\d+) promotions, (\d+) demotions\)", done.stdout)
    assert told
    relocations, promotions, demotions = map(int, told.groups())
    assert relocations == promotions + demotions
    assert promotions > 10
    assert demotions > 5
    assert not (tmp_path / ".reshelve" / "demo").exists()


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    demo = Running(tmp_path, "demo")
    try:
        wait_until(
            lambda: any("mariadb" in command_line(pid) or "mysql" in command_line(pid) for pid in demo.descendants())
        )
        started = demo.descendants()
    finally:
        assert demo.stop() == 130
    assert not [pid for pid in started if is_there(pid)]
    assert not (tmp_path / ".reshelve" / "demo").exists()


def test_demo_refuses_a_catalog_in_use(tmp_path: Path, database: str, redis_db: str) -> None:
    done = reshelve("demo", at=tmp_path, RESHELVE_MYSQL_URL=database, RESHELVE_REDIS_URL=redis_db)
    assert done.returncode == 2
    assert "the demo needs an empty catalog" in done.stderr
    with redis_client.Redis.from_url(redis_db) as client:
        client.hset("reshelve:meta", "partitions", "8")
    done = reshelve("demo", at=tmp_path, RESHELVE_MYSQL_URL=database, RESHELVE_REDIS_URL=redis_db)
    assert "the demo needs an empty Redis" in done.stderr
    assert not (tmp_path / ".reshelve" / "demo").exists()


async def test_the_proof_sees_what_is_wrong(database: str, redis_db: str, level_root: Path) -> None:
    async with session_at(redis_db, database, OperatorSettings()) as session:
        samples = make_samples(level_root / "bronze", 6, seed=1)
        await session.registry.register_many([(sample.cid, sample.filename) for sample in samples], "bronze")
        counts = {sample.cid: 0 for sample in samples}
        verdict = await verify(session, samples, counts)
        assert (verdict.settled, verdict.faults) == (6, [])
        missing, twice, changed = (level_root / "bronze" / one.filename for one in samples[:3])
        missing.unlink()
        (level_root / "gold" / samples[1].filename).parent.mkdir(parents=True, exist_ok=True)
        (level_root / "gold" / samples[1].filename).write_bytes(twice.read_bytes())
        changed.write_text("x")
        execute(database, f"UPDATE contents SET content_level = 'silver' WHERE cid = '{samples[3].cid}'")
        counts[samples[4].cid] = 5
        verdict = await verify(session, samples, counts)
    assert (verdict.settled, verdict.contents) == (1, 6)
    for cid, words in enumerate(
        ("its file is on []", "['bronze', 'gold']", "other bytes", "MySQL has it on silver"), 1
    ):
        assert any(fault.startswith(f"{cid}: ") and words in fault for fault in verdict.faults)
    assert "5: counted 0 views instead of 5" in verdict.faults
