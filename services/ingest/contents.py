"""/v1/contents: what is tracked, and where each content stands."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web
from redis.exceptions import RedisError

from services.ingest import on_disk
from services.ingest.bodies import path_cid, read_json
from services.ingest.levels import sound_levels
from services.ingest.problems import ProblemError, UnavailableError
from shared.catalog import Catalog, Registry, Row, TakenError
from shared.errors import InvalidError
from shared.levels import COUNT_MAX, Level, Levels
from shared.log import Log
from shared.names import check_cid, check_filename
from shared.state.contents import Contents, ContentState

_NEVER_MOVED = frozenset({"", "unknown", "forgotten"})
"""What Redis says of a content that no planner has seen together with its row."""


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json", headers=headers)


def unknown(cid: str) -> ProblemError:
    return ProblemError(404, f"no content {cid!r} is tracked: register it with POST /v1/contents")


def status_of(state: ContentState) -> str:
    """The state's own status; `idle` for a content that no planner has seen."""
    return "idle" if state.status in _NEVER_MOVED else state.status


def count_of(state: ContentState, row: Row, level: Level) -> int:
    """The count as the planner reckons it: on top of the catalog's where Redis did not know the content before."""
    if state.level or state.absolute:
        return state.count
    base = level.min_counts if row.last_count is None else row.last_count
    return min(state.count + base, COUNT_MAX)


class ContentsEndpoint:
    """Registers, shows and forgets contents."""

    def __init__(self, catalog: Catalog, registry: Registry, contents: Contents, pool: Executor, log: Log) -> None:
        """`pool` looks at files, which may hang with the disk they are on."""
        self._catalog = catalog
        self._registry = registry
        self._contents = contents
        self._pool = pool
        self._log = log

    async def register(self, request: web.Request) -> web.Response:
        """201, on the default level, where the file must lie."""
        value = await read_json(request)
        if not isinstance(value, dict):
            raise ProblemError(400, 'body must be an object: {"cid": "7", "filename": "g.mp4"}')
        try:
            cid, filename = check_cid(value.get("cid")), check_filename(value.get("filename"))
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        # Before the look at the disk: what is tracked already may have left the default level.
        if await self._catalog.rows([cid]):
            raise ProblemError(409, f"cid {cid!r} is tracked already: choose another")
        level = (await sound_levels(self._catalog)).default
        await self._check_file(level, filename)
        try:
            await self._registry.register(cid, filename, level.content_level)
        except TakenError as error:
            raise ProblemError(409, str(error)) from None
        await self._touch(cid)
        self._log.info("registered", cid=cid, filename=filename, content_level=level.content_level)
        content = await self._read(cid)
        return json_response(content, status=201, headers={"Location": f"/v1/contents/{cid}"})

    async def show(self, request: web.Request) -> web.Response:
        """200 with what MySQL and Redis hold of it."""
        return json_response(await self._read(path_cid(request)))

    async def forget(self, request: web.Request) -> web.Response:
        """204; the file and its history stay."""
        cid = path_cid(request)
        outcome = await self._registry.forget(cid, lambda: self._contents.forget(cid))
        if outcome is None:
            raise unknown(cid)
        if outcome:
            raise ProblemError(409, f"a relocation of {cid!r} is open ({outcome}): repeat when it has settled")
        self._log.info("forgotten", cid=cid)
        return web.Response(status=204)

    async def _check_file(self, level: Level, filename: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            fault = await loop.run_in_executor(self._pool, on_disk.fault, level.path, filename)
        except on_disk.LevelHiddenError as error:
            raise UnavailableError(
                f"ingest cannot look into the directory of level {level.content_level} ({error}): mount it here, "
                "reading is enough",
            ) from None
        if fault:
            raise ProblemError(422, f"no file {filename!r} on level {level.content_level}: {fault}; put it there first")

    async def _touch(self, cid: str) -> None:
        """Views that came before the registration ask for a review. The row is there: an outage is no failure."""
        try:
            await self._contents.touch([cid])
        except RedisError as error:
            self._log.warning("registered without review", cid=cid, error=str(error))

    async def _read(self, cid: str) -> dict[str, Any]:
        row = (await self._catalog.rows([cid])).get(cid)
        if row is None:
            raise unknown(cid)
        levels = await sound_levels(self._catalog)
        relocations = await self._catalog.relocations(cid, 1)
        [state] = await self._contents.read([cid])
        last = asdict(relocations[0]) if relocations else None
        return describe(row, state, level_of(row, levels), last)


def level_of(row: Row, levels: Levels) -> Level:
    """The level that the row names. Raises UnavailableError where it went between two looks at the catalog."""
    level = levels.get(row.level)
    if level is None:
        raise UnavailableError("the level table changes just now: repeat", retry_after_s=1)
    return level


def describe(row: Row, state: ContentState, level: Level, last: dict[str, Any] | None) -> dict[str, Any]:
    """A content as the API shows it: the row says where it is, the state what is going on. Pure."""
    return {
        "cid": row.cid,
        "filename": row.filename,
        "level": row.level,
        "path": f"{level.path}/{row.filename}",
        "count": count_of(state, row, level),
        "status": status_of(state),
        "target": state.target or None,
        "why": state.why or None,
        "move_id": state.move_id or None,
        "worker_id": state.worker_id or None,
        "error": state.error or None,
        "last_relocation": last,
    }
