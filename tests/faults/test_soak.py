"""The soak in small: see `soak`.

It was seen to fail, with views that waited for ever, while a planner behind another's entry counted nothing at all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import soak

_SECONDS = 12
_CONTENTS = 200


@pytest.mark.timeout(240)  # on a busy machine; some 35 s where nobody else is at work
def test_nothing_is_lost_or_counted_twice_under_random_faults(tmp_path: Path) -> None:
    report = soak.run(tmp_path, _SECONDS, seed=20_260, contents=_CONTENTS)
    assert report.found == [], str(report)
    assert report.books.views > 100, str(report)
    assert report.relocations > 20, str(report)
