"""The planner: `python -m services.planner`."""

from __future__ import annotations

from services.planner.convert import convert
from services.planner.level_table import LevelTable
from services.planner.review import OUTCOMES, Reviewing
from services.planner.settings import PlannerSettings
from services.planner.tally import Tallying
from shared import metrics
from shared.catalog import Catalog
from shared.consume import Consumer, Terms
from shared.patience import patiently, pause, until_stopped
from shared.service import Runtime, run
from shared.state.contents import Contents
from shared.state.conversion import Conversion
from shared.state.moves import DeadLetters
from shared.state.reviews import Reviews
from shared.state.views import Tallies


async def plan(runtime: Runtime[PlannerSettings]) -> None:
    """Count views and review contents until stopped."""
    settings, scripts, log, stop = runtime.settings, runtime.scripts, runtime.log, runtime.stop
    for outcome in OUTCOMES:
        metrics.REVIEWS.labels(outcome)
    for loop in ("tally", "review", "levels"):
        metrics.LAST_SUCCESS.labels(loop)
    metrics.DEAD_LETTERED.labels("views", "undecodable")
    catalog, contents = Catalog(runtime.connections), Contents(scripts)
    table = LevelTable(catalog, contents, runtime.redis, log)
    # Before the first view: counted beside an older layout, its count would begin anew.
    await convert(Conversion(scripts), stop, log)
    reader = runtime.reader()
    terms = Terms(settings.lease_ms, settings.max_attempts)
    consumer = Consumer(scripts, reader, ["views"], terms=terms, log=log, stop=stop)
    reviewing = Reviewing(Reviews(scripts), catalog, log, table=table)
    tallying = Tallying(consumer, Tallies(scripts), DeadLetters(scripts), log, crossed=reviewing.wake.set)

    async def keep_plan() -> None:
        # Views are counted from the first moment; reviews need the level table.
        while not stop.is_set():
            await patiently(table.load, stop, log, "read the level table")
            if table.loaded:
                break
            await pause(stop, 1)
        await until_stopped(
            table.run(stop),
            reviewing.run(settings.partitions, settings.review_limit, settings.lease_ms, stop),
        )

    try:
        runtime.at_work()
        tally = consumer.reading(tallying.run(settings.tally_limit, stop))
        await until_stopped(consumer.keep_leases(), tally, keep_plan())
    finally:
        await consumer.leave()
        await reader.aclose()


if __name__ == "__main__":
    run("planner", PlannerSettings, plan, ["views"])
