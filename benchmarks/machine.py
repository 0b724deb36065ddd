"""What the figures were taken on; neither who owns the machine nor where anything lies on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from cli.private_redis import allocator
from cli.servers import find_mysql_server, find_redis_server

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")


def facts(work: Path) -> dict[str, str]:
    """By name. `work` is where the benchmarks keep their files."""
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    found = {
        "processor": _processor(),
        "cores": f"{os.cpu_count()} (what is measured has two of them)",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "kernel": platform.release().partition("-")[0],
        "system": system,
        "file system": _filesystem(work),
        "Python": platform.python_version(),
        "Redis": _server(find_redis_server()) + (" with jemalloc" if "LD_PRELOAD" in allocator() else ""),
        "MySQL": _server(find_mysql_server()),
    }
    programs = {name: _version(shutil.which(name), "--version") for name in ("rsync", "rclone", "redis-benchmark")}
    return found | {name: version for name, version in programs.items() if version}


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _filesystem(work: Path) -> str:
    answer = subprocess.run(["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True, check=False)
    return answer.stdout.strip().replace("ext2/ext3", "ext4") or "unknown"


def _server(program: Path | None) -> str:
    if program is None:
        return "none"
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False).stdout
    kind = next((name for name in ("MariaDB", "Valkey", "Redis") if name.lower() in (said + program.name).lower()), "")
    found = _VERSION.search(said)
    return f"{kind or 'MySQL'} {found.group() if found else ''}".strip()


def _version(program: str | None, option: str) -> str:
    if program is None:
        return ""
    said = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
    found = _VERSION.search(said)
    return found.group() if found else ""
