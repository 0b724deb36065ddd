"""Small sample files for the demo, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from blake3 import blake3

_DIRECTORIES = ("", "", "talks/", "music/live/", "shows/2026/")
_LEAST_BYTES, _MOST_BYTES = 200, 20_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A file and the digest of what was written to it."""

    cid: str
    filename: str
    digest: str


def make_samples(directory: Path, contents: int, seed: int) -> list[Sample]:
    """Write the files; some lie in subdirectories."""
    random = Random(seed)  # noqa: S311  # a sample, no secret
    samples = []
    for number in range(1, contents + 1):
        cid = str(number)
        filename = f"{random.choice(_DIRECTORIES)}clip-{number:04}.mp4"
        written = random.randbytes(random.randint(_LEAST_BYTES, _MOST_BYTES))
        path = directory / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written)
        samples.append(Sample(cid, filename, digest_of(written)))
    return samples


def digest_of(written: bytes) -> str:
    return blake3(written).hexdigest()
