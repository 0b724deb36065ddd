"""What a content may be called: the rules for `cid` and `filename`. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Collection

from shared.errors import InvalidError

CID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
PART_PREFIX = ".reshelve."
"""Names that begin so belong to movers: unfinished copies, probes, level markers."""
LEVEL_MARKER = f"{PART_PREFIX}level"
"""Stands in each level's directory; where it is missing, the level is not mounted."""

FILENAME_MAX_CHARACTERS = 700
"""The catalog's unique index holds 3072 bytes: 700 characters of up to 4 bytes and room to spare."""
COMPONENT_MAX_BYTES = 255
"""NAME_MAX of every file system that we know."""

# \Z, not $: `$` also matches before a final newline, and "7\n" is not a cid.
_CID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_CID_BYTES = (string.ascii_letters + string.digits + "._:-").encode()
_CID_LENGTHS = frozenset(range(1, 65))


def is_cid(cid: object) -> bool:
    """True for 1-64 characters of `A-Za-z0-9._:-`."""
    return isinstance(cid, str) and _CID.match(cid) is not None


def are_cids(cids: Collection[str]) -> bool:
    """True where each is a cid, in a fifth of the time of asking one by one."""
    # Whatever is not of our alphabet is left over; what has no encoding becomes a question mark, which is not of it.
    left = "".join(cids).encode(errors="replace").translate(None, _CID_BYTES)
    return not left and _CID_LENGTHS.issuperset(map(len, cids))


def check_cid(cid: object) -> str:
    """The cid itself; raises InvalidError for anything else."""
    if not isinstance(cid, str):
        raise InvalidError(f"cid must be a string, got {type(cid).__name__}: quote it")
    if _CID.match(cid) is None:
        raise InvalidError(f"cid {cid[:80]!r} is not 1-64 characters of A-Za-z0-9._:-")
    return cid


def check_filename(filename: object) -> str:
    """The filename itself: a relative path that stays beneath its level's directory.

    Raises InvalidError for an absolute path, `.` and `..`, empty components, NUL, undecodable or over-long
    names, a trailing space (MySQL would compare it equal to the name without), and the movers' own prefix.
    """
    if not isinstance(filename, str):
        raise InvalidError(f"filename must be a string, got {type(filename).__name__}")
    if not filename:
        raise InvalidError("filename is empty: name a file beneath the level's directory")
    if len(filename) > FILENAME_MAX_CHARACTERS:
        raise InvalidError(f"filename has {len(filename)} characters; at most {FILENAME_MAX_CHARACTERS} are allowed")
    if "\0" in filename:
        raise InvalidError("filename contains a NUL character")
    if filename.endswith(" "):
        raise InvalidError("filename ends with a space: rename the file")
    if filename.startswith("/"):
        raise InvalidError("filename is absolute: give it relative to the level's directory")
    for component in filename.split("/"):
        _check_component(component)
    return filename


def _check_component(component: str) -> None:
    if component in {"", ".", ".."}:
        raise InvalidError(f"filename has the component {component!r}: give a plain relative path")
    if component.startswith(PART_PREFIX):
        raise InvalidError(f"filename has a component that begins with {PART_PREFIX!r}, which is reserved for movers")
    try:
        encoded = component.encode()
    except UnicodeEncodeError:
        raise InvalidError("filename is not valid UTF-8: rename the file") from None
    if len(encoded) > COMPONENT_MAX_BYTES:
        raise InvalidError(
            f"filename has a component of {len(encoded)} bytes; at most {COMPONENT_MAX_BYTES} are allowed"
        )
