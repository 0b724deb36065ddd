"""A Redis Cluster, used like one Redis by commands that touch one slot: a plain client per node, and the slots' map.

Why not redis-py's own RedisCluster (8.1): it sends ASKING and the command that follows on whichever connections of its
pool are free, so that both only meet by luck while a slot is moved; it stumbles over a node that has no slot yet; and a
moved slot makes it close connections that other commands are waiting on.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self, TypeVar

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

_OURS = "reshelve:"
_REDIRECTIONS = 5
"""More in a row than any step of a resharding asks for."""
_REFRESH_S = 0.2
"""How long a new map is taken for good, whatever the nodes say: a failover must not become a storm of questions."""

_ANSWER_S = 1.0

Address = tuple[str, int]
T = TypeVar("T")


class Cluster(Redis):
    """Every command must name one of our keys first; nothing is sent twice unless the node had refused it.

    Commands that name no key, and MULTI, are for the masters themselves: `masters`.
    """

    def __init__(self, seeds: Sequence[str], connect: Callable[[str], Redis]) -> None:
        """`seeds`: plain URLs of some nodes; `connect` makes a client of one node and has the last word on retries."""
        self._seeds: Final = [connect(seed) for seed in seeds]
        super().__init__(connection_pool=self._seeds[0].connection_pool)
        self._connect_as: Final = connect
        self._template: Final = seeds[0]
        self._clients: dict[Address, Redis] = {}
        self._slots: dict[int, Address] = {}
        self._fresh_until = 0.0
        self._stale = True
        self._refreshing = asyncio.Lock()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply of the master that has the command's slot. Raises redis.RedisError; it ran once at most."""

        async def send(node: Any) -> Any:
            return await node.execute_command(*args, **options)

        async def ask(node: Redis) -> Any:
            # On one connection: ASKING holds for the next command alone.
            async with node.pipeline(transaction=False) as pipe:
                pipe.execute_command("ASKING")
                pipe.execute_command(*args, **options)
                _, reply = await pipe.execute(raise_on_error=False)
            if isinstance(reply, Exception):
                raise reply
            return reply

        return await self._redirected(slot_of(args), send, ask)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:  # as Redis has it
        """Commands that reach each master in one go. There is no transaction across slots."""
        del shard_hint
        if transaction:
            raise ValueError("a cluster knows no MULTI across slots: call a script per partition")
        return _Pipeline(self)

    async def masters(self) -> Sequence[Redis]:
        """The nodes that have slots. Raises redis.RedisError where no node answers."""
        await self._look()
        return [self._client(address) for address in sorted(set(self._slots.values()))]

    async def master_of(self, slot: int) -> Redis:
        """Raises ClusterDownError where nobody has the slot."""
        await self._look()
        try:
            return self._client(self._slots[slot])
        except KeyError:
            self._stale = True
            raise ClusterDownError(f"no node of the cluster has slot {slot}") from None

    def doubt(self) -> None:
        """Ask for the map of the slots again before the next command."""
        self._stale = True

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # as Redis has it
        """Close the connections to all nodes."""
        del close_connection_pool
        for client in (*self._seeds, *self._clients.values()):
            await client.aclose()

    async def _redirected(
        self, slot: int, send: Callable[[Redis], Awaitable[T]], ask: Callable[[Redis], Awaitable[T]]
    ) -> T:
        node, how = await self.master_of(slot), send
        for _ in range(_REDIRECTIONS):
            try:
                return await how(node)
            except MovedError as error:
                self._stale = True
                self._slots[slot] = _named(error.host, error.port, node)
                node, how = self._client(self._slots[slot]), send
            except AskError as error:
                node, how = self._client(_named(error.host, error.port, node)), ask
            except (RedisConnectionError, RedisTimeoutError, ClusterDownError):
                # Its slots may have a new master. The command's outcome is the caller's to think about.
                self._stale = True
                raise
        raise ClusterDownError(f"the nodes of the cluster disagree about who has slot {slot}")

    async def _look(self) -> None:
        if self._is_known():
            return
        async with self._refreshing:
            if not self._is_known():
                await self._refresh()

    def _is_known(self) -> bool:
        fresh = asyncio.get_running_loop().time() < self._fresh_until
        return bool(self._slots) and (fresh or not self._stale)

    async def _refresh(self) -> None:
        """From the first node that answers. Raises redis.RedisError: the last one's."""
        nodes: list[Any] = [*self._clients.values(), *self._seeds]
        # Not always the same first: it may be the one that is away, or cut off from the others.
        random.shuffle(nodes)
        failure: RedisError = RedisConnectionError("no node of the cluster answers")
        for node in nodes:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    rows = await node.execute_command("CLUSTER", "SLOTS")
            except RedisError as error:
                failure = error
            except TimeoutError:
                failure = RedisTimeoutError(f"{_address_of(node)} does not say who has which slots")
            else:
                self._take(rows, node)
                return
        raise failure

    def _take(self, rows: Sequence[Any], said_by: Redis) -> None:
        self._slots = {
            slot: _named(master[0], int(master[1]), said_by)
            for first, last, master, *_ in rows
            for slot in range(first, last + 1)
        }
        self._stale = False
        self._fresh_until = asyncio.get_running_loop().time() + _REFRESH_S

    def _client(self, address: Address) -> Redis:
        # One that leaves the cluster stays: it may come back, and commands may be waiting on it.
        if address not in self._clients:
            client = self._connect_as(self._template)
            client.connection_pool.connection_kwargs.update(host=address[0], port=address[1])
            self._clients[address] = client
        return self._clients[address]


