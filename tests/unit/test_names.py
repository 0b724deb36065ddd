from __future__ import annotations

import os
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import InvalidError
from shared.names import CID_PATTERN, are_cids, check_cid, check_filename, is_cid


@pytest.mark.parametrize("cid", ["7", "a", "A-b_c.d:e", "0" * 64, "...", "-"])
def test_a_plain_cid_is_taken_as_it_is(cid: str) -> None:
    assert is_cid(cid)
    assert check_cid(cid) == cid


@pytest.mark.parametrize(
    "cid",
    ["", "7\n", "\n7", "a b", "a/b", "é", "٧", "a\0", "0" * 65, "{1}", "a*", "%37", "７"],
)
def test_a_cid_outside_its_alphabet_is_refused(cid: str) -> None:
    assert not is_cid(cid)
    with pytest.raises(InvalidError, match=re.escape("is not 1-64 characters of A-Za-z0-9._:-")):
        check_cid(cid)


@pytest.mark.parametrize(("cid", "kind"), [(7, "int"), (None, "NoneType"), (b"7", "bytes"), (["7"], "list")])
def test_a_cid_of_another_type_is_refused_with_the_remedy(cid: object, kind: str) -> None:
    assert not is_cid(cid)
    with pytest.raises(InvalidError, match=f"^cid must be a string, got {kind}: quote it$"):
        check_cid(cid)


@given(st.lists(st.text(max_size=70) | st.text("a7.-:_", min_size=1, max_size=66)))
@example(["\ud800"])
@example(["?"])
@example(["", "a"])
def test_many_are_cids_where_each_is(cids: list[str]) -> None:
    assert are_cids(cids) == all(map(is_cid, cids))


def test_an_endless_cid_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidError) as refused:
        check_cid("x" * 1_000_000)
    assert len(str(refused.value)) < 200


@given(st.text() | st.from_regex(CID_PATTERN))
@example("7\n")
def test_the_cid_rule_is_the_documented_alphabet(cid: str) -> None:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
    assert is_cid(cid) == (1 <= len(cid) <= 64 and set(cid) <= allowed)


@pytest.mark.parametrize(
    "filename",
    ["g.mp4", "a/b/c.mp4", "..a", "a..", "...", "dir/.hidden", " leading", "tab\tand\nnewline", "日本/é.mp4", "a:b",
     "\\", "reshelve.x", "é" * 127, "x" * 255, "/".join(["x" * 139] * 5)],
)  # fmt: skip
def test_a_plain_relative_name_is_taken_as_it_is(filename: str) -> None:
    assert check_filename(filename) == filename


@pytest.mark.parametrize(
    ("filename", "message"),
    [
        ("", "filename is empty: name a file beneath the level's directory"),
        ("/etc/passwd", "filename is absolute: give it relative to the level's directory"),
        ("//x", "filename is absolute: give it relative to the level's directory"),
        ("..", "filename has the component '..': give a plain relative path"),
        ("../x", "filename has the component '..': give a plain relative path"),
        ("a/../../x", "filename has the component '..': give a plain relative path"),
        ("a/..", "filename has the component '..': give a plain relative path"),
        (".", "filename has the component '.': give a plain relative path"),
        ("a/./b", "filename has the component '.': give a plain relative path"),
        ("a//b", "filename has the component '': give a plain relative path"),
        ("a/", "filename has the component '': give a plain relative path"),
        ("a\0b", "filename contains a NUL character"),
        ("a ", "filename ends with a space: rename the file"),
        ("x" * 701, "filename has 701 characters; at most 700 are allowed"),
        ("x" * 256, "filename has a component of 256 bytes; at most 255 are allowed"),
        ("é" * 128, "filename has a component of 256 bytes; at most 255 are allowed"),
        ("\udcff", "filename is not valid UTF-8: rename the file"),
        (".reshelve.1", "filename has a component that begins with '.reshelve.', which is reserved for movers"),
        ("d/.reshelve.1/x", "filename has a component that begins with '.reshelve.', which is reserved for movers"),
        (7, "filename must be a string, got int"),
        (None, "filename must be a string, got NoneType"),
        (b"x", "filename must be a string, got bytes"),
    ],
)
def test_a_name_that_could_do_harm_is_refused(filename: object, message: str) -> None:
    with pytest.raises(InvalidError) as refused:
        check_filename(filename)
    assert str(refused.value) == message


@given(st.text(alphabet="./a\0 é\\\n", max_size=12) | st.text(max_size=800))
@example("../a")
@example("a/.. /b")
def test_whatever_is_taken_stays_beneath_its_directory(filename: str) -> None:
    try:
        check_filename(filename)
    except InvalidError:
        return
    path = f"/level/{filename}"
    assert os.path.normpath(path) == path
    assert os.path.commonpath(["/level", path]) == "/level"
    assert path != "/level"
    assert all(0 < len(os.fsencode(part)) <= 255 for part in filename.split("/"))
    assert len(filename.encode()) <= 3072
