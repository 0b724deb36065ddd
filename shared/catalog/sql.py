"""All SQL of the services. Each statement runs on MySQL 8.0.19+ and MariaDB 10.6+.

JSON_TABLE's columns name character set and collation as the tables do: MySQL 9 refuses to compare others (1267).
"""

from typing import Final

# --- reading ---

PING: Final = "SELECT 1"

LEVELS: Final = "SELECT content_level, min_counts, max_counts, path FROM level"

LEVEL_PATHS: Final = "SELECT content_level, path FROM level"

ROWS: Final = """
SELECT c.cid, c.content_level, c.filename,
       (SELECT r.`count` FROM relocations r WHERE r.cid = c.cid
        ORDER BY r.committed_at DESC, r.move_id DESC LIMIT 1) AS last_count
FROM contents c WHERE c.cid IN %s
"""
"""Contents with the count of their latest relocation."""

PLACES: Final = "SELECT cid, content_level, filename FROM contents WHERE cid IN %s"

PAGE: Final = """
SELECT c.cid, EXISTS (SELECT 1 FROM relocations r WHERE r.cid = c.cid)
FROM contents c WHERE c.cid > %s ORDER BY c.cid LIMIT %s
"""
"""cids in order, a page at a time, and whether each was ever relocated."""

COUNT_BY_LEVEL: Final = """
SELECT l.content_level, COUNT(c.cid) FROM level l LEFT JOIN contents c ON c.content_level = l.content_level
GROUP BY l.content_level
"""

UPDATES: Final = """
SELECT id, old_update_time, old_content_level, new_update_time, new_content_level
FROM update_history WHERE cid = %s AND id < %s ORDER BY id DESC LIMIT %s
"""

RELOCATIONS: Final = """
SELECT move_id, from_level, to_level, `count`, why, bytes, digest, method, mover, attempts,
       planned_at, placed_at, committed_at
FROM relocations WHERE cid = %s AND (committed_at, move_id) < (%s, %s)
ORDER BY committed_at DESC, move_id DESC LIMIT %s
"""

# --- registering ---

REGISTER: Final = "INSERT INTO contents (cid, content_level, filename) VALUES (%s, %s, %s)"

REGISTER_MANY: Final = """
INSERT IGNORE INTO contents (cid, content_level, filename)
SELECT p.cid, %s, p.filename
FROM JSON_TABLE(%s, '$[*]' COLUMNS (
  cid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
  filename VARCHAR(700) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[1]'
)) AS p
"""
"""Rows whose cid or filename is taken are passed over."""

FIND_MANY: Final = """
SELECT c.cid, c.filename FROM contents c JOIN JSON_TABLE(%s, '$[*]' COLUMNS (
  cid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]'
)) AS p ON p.cid = c.cid
"""

LOCK_ROW: Final = "SELECT cid FROM contents WHERE cid = %s FOR UPDATE"

FORGET: Final = "DELETE FROM contents WHERE cid = %s"

# --- the level table ---

LOCK_LEVELS: Final = "SELECT content_level, path FROM level ORDER BY content_level FOR UPDATE"

LEVEL_IN_USE: Final = "SELECT 1 FROM contents WHERE content_level = %s LIMIT 1"

DELETE_LEVEL: Final = "DELETE FROM level WHERE content_level = %s"

INSERT_LEVEL: Final = "INSERT INTO level (content_level, min_counts, max_counts, path) VALUES (%s, %s, %s, %s)"

UPDATE_LEVEL: Final = "UPDATE level SET min_counts = %s, max_counts = %s WHERE content_level = %s"

# --- committing relocations ---

HOLD_LEVELS: Final = "SELECT content_level, path FROM level FORCE INDEX (PRIMARY) LOCK IN SHARE MODE"
"""Nobody takes a level away, or changes its path, between the look at it and the commit.

Read from the index on `path`, the rows themselves would stay free, and who changes the table would not wait here.
"""

LOCK_CONTENTS: Final = """
SELECT cid, content_level, filename FROM contents FORCE INDEX (PRIMARY) WHERE cid IN %s ORDER BY cid FOR UPDATE
"""
"""Rows in primary-key order, so that two recorders wait for each other instead of deadlocking."""

COMMITTED: Final = "SELECT move_id FROM relocations WHERE move_id IN %s"
"""Read after the rows are locked: whoever committed one of these moves held the same lock before."""

CHANGE_LEVELS: Final = """
UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (
  cid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
  from_level VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[1]',
  to_level VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[2]'
)) AS p STRAIGHT_JOIN contents c FORCE INDEX (PRIMARY) ON c.cid = p.cid
SET c.content_level = p.to_level WHERE c.content_level = p.from_level
"""
"""The trigger on `contents` writes `update_history`.

From the moves to their rows: a small table would be read from end to end otherwise, and rows of others waited for.
"""

RECORD: Final = """
INSERT INTO relocations (move_id, cid, from_level, to_level, `count`, why, bytes, digest, method, mover, attempts,
                         planned_at, placed_at, committed_at) VALUES """
"""To be followed by a placeholder for each row, by commas: half of what JSON_TABLE with so many columns takes."""

# --- auditing ---

_TRACKED: Final = """
SELECT c.cid, c.content_level, c.filename,
       (SELECT r.bytes FROM relocations r WHERE r.cid = c.cid
        ORDER BY r.committed_at DESC, r.move_id DESC LIMIT 1) AS bytes
FROM contents c"""

TRACKED_PAGE: Final = f"{_TRACKED} WHERE c.cid > %s ORDER BY c.cid LIMIT %s"
"""Contents in order, a page at a time, with their size at their latest relocation."""

TRACKED: Final = f"{_TRACKED} WHERE c.cid IN %s"

FILENAMES: Final = "SELECT filename FROM contents WHERE filename IN %s"

HOLD_CONTENT: Final = "SELECT content_level, filename FROM contents WHERE cid = %s FOR UPDATE"
"""While a second copy is removed, neither a commit nor a hand-made UPDATE may make it the content's own."""

# --- dropping dead letters ---

DROP: Final = """
INSERT INTO drops (letter, cid, move_id, stream, reason, why, dropped_at) VALUES (%s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE why = %s, dropped_at = %s
"""

DROPS: Final = """
SELECT id, letter, move_id, stream, reason, why, dropped_at
FROM drops WHERE cid = %s AND (dropped_at, id) < (%s, %s)
ORDER BY dropped_at DESC, id DESC LIMIT %s
"""
