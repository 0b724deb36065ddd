"""Where the servers are: the environment says it, or the file that a running `up` keeps in its data directory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.server_process import write_private
from shared.errors import StopServiceError
from shared.settings import PREFIX, Port, SecretStr, Settings, is_set, read_settings

_FILE = "environment"
_URLS = ("redis_url", "mysql_url")
_NOT_SET = SecretStr("")


@dataclass(frozen=True, kw_only=True)
class OperatorSettings(Settings):
    """What the commands read. `redis_url` and `mysql_url` are empty where they are not set."""

    redis_url: SecretStr = _NOT_SET
    mysql_url: SecretStr = _NOT_SET
    metrics_port: Port = 0
    metrics_host: str = "127.0.0.1"
    http_host: str = "127.0.0.1"

    @property
    def fixed_partitions(self) -> int | None:
        """RESHELVE_PARTITIONS where it is set: then it must be right; else what Redis was first used with counts."""
        return self.partitions if is_set("partitions") else None

    def at(self, urls: Mapping[str, str]) -> OperatorSettings:
        """The same with some other URLs."""
        secret: dict[str, Any] = {name: SecretStr(url) for name, url in urls.items()}
        return replace(self, **secret)


def operator_settings(data_dir: Path) -> OperatorSettings:
    """The environment's settings; URLs that are not set there are those of the servers running in `data_dir`.

    A URL that is in neither place stays empty. Raises StopServiceError for a wrong setting.
    """
    settings = read_settings(OperatorSettings)
    running = _read(data_dir / _FILE)
    missing = [name for name in _URLS if not getattr(settings, name).get_secret_value()]
    return settings.at({name: running[variable(name)] for name in missing if variable(name) in running})


def needed_url(settings: OperatorSettings, name: str, data_dir: Path) -> str:
    """The URL in the setting `name`. Raises StopServiceError where there is none."""
    url: str = getattr(settings, name).get_secret_value()
    if not url:
        raise StopServiceError(
            f"{variable(name)} is not set and no `reshelve up` runs on the data directory {data_dir}: "
            "set it, start `reshelve up`, or name its data directory with --data-dir",
        )
    return url


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def write_environment(data_dir: Path, values: Mapping[str, str]) -> None:
    """Leave variables for other commands, and for a shell to source; only the owner can read the file."""
    write_private(data_dir / _FILE, "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))


def remove_environment(data_dir: Path) -> None:
    """Nothing runs here any more. Safe to repeat."""
    (data_dir / _FILE).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StopServiceError(f"cannot read {path}: {error.strerror}: run the command as who runs `up`") from None
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)


def child_environment(values: dict[str, str]) -> dict[str, str]:
    """Our own environment with `values`, which also hide a `_FILE` variant, and the place that our modules lie in."""
    environment = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in values}
    ours = str(Path(__file__).resolve().parent.parent)
    search = [ours, *filter(None, [environment.get("PYTHONPATH")])]
    return environment | values | {"PYTHONPATH": os.pathsep.join(search)}
