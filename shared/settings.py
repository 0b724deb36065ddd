"""Settings: environment variables, read once at the start; a wrong one ends the service with a line that names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import InvalidError, StopServiceError
from shared.mysql_url import parse_mysql_url
from shared.redis_url import check_redis_url

PREFIX = "RESHELVE_"
_SECRETS = ("REDIS_URL", "MYSQL_URL")


def _redis_url(url: SecretStr) -> SecretStr:
    try:
        check_redis_url(url.get_secret_value())
    except InvalidError as error:
        raise ValueError(str(error)) from None
    return url


def _mysql_url(url: SecretStr) -> SecretStr:
    try:
        # Also reads the file that `ssl_ca` names.
        parse_mysql_url(url.get_secret_value()).connect_arguments()
    except InvalidError as error:
        raise ValueError(str(error)) from None
    return url


Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """What every service needs. Frozen; passed on by plain call."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)]
    mysql_url: Annotated[SecretStr, AfterValidator(_mysql_url)]
    partitions: int = Field(default=8, ge=1, le=1024)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: Port
    lease_ms: int = Field(default=30_000, ge=100, le=86_400_000)
    max_attempts: int = Field(default=5, ge=1, le=1000)

    @property
    def lease_s(self) -> float:
        """The lease in seconds."""
        return self.lease_ms / 1000


_S = TypeVar("_S", bound=Settings)


def read_settings(kind: type[_S]) -> _S:
    """The settings from the environment. Raises StopServiceError that names each wrong variable and its remedy."""
    overrides = {}
    for name in _SECRETS:
        file = os.environ.get(f"{PREFIX}{name}_FILE")
        if file is not None:
            try:
                overrides[name.lower()] = Path(file).read_text().strip()
            except OSError as error:
                raise StopServiceError(f"{PREFIX}{name}_FILE: cannot read {file}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise StopServiceError(f"{PREFIX}{name}_FILE: cannot read {file}: it is not UTF-8 text") from None
    try:
        return kind(**overrides)  # type: ignore[arg-type]  # values that pydantic checks
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False, include_input=False):
            name = PREFIX + "_".join(str(part) for part in fault["loc"]).upper()
            lines.append(f"{name}: {'not set' if fault['type'] == 'missing' else fault['msg']}")
        raise StopServiceError("; ".join(lines)) from None
