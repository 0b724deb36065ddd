"""Ports that stay free until the process they are meant for listens on them."""

from __future__ import annotations

import random
import socket
from collections import deque
from pathlib import Path

_LOOPBACK = "127.0.0.1"
_FIRST = 10_000
_CLAIMS_KEPT = 64
# Held, not used: whoever else runs tests or benchmarks on this machine passes over the ports that have a claim.
_claims: deque[socket.socket] = deque()


def free_port(rng: random.Random | None = None) -> int:
    """A port of the loopback that nobody listens on, that no other run was given lately, and that the
    kernel gives to no outgoing connection: those come from `ip_local_port_range`, and a service once found its port
    taken by one that had been opened since the port was chosen."""
    rng = rng or random.Random()
    last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = rng.randrange(_FIRST, max(last, _FIRST + 1000))
        if (claim := _claimed(port)) is None:
            continue
        if _is_free(port):
            _keep(claim)
            return port
        claim.close()


def _claimed(port: int) -> socket.socket | None:
    """An abstract socket named for the port: it is given up with its process, however that ends."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0reshelve-tests-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _keep(claim: socket.socket) -> None:
    _claims.append(claim)
    if len(_claims) > _CLAIMS_KEPT:
        _claims.popleft().close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
        return True