class _Pipeline:
    """Queued commands; `execute` sends each master its own, side by side. What a master refuses is sent again alone."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._queue: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        # The commands' methods are Redis' own, which hand everything to `execute_command`.
        return getattr(Redis, name).__get__(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queue.clear()

    def execute_command(self, *args: Any, **options: Any) -> Self:
        self._queue.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # as Redis has it
        """The replies in order. Raises the first error, unless told to leave it among the replies."""
        places: dict[Redis, list[int]] = defaultdict(list)
        for place, (args, _) in enumerate(self._queue):
            places[await self._cluster.master_of(slot_of(args))].append(place)
        replies: list[Any] = [None] * len(self._queue)
        for mine, answers in zip(
            places.values(), await asyncio.gather(*(self._send(*item) for item in places.items())), strict=True
        ):
            for place, answer in zip(mine, answers, strict=True):
                replies[place] = answer
        for place, reply in enumerate(replies):
            if isinstance(reply, MovedError | AskError):
                args, options = self._queue[place]
                replies[place] = await self._cluster.execute_command(*args, **options)
        self._queue.clear()
        for reply in replies:
            if raise_on_error and isinstance(reply, Exception):
                raise reply
        return replies

    async def _send(self, node: Redis, places: Sequence[int]) -> list[Any]:
        try:
            async with node.pipeline(transaction=False) as pipe:
                for place in places:
                    args, options = self._queue[place]
                    pipe.execute_command(*args, **options)
                return list(await pipe.execute(raise_on_error=False))
        except RedisError as error:
            self._cluster.doubt()
            return [error] * len(places)


def slot_of(args: Sequence[Any]) -> int:
    """The slot of a command. Raises ValueError for one that does not name a key of ours where it should."""
    name = args[0]
    if name in {"EVALSHA", "EVAL"}:
        key = args[3]
    elif name == "XREADGROUP":
        key = args[args.index(b"STREAMS") + 1]
    else:
        key = args[1] if len(args) > 1 else ""
    text = key if isinstance(key, bytes) else str(key).encode()
    if not text.startswith(_OURS.encode()):
        raise ValueError(f"{name} names no key of ours, so no node of the cluster is meant: ask its masters")
    return int(key_slot(text))


def _named(host: str | bytes | None, port: int, said_by: Redis) -> Address:
    """A node that does not know its name means the one by which we reached it."""
    text = host.decode() if isinstance(host, bytes) else host
    return text or _address_of(said_by)[0], port


def _address_of(node: Redis) -> Address:
    known = node.connection_pool.connection_kwargs
    return known.get("host", "localhost"), known.get("port", 6379)
