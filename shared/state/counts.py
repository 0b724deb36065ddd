"""What `counts` holds of a content: `count at`, and what lets the tally decide. Only the scripts write it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counted:
    """The texts are in docs/design.md. `at` (ms) is 0 before the first view; `lo` and `hi` are None without a band.

    `absolute`: the count needs no base from the catalog. `away`: a relocation is open, or its settling's review is.
    """

    count: int = 0
    at: int = 0
    lo: int | None = None
    hi: int | None = None
    absolute: bool = False
    away: bool = False

    @classmethod
    def parse(cls, text: bytes | None) -> Counted:
        """`text` is None where Redis holds nothing."""
        if text is None:
            return cls()
        count, at, *mark = text.split()
        if len(mark) == _BAND:
            return cls(int(count), int(at), int(mark[0]), int(mark[1]), absolute=True)
        return cls(int(count), int(at), absolute=bool(mark), away=mark == [b"-"])


_BAND = 2
