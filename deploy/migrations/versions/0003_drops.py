"""Dead letters that operators dropped, and why.

A table of its own: `relocations` holds what was committed, and nothing that counts on that has to tell the two apart;
a dropped retire belongs to a relocation that was committed, so the move_id is taken there.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

# dropped_at: milliseconds since the epoch. No foreign key to contents: the history outlives the row.
_DROPS = f"""
CREATE TABLE IF NOT EXISTS drops (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    letter     VARCHAR(64) {_ASCII} NOT NULL UNIQUE,
    cid        VARCHAR(64) {_ASCII} NOT NULL,
    move_id    VARCHAR(64) {_ASCII} NOT NULL,
    stream     VARCHAR(16) {_ASCII} NOT NULL,
    reason     VARCHAR(255) {_TEXT} NOT NULL,
    why        VARCHAR(255) {_TEXT} NOT NULL,
    dropped_at BIGINT NOT NULL,
    KEY cid_dropped_at (cid, dropped_at, id)
) ENGINE=InnoDB DEFAULT {_TEXT}
"""


def upgrade() -> None:
    op.execute(_DROPS)
