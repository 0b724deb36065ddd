"""Is this attempt still the content's latest? Asked under a lock, just before what others would see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from services.mover.copying import HandedBackError, ShouldStop
from shared.errors import ReshelveError

IsCurrent = Callable[[], bool]

_LOOK_S = 1.0
"""How often a thread that waits for the answer looks whether the service stops: the loop may be gone by then."""


class StaleError(ReshelveError):
    """Another attempt took over: nothing is to be published or removed by this one."""


def asked_of(ask: Callable[[], Coroutine[Any, Any, bool]], should_stop: ShouldStop) -> IsCurrent:
    """The question for a thread, answered by `ask` on the running loop.

    Raises HandedBackError once `should_stop()` and no answer came.
    """
    loop = asyncio.get_running_loop()

    def is_current() -> bool:
        answer = asyncio.run_coroutine_threadsafe(ask(), loop)
        while True:
            try:
                return answer.result(_LOOK_S)
            except TimeoutError:
                if should_stop():
                    answer.cancel()
                    raise HandedBackError("the mover stops") from None

    return is_current
