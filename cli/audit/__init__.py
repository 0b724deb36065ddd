"""`reshelve audit`: compares MySQL, Redis and the disk, and mends what can be mended without guessing.

`findings` and `judge` are pure; `sights` and `files` look at the disk, `looking` and `queues` at the servers;
`auditing` goes through everything, `mending` acts, `command` talks.
"""
