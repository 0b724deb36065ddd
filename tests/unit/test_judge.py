from __future__ import annotations

import pytest

from shared.catalog.commits import judge
from tests.samples import a_placed

PATHS = {"bronze": "/levels/bronze", "silver": "/levels/silver", "gold": "/levels/gold"}
PLACED = a_placed("7")  # bronze -> silver
FILE = PLACED.filename


def test_a_row_on_the_source_is_committed() -> None:
    assert judge(PLACED, ("bronze", FILE), paths=PATHS) == "commit"


def test_a_row_that_is_on_the_target_already_is_only_recorded() -> None:
    assert judge(PLACED, ("silver", FILE), paths=PATHS) == "record"


@pytest.mark.parametrize(
    ("row", "paths", "verdict"),
    [
        (None, PATHS, "the content is no longer in the catalog"),
        (("bronze", "x.mp4"), PATHS, "the catalog names the file 'x.mp4'"),
        (("silver", "x.mp4"), PATHS, "the catalog names the file 'x.mp4'"),
        (("gold", FILE), PATHS, "the catalog has the content on gold, neither bronze nor silver"),
        (("bronze", FILE), {"bronze": "/levels/bronze"}, "the level silver is no longer in the level table"),
        (("bronze", FILE), PATHS | {"silver": "/elsewhere"}, "the level silver now has the path /elsewhere"),
        (("silver", FILE), PATHS | {"silver": "/elsewhere"}, "the level silver now has the path /elsewhere"),
    ],
)
def test_a_contradiction_says_what_the_catalog_has(
    row: tuple[str, str] | None, paths: dict[str, str], verdict: str
) -> None:
    assert judge(PLACED, row, paths=paths) == verdict


def test_the_path_of_the_source_may_have_changed() -> None:
    assert judge(PLACED, ("bronze", FILE), paths=PATHS | {"bronze": "/elsewhere"}) == "commit"
