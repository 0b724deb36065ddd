"""/v1/levels: the level table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import orjson
from aiohttp import web

from services.ingest.bodies import read_json
from services.ingest.payloads import check_integer
from services.ingest.problems import ProblemError, UnavailableError
from shared.catalog import Catalog, LevelInUseError, Registry
from shared.errors import InvalidError
from shared.levels import COUNT_MAX, Level, Levels
from shared.log import Log

LEVELS_MAX = 100
_FIELDS = ("content_level", "min_counts", "max_counts", "path")


async def sound_levels(catalog: Catalog) -> Levels:
    """The level table. Raises UnavailableError where somebody left it unsound."""
    try:
        return await catalog.levels()
    except InvalidError as error:
        raise UnavailableError(f"the level table is not sound: {error}; PUT /v1/levels") from None


def parse_levels(value: object) -> Levels:
    """A level table from JSON; further members are ignored. Raises InvalidError. Pure."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidError(f"body must be an array of objects with {', '.join(_FIELDS)}")
    if len(value) > LEVELS_MAX:
        raise InvalidError(f"body holds {len(value)} levels; at most {LEVELS_MAX} are allowed")
    return Levels(_level(item) for item in value)


def _level(item: Mapping[str, object]) -> Level:
    missing = [field for field in _FIELDS if field not in item]
    if missing:
        raise InvalidError(f"a level lacks {', '.join(missing)}")
    name, path = item["content_level"], item["path"]
    if not isinstance(name, str) or not isinstance(path, str):
        raise InvalidError("content_level and path of a level must be texts")
    least, most = (check_integer(field, item[field], 0, COUNT_MAX) for field in ("min_counts", "max_counts"))
    return Level(name, least, most, path)


class LevelsEndpoint:
    """Shows and replaces the table."""

    def __init__(self, catalog: Catalog, registry: Registry, log: Log) -> None:
        """Reads through `catalog`, writes through `registry`."""
        self._catalog = catalog
        self._registry = registry
        self._log = log

    async def show(self, _: web.Request) -> web.Response:
        """200, lowest range first."""
        return _response(await sound_levels(self._catalog))

    async def replace(self, request: web.Request) -> web.Response:
        """200 with the new table; planners notice it by themselves. Directories are the operator's."""
        value = await read_json(request)
        try:
            levels = parse_levels(value)
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        try:
            await self._registry.replace_levels(levels)
        except LevelInUseError as error:
            raise ProblemError(409, str(error)) from None
        self._log.info("levels replaced", levels=[level.content_level for level in levels])
        return _response(levels)


def _response(levels: Levels) -> web.Response:
    body = orjson.dumps([asdict(level) for level in levels])
    return web.Response(body=body, content_type="application/json")
