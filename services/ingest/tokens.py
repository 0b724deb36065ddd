"""The tokens file: who holds which bearer token.

A line is `producer <token> [name]` or `operator <token> [name]`; blank lines and lines that begin with `#` say nothing.
No error here ever shows a token.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from os import fstat, stat_result
from pathlib import Path

from services.ingest.access import ROLES, Role
from shared.errors import InvalidError
from shared.log import Log

LENGTH_MIN = 16
_LOOK_S = 1.0
_BYTES_MAX = 1024 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_FORM = "write `producer <token> [name]` or `operator <token> [name]`"

_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a token; `name` is for the log. Only the token's digest is kept."""

    role: Role
    name: str
    digest: bytes = field(repr=False)


def parse_tokens(text: str, source: str) -> list[Holder]:
    """The holders in the order of their lines. Raises InvalidError that names `source` and the line, never a token."""
    first_lines: dict[bytes, int] = {}
    holders = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        holder = _parse_line(line.split(maxsplit=2), f"{source} line {number}")
        first = first_lines.setdefault(holder.digest, number)
        if first != number:
            raise InvalidError(f"{source} line {number}: has the token of line {first} again: give each its own")
        holders.append(holder)
    if not holders:
        raise InvalidError(f"{source}: holds no token, so nobody could do anything: {_FORM}")
    return holders


def _parse_line(words: Sequence[str], where: str) -> Holder:
    # A word in the wrong place may be a token: none is repeated in the message.
    if words[0] not in ROLES:
        raise InvalidError(f"{where}: begins with neither producer nor operator: {_FORM}")
    if len(words) == 1:
        raise InvalidError(f"{where}: holds no token: {_FORM}")
    token = words[1]
    if len(token) < LENGTH_MIN:
        raise InvalidError(
            f"{where}: the token has {len(token)} characters, {LENGTH_MIN} are the least: "
            "make one with `openssl rand -hex 32`"
        )
    if not _TOKEN.fullmatch(token):
        raise InvalidError(f"{where}: the token may hold A-Z a-z 0-9 . _ ~ + / - and '=' at its end only")
    name = words[2].strip() if len(words) > 2 else ""  # noqa: PLR2004  # role, token, name
    return Holder(words[0], name, _digest(token.encode()))


def read_tokens(path: Path) -> list[Holder]:
    """The holders in the file. Raises InvalidError, which never shows a token."""
    return _read(path)[0]


class Tokens:
    """The tokens in force: the file's, looked at again at most once a second, so that tokens can be rotated."""

    def __init__(self, path: Path, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidError for a file that cannot be read or is malformed."""
        self._path = path
        self._log = log
        self._clock = clock
        self._holders, self._stamp = _read(path)
        self._next_look = clock() + _LOOK_S
        self._fault = ""

    def holder(self, token: bytes) -> Holder | None:
        """Who holds the token; every token in force is compared, in a time that does not depend on which matches."""
        self._look()
        digest = _digest(token)
        found: Holder | None = None
        for holder in self._holders:
            if compare_digest(holder.digest, digest):
                found = holder
        return found

    def _look(self) -> None:
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        try:
            if not self._fault and _stamp(self._path.stat()) == self._stamp:
                return
            self._holders, self._stamp = _read(self._path)
        except (InvalidError, OSError) as error:
            # A file that is being edited must neither lock everybody out nor let anybody in.
            fault = str(error) if isinstance(error, InvalidError) else _unreadable(self._path, error)
            if fault != self._fault:
                self._log.error("tokens file not taken over, the old tokens stay in force", error=fault)
            self._fault = fault
            return
        self._fault = ""
        self._log.info("tokens file taken over", tokens=len(self._holders))


def _read(path: Path) -> tuple[list[Holder], _Stamp]:
    try:
        with path.open("rb") as file:
            stamp = _stamp(fstat(file.fileno()))
            data = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidError(_unreadable(path, error)) from None
    if len(data) > _BYTES_MAX:
        raise InvalidError(f"{path}: is larger than {_BYTES_MAX} bytes: is it the tokens file?")
    try:
        return parse_tokens(data.decode(), str(path)), stamp
    except UnicodeDecodeError:
        raise InvalidError(f"{path}: is not UTF-8 text: is it the tokens file?") from None


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read: {error.strerror}"


def _stamp(found: stat_result) -> _Stamp:
    """Differs when the file was written or another took its place."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _digest(token: bytes) -> bytes:
    # Of one length, whatever the token's: comparing tells nothing about lengths either.
    return sha256(token).digest()
