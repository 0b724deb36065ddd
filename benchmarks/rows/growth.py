"""What a relocation costs where there are more movers, partitions, contents."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Beside, Bound, Row
from benchmarks.relocating import relocate_all
from benchmarks.system import Servers, System, two_cores

_FILES = 6000
_MORE_CONTENTS = 1_000_000
_FLAT = Bound("ratio", "<=", 1.2)


@dataclass(frozen=True)
class Size:
    """`contents` are tracked beside those that are relocated, and stay where they are."""

    movers: int = 2
    partitions: int = 8
    contents: int = 10_000


def rows(work: Path, scale: float) -> Iterator[Row]:
    """CPU time of all services and both servers per relocation of a 4 KiB file on one filesystem, all on two cores.

    Place, commit and retire; without the services' start, and without ingest and planner, which do not run.
    """
    files = max(100, round(_FILES * scale))
    fewer = round(Size.contents * min(1.0, 4 * scale))
    more = max(2 * fewer, round(_MORE_CONTENTS * scale))

    with two_cores(), Servers.started(work) as servers:

        def compared(name: str, one: Size, many: Size, beside: str) -> Row:
            def cost(size: Size) -> float:
                return asyncio.run(_cpu_ms(servers, files, size))

            return Row(name, "ms of CPU", lambda: cost(many), Beside(beside, lambda: cost(one)), (_FLAT,))

        plain = Size(contents=0)
        yield compared("cost of a relocation, 4 movers", Size(1, contents=0), Size(4, contents=0), "1 mover")
        yield compared("cost of a relocation, 64 partitions", Size(2, 1, 0), Size(2, 64, 0), "1 partition")
        yield compared(
            f"cost of a relocation, {more:,} contents",
            Size(plain.movers, plain.partitions, fewer),
            Size(plain.movers, plain.partitions, more),
            f"{fewer:,} contents",
        )


async def _cpu_ms(servers: Servers, files: int, size: Size) -> float:
    directory = Path(tempfile.mkdtemp(dir=servers.work))
    paths = [directory / "bronze", directory / "silver"]
    async with System.fresh(servers, paths, partitions=size.partitions) as system:
        relocated = await relocate_all(system, files, 4096, movers=size.movers, others=size.contents)
    return relocated.cpu_ms_each
