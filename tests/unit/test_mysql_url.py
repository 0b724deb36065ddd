from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidError
from shared.mysql_url import MySQLAddress, parse_mysql_url

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
NAME = TEXT.filter(lambda name: "/" not in name)
HOST = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z0-9]{1,8}){0,2}", fullmatch=True) | st.sampled_from(
    ["::1", "10.0.0.7"]
)


ADDRESS = st.builds(
    MySQLAddress,
    host=HOST,
    port=st.integers(1, 65535),
    user=TEXT,
    password=st.just("") | TEXT,
    database=NAME,
    tls=st.booleans(),
)


@given(ADDRESS, st.none() | NAME)
def test_address_survives_the_way_through_a_url(address: MySQLAddress, tls_ca: str | None) -> None:
    if tls_ca is not None:
        address = replace(address, tls=True, tls_ca=tls_ca)
    assert parse_mysql_url(address.url()) == address


@given(TEXT)
def test_repr_hides_the_password(password: str) -> None:
    hidden = MySQLAddress("h", 3306, "u", f"<{password}>", "d")
    assert repr(hidden) == "MySQLAddress(host='h', port=3306, user='u', database='d', tls=False, tls_ca=None)"


@given(st.text(max_size=60))
def test_anything_else_is_invalid_and_nothing_worse(url: str) -> None:
    for attempt in (url, f"mysql://{url}", f"mysql://user:hunter2@host:1/d?{url}", f"mysql://user:hunter2@{url}"):
        assert "hunter2" not in complaint(attempt)


def complaint(url: str) -> str:
    try:
        parse_mysql_url(url)
    except InvalidError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("", "does not begin with mysql://"),
        ("hunter2", "does not begin with mysql://"),
        ("hunter2://h", "does not begin with mysql://"),
        ("postgres://u:hunter2@h/d", "does not begin with mysql://"),
        ("mysql://u:hunter2@/d", "names no host"),
        ("mysql://h/d", "names no user"),
        ("mysql://:hunter2@h/d", "names no user"),
        ("mysql://u:hunter2@h", "one database"),
        ("mysql://u:hunter2@h/", "one database"),
        ("mysql://u:hunter2@h/d/e", "one database"),
        ("mysql://u:hunter2@h:0/d", "port"),
        ("mysql://u:hunter2@h:65536/d", "port"),
        ("mysql://u:hunter2@h:x/d", "port"),
        ("mysql://u:hun/ter2@h/d", "port"),
        ("mysql://u:hunter2@[::1/d", "malformed host"),
        ("mysql://u:hun ter2@h/d", "white space"),
        ("mysql://u:hun\nter2@h/d", "white space"),
        ("mysql://u:hunter2%ff@h/d", "password is not percent-encoded UTF-8"),
        ("mysql://u:hunter2%00@h/d", "password contains a NUL"),
        ("mysql://u:hunter2@h/d#e", "%23"),
        ("mysql://u:hunter2@h/d?ssl=maybe", "ssl is neither true nor false"),
        ("mysql://u:hunter2@h/d?ssl_ca=", "empty ssl_ca"),
        ("mysql://u:hunter2@h/d?ssl=false&ssl_ca=/x", "leave one of them out"),
        ("mysql://u:hunter2@h/d?charset=latin1", "an unknown parameter: ssl and ssl_ca are known"),
    ],
)
def test_malformed_url_is_named_without_the_password(url: str, cause: str) -> None:
    with pytest.raises(InvalidError) as raised:
        parse_mysql_url(url)
    assert cause in str(raised.value)
    assert "hun" not in str(raised.value)


def test_port_defaults_to_3306() -> None:
    assert parse_mysql_url("mysql://u@h/d") == MySQLAddress("h", 3306, "u", "", "d")


def test_url_takes_another_database() -> None:
    address = parse_mysql_url("mysql://u:p%40@[::1]:1/d?ssl=true")
    assert address.url("e/f") == "mysql://u:p%40@[::1]:1/e%2Ff?ssl=true"


def test_tls_checks_the_certificate() -> None:
    arguments = parse_mysql_url("mysql://u:p@h/d?ssl=true").connect_arguments()
    assert arguments["ssl"].check_hostname
    assert "ssl" not in parse_mysql_url("mysql://u:p@h/d?ssl=false").connect_arguments()


def test_unusable_ca_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for name in ("absent.pem", "ca.pem"):
        address = parse_mysql_url(f"mysql://u:hunter2@h/d?ssl_ca={quote(str(tmp_path / name))}")
        assert address.tls
        with pytest.raises(InvalidError, match=f"{name}.*cannot be used") as raised:
            address.connect_arguments()
        assert "hunter2" not in str(raised.value)
