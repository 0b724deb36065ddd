"""The recorder: `python -m services.recorder`."""

from __future__ import annotations

from services.recorder.census import Census
from services.recorder.record import REASONS, Recording
from services.recorder.settings import RecorderSettings
from shared import metrics
from shared.catalog import Catalog, Commitments
from shared.consume import Consumer, Terms
from shared.patience import until_stopped
from shared.service import Runtime, run
from shared.state.moves import Commits, DeadLetters


async def record(runtime: Runtime[RecorderSettings]) -> None:
    """Commit placed copies until stopped."""
    settings, scripts, log, stop = runtime.settings, runtime.scripts, runtime.log, runtime.stop
    for reason in REASONS:
        metrics.DEAD_LETTERED.labels("placed", reason)
    for loop in ("record", "census"):
        metrics.LAST_SUCCESS.labels(loop)
    reader = runtime.reader()
    terms = Terms(settings.lease_ms, settings.max_attempts)
    consumer = Consumer(scripts, reader, ["placed"], terms=terms, log=log, stop=stop)
    recording = Recording(consumer, Commitments(runtime.connections), Commits(scripts), DeadLetters(scripts), log)
    grace_ms = round(settings.retire_grace_s * 1000)
    try:
        runtime.at_work()
        recorded = consumer.reading(recording.run(settings.batch_limit, grace_ms, stop))
        census = Census(Catalog(runtime.connections), runtime.redis, log)
        await until_stopped(consumer.keep_leases(), recorded, census.run(stop))
    finally:
        await consumer.leave()
        await reader.aclose()


if __name__ == "__main__":
    run("recorder", RecorderSettings, record, ["placed"])
