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

_FILES = 4000
_FEWER_CONTENTS, _MORE_CONTENTS = 10_000, 1_000_000
_FLAT = Bound("ratio", "<=", 1.2)


@dataclass(frozen=True)
class Size:
    """`contents` are tracked beside those that are relocated, and stay where they are."""

    movers: int = 2
    partitions: int = 8
    contents: int = 0


def rows(work: Path, scale: float) -> Iterator[Row]:
    """CPU time of all services and both servers per relocation of a 4 KiB file on one filesystem, all on two cores.

    Place, commit and retire; without the services' start, and without ingest and planner, which do not run.
    """
    files = max(100, round(_FILES * scale))
    fewer = round(_FEWER_CONTENTS * min(1.0, 4 * scale))
    more = max(2 * fewer, round(_MORE_CONTENTS * scale))

    with two_cores(), Servers.started(work) as servers:

        def compared(name: str, few: Size, beside: str, many: Size, *, most_rounds: int = 3) -> Row:
            def cost(size: Size) -> float:
                return asyncio.run(_cpu_ms(servers, files, size))

            return Row(
                name=f"cost of a relocation, {name}",
                unit="ms of CPU",
                ours=lambda: cost(many),
                beside=Beside(beside, lambda: cost(few)),
                bounds=(_FLAT,),
                most_rounds=most_rounds,
            )

        yield compared("4 movers", Size(movers=1), "1 mover", Size(movers=4))
        yield compared("64 partitions", Size(partitions=1), "1 partition", Size(partitions=64))
        # To put so many in place takes long.
        few, many = Size(contents=fewer), Size(contents=more)
        yield compared(f"{more:,} contents", few, f"{fewer:,} contents", many, most_rounds=2)


async def _cpu_ms(servers: Servers, files: int, size: Size) -> float:
    directory = Path(tempfile.mkdtemp(dir=servers.work))
    paths = [directory / "bronze", directory / "silver"]
    async with System.fresh(servers, paths, partitions=size.partitions) as system:
        relocated = await relocate_all(system, files, 4096, movers=size.movers, others=size.contents)
    return relocated.cpu_ms_each
