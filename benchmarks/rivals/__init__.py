"""What people would pick instead: an application per task queue, set up as its documentation says it runs fastest.

Each runs in an environment of its own (requirements*.lock), so nothing here is imported by the runner but `fleet`. An
application's module names its worker; run as a program with a number, it queues that many jobs.
"""
