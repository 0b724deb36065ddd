"""A moment between a service and its server, for which a proxy waits: which request, and on which side of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Literal

from shared.state.scripts import load

Moment = Literal["before", "after"]
Match = bytes | Callable[[bytes], bool]


def script(name: str) -> Callable[[bytes], bool]:
    """Matches a call of the Lua script, for one partition or several, also the first one, which carries its text."""
    signs = [sign.encode() for found in (load(name), load(name, each=True)) for sign in (found.sha, found.text)]
    return lambda request: any(sign in request for sign in signs)


class Trap:
    """Springs once: at the n-th matching request, before it is forwarded or after its reply has come.

    The connection is then held while `hook` runs, or, without a hook, until `release` or `cut`.
    """

    def __init__(self, match: Match, moment: Moment, hook: Callable[[], object] | None, nth: int) -> None:
        """See `Proxy.trap`."""
        self._match = match
        self.moment = moment
        self._hook = hook
        self._left = nth
        self._lock = threading.Lock()
        self._sprung = threading.Event()
        self._done = threading.Event()
        self._cut = False
        self._failure: BaseException | None = None

    async def hit(self, timeout_s: float = 20) -> None:
        """Returns when the moment is there; with a hook, when that has run. Raises what the hook raised."""
        await asyncio.to_thread(self.wait, timeout_s)

    def wait(self, timeout_s: float = 20) -> None:
        """`hit` for a thread."""
        event = self._sprung if self._hook is None else self._done
        if not event.wait(timeout_s):
            raise AssertionError(f"no such request within {timeout_s} s")
        if self._failure is not None:
            raise self._failure

    @property
    def sprung(self) -> bool:
        return self._sprung.is_set()

    def release(self) -> None:
        """Let what is held go on."""
        self._done.set()

    def cut(self) -> None:
        """Break the held connection: what was held is never delivered. A hook may call it too."""
        self._cut = True
        self._done.set()

    def matches(self, request: bytes) -> bool:
        return self._match in request if isinstance(self._match, bytes) else self._match(request)

    def counts(self) -> bool:
        """One more request that matches; True for the one that it waits for."""
        with self._lock:
            self._left -= 1
            return self._left == 0

    def spring(self) -> bool:
        """Blocks while the connection is to be held; False where it is to be cut."""
        self._sprung.set()
        if self._hook is None:
            self._done.wait()
        else:
            try:
                self._hook()
            except BaseException as error:  # noqa: BLE001  # shown to whoever waits for the hit
                self._failure = error
            self._done.set()
        return not self._cut
