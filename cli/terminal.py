"""Printing: tables for a terminal, whole lines for a pipe, and nothing that a file's name could do to either."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPE_WIDTH = 10_000
_KIBI = 1024


def console() -> Console:
    """What is printed is taken literally: a cid may look like `:smile:`, a filename like `[red]`."""
    # A pipe has no width at which lines would have to be broken.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)


def shown(name: str) -> str:
    """A name as it may be printed: control characters and undecodable bytes escaped."""
    return name if name.isprintable() else ascii(name)


def amount(number: int, singular: str, plural: str = "") -> str:
    """`1 content`, `2 contents`, `100,000 contents`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def size(number: int) -> str:
    """Bytes with a binary unit: `812 B`, `1.4 GiB`."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < _KIBI:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIBI
    return f"{value:.1f} PiB"
