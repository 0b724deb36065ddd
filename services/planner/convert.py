"""Before the first view after an update: counts of the older layout."""

from __future__ import annotations

import asyncio

from shared.log import Log
from shared.patience import patiently, pause
from shared.state.conversion import Conversion

_AGAIN_S = 1.0


async def convert(conversion: Conversion, stop: asyncio.Event, log: Log) -> None:
    """Returns when all counts are where this version looks for them, or when stopped."""
    told = False
    while not stop.is_set() and await patiently(conversion.is_due, stop, log, "read the schema"):
        if await patiently(conversion.is_older_at_work, stop, log, "look for older planners"):
            if not told:
                log.warning("waiting for the planners of the older version to stop")
            told = True
            await pause(stop, _AGAIN_S)
            continue
        log.info("converting counts")
        moved = await patiently(lambda: conversion.run(stop), stop, log, "convert counts")
        log.info("converted counts", contents=moved)
