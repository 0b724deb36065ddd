"""Settings: environment variables, read once at the start; a wrong one ends the service with a line that names it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from shared.errors import InvalidError, StopServiceError
from shared.mysql_url import parse_mysql_url
from shared.redis_url import check_redis_url

PREFIX = "RESHELVE_"
_SECRETS = ("REDIS_URL", "MYSQL_URL")


class SecretStr:
    """A text that no log and no traceback shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "SecretStr('**********')"

    def __str__(self) -> str:
        return "**********"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def yes_or_no(text: str) -> bool:
    """A switch."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise InvalidError("must be 1 or 0")


def _redis_url(text: str) -> SecretStr:
    check_redis_url(text)
    return SecretStr(text)


def _mysql_url(text: str) -> SecretStr:
    # Also reads the file that `ssl_ca` names.
    parse_mysql_url(text).connect_arguments()
    return SecretStr(text)


Port = Annotated[int, Meta(ge=0, le=65535)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every service needs; passed on by plain call.

    Each field is the variable of its name. msgspec reads the text as the field's type, within the bounds of its `Meta`;
    a function that the type is annotated with reads it instead, and raises InvalidError without repeating the text.
    """

    redis_url: Annotated[SecretStr, _redis_url]
    mysql_url: Annotated[SecretStr, _mysql_url]
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 8
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: Port
    lease_ms: Annotated[int, Meta(ge=100, le=86_400_000)] = 30_000
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = 5

    @property
    def lease_s(self) -> float:
        """The lease in seconds."""
        return self.lease_ms / 1000

    def check(self) -> None:
        """Raises StopServiceError where settings that are sound by themselves do not go together."""


_S = TypeVar("_S", bound=Settings)


def read_settings(kind: type[_S]) -> _S:
    """The settings from the environment. Raises StopServiceError that names each wrong variable and its remedy."""
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    faults = []
    for field in dataclasses.fields(kind):
        variable = PREFIX + field.name.upper()
        text = _text(variable)
        if text is not None:
            try:
                values[field.name] = _value(text, hints[field.name])
            except InvalidError as error:
                faults.append(f"{variable}: {error}")
        elif field.default is dataclasses.MISSING:
            faults.append(f"{variable}: not set")
    if faults:
        raise StopServiceError("; ".join(faults))
    settings = kind(**values)
    settings.check()
    return settings


def is_set(name: str) -> bool:
    """True where the environment says what the setting `name` is, and not its default."""
    return PREFIX + name.upper() in os.environ


def _value(text: str, hint: Any) -> object:
    for reader in filter(callable, getattr(hint, "__metadata__", ())):
        return reader(text)
    try:
        return msgspec.convert(text, hint, strict=False, dec_hook=lambda kind, text: kind(text))
    except msgspec.ValidationError as error:
        # Of a word that is none of those allowed it repeats the text, which may be a secret in the wrong variable.
        words = get_args(hint) if get_origin(hint) is Literal else ()
        must = f"one of {', '.join(words)}" if words else str(error).removeprefix("Expected ").partition(", got ")[0]
        raise InvalidError(f"must be {must}") from None


def _text(variable: str) -> str | None:
    file = os.environ.get(f"{variable}_FILE") if variable.removeprefix(PREFIX) in _SECRETS else None
    if file is None:
        return os.environ.get(variable)
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise StopServiceError(f"{variable}_FILE: cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StopServiceError(f"{variable}_FILE: cannot read {file}: it is not UTF-8 text") from None
