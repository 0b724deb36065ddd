"""What an audit can find, and how it is said. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from cli.terminal import shown
from shared.state.mending import Lying


class Code(StrEnum):
    """Stable: scripts compare them."""

    LEVELS_UNSOUND = "levels_unsound"
    LEVEL_MISSING = "level_missing"
    FILE_MISSING = "file_missing"
    WRONG_LEVEL = "wrong_level"
    TWO_LEVELS = "two_levels"
    SIZE_CHANGED = "size_changed"
    UNREADABLE = "unreadable"
    MOVE_LOST = "move_lost"
    PLACED_LOST = "placed_lost"
    RETIRE_LOST = "retire_lost"
    LETTER_LOST = "letter_lost"
    LEVEL_DIFFERS = "level_differs"
    REVIEW_LOST = "review_lost"
    STATE_WITHOUT_ROW = "state_without_row"
    REVIEW_OF_NOTHING = "review_of_nothing"
    ENTRY_ORPHANED = "entry_orphaned"
    ENTRY_OBSOLETE = "entry_obsolete"
    STRAY_PART = "stray_part"
    UNKNOWN_FILE = "unknown_file"


WARNINGS = frozenset({Code.SIZE_CHANGED, Code.ENTRY_OBSOLETE, Code.UNKNOWN_FILE})
"""May be as somebody wants it; they count for nothing in the share of the catalog that is affected."""

Remedy = Literal["", "make idle", "review", "remove second copy", "deliver anew", "remove part"]
"""What `--repair` does about it; empty where that would be guessing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `level` is where the file lies that the finding is about."""

    code: Code
    detail: str
    cid: str = ""
    level: str = ""
    filename: str = ""
    remedy: Remedy = ""
    entry: Lying | None = None

    @property
    def severity(self) -> Literal["error", "warning"]:
        return "warning" if self.code in WARNINGS else "error"

    @property
    def subject(self) -> str:
        """What is affected: findings about one content count once."""
        if self.cid:
            return f"cid {self.cid}"
        return f"entry {self.entry.entry_id}" if self.entry else f"file {self.level}/{self.filename}"

    def line(self) -> str:
        """For people: one line, whatever a file is called."""
        where = f"{self.level}/{self.filename}" if self.filename else self.level
        named = " ".join(filter(None, (f"cid {self.cid}" if self.cid else "", where)))
        return f"{self.code:<17} {shown(f'{named}: {self.detail}' if named else self.detail)}"

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": "finding",
            "code": str(self.code),
            "severity": self.severity,
            "cid": self.cid,
            "level": self.level,
            "filename": self.filename.encode(errors="surrogateescape").decode(errors="replace"),
            "detail": self.detail.encode(errors="surrogateescape").decode(errors="replace"),
            "remedy": self.remedy,
        }


def most_affected(contents: int, share: float) -> int:
    """How many may be affected for a repair to go ahead: a share of the catalog, and a single one always."""
    return max(1, int(contents * share))
