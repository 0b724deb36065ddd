"""The rows of the table, a module per area."""
