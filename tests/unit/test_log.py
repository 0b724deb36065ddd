from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

PROJECT = Path(__file__).parent.parent.parent


def logged(code: str, log_format: str = "json", level: str = "info") -> list[str]:
    """The lines that a process writes: the set-up is the whole process'."""
    program = f"""
import logging
from shared.settings import SecretStr
from shared.log import configure
log = configure({log_format!r}, {level!r}, "mover")
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_is_an_event_and_its_fields() -> None:
    (line,) = logged('log.info("placed", cid="7", bytes=4096)')
    event = orjson.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "placed", "cid": "7", "bytes": 4096, "service": "mover", "level": "info"}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_is_never_written(log_format: str) -> None:
    lines = logged(
        'log.info("started", url=SecretStr("redis://:hunter2@h"), all={"u": SecretStr("hunter2")})', log_format
    )
    assert len(lines) == 1
    assert "hunter2" not in lines[0]
    assert "*****" in lines[0]


def test_what_lies_below_the_level_is_not_written() -> None:
    assert len(logged('log.info("a"); log.warning("b")', level="warning")) == 1


def test_what_libraries_log_is_json_too() -> None:
    (line,) = logged('logging.getLogger("lib").warning("odd %s", "thing"); logging.getLogger("lib").info("chatter")')
    event = orjson.loads(line)
    assert (event["event"], event["level"]) == ("odd thing", "warning")


def test_an_error_is_one_line_with_its_traceback() -> None:
    (line,) = logged('try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception("ended")')
    event = orjson.loads(line)
    assert event["event"] == "ended"
    assert event["exception"][0]["exc_type"] == "ZeroDivisionError"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_variables(log_format: str) -> None:
    lines = logged(
        'def connect(url):\n    raise OSError("refused")\n'
        'try:\n    connect("hunter" + "2")\nexcept OSError:\n    log.exception("ended")',
        log_format,
    )
    assert "refused" in "".join(lines)
    assert "hunter2" not in "".join(lines)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_lines_that_are_written_together_are_as_if_each_had_been_written_alone(log_format: str) -> None:
    together = "info_each(log.bind(a=1), 'placed', ({'cid': str(n), 'bytes': n} for n in range(3)))"
    alone = "[log.bind(a=1).info('placed', cid=str(n), bytes=n) for n in range(3)]"
    lines = logged(f"from shared.log import info_each\n{together}\n{alone}", log_format)
    assert len(lines) == 6
    if log_format == "json":
        events = [orjson.loads(line) for line in lines]
        assert all(event.pop("timestamp").endswith("Z") for event in events)
        assert events[:3] == events[3:]


def test_nothing_is_written_of_nothing_or_below_the_level() -> None:
    code = "from shared.log import info_each\ninfo_each(log, 'a', [])"
    assert logged(code) == []
    assert logged(f"{code}\ninfo_each(log, 'a', [{{}}])", level="warning") == []
