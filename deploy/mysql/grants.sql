-- One account per service, with the rights that its SQL needs (shared/catalog/sql.py). Run as an administrator, after
-- `reshelve migrate`: rights are given for tables, which must be there.
--
-- A template: `python -m deploy.accounts` puts the passwords in (docs/security.md). Safe to repeat: what an account was
-- given before is taken from it first.

-- Contents registered and forgotten, the level table replaced, history shown, dropped dead letters written down.
CREATE USER IF NOT EXISTS '@PREFIX@ingest'@'@HOST@' IDENTIFIED BY '@INGEST_PASSWORD@';
ALTER USER '@PREFIX@ingest'@'@HOST@' IDENTIFIED BY '@INGEST_PASSWORD@';
REVOKE ALL PRIVILEGES, GRANT OPTION FROM '@PREFIX@ingest'@'@HOST@';
GRANT SELECT, INSERT, DELETE ON `@DATABASE@`.`contents` TO '@PREFIX@ingest'@'@HOST@';
GRANT SELECT, INSERT, UPDATE, DELETE ON `@DATABASE@`.`level` TO '@PREFIX@ingest'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`update_history` TO '@PREFIX@ingest'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`relocations` TO '@PREFIX@ingest'@'@HOST@';
GRANT SELECT, INSERT, UPDATE ON `@DATABASE@`.`drops` TO '@PREFIX@ingest'@'@HOST@';

-- Facts for decisions.
CREATE USER IF NOT EXISTS '@PREFIX@planner'@'@HOST@' IDENTIFIED BY '@PLANNER_PASSWORD@';
ALTER USER '@PREFIX@planner'@'@HOST@' IDENTIFIED BY '@PLANNER_PASSWORD@';
REVOKE ALL PRIVILEGES, GRANT OPTION FROM '@PREFIX@planner'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`contents` TO '@PREFIX@planner'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`level` TO '@PREFIX@planner'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`relocations` TO '@PREFIX@planner'@'@HOST@';

-- Where a file must be before its source goes.
CREATE USER IF NOT EXISTS '@PREFIX@mover'@'@HOST@' IDENTIFIED BY '@MOVER_PASSWORD@';
ALTER USER '@PREFIX@mover'@'@HOST@' IDENTIFIED BY '@MOVER_PASSWORD@';
REVOKE ALL PRIVILEGES, GRANT OPTION FROM '@PREFIX@mover'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`contents` TO '@PREFIX@mover'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`level` TO '@PREFIX@mover'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`relocations` TO '@PREFIX@mover'@'@HOST@';

-- Levels changed, relocations recorded; update_history is written by the trigger, with the migrator's rights.
-- UPDATE on the whole table, not on the column content_level: MySQL asks for that at SELECT … FOR UPDATE.
CREATE USER IF NOT EXISTS '@PREFIX@recorder'@'@HOST@' IDENTIFIED BY '@RECORDER_PASSWORD@';
ALTER USER '@PREFIX@recorder'@'@HOST@' IDENTIFIED BY '@RECORDER_PASSWORD@';
REVOKE ALL PRIVILEGES, GRANT OPTION FROM '@PREFIX@recorder'@'@HOST@';
GRANT SELECT, UPDATE ON `@DATABASE@`.`contents` TO '@PREFIX@recorder'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`level` TO '@PREFIX@recorder'@'@HOST@';
GRANT SELECT, INSERT ON `@DATABASE@`.`relocations` TO '@PREFIX@recorder'@'@HOST@';

-- The command `reshelve`, but for `reshelve migrate`: imports, looks, audits, drops dead letters.
CREATE USER IF NOT EXISTS '@PREFIX@operator'@'@HOST@' IDENTIFIED BY '@OPERATOR_PASSWORD@';
ALTER USER '@PREFIX@operator'@'@HOST@' IDENTIFIED BY '@OPERATOR_PASSWORD@';
REVOKE ALL PRIVILEGES, GRANT OPTION FROM '@PREFIX@operator'@'@HOST@';
GRANT SELECT, INSERT, UPDATE, DELETE ON `@DATABASE@`.`contents` TO '@PREFIX@operator'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`level` TO '@PREFIX@operator'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`update_history` TO '@PREFIX@operator'@'@HOST@';
GRANT SELECT ON `@DATABASE@`.`relocations` TO '@PREFIX@operator'@'@HOST@';
GRANT SELECT, INSERT, UPDATE ON `@DATABASE@`.`drops` TO '@PREFIX@operator'@'@HOST@';
