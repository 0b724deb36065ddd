"""Whoever changes a content's level, the recorder or an operator by hand: update_history has it."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

# GREATEST: a server clock that was set back must not make a change seem older than the one before it.
_TRIGGER = """
CREATE TRIGGER contents_level_change BEFORE UPDATE ON contents FOR EACH ROW
BEGIN
    IF NEW.content_level <> OLD.content_level THEN
        SET NEW.update_time = GREATEST(UTC_TIMESTAMP(3), OLD.update_time);
        INSERT INTO update_history (cid, old_update_time, old_content_level, new_update_time, new_content_level)
        VALUES (OLD.cid, OLD.update_time, OLD.content_level, NEW.update_time, NEW.content_level);
    END IF;
END
"""


def upgrade() -> None:
    # MySQL knows neither OR REPLACE nor, before 8.0.29, IF NOT EXISTS for triggers.
    op.execute("DROP TRIGGER IF EXISTS contents_level_change")
    op.execute(_TRIGGER)
