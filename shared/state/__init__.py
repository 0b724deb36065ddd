"""The state in Redis: the only code that writes contents' state or moves entries between streams.

Each verb is one Lua script (`shared/lua`), atomic within a partition and safe to repeat.
"""
