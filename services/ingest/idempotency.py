"""An Idempotency-Key stands for one body: repeated with it, the views are counted once; with another, refused."""

from __future__ import annotations

import asyncio

from blake3 import blake3
from redis.exceptions import RedisError

from services.ingest.problems import ProblemError, UnavailableError
from shared.patience import backoff_s
from shared.redis_client import is_down
from shared.state.views import Views

HEADER = "Idempotency-Key"
KEY_MAX_CHARACTERS = 255
_AT_ONCE = 32
"""Keys asked for at the same time: each takes a connection."""


def check_key(key: str) -> str:
    """The key itself. Raises ProblemError."""
    if not 1 <= len(key) <= KEY_MAX_CHARACTERS or not key.isascii() or not key.isprintable():
        raise ProblemError(400, f"{HEADER} must be 1-{KEY_MAX_CHARACTERS} printable ASCII characters")
    return key


class Idempotency:
    """Remembers the body that came first with each key."""

    def __init__(self, views: Views, *, deadline_s: float, key_life_s: int) -> None:
        """A key is known for `key_life_s` after its first use."""
        self._views = views
        self._deadline_s = deadline_s
        self._key_life_ms = key_life_s * 1000
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def marker(self, key: str, content_type: str, body: bytes) -> str:
        """The marker under which this key's body is taken in once.

        Raises ProblemError where the key came with another body before, UnavailableError where Redis does not answer.
        """
        hashed = blake3(check_key(key).encode()).hexdigest()
        digest = blake3(content_type.encode(errors="replace") + b"\0" + body).hexdigest()
        if await self._first(hashed, digest) != digest:
            raise ProblemError(422, f"this {HEADER} came with another body before: use a new key for new views")
        # The digest is part of it: a key that was forgotten and is used for other views must not meet the old marker.
        return f"ik-{blake3(f'{hashed}{digest}'.encode()).hexdigest()}"

    async def _first(self, hashed: str, digest: str) -> str:
        """The digest that came first; asking again with the same digest changes nothing."""
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        failures = 0
        while True:
            try:
                async with asyncio.timeout_at(deadline), self._slots:
                    return await self._views.remember(hashed, digest, self._key_life_ms)
            except (RedisError, TimeoutError) as error:
                if isinstance(error, RedisError) and not is_down(error):
                    raise
                failures += 1
                wait_s = backoff_s(failures)
                if asyncio.get_running_loop().time() + wait_s >= deadline:
                    raise UnavailableError("Redis does not answer: nothing was taken in, repeat later") from error
                await asyncio.sleep(wait_s)
