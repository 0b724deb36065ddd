"""Which ports the services of this machine listen on."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from shared.errors import StopServiceError

_METRICS_PORTS = {"ingest": 9100, "planner": 9101, "mover": 9102, "recorder": 9103}


def http_port(host: str, port: int) -> int:
    """`port` itself, or a free one for 0. Raises StopServiceError where it cannot be had."""
    try:
        return _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StopServiceError(
                f"port {port} on {host} is taken: stop the program that listens there, or choose another with --port",
            ) from None
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StopServiceError(
            f"cannot listen on {host}:{port}: {reason}: choose another --port, or RESHELVE_HTTP_HOST",
        ) from None


class MetricsPorts:
    """Gives each replica a port: a service's first one the usual, where that is free."""

    def __init__(self, host: str) -> None:
        """All on `host`. Raises StopServiceError where nothing can listen on it."""
        self._host = host
        self._given: set[int] = set()

    def choose(self, service: str) -> int:
        """A port that nobody listens on just now, given to nobody else."""
        for port in self._candidates(service):
            if port not in self._given and self.is_free(port):
                self._given.add(port)
                return port
        raise StopServiceError(f"no free port on {self._host} for the metrics: check RESHELVE_METRICS_HOST")

    def is_free(self, port: int) -> bool:
        """Whether a service could listen there just now."""
        try:
            _bind(self._host, port)
        except OSError:
            return False
        return True

    def _candidates(self, service: str) -> Iterator[int]:
        yield _METRICS_PORTS[service]
        for _ in range(100):
            try:
                yield _bind(self._host, 0)
            except OSError as error:
                raise StopServiceError(
                    f"cannot listen on {self._host}: {error.strerror}: correct RESHELVE_METRICS_HOST",
                ) from None


def _bind(host: str, port: int) -> int:
    """Listen for a moment: the port, the system's choice for 0. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the services do: a port with connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
        bound: int = probe.getsockname()[1]
        return bound


def url_of(host: str, port: int) -> str:
    """Where to reach, from this machine, what listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # not bound to
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
