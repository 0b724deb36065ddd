"""Services under strace: a system call that fails, is slow, or at which the process is killed or stopped.

    log = tmp_path / "calls"
    (mover,) = stack.start("mover", through=traced(log, "fsync,renameat2", kill("fsync", 2)))

kills the mover at the second fsync of any one of its threads (strace counts per thread), before the kernel does it.
`stop` lets the call happen and stops the whole process (`await stopped(log)`) until SIGCONT. `fail` and `slow` do what
they say. Moves are worked on in threads of their own, retires in others.

The traced process is our own child, strace a grandchild that ends with it: `mover.kill()`, `os.kill(mover.process.pid,
…)` and exit codes mean the service.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

READ = "/^preadv"
"""A chunk is read: preadv2 to a newer libc, preadv to an older one."""
POLL = "/^epoll_p?wait"
"""Only the event loop waits so, in the process' first thread."""
_CALL = re.compile(r"^\d+ +(?P<name>\w+)\(", re.MULTILINE)


def traced(log: Path, calls: str, *injections: str, only: Path | None = None) -> list[str]:
    """The command to run a service through; `calls` go to `log`, names of descriptors included.

    With `only`, just the calls that touch this path: by name, or by a descriptor of it.
    """
    if shutil.which("strace") is None:
        pytest.fail("no strace on this machine: apt-get install strace")
    command = ["strace", "-D", "-f", "-qqq", "-y", "-s", "256", "-o", str(log), "-e", f"trace={calls}"]
    # Signals need a stop at every call; all else lets the kernel sort out the calls that matter.
    if not any("signal=" in injection for injection in injections):
        command.append("--seccomp-bpf")
    if only is not None:
        command += ["-P", str(only)]
    for injection in injections:
        command += ["-e", f"inject={injection}"]
    return [*command, "--"]


def kill(call: str, nth: int = 1) -> str:
    """SIGKILL before it happens."""
    return f"{call}:signal=KILL:when={nth}"


def stop(call: str, nth: int = 1) -> str:
    """SIGSTOP after it happened."""
    return f"{call}:signal=STOP:when={nth}"


def fail(call: str, error: str, when: str = "1+") -> str:
    """It does nothing and fails: always, or `when` says at which times of one thread (`1`, `2+`)."""
    return f"{call}:error={error}:when={when}"


def slow(call: str, seconds: float, when: str = "1+") -> str:
    """It begins late."""
    return f"{call}:delay_enter={int(seconds * 1_000_000)}:when={when}"


async def stopped(log: Path, timeout_s: float = 20) -> None:
    """Returns when the traced process has stopped."""
    await written(log, "--- stopped by SIGSTOP ---", timeout_s)


async def written(log: Path, text: str, timeout_s: float = 20) -> None:
    """Returns when the text is in the log."""
    deadline = time.monotonic() + timeout_s
    while text not in (found := _text(log)):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {text!r} in {found[-1500:]}"
        await asyncio.sleep(0.02)


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def lines(log: Path, *names: str) -> Sequence[str]:
    """The calls of these names, in the order in which they began."""
    return [line for line in _text(log).splitlines() if (found := _CALL.match(line)) and found["name"] in names]
