"""What Reshelve does in a second, beside the limit or the rival of the same machine: see docs/performance.md."""
