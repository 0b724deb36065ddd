from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest

from services.planner.settings import PlannerSettings
from services.recorder.settings import RecorderSettings
from shared.errors import StopServiceError
from shared.redis_url import place
from shared.settings import Settings, read_settings

SECRET = "hunter2"
REDIS_URL = f"redis://:{SECRET}@127.0.0.1:6379/0"
MYSQL_URL = f"mysql://reshelve:{SECRET}@127.0.0.1:3306/reshelve"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("RESHELVE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RESHELVE_REDIS_URL", REDIS_URL)
    monkeypatch.setenv("RESHELVE_MYSQL_URL", MYSQL_URL)


def refusal(kind: type[Settings] = RecorderSettings) -> str:
    """The one line with which the service ends."""
    with pytest.raises(StopServiceError) as stopped:
        read_settings(kind)
    line = str(stopped.value)
    assert "\n" not in line
    assert SECRET not in line
    assert stopped.value.__cause__ is None
    assert stopped.value.__suppress_context__ or stopped.value.__context__ is None
    return line


def test_the_defaults_are_those_of_the_design() -> None:
    settings = read_settings(RecorderSettings)
    assert settings.redis_url.get_secret_value() == REDIS_URL
    assert settings.mysql_url.get_secret_value() == MYSQL_URL
    assert (settings.partitions, settings.lease_ms, settings.max_attempts) == (8, 30_000, 5)
    assert settings.lease_s == 30
    assert (settings.retire_grace_s, settings.metrics_port) == (0, 9103)
    assert read_settings(PlannerSettings).metrics_port == 9101


def test_a_variable_of_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHELVE_PARTITIONS", "3")
    monkeypatch.setenv("RESHELVE_RETIRE_GRACE_S", "1.5")
    settings = read_settings(RecorderSettings)
    assert (settings.partitions, settings.retire_grace_s) == (3, 1.5)


@pytest.mark.parametrize("name", ["RESHELVE_REDIS_URL", "RESHELVE_MYSQL_URL"])
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    assert refusal() == f"{name}: not set"


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESHELVE_MYSQL_URL")
    monkeypatch.setenv("RESHELVE_PARTITIONS", "0")
    line = refusal()
    assert line.startswith("RESHELVE_MYSQL_URL: not set; RESHELVE_PARTITIONS: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", "0"),
        ("PARTITIONS", "1025"),
        ("PARTITIONS", "eight"),
        ("PARTITIONS", ""),
        ("PARTITIONS", "8.5"),
        ("LEASE_MS", "99"),
        ("LEASE_MS", "86400001"),
        ("MAX_ATTEMPTS", "0"),
        ("METRICS_PORT", "65536"),
        ("METRICS_PORT", "-1"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("RETIRE_GRACE_S", "-1"),
        ("RETIRE_GRACE_S", "nan"),
        ("RETIRE_GRACE_S", "inf"),
        ("BATCH_LIMIT", "0"),
    ],
)
def test_a_value_out_of_range_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RESHELVE_{name}", value)
    assert refusal().startswith(f"RESHELVE_{name}: must be ")


BAD_REDIS = [
    "", "127.0.0.1:6379", f"http://:{SECRET}@h:1", f"redis://:{SECRET}@h:notaport/0", f"redis://:{SECRET}@h:99999/0",
    f"redis://:{SECRET}@[::1/0", f"redis://:{SECRET}\u2100@h/0", f"redis://:{SECRET}@h/0?socket_timeout=soon",
    f"redis+cluster://:{SECRET}@h:1,h:port", f"redis+cluster://:{SECRET}@h:1,,h:2", f"redis+cluster://:{SECRET}@h:1/3",
    f"redis+cluster://:{SECRET}@h:1?db=2", f"unix+cluster://:{SECRET}@h:1", f"redis+cluster://:{SECRET}@h:1?ssl_ca_certs=x",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_REDIS)
def test_a_malformed_redis_url_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RESHELVE_REDIS_URL", url)
    assert refusal().startswith("RESHELVE_REDIS_URL: ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://:p%40@h:1/3",
        "unix:///run/redis.sock?db=2",
        "redis+cluster://u:p%40@h1:1,h2:2",
        "redis+cluster://[::1]:7000,h",
        "rediss+cluster://:p@h1:1/0",
    ],
)
def test_every_kind_of_redis_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RESHELVE_REDIS_URL", url)
    assert read_settings(RecorderSettings).redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://h", "h:6379, database 0"),
        ("unix:///run/redis.sock?db=2", "/run/redis.sock, database 2"),
        (f"redis+cluster://u:{SECRET}@h1:1,h2:2", "the cluster with h1:1, h2:2"),
    ],
)
def test_where_redis_is_is_said_without_the_login(url: str, where: str) -> None:
    assert place(url) == where


@pytest.mark.parametrize(
    "url",
    ["", f"postgres://u:{SECRET}@h/d", f"mysql://u:{SECRET}@h", f"mysql://:{SECRET}@h/d", f"mysql://u:{SECRET}@/d",
     f"mysql://u:{SECRET}@h:0/d", f"mysql://u:{SECRET}#@h/d", f"mysql://u:{SECRET}\u2100@h/d",
     f"mysql://u:{SECRET}@h/d?who=knows"],
)  # fmt: skip
def test_a_malformed_mysql_url_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RESHELVE_MYSQL_URL", url)
    assert refusal().startswith("RESHELVE_MYSQL_URL: the MySQL URL")


@pytest.mark.parametrize("name", ["REDIS_URL", "MYSQL_URL"])
def test_a_secret_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    url = {"REDIS_URL": "redis://from-file/0", "MYSQL_URL": "mysql://u:p@from-file/d"}[name]
    file = tmp_path / "secret"
    file.write_text(f"{url}\n")
    monkeypatch.setenv(f"RESHELVE_{name}_FILE", str(file))
    assert getattr(read_settings(RecorderSettings), name.lower()).get_secret_value() == url


@pytest.mark.parametrize("name", ["REDIS_URL", "MYSQL_URL"])
def test_the_file_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text({"REDIS_URL": REDIS_URL, "MYSQL_URL": MYSQL_URL}[name])
    monkeypatch.delenv(f"RESHELVE_{name}")
    monkeypatch.setenv(f"RESHELVE_{name}_FILE", str(file))
    read_settings(RecorderSettings)


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESHELVE_MYSQL_URL_FILE", str(tmp_path / "gone"))
    assert refusal() == f"RESHELVE_MYSQL_URL_FILE: cannot read {tmp_path}/gone: No such file or directory"


def test_a_file_that_is_not_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"mysql://\xff" + SECRET.encode())
    monkeypatch.setenv("RESHELVE_MYSQL_URL_FILE", str(file))
    assert refusal().startswith(f"RESHELVE_MYSQL_URL_FILE: cannot read {file}: ")


def test_a_file_with_a_malformed_url_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    monkeypatch.setenv("RESHELVE_REDIS_URL_FILE", str(file))
    assert refusal().startswith("RESHELVE_REDIS_URL: ")


def test_settings_show_no_secret_and_cannot_be_changed() -> None:
    settings = read_settings(RecorderSettings)
    assert SECRET not in repr(settings)
    assert SECRET not in str(asdict(settings))
    with pytest.raises(FrozenInstanceError):
        settings.partitions = 9  # type: ignore[misc]
