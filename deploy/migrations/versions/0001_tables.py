"""The four tables. MySQL 8.0.19+ and MariaDB 10.6+.

DDL is not transactional here: every statement must be safe to repeat after a step that stopped half-way.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

# Names are compared byte by byte: "A" and "a" are two contents, as they are two files.
_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

_LEVEL = f"""
CREATE TABLE IF NOT EXISTS level (
    content_level VARCHAR(64) {_ASCII} NOT NULL PRIMARY KEY,
    min_counts    BIGINT NOT NULL,
    max_counts    BIGINT NOT NULL,
    path          VARCHAR(700) {_TEXT} NOT NULL UNIQUE
) ENGINE=InnoDB DEFAULT {_TEXT}
"""

# Times are UTC whatever the session's time zone is.
_CONTENTS = f"""
CREATE TABLE IF NOT EXISTS contents (
    cid           VARCHAR(64) {_ASCII} NOT NULL PRIMARY KEY,
    content_level VARCHAR(64) {_ASCII} NOT NULL,
    filename      VARCHAR(700) {_TEXT} NOT NULL UNIQUE,
    generate_time DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    update_time   DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    KEY content_level (content_level),
    CONSTRAINT contents_level FOREIGN KEY (content_level) REFERENCES level (content_level)
) ENGINE=InnoDB DEFAULT {_TEXT}
"""

# No foreign key to contents, here and below: the history outlives the row.
_UPDATE_HISTORY = f"""
CREATE TABLE IF NOT EXISTS update_history (
    id                BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    cid               VARCHAR(64) {_ASCII} NOT NULL,
    old_update_time   DATETIME(3) NOT NULL,
    old_content_level VARCHAR(64) {_ASCII} NOT NULL,
    new_update_time   DATETIME(3) NOT NULL,
    new_content_level VARCHAR(64) {_ASCII} NOT NULL,
    KEY cid_id (cid, id)
) ENGINE=InnoDB DEFAULT {_TEXT}
"""

# planned_at, placed_at, committed_at: milliseconds since the epoch.
_RELOCATIONS = f"""
CREATE TABLE IF NOT EXISTS relocations (
    move_id      CHAR(36) {_ASCII} NOT NULL PRIMARY KEY,
    cid          VARCHAR(64) {_ASCII} NOT NULL,
    from_level   VARCHAR(64) {_ASCII} NOT NULL,
    to_level     VARCHAR(64) {_ASCII} NOT NULL,
    count        BIGINT NOT NULL,
    why          VARCHAR(255) {_TEXT} NOT NULL,
    bytes        BIGINT NOT NULL,
    digest       VARCHAR(64) {_ASCII} NOT NULL,
    method       VARCHAR(16) {_ASCII} NOT NULL,
    mover        VARCHAR(128) {_TEXT} NOT NULL,
    attempts     INT NOT NULL,
    planned_at   BIGINT NOT NULL,
    placed_at    BIGINT NOT NULL,
    committed_at BIGINT NOT NULL,
    KEY cid_committed_at (cid, committed_at)
) ENGINE=InnoDB DEFAULT {_TEXT}
"""


def upgrade() -> None:
    for table in (_LEVEL, _CONTENTS, _UPDATE_HISTORY, _RELOCATIONS):
        op.execute(table)
