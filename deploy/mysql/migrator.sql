-- The account of `reshelve migrate`: it makes the tables and the trigger. Run as an administrator, before migrating.
--
-- A template: `python -m deploy.accounts` puts the passwords in (docs/security.md). Safe to repeat.
-- The trigger on `contents` runs with this account's rights whoever changes a level (its DEFINER): do not drop the account.

CREATE USER IF NOT EXISTS '@PREFIX@migrator'@'@HOST@' IDENTIFIED BY '@MIGRATOR_PASSWORD@';
ALTER USER '@PREFIX@migrator'@'@HOST@' IDENTIFIED BY '@MIGRATOR_PASSWORD@';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, TRIGGER
    ON `@DATABASE_PATTERN@`.* TO '@PREFIX@migrator'@'@HOST@';
