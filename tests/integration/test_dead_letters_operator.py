"""Dead letters as an operator meets them: over HTTP, by the command, and with all services at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest

from shared.catalog import CatalogDownError, Connections, Drops, Registry
from shared.drop import Dropping
from shared.errors import DeadLetterError
from shared.state.contents import Contents
from shared.state.dead_letters import DeadLetterQueue, Filter, LetterId
from shared.state.moves import DeadLetters, Moves, RawEntry
from shared.state.scripts import Scripts
from tests.cli_running import Done, reshelve
from tests.conftest import run_in_thread
from tests.ingest_app import Running, call, running_ingest
from tests.oracle import Expected, Oracle, sha256
from tests.samples import a_move
from tests.stack import SERVICES, Stack
from tests.streams import Streams, connected

WHY = "the film was withdrawn: é"


async def bury(scripts: Scripts, cid: str, reason: str = "source missing") -> None:
    """A move given up on, and its content failed."""
    streams = Streams(scripts)
    await streams.make_groups()
    message = a_move(cid)
    held = await streams.hold("moves", message)
    await streams.put_content(
        cid, level="bronze", filename=message.filename, count=1500, status="update", move_id=message.move_id,
        target="silver", attempt=0, version=1,
    )  # fmt: skip
    (attempt,) = await Moves(scripts).start("moves", held.partition, "one", [held])
    assert await DeadLetters(scripts).bury(held._replace(attempt=attempt), DeadLetterError(reason, "no g.mp4"))


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def ingest(redis_db: str, database: str) -> AsyncIterator[Running]:
    async with running_ingest(redis_db, database) as running:
        await running.ready()
        yield running


async def listed(ingest: Running, **query: str | int) -> list[str]:
    status, page = await call(ingest, "GET", "/v1/dead", params=query)
    assert status == 200
    return [letter["cid"] for letter in page["items"]]


async def test_letters_are_listed_in_pages_and_filtered(ingest: Running) -> None:
    for cid in ("1", "2", "3"):
        await bury(ingest.scripts, cid, "target exists" if cid == "2" else "source missing")
    everything = await listed(ingest)
    assert sorted(everything) == ["1", "2", "3"]
    assert await listed(ingest, reason="target exists") == await listed(ingest, cid="2", stream="moves") == ["2"]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        _, page = await call(ingest, "GET", "/v1/dead", params={"limit": 1, **after})
        found += [letter["cid"] for letter in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == everything


@pytest.mark.parametrize("query", ["stream=x", "stream=", "reason=", "cid=", "cid=a b", "after=", "after=7", "limit=0"])
async def test_what_no_letter_can_have_is_malformed(ingest: Running, query: str) -> None:
    status, problem = await call(ingest, "GET", f"/v1/dead?{query}")
    assert (status, bool(problem["detail"])) == (400, True)


async def test_a_letter_is_shown_and_retried_once(ingest: Running) -> None:
    await bury(ingest.scripts, "7")
    _, page = await call(ingest, "GET", "/v1/dead")
    path = f"/v1/dead/{page['items'][0]['id']}"
    status, letter = await call(ingest, "GET", path)
    assert (status, letter["reason"], letter["detail"]) == (200, "source missing", "no g.mp4")
    assert (letter["fields"]["cid"], letter["fields"]["from"]) == ("7", "bronze")
    status, retried = await call(ingest, "POST", f"{path}/retry")
    assert (status, retried["id"]) == (200, letter["id"])
    assert (await ingest.contents.read(["7"]))[0].status == "update"
    assert (await ingest.contents.backlog())["moves"] == 1
    for method, there in (("POST", f"{path}/retry"), ("GET", path), ("DELETE", f"{path}?why=x")):
        assert (await call(ingest, method, there))[0] == 404
    assert (await ingest.contents.backlog())["moves"] == 1


async def test_a_retry_of_a_content_that_has_moved_on_is_a_conflict(ingest: Running) -> None:
    await bury(ingest.scripts, "7")
    _, page = await call(ingest, "GET", "/v1/dead")
    await ingest.contents.forget("7")
    status, problem = await call(ingest, "POST", f"/v1/dead/{page['items'][0]['id']}/retry")
    assert (status, "drop the letter" in problem["detail"]) == (409, True)
    assert await listed(ingest) == ["7"]


async def test_a_drop_says_why_in_the_history(ingest: Running) -> None:
    await bury(ingest.scripts, "7")
    _, page = await call(ingest, "GET", "/v1/dead")
    (letter,) = page["items"]
    path = f"/v1/dead/{letter['id']}"
    for why in ("", "?why=", "?why=%20", f"?why={'x' * 256}"):
        assert (await call(ingest, "DELETE", path + why))[0] == 400
    assert await listed(ingest) == ["7"]
    assert await call(ingest, "DELETE", f"{path}?why={quote(WHY)}") == (204, None)
    assert await listed(ingest) == []
    [state] = await ingest.contents.read(["7"])
    assert (state.status, state.move_id, state.error, state.lo) == ("idle", "", "", None)
    assert (state.count, state.away) == (1500, False)
    status, history = await call(ingest, "GET", "/v1/contents/7/history")
    (row,) = history["items"]
    assert (status, row["kind"], row["why"], row["at"]) == (200, "drop", WHY, row["dropped_at"])
    assert {name: row[name] for name in ("letter", "move_id", "stream", "reason")} == {
        "letter": letter["id"], "move_id": letter["move_id"], "stream": "moves", "reason": "source missing"
    }  # fmt: skip


async def test_a_letter_without_a_content_is_dropped_without_history(ingest: Running) -> None:
    streams = Streams(ingest.scripts)
    await streams.make_groups()
    entry_id = await streams.add_raw("views", ["v1", "{"], 0)
    await streams.deliver("views", partition=0)
    raw = RawEntry("views", 0, entry_id, {b"v1": b"{"})
    assert await DeadLetters(ingest.scripts).bury_raw(raw, DeadLetterError("undecodable"))
    _, page = await call(ingest, "GET", "/v1/dead")
    assert await call(ingest, "DELETE", f"/v1/dead/{page['items'][0]['id']}?why=x") == (204, None)
    assert await listed(ingest) == []


async def test_a_drop_that_died_in_between_is_repeated_and_told_once(ingest: Running) -> None:
    """Whoever died had written the history, and not yet called the script. Without the unique letter, told twice."""
    await bury(ingest.scripts, "7")
    letters, drops = DeadLetterQueue(ingest.scripts), Drops(ingest.runtime.connections)
    (letter,) = await letters.list(Filter(), 10)
    await drops.record(letter, "first thought", 5)
    await Dropping(letters, drops).drop(LetterId.parse(letter.id), WHY, 6)
    (row,) = await ingest.catalog.drops("7", 10)
    assert (row.why, row.dropped_at) == (WHY, 6)


async def test_no_letter_goes_without_its_history(ingest: Running) -> None:
    """Seen to fail with the two writes in the other order."""
    await bury(ingest.scripts, "7")
    letters, away = DeadLetterQueue(ingest.scripts), Connections("mysql://nobody@127.0.0.1:1/none")
    (letter,) = await letters.list(Filter(), 10)
    with pytest.raises(CatalogDownError):
        await Dropping(letters, Drops(away)).drop(LetterId.parse(letter.id), WHY, 6)
    await away.close()
    assert await letters.list(Filter(), 10) == [letter]


# --- by the command ---------------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """`reshelve dead` against given servers."""

    at: Path
    variables: dict[str, str]

    def dead(self, *arguments: str) -> Done:
        return reshelve("dead", *arguments, at=self.at, **self.variables)

    def listed(self, *filters: str) -> list[dict[str, Any]]:
        done = self.dead("list", "--json", *filters)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = orjson.loads(done.stdout)
        return found


@pytest.fixture
def desk(tmp_path: Path, redis_db: str, database: str) -> Desk:
    async def prepare() -> None:
        async with connected(redis_db, 8) as scripts:
            await bury(scripts, "1")
            await bury(scripts, "2", "target exists")
            await bury(scripts, "3")

    run_in_thread(prepare())
    return Desk(tmp_path, {"RESHELVE_REDIS_URL": redis_db, "RESHELVE_MYSQL_URL": database})


def test_the_command_lists_and_shows(desk: Desk) -> None:
    table = desk.dead("list").stdout
    assert [table.count(word) for word in ("source missing: no g.mp4", "target exists: no g.mp4")] == [2, 1]
    assert {letter["cid"] for letter in desk.listed("--reason", "source missing")} == {"1", "3"}
    (letter,) = desk.listed("--cid", "2", "--stream", "moves")
    done = desk.dead("list", "--limit", "2")
    assert (done.stdout.count("no g.mp4"), "more than 2" in done.stderr) == (2, True)
    done = desk.dead("show", letter["id"])
    assert (done.returncode, "target exists" in done.stdout, "dir/2.mp4" in done.stdout) == (0, True, True)
    assert orjson.loads(desk.dead("show", letter["id"], "--json").stdout)["fields"]["cid"] == "2"
    assert desk.dead("list", "--cid", "4").stdout == "no dead letters\n"
    done = desk.dead("show", "0:1-0")
    assert (done.returncode, "there is no dead letter 0:1-0" in done.stderr) == (1, True)


def test_the_command_retries_what_is_named_or_filtered(desk: Desk) -> None:
    (letter,) = desk.listed("--cid", "2")
    done = desk.dead("retry", letter["id"])
    assert (done.returncode, done.stdout) == (0, f"{letter['id']}  retried\nretried 1 dead letter\n")
    done = desk.dead("retry", letter["id"])
    assert (done.returncode, "not retried: there is no dead letter" in done.stdout) == (1, True)
    done = desk.dead("retry", "--all", "--reason", "source missing")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "retried 2 dead letters")
    assert desk.listed() == []


def test_the_command_drops_with_a_reason(desk: Desk) -> None:
    done = desk.dead("drop", "--all", "--cid", "1", "--why", WHY, "--json")
    assert [orjson.loads(line)["outcome"] for line in done.stdout.splitlines()] == ["dropped, 1 rests"]
    assert {letter["cid"] for letter in desk.listed()} == {"2", "3"}
    done = desk.dead("drop", "--all", "--why", " ")
    assert (done.returncode, "why is empty" in done.stderr) == (1, True)
    assert "dropped 2 dead letters" in desk.dead("drop", "--all", "--why", WHY).stdout
    assert desk.listed() == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["retry"], "no letter is named"),
        (["retry", "0:1-0", "--all"], "both ids and --all"),
        (["drop", "0:1-0", "--cid", "7", "--why", "x"], "filters narrow --all"),
        (["drop", "--all"], "--why"),
        (["retry", "7"], "is no dead letter's id"),
        (["list", "--stream", "x"], "no dead letters of stream 'x'"),
        (["list", "--cid", "a b"], "is not 1-64 characters"),
    ],
)
def test_nothing_is_done_by_accident(desk: Desk, arguments: list[str], line: str) -> None:
    done = desk.dead(*arguments)
    assert (done.returncode, line in done.stderr) == (2, True), done
    assert len(desk.listed()) == 3


# --- with all services at work ----------------------------------------------------------------------------------------


async def test_a_file_put_back_and_retried_comes_to_rest_on_its_level(
    redis_db: str, database: str, level_root: Path, tmp_path: Path
) -> None:
    """With one attempt allowed, the retry's own must count as the first: seen to fail with no `waited` in its entry."""
    connections = Connections(database)
    assert await Registry(connections).register_many([("7", "g.mp4"), ("8", "h.mp4")], "bronze") == []
    await connections.close()
    data = b"film" * 1000
    (level_root / "bronze" / "h.mp4").write_bytes(data)
    oracle, running = Oracle(redis_db, database), Stack(redis_db, database, tmp_path)
    try:
        running.start(*SERVICES, settings={"RESHELVE_MAX_ATTEMPTS": "1"})
        await running.ready()
        async with aiohttp.ClientSession(running.http) as http, connected(redis_db, 8) as scripts:
            await http.post("/v1/views", json=[{"cid": "7", "count": 1500}, {"cid": "8", "count": 1500}])
            world = await oracle.judge({"8": Expected(sha256(data), 1500)}, dead_allowed=True)
            assert world.dead == {"7": "source missing"}
            (letter,) = (await (await http.get("/v1/dead")).json())["items"]
            # Not there yet: it dies again, and is retried again.
            assert (await http.post(f"/v1/dead/{letter['id']}/retry")).status == 200
            again = letter
            for _ in range(200):
                if again["id"] != letter["id"]:
                    break
                await asyncio.sleep(0.05)
                again = next(iter((await (await http.get("/v1/dead")).json())["items"]), letter)
            assert (again["id"] != letter["id"], again["reason"]) == (True, "source missing")
            (level_root / "bronze" / "g.mp4").write_bytes(data)
            assert (await http.post(f"/v1/dead/{again['id']}/retry")).status == 200
            await oracle.judge({cid: Expected(sha256(data), 1500) for cid in ("7", "8")})
            assert (level_root / "silver" / "g.mp4").read_bytes() == data
            assert (await Contents(scripts).waiting())["dead"] == 0
        assert running.stop() == {name: [0] for name in SERVICES}
        assert running.errors() == []
    finally:
        running.stop()
        await oracle.close()
