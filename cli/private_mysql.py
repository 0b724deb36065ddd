"""A MariaDB or MySQL of our own, in a data directory, on a loopback port."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from cli.server_process import (
    LOOPBACK,
    DataDirLock,
    PrivateServer,
    ServerProcess,
    last_lines,
    secret,
    start_on_port,
    write_private,
)
from shared.errors import StopServiceError

INSTALL_MYSQL = "install one: apt-get install mariadb-server-core mariadb-client-core"
BUFFER_POOL_MB = 64
_SERVER_NAMES = ("mariadbd", "mysqld")
_SERVER_DIRS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")
_INSTALLERS = ("mariadb-install-db", "mysql_install_db")
_PORT_TAKEN = ("Bind on TCP/IP port", "running on port")
_INITIALISE_TIMEOUT_S = 300
_UNIX_SOCKET_MAX_BYTES = 107  # sun_path holds 108, the last one a NUL
_PROTOCOL_VERSION = 10


def find_mysql_server() -> Path | None:
    """`mariadbd`, else `mysqld`, on PATH or where distributions put servers."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SERVER_DIRS])
    for name in _SERVER_NAMES:
        found = shutil.which(name, path=path)
        if found:
            return Path(found)
    return None


class PrivateMySQL(PrivateServer):
    """The user `reshelve` owns the database `reshelve` and those whose names begin with `reshelve_`."""

    @classmethod
    def start(cls, data_dir: Path, port: int | None = None, *, buffer_pool_mb: int = BUFFER_POOL_MB) -> Self:
        """A server that answers. Raises StopServiceError when none is installed, it runs already, or cannot start."""
        binary = find_mysql_server()
        if binary is None:
            raise StopServiceError(f"no MariaDB or MySQL server on this machine: {INSTALL_MYSQL}")
        data_dir = data_dir.resolve()
        lock = DataDirLock(data_dir)
        sockets = _SocketDir(data_dir)
        try:
            _make_tmpdir(data_dir)
            _initialise(binary, data_dir, lock)
            user_password = secret(data_dir / "password")
            admin_password = secret(data_dir / "admin_password")
            write_private(data_dir / "init.sql", _accounts(user_password, admin_password))

            def start(chosen: int) -> ServerProcess:
                command = _command(binary, data_dir, chosen, sockets.socket, buffer_pool_mb)
                process = ServerProcess(command, data_dir / "mysql.log", lock)
                process.wait_until(lambda: process.exit_code is None and _answers(sockets.socket), _PORT_TAKEN)
                return process

            process, chosen = start_on_port(data_dir, port, start)
        except BaseException:
            sockets.remove()
            lock.release()
            raise
        return cls(
            process,
            lock,
            chosen,
            sockets=sockets,
            user_password=user_password,
            admin_password=admin_password,
        )

    def __init__(
        self,
        process: ServerProcess,
        lock: DataDirLock,
        port: int,
        *,
        sockets: _SocketDir,
        user_password: str,
        admin_password: str,
    ) -> None:
        super().__init__(process, lock, port)
        self._sockets = sockets
        self.url = f"mysql://reshelve:{user_password}@{LOOPBACK}:{port}/reshelve"
        self.admin_url = f"mysql://root:{admin_password}@{LOOPBACK}:{port}/mysql"

    def stop(self) -> None:
        super().stop()
        self._sockets.remove()


class _SocketDir:
    """Where the server's unix socket lies: the data directory, else, where that path is too long, a short one."""

    def __init__(self, data_dir: Path) -> None:
        self._temporary: Path | None = None
        self.socket = data_dir / "mysql.sock"
        if len(os.fsencode(self.socket)) > _UNIX_SOCKET_MAX_BYTES:
            self._temporary = Path(tempfile.mkdtemp(prefix="reshelve-", dir="/tmp"))  # short, and made 0700
            self.socket = self._temporary / "mysql.sock"

    def remove(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _make_tmpdir(data_dir: Path) -> None:
    """A server that starts removes all temporary tables in its directory for them: in /tmp, those of others too."""
    shutil.rmtree(data_dir / "tmp", ignore_errors=True)
    (data_dir / "tmp").mkdir(mode=0o700)


def _initialise(binary: Path, data_dir: Path, lock: DataDirLock) -> None:
    """Make the system tables on first use. Whatever a killed attempt left is thrown away."""
    files = data_dir / "data"
    if files.exists():
        return
    part = data_dir / "data.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    done = subprocess.run(
        _initialise_command(binary, part),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock.fd,),
        timeout=_INITIALISE_TIMEOUT_S,
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise StopServiceError(f"{binary} could not make its system tables in {part}:\n{last_lines(done.stdout)}")
    part.rename(files)


