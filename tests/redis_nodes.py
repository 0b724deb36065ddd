"""A real Redis Cluster for tests: three masters with a replica each, as processes on the loopback."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from cli.servers import INSTALL_REDIS, find_redis_server
from deploy.accounts import REDIS_ACCOUNTS, redis_users
from tests.ports import free_port

MASTERS = 3
NODE_TIMEOUT_MS = 800
"""After so long without an answer a node counts as away; a replica takes over soon after."""


@dataclass
class Node:
    """One server; `client` logs in as its administrator. The nodes talk among themselves on `bus_port`."""

    port: int
    bus_port: int
    home: Path
    command: Sequence[str]
    client: Any
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return str(self.client.execute_command("CLUSTER", "MYID").decode())

    @property
    def is_master(self) -> bool:
        return bool(self.client.execute_command("ROLE")[0] == b"master")

    @property
    def follows_well(self) -> bool:
        """True for a replica that has all its master had."""
        role = self.client.execute_command("ROLE")
        return bool(role[0] == b"slave" and role[3] == b"connected")

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(self.answers, f"{self.address} answers, see {self.home / 'log'}")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """SIGKILL. Nothing happens to one that is dead."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class RedisNodes:
    """What a cluster's administrator can do, done as redis-cli does it."""

    def __init__(self, home: Path) -> None:
        """Starts and joins all nodes; every account of deploy/redis/users.acl can log in on each."""
        binary = find_redis_server()
        assert binary is not None, f"no Redis for the tests: {INSTALL_REDIS}"
        self._admin, replica = secrets.token_hex(16), secrets.token_hex(16)
        self.passwords = {account: secrets.token_hex(16) for account in REDIS_ACCOUNTS}
        users = [line for line in redis_users(self.passwords) if not line.startswith("user default")]
        users += [
            f"user default on >{self._admin} ~* &* +@all",
            # What docs/scaling.md gives a replica.
            f"user reshelve_replica on >{replica} +psync +replconf +ping",
        ]
        rng = random.Random(os.getpid())
        self.nodes = [self._node(binary, home / str(n), rng, users, replica) for n in range(2 * MASTERS)]

    def _node(self, binary: Path, home: Path, rng: random.Random, users: Sequence[str], replica: str) -> Node:
        port, bus_port = free_port(rng), free_port(rng)
        home.mkdir(parents=True)
        (home / "users.acl").write_text("\n".join(users) + "\n")
        (home / "redis.conf").write_text(f"""\
bind 127.0.0.1
port {port}
cluster-port {bus_port}
dir {home}
aclfile {home / "users.acl"}
masteruser reshelve_replica
masterauth {replica}
cluster-enabled yes
cluster-node-timeout {NODE_TIMEOUT_MS}
cluster-replica-validity-factor 0
repl-diskless-sync-delay 0
appendonly yes
appendfsync always
save ""
""")
        client = redis.Redis(port=port, password=self._admin, socket_timeout=10)
        return Node(port, bus_port, home, [str(binary), str(home / "redis.conf")], client)

    @classmethod
    @contextmanager
    def running(cls, home: Path) -> Iterator[Self]:
        cluster = cls(home)
        try:
            for node in cluster.nodes:
                node.start()
            cluster._join()
            yield cluster
        finally:
            for node in cluster.nodes:
                node.kill()
                node.client.close()

    def _join(self) -> None:
        masters, replicas = self.nodes[:MASTERS], self.nodes[MASTERS:]
        bounds = [n * REDIS_CLUSTER_HASH_SLOTS // MASTERS for n in range(MASTERS + 1)]
        for n, node in enumerate(self.nodes):
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            for other in self.nodes[:n]:
                other.client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        for n, node in enumerate(masters):
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
        for master, replica in zip(masters, replicas, strict=True):
            wait_until(lambda m=master, r=replica: _done(r, "CLUSTER", "REPLICATE", m.id), "the nodes know each other")  # type: ignore[misc]
        self.wait_until_well()

    def url(self, account: str = "default", nodes: Sequence[Node] = ()) -> str:
        """As in RESHELVE_REDIS_URL."""
        password = self._admin if account == "default" else self.passwords[account]
        user = "default" if account == "default" else f"reshelve_{account}"
        places = ",".join(node.address for node in nodes or self.nodes[:2])
        return f"redis+cluster://{user}:{password}@{places}"

    def is_well(self) -> bool:
        """Every node is there, all slots are served, every replica follows."""
        return all(node.answers() and _says_ok(node) for node in self.nodes) and all(
            node.is_master or node.follows_well for node in self.nodes
        )

    def master_of(self, key: str) -> Node:
        """As the nodes that run see it."""
        asked = next(node for node in self.nodes if node.answers())
        slot = key_slot(key.encode())
        for first, last, master, *_ in asked.client.execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    def replica_of(self, master: Node) -> Node:
        found = (node for node in self.nodes if node is not master and node.follows_well)
        return next(node for node in found if node.client.execute_command("ROLE")[2] == master.port)

    def move_slot(self, key: str, target: Node, pause_s: float = 0.0) -> int:
        """Bring the slot of a key to another master, a few keys at a time; returns how many it had."""
        slot, source = self.begin_to_move(key, target)
        moved = 0
        while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 5):
            self.migrate(keys, source, target)
            moved += len(keys)
            time.sleep(pause_s)
        self.end_to_move(slot, target)
        return moved

    def begin_to_move(self, key: str, target: Node) -> tuple[int, Node]:
        """From now on both masters answer for the slot; returns it and the master that has it."""
        slot, source = key_slot(key.encode()), self.master_of(key)
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return slot, source

    def migrate(self, keys: Sequence[str | bytes], source: Node, target: Node) -> None:
        login = ["AUTH2", "default", self._admin]
        source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, *login, "KEYS", *keys)

    def end_to_move(self, slot: int, target: Node) -> None:
        for node in (target, *self.nodes):
            if node.is_master:
                node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def hand_over(self, master: Node) -> Node:
        """Let a replica take over without losing anything; returns it."""
        self.wait_until_well()
        replica = self.replica_of(master)
        replica.client.execute_command("CLUSTER", "FAILOVER")
        wait_until(lambda: replica.is_master, f"{replica.address} takes over")
        return replica

    def empty(self) -> None:
        """Of everything; also waits until all is well."""
        self.wait_until_well()
        for node in self.nodes:
            if node.is_master:
                node.client.flushall()

    def wait_until_well(self) -> None:
        wait_until(self.is_well, "the cluster is well")

    def denials(self) -> list[str]:
        """What the nodes have refused the services' users; one line each."""
        rows = [row for node in self.nodes for row in node.client.execute_command("ACL", "LOG", 128)]
        return [
            f"{row['username']}: {row['reason']} {row['object']} ({row['context']})"
            for row in rows
            if row["username"].startswith("reshelve_")
        ]


def _says_ok(node: Node) -> bool:
    info = node.client.execute_command("CLUSTER", "INFO")
    text = info.decode() if isinstance(info, bytes) else str(info)
    return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and (
        f"cluster_known_nodes:{2 * MASTERS}" in text or f"'cluster_known_nodes': '{2 * MASTERS}'" in text
    )


def _done(node: Node, *command: Any) -> bool:
    try:
        node.client.execute_command(*command)
    except redis.ResponseError:
        return False
    return True


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what}"
        time.sleep(0.05)
