"""`reshelve migrate`: the migration, told."""

from __future__ import annotations

from pathlib import Path

from cli.environment import needed_url, operator_settings
from cli.migrate import migrate


async def migrate_and_tell(data_dir: Path, level_root: Path | None) -> int:
    """Print the steps applied."""
    url = needed_url(operator_settings(data_dir), "mysql_url", data_dir)
    steps = await migrate(url, level_root)
    for step in steps:
        print(f"applied {step}")
    if not steps:
        print("up to date")
    return 0