def _initialise_command(binary: Path, datadir: Path) -> list[str]:
    tmpdir = [f"--tmpdir={datadir.parent / 'tmp'}"]
    if not _is_mariadb(binary):
        return [str(binary), "--no-defaults", "--initialize-insecure", f"--datadir={datadir}", *tmpdir, *_run_as()]
    path = os.pathsep.join([str(binary.parent), str(binary.parent.parent / "bin"), os.environ.get("PATH", os.defpath)])
    installer = next(filter(None, (shutil.which(name, path=path) for name in _INSTALLERS)), None)
    if installer is None:
        raise StopServiceError(f"{binary} is there but mariadb-install-db is not: {INSTALL_MYSQL}")
    if shutil.which("my_print_defaults", path=path) is None:  # Debian keeps it in another package
        raise StopServiceError(f"{installer} needs my_print_defaults: apt-get install mariadb-client-core")
    return [
        installer,
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        f"--datadir={datadir}",
        *tmpdir,
        *_run_as(),
    ]


def _is_mariadb(binary: Path) -> bool:
    version = subprocess.run([binary, "--no-defaults", "--version"], capture_output=True, check=False, text=True)
    return "mariadb" in version.stdout.lower()


def _run_as() -> list[str]:
    """The server runs as whoever we are.

    It refuses root unless told so. Another user could not reach a data directory beneath /root, and a change of user
    would clear the parent-death signal that ends the server with us.
    """
    return ["--user=root"] if os.geteuid() == 0 else []


def _command(binary: Path, data_dir: Path, port: int, unix_socket: Path, buffer_pool_mb: int) -> list[str]:
    return [
        str(binary),
        "--no-defaults",
        *_run_as(),
        f"--datadir={data_dir / 'data'}",
        f"--tmpdir={data_dir / 'tmp'}",
        f"--secure-file-priv={data_dir / 'tmp'}",  # packaged servers have a directory that may not be there
        f"--socket={unix_socket}",
        f"--pid-file={data_dir / 'mysql.pid'}",
        f"--init-file={data_dir / 'init.sql'}",
        f"--bind-address={LOOPBACK}",
        f"--port={port}",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--log-bin-trust-function-creators=1",
        "--character-set-server=utf8mb4",
        "--performance-schema=OFF",
        "--loose-mysqlx=OFF",
        "--max-connections=200",
        f"--innodb-buffer-pool-size={buffer_pool_mb}M",
        "--innodb-flush-log-at-trx-commit=1",
    ]


def _accounts(user_password: str, admin_password: str) -> str:
    """Run by the server at every start: one statement a line, each safe to repeat. The passwords are hex digits."""
    statements = [
        "CREATE DATABASE IF NOT EXISTS reshelve CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{admin_password}'",
        f"CREATE USER IF NOT EXISTS 'root'@'{LOOPBACK}' IDENTIFIED BY '{admin_password}'",
        f"ALTER USER 'root'@'{LOOPBACK}' IDENTIFIED BY '{admin_password}'",
        f"GRANT ALL ON *.* TO 'root'@'{LOOPBACK}' WITH GRANT OPTION",
        "DROP USER IF EXISTS 'root'@'::1'",  # made by mariadb-install-db, without a password
        f"CREATE USER IF NOT EXISTS 'reshelve'@'{LOOPBACK}' IDENTIFIED BY '{user_password}'",
        f"ALTER USER 'reshelve'@'{LOOPBACK}' IDENTIFIED BY '{user_password}'",
        f"GRANT ALL ON reshelve.* TO 'reshelve'@'{LOOPBACK}'",
        f"GRANT ALL ON `reshelve\\_%`.* TO 'reshelve'@'{LOOPBACK}'",
    ]
    return "".join(f"{statement};\n" for statement in statements)


def _answers(unix_socket: Path) -> bool:
    """The server greets on its own socket, which no other can have; it does so only after the init file."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(os.fspath(unix_socket))
        greeting = connection.recv(5)
        return len(greeting) == 5 and greeting[4] == _PROTOCOL_VERSION  # noqa: PLR2004  # 4 bytes of packet header
    return False
