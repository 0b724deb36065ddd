"""Errors that say what happens next to the work in hand."""

from __future__ import annotations

from typing import Literal


class ReshelveError(Exception):
    """Anything that Reshelve raises on purpose."""


class InvalidError(ReshelveError):
    """Input that breaks a rule; the text names the cause and the remedy."""


class RetryError(ReshelveError):
    """Repeat later: the cause lies outside the work and may pass (disk full, I/O error, server gone)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.blames: Literal["", "source", "target"] = ""
        """The level on which it went wrong, as far as that is known."""


class DeadLetterError(ReshelveError):
    """Never repeat by itself: an operator has to look. `reason` is a metric label: a few fixed words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class StopServiceError(ReshelveError):
    """The service cannot run as it is configured; it ends at once with this line."""
