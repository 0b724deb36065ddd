"""The catalog in MySQL: where each file is, and what happened to it. All SQL stands in `sql`."""

from shared.catalog.catalog import Catalog, Row
from shared.catalog.commits import Commitments, Verdict
from shared.catalog.connections import CatalogDownError, CatalogRefusedError, Connections
from shared.catalog.drops import Drops
from shared.catalog.inspection import Inspection, Tracked
from shared.catalog.registry import LevelInUseError, Registry, TakenError

__all__ = [
    "Catalog",
    "CatalogDownError",
    "CatalogRefusedError",
    "Commitments",
    "Connections",
    "Drops",
    "Inspection",
    "LevelInUseError",
    "Registry",
    "Row",
    "TakenError",
    "Tracked",
    "Verdict",
]
