"""Dropping a dead letter: why goes into the history, then the letter goes."""

from __future__ import annotations

from typing import Final

from shared.catalog.drops import Drops
from shared.errors import InvalidError
from shared.names import is_cid
from shared.state.dead_letters import DeadLetterQueue, Dropped, Letter, LetterId

WHY_MAX_CHARACTERS: Final = 255


def check_why(why: str) -> str:
    """Why a letter is dropped, as the history takes it. Raises InvalidError."""
    if not why.strip():
        raise InvalidError("why is empty: say why the letter is dropped, the history keeps it")
    if len(why) > WHY_MAX_CHARACTERS:
        raise InvalidError(f"why has {len(why)} characters; at most {WHY_MAX_CHARACTERS} are allowed")
    try:
        why.encode()
    except UnicodeEncodeError:
        raise InvalidError("why is not valid UTF-8") from None
    return why


class Dropping:
    """The verb over both servers."""

    def __init__(self, letters: DeadLetterQueue, drops: Drops) -> None:
        """Writes to MySQL through `drops`, then to Redis through `letters`."""
        self._letters = letters
        self._drops = drops

    async def drop(self, id_: LetterId, why: str, now_ms: int) -> tuple[Letter, Dropped]:
        """Drop a letter, and say so in its content's history; where it names none, only the caller can say so.

        Safe to repeat: dying in between leaves the letter there, and the row that the next drop of it writes over.
        Raises GoneError, CatalogDownError, redis.RedisError.
        """
        letter, _ = await self._letters.show(id_)
        if is_cid(letter.cid):
            # First: a letter that is gone can no longer say what it was.
            await self._drops.record(letter, why, now_ms)
        return letter, await self._letters.drop(id_)
