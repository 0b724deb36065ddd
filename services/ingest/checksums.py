"""The checksums by which cids are spread over partitions, for many at one go. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from zlib import crc32

from shared.errors import InvalidError
from shared.names import CID_PATTERN

_KNOWN_MAX = 65_536
"""Some 10 MB. Few contents make up most views, so even a small share of the catalog is nearly always found."""
_CID = CID_PATTERN.strip("^$")
_CIDS = re.compile(f"(?:{_CID}\n)*{_CID}")


class Checksums:
    """Remembers cids that were seen lately: looking one up costs a third of checking it and working it out."""

    def __init__(self, limit: int = _KNOWN_MAX) -> None:
        """Forgets everything rather than know more than `limit`, or than one call brings."""
        self._limit = limit
        self._known: dict[str, int] = {}

    def of(self, cids: Collection[str]) -> Mapping[str, int]:
        """`crc32` of each of the cids, among others. Raises InvalidError or TypeError where one of them is no cid.

        Threads may ask at the same time: nothing is taken from what was handed out.
        """
        known = self._known
        new = [cid for cid in cids if cid not in known]
        if new and len(known) + len(new) > self._limit:
            known = self._known = {}
            new = list(cids)
        if new:
            known.update(zip(new, work_out(new), strict=True))
        return known


def work_out(cids: list[str]) -> Iterable[int]:
    """`crc32` of each. Raises InvalidError where one of them is no cid."""
    joined = "\n".join(cids)
    names = joined.encode(errors="replace").split(b"\n")
    # A cid with a newline in it would pass for two.
    if len(names) != len(cids) or _CIDS.fullmatch(joined) is None:
        raise InvalidError("a cid is not sound")
    return map(crc32, names)
