"""`reshelve demo`: sample files, a stream of views, and the proof that every file came to the right level."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
from rich.console import Console

from cli.demo_home import DemoHome, check_servers
from cli.environment import OperatorSettings
from cli.replicas import Watch
from cli.running import INTERRUPTED, or_interrupted
from cli.samples import Sample, make_samples
from cli.scene import Scene
from cli.system import Plan, System, running
from cli.terminal import amount, console
from cli.traffic import Producer
from cli.verify import Verdict, verify
from cli.zipf import Report, mean_views_for, zipf_reports
from shared.levels import Levels
from shared.patience import StoppedError
from shared.settings import read_settings

_REPORTS_PER_S = 5000
_LONGEST_S = 10.0
_SETTLE_WITHIN_S = 120.0
_FAULTS_LISTED = 10


@dataclass(frozen=True, slots=True)
class Demo:
    """`views`: reports sent; each stands for many views, so that a fifth of the contents become the most popular."""

    contents: int
    views: int
    seed: int
    keep: bool


async def demo(wanted: Demo, data_dir: Path, stop: asyncio.Event) -> int:
    """Run it all; 0 when the proof succeeded, 1 when not."""
    # Its ingest listens on the loopback, for the demo alone: tokens that are set for a real one are not for it.
    os.environ.pop("RESHELVE_TOKENS_FILE", None)
    given = read_settings(OperatorSettings)
    await check_servers(given)
    out = console()
    with DemoHome(data_dir / "demo") as home:
        out.print("starting …")
        code = INTERRUPTED
        try:
            async with running(Plan(home.path, port=0), Watch(stop), out.print) as system:
                code = await or_interrupted(_play(wanted, system, out), stop)
                out.print("stopping …")
        except StoppedError:
            pass
        # A catalog that outlives the demo names the directories in it.
        home.keep = wanted.keep or code == 1 or bool(given.mysql_url.get_secret_value())
        if home.keep:
            out.print(f"kept in {home.path}: `reshelve up --data-dir {home.path}` runs it again", soft_wrap=True)
    return code


async def _play(wanted: Demo, system: System, out: Console) -> int:
    session = system.session
    levels = await session.catalog.levels()
    samples = await asyncio.to_thread(make_samples, Path(levels.default.path), wanted.contents, wanted.seed)
    recorder = next(replica for replica in system.replicas.replicas if replica.service == "recorder")
    scene = Scene(session, levels, recorder, out)
    reports = _reports(wanted, samples, levels)
    total = sum(report.views for report in reports)
    out.print(f"ready in {system.seconds:.1f} s: {system.http_url}")
    out.print(
        f"{amount(len(samples), 'sample file')} on {levels.default.content_level}, "
        f"{len(reports):,} reports of {total:,} views to come",
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http, scene.shown():
        producer = Producer(http, system.http_url)
        scene.act = "registering"
        await producer.register(samples)
        scene.act = "views come in"
        await producer.send_views(reports, min(len(reports) / _REPORTS_PER_S, _LONGEST_S))
        scene.act = "settling"
        await scene.settled(_SETTLE_WITHIN_S)
        counts = _counted(samples, reports)
        lowered = lower_some(counts, levels, wanted.seed)
        scene.act = f"{len(lowered)} counts are lowered"
        await producer.send_counts(lowered)
        await scene.settled(_SETTLE_WITHIN_S)
        scene.act = "settled"
    verdict = await verify(session, samples, counts | lowered)
    _tell(verdict, out)
    return 1 if verdict.faults else 0


def _reports(wanted: Demo, samples: Sequence[Sample], levels: Levels) -> list[Report]:
    highest = list(levels)[-1]
    mean = mean_views_for(wanted.contents, wanted.views, highest.min_counts)
    return zipf_reports([sample.cid for sample in samples], wanted.views, mean, wanted.seed)


def _counted(samples: Sequence[Sample], reports: Sequence[Report]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for report in reports:
        counts[report.cid] += report.views
    return {sample.cid: counts[sample.cid] for sample in samples}


def lower_some(counts: Mapping[str, int], levels: Levels, seed: int) -> dict[str, int]:
    """New counts for every other content above the lowest level, each within some lower level's range. Pure."""
    random = Random(seed)  # noqa: S311  # a sample, no secret
    ordered = list(levels)
    above = [cid for cid, count in sorted(counts.items()) if levels.level_for(count) != levels.default]
    lowered = {}
    for cid in above[::2]:
        lower = random.choice(ordered[: ordered.index(levels.level_for(counts[cid]))])
        lowered[cid] = random.randint(lower.min_counts, lower.max_counts)
    return lowered


def _tell(verdict: Verdict, out: Console) -> None:
    for fault in verdict.faults[:_FAULTS_LISTED]:
        out.print(f"  WRONG {fault}", soft_wrap=True)
    if len(verdict.faults) > _FAULTS_LISTED:
        out.print(f"  … and {len(verdict.faults) - _FAULTS_LISTED} more")
    out.print(f"moved: {verdict.journeys() or 'nothing'}", soft_wrap=True)
    out.print(verdict.summary(), soft_wrap=True)
