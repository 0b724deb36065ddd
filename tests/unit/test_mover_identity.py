"""What the mover's file work decides without a file: names, errors, roots."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.mover.beneath import Reason, classify
from services.mover.identity import file_id, is_move_id, part_name, probe_name
from services.mover.place import check_roots
from shared.errors import DeadLetterError, InvalidError, RetryError
from shared.messages import Move
from shared.names import check_filename

MOVE = Move(
    move_id="0197f3a0-0000-7000-8000-000000000001",
    cid="7",
    filename="g.mp4",
    from_level="bronze",
    to_level="silver",
    from_path="/levels/bronze",
    to_path="/levels/silver",
    count=1964,
    why="test",
    viewed_at=1,
    planned_at=2,
)


def test_file_id_is_inode_size_and_nanoseconds() -> None:
    facts = os.stat_result((0, 42, 99, 1, 0, 0, 7, 0, 0, 0), {"st_mtime_ns": 1_000_000_007})
    assert file_id(facts) == "42:7:1000000007"


@pytest.mark.parametrize("move_id", [MOVE.move_id, "a", "A-9", "x" * 64])
def test_move_id_may_be_letters_digits_and_dashes(move_id: str) -> None:
    assert is_move_id(move_id)


@pytest.mark.parametrize("move_id", ["", ".", "..", "a/b", "../x", "a.1", "a\n", "a\0", "ä", "x" * 65])
def test_move_id_cannot_lead_out_of_the_directory(move_id: str) -> None:
    assert not is_move_id(move_id)


@given(st.integers(min_value=1, max_value=10**6))
def test_no_content_can_be_named_like_a_part(attempt: int) -> None:
    for name in (part_name(MOVE.move_id, attempt), probe_name(MOVE.move_id, attempt)):
        with pytest.raises(InvalidError, match="reserved"):
            check_filename(name)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, Reason.DISK_FULL),
        (errno.EDQUOT, Reason.DISK_FULL),
        (errno.EROFS, Reason.READ_ONLY),
        (errno.EIO, Reason.IO_ERROR),
        (errno.ESTALE, Reason.LEVEL_UNAVAILABLE),
        (errno.ETIMEDOUT, Reason.LEVEL_UNAVAILABLE),
        (errno.EBUSY, Reason.BUSY),
        (errno.EMFILE, Reason.EXHAUSTED),
        (errno.EACCES, Reason.PERMISSION),
        (errno.ENOENT, Reason.VANISHED),
        (errno.EBADMSG, Reason.UNEXPECTED),
    ],
)
def test_what_may_pass_is_retried(number: int, reason: Reason) -> None:
    error = classify(OSError(number, os.strerror(number)), "copy the content")
    assert isinstance(error, RetryError)
    assert error.reason == reason
    assert error.detail.startswith(f"cannot copy the content: {os.strerror(number)}; ")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENAMETOOLONG, Reason.NAME_REFUSED),
        (errno.EILSEQ, Reason.NAME_REFUSED),
        (errno.ELOOP, Reason.ESCAPE),
        (errno.EISDIR, Reason.NOT_A_FILE),
        (errno.ENOTDIR, Reason.NOT_A_DIRECTORY),
        (errno.EFBIG, Reason.FILE_TOO_LARGE),
    ],
)
def test_what_time_cannot_heal_is_a_dead_letter(number: int, reason: Reason) -> None:
    error = classify(OSError(number, os.strerror(number)), "open it")
    assert isinstance(error, DeadLetterError)
    assert error.reason == reason


def test_error_without_a_number_is_retried() -> None:
    assert classify(OSError("odd"), "open it").reason == Reason.UNEXPECTED


def test_allowed_roots_are_compared_by_path_not_by_spelling() -> None:
    check_roots(MOVE, ["/levels/bronze/", "/levels//silver", "/levels/gold"])
    check_roots(replace(MOVE, to_path="/levels/silver/"), ["/levels/bronze", "/levels/silver"])


@pytest.mark.parametrize(
    "path",
    [
        "/levels",
        "/levels/silver/inside",
        "/etc",
        "levels/bronze",
        "",
        # Normalised it is allowed; opened it is wherever the link leads.
        "/levels/link/../silver",
    ],
)
def test_any_other_root_is_refused(path: str) -> None:
    for move in (replace(MOVE, from_path=path), replace(MOVE, to_path=path)):
        with pytest.raises(DeadLetterError) as refused:
            check_roots(move, ["/levels/bronze", "/levels/silver"])
        assert refused.value.reason == Reason.ROOT_NOT_ALLOWED


def test_no_root_allows_nothing() -> None:
    with pytest.raises(DeadLetterError):
        check_roots(MOVE, [])
