"""The metrics, as one list: prefix `reshelve_`, base units, no cid in a label. Services set their labels to 0 first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

# --- ingest ---
VIEWS_ACCEPTED = Counter("reshelve_views_accepted_total", "View reports answered with 2xx", ["kind"])
VIEWS_REJECTED = Counter("reshelve_views_rejected_total", "View reports refused", ["reason"])
INGEST_SECONDS = Histogram("reshelve_ingest_seconds", "Time to answer a request for views", buckets=_FAST)

# --- streams: every service reports those that it reads ---
STREAM_BACKLOG = Gauge("reshelve_stream_backlog", "Entries on the stream, over all partitions", ["stream"])
STREAM_PENDING = Gauge("reshelve_stream_pending", "Entries in the hands of consumers", ["stream"])
STREAM_OLDEST_SECONDS = Gauge("reshelve_stream_oldest_seconds", "Age of the oldest entry, 0 when empty", ["stream"])
RECLAIMED = Counter(
    "reshelve_reclaimed_total", "Entries taken over from consumers that gave no sign of life", ["stream"]
)
DEAD_LETTERED = Counter("reshelve_dead_letters_total", "Entries given up on", ["stream", "reason"])
# The client library takes `dead_letters` and `dead_letters_total` for one name: the gauge has a registry of its own.
_BESIDE = CollectorRegistry()
DEAD_LETTERS = Gauge("reshelve_dead_letters", "Dead letters that wait for an operator", registry=_BESIDE)
REVIEWS_WAITING = Gauge("reshelve_reviews_waiting", "Contents up for review, now or at a time to come")
POSTPONED = Gauge("reshelve_postponed", "Moves and retires put aside until their time comes; in no stream's backlog")
LAST_SUCCESS = Gauge("reshelve_last_success_timestamp_seconds", "When the loop last did its work, 0: never", ["loop"])

# --- planner ---
VIEWS_TALLIED = Counter("reshelve_views_tallied_total", "Views counted, and totals taken over")
CONTENTS_TALLIED = Counter("reshelve_contents_tallied_total", "Counts written: views that are summed first are one")
REVIEWS = Counter("reshelve_reviews_total", "Reviews by what was decided", ["outcome"])
MOVES_OPENED = Counter("reshelve_moves_opened_total", "Relocations opened", ["from", "to"])

# --- mover ---
MOVES_IN_PROGRESS = Gauge("reshelve_moves_in_progress", "Moves that this mover is placing")
MOVES = Counter("reshelve_moves_total", "Attempts at moves by how they ended", ["outcome", "method"])
MOVED_BYTES = Counter("reshelve_moved_bytes_total", "Bytes of placed files", ["from", "to"])
MOVE_SECONDS = Histogram("reshelve_move_seconds", "Time to place a file", buckets=_SLOW)
RETIRES = Counter("reshelve_retires_total", "Retires by how they ended", ["outcome"])
FLIP_FLOPS = Counter(
    "reshelve_flip_flops_total", "Relocations back to the level that was left less than a day before", ["from", "to"]
)
BREAKER_OPEN = Gauge("reshelve_breaker_open", "1 while this mover lets the level's work wait", ["level"])
LEVEL_FREE_BYTES = Gauge("reshelve_level_free_bytes", "Room left for us on the level's file system", ["level"])
LEVEL_SIZE_BYTES = Gauge("reshelve_level_size_bytes", "Size of the level's file system", ["level"])
LEVEL_BYTES = Gauge("reshelve_level_bytes", "Bytes of the files in the level's directory, counted rarely", ["level"])

# --- recorder ---
LEVEL_CONTENTS = Gauge("reshelve_level_contents", "Contents that the catalog has on the level", ["level"])
RELOCATIONS_COMMITTED = Counter("reshelve_relocations_committed_total", "Relocations committed", ["from", "to"])
COMMIT_BATCH_SIZE = Histogram("reshelve_commit_batch_size", "Relocations per transaction", buckets=_BATCH)
COMMIT_SECONDS = Histogram("reshelve_commit_seconds", "Time of a transaction", buckets=_FAST)
RELOCATION_SECONDS = Histogram("reshelve_relocation_seconds", "From the view to the commit", buckets=_SLOW)


def start_pairs(levels: Iterable[str], *counters: Counter) -> None:
    """Let the counters by `from` and `to` begin with 0: an increase from nothing to 1 is one that nobody sees."""
    for source, target in permutations(levels, 2):
        for counter in counters:
            counter.labels(source, target)


def exposition() -> bytes:
    """All metrics as Prometheus' text."""
    return generate_latest(REGISTRY) + generate_latest(_BESIDE)
