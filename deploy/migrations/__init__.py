"""The database schema as Alembic revisions with plain SQL; `cli.migrate` applies them.

MySQL's DDL is not transactional: each statement must be safe to repeat after a run that stopped half-way.
"""
