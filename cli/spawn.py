"""Start a server that cannot outlive us.

It runs in a session of its own, so that Ctrl-C in the terminal reaches us first and we stop it in order. For the case
that we are killed, the kernel is asked (PR_SET_PDEATHSIG) to send it SIGTERM when its parent goes.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache

# Runs between fork and exec as a program of its own: a preexec_fn may deadlock in a process with threads. The setting
# survives exec. Our parent may be gone before it is made: then nobody would ever stop the server.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM) != 0:
    sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent ended first")
os.execv(sys.argv[2], sys.argv[2:])
"""

_Order = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


def spawn(command: Sequence[str], output: int, lock_fd: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server that writes to `output`, inherits `lock_fd`, and ends when we do. Safe from any thread.

    `environment` adds to our own, which has the last word.
    """

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            dying_with_us(command),
            env={**environment, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(lock_fd,),
        )

    started: Future[subprocess.Popen[bytes]] = Future()
    _spawner().put((popen, started))
    return started.result()


@cache
def _spawner() -> queue.SimpleQueue[_Order]:
    """The thread that starts all servers.

    The kernel takes the *thread* that started a child for its parent: a server started from a pool's thread would get
    its SIGTERM when that thread ends. This one ends with the process.
    """
    orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()

    def run() -> None:
        while True:
            popen, started = orders.get()
            try:
                started.set_result(popen())
            except BaseException as error:  # noqa: BLE001  # raised again in the caller by result()
                started.set_exception(error)

    threading.Thread(target=run, name="server-spawner", daemon=True).start()
    return orders


def dying_with_us(command: Sequence[str]) -> list[str]:
    """The command to spawn instead: it gets SIGTERM when the thread that spawned it ends. `command` names a path."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
