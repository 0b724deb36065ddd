"""The tokens file, who may do what, and where ingest may listen without tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from services.ingest.access import OPEN, PRODUCERS, allowed
from services.ingest.settings import IngestSettings
from services.ingest.tokens import LENGTH_MIN, Tokens, parse_tokens
from shared.errors import InvalidError, StopServiceError
from shared.settings import read_settings

PRODUCER = "producer-token-0123456789"
OPERATOR = "operator-token-0123456789="


def test_a_line_is_a_role_a_token_and_a_name() -> None:
    text = f"# ours\n\nproducer {PRODUCER} web front end\n  operator\t{OPERATOR}\n"
    holders = parse_tokens(text, "tokens")
    assert [(holder.role, holder.name) for holder in holders] == [("producer", "web front end"), ("operator", "")]
    assert PRODUCER not in repr(holders)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("admin {token}", "begins with neither producer nor operator"),
        ("{token} producer", "begins with neither producer nor operator"),
        ("Producer {token}", "begins with neither producer nor operator"),
        ("producer", "holds no token"),
        ("operator {token:.15}", "the token has 15 characters, 16 are the least"),
        ("operator {token}=x", "the token may hold"),
        ("operator {token}ü", "the token may hold"),
        ("operator first-0123456789 again", "has the token of line 2 again"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_never_shown(line: str, fault: str) -> None:
    token = "s3cret-" + "x" * 20
    written = line.format(token=token)
    with pytest.raises(InvalidError) as raised:
        parse_tokens(f"# comment\nproducer first-0123456789\n{written}\n", "/etc/tokens")
    message = str(raised.value)
    assert message.startswith(f"/etc/tokens line 3: {fault}")
    assert "s3cret" not in message
    assert "first-" not in message


@pytest.mark.parametrize("text", ["", "\n\n", "# producer token-0123456789\n"])
def test_a_file_without_tokens_would_lock_everybody_out(text: str) -> None:
    with pytest.raises(InvalidError, match="holds no token, so nobody could do anything"):
        parse_tokens(text, "tokens")


def test_the_shortest_token_is_taken() -> None:
    assert len(parse_tokens(f"producer {'x' * LENGTH_MIN}", "tokens")) == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _role(tokens: Tokens, token: str) -> str | None:
    holder = tokens.holder(token.encode())
    return holder.role if holder else None


def test_tokens_are_rotated_without_a_restart(tmp_path: Path) -> None:
    file, clock = tmp_path / "tokens", Clock()
    file.write_text(f"producer {PRODUCER}\n")
    tokens = Tokens(file, structlog.get_logger(), clock)
    assert (_role(tokens, PRODUCER), _role(tokens, OPERATOR)) == ("producer", None)
    file.write_text(f"operator {OPERATOR}\nproducer {PRODUCER}\n")
    assert _role(tokens, OPERATOR) is None, "looked at once a second, not at every request"
    clock.now += 1.1
    assert (_role(tokens, PRODUCER), _role(tokens, OPERATOR)) == ("producer", "operator")
    # Renamed over, as editors and Kubernetes do it.
    part = tmp_path / "part"
    part.write_text(f"operator {OPERATOR}\n")
    part.replace(file)
    clock.now += 1.1
    assert (_role(tokens, PRODUCER), _role(tokens, OPERATOR)) == (None, "operator")


def test_a_file_that_becomes_malformed_leaves_the_old_tokens_in_force_and_says_so_once(tmp_path: Path) -> None:
    file, clock = tmp_path / "tokens", Clock()
    file.write_text(f"producer {PRODUCER}\n")
    with capture_logs() as logs:
        tokens = Tokens(file, structlog.get_logger(), clock)
        for text in (f"producer {PRODUCER}\nroot {OPERATOR}\n", None):
            file.write_text(text) if text else file.unlink()
            for _ in range(3):
                clock.now += 1.1
                assert (_role(tokens, PRODUCER), _role(tokens, OPERATOR)) == ("producer", None)
        # As it was: the fault is over even though nothing differs from what is in force.
        file.write_text(f"producer {PRODUCER}\n")
        clock.now += 1.1
        assert _role(tokens, PRODUCER) == "producer"
    assert [line["log_level"] for line in logs] == ["error", "error", "info"]
    assert "tokens line 2: begins with neither" in logs[0]["error"]
    assert "cannot be read: No such file" in logs[1]["error"]
    assert PRODUCER not in repr(logs)
    assert OPERATOR not in repr(logs)


def test_a_prefix_of_a_token_or_more_than_it_is_nobodys(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"producer {PRODUCER}\n")
    tokens = Tokens(file, structlog.get_logger())
    assert [_role(tokens, token) for token in (PRODUCER[:-1], PRODUCER + "x", "", PRODUCER.upper())] == [None] * 4


def test_what_no_rule_names_is_for_operators() -> None:
    """Closed by default: an endpoint that is added without a thought about it is not open."""
    assert allowed("POST", "/v1/something/new") == {"operator"}
    assert allowed("DELETE", "/v1/contents/{cid}") == {"operator"}
    assert allowed("PUT", "/v1/levels") == {"operator"}
    assert {allowed(*endpoint) for endpoint in OPEN} == {frozenset()}
    assert {allowed(*endpoint) for endpoint in PRODUCERS} == {frozenset({"producer", "operator"})}
    assert {method for method, path in PRODUCERS if not path.endswith("sentence")} == {"GET", "POST"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("TOKENS_FILE", "ALLOW_ANONYMOUS", "HTTP_HOST"):
        monkeypatch.delenv(f"RESHELVE_{name}", raising=False)
    monkeypatch.setenv("RESHELVE_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("RESHELVE_MYSQL_URL", "mysql://u:p@127.0.0.1:1/d")
    return monkeypatch


def _settings() -> Any:
    return read_settings(IngestSettings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_without_tokens_the_loopback_is_good(environment: pytest.MonkeyPatch, host: str) -> None:
    environment.setenv("RESHELVE_HTTP_HOST", host)
    assert _settings().http_host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "example.org", "127.0.0.1.example.org"])
def test_without_tokens_no_other_address_is(environment: pytest.MonkeyPatch, host: str, tmp_path: Path) -> None:
    environment.setenv("RESHELVE_HTTP_HOST", host)
    with pytest.raises(StopServiceError, match=r"RESHELVE_HTTP_HOST: .*there are no tokens: set RESHELVE_TOKENS_FILE"):
        _settings()
    environment.setenv("RESHELVE_ALLOW_ANONYMOUS", "1")
    assert _settings().http_host == host
    environment.setenv("RESHELVE_ALLOW_ANONYMOUS", "0")
    (tmp_path / "tokens").write_text(f"operator {OPERATOR}")
    environment.setenv("RESHELVE_TOKENS_FILE", str(tmp_path / "tokens"))
    assert _settings().http_host == host


def test_a_wrong_tokens_file_is_a_wrong_setting(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    environment.setenv("RESHELVE_HTTP_HOST", "0.0.0.0")
    environment.setenv("RESHELVE_TOKENS_FILE", str(file))
    with pytest.raises(StopServiceError, match=r"^RESHELVE_TOKENS_FILE: .*tokens: cannot be read: No such file"):
        _settings()
    file.write_bytes(b"producer \xff\xfe")
    with pytest.raises(StopServiceError, match="is not UTF-8 text"):
        _settings()
    file.write_text("producer short")
    with pytest.raises(StopServiceError, match=r"tokens line 1: the token has 5 characters") as raised:
        _settings()
    assert "short" not in str(raised.value)
    environment.setenv("RESHELVE_TOKENS_FILE", "")
    with pytest.raises(StopServiceError, match=r"RESHELVE_TOKENS_FILE: .*is empty"):
        _settings()


def test_whether_everybody_may_is_no_matter_of_interpretation(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RESHELVE_HTTP_HOST", "0.0.0.0")
    for word in ("", "maybe", "2"):
        environment.setenv("RESHELVE_ALLOW_ANONYMOUS", word)
        with pytest.raises(StopServiceError, match=r"^RESHELVE_ALLOW_ANONYMOUS: must be 1 or 0$"):
            _settings()
