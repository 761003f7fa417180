"""A PostgreSQL server of our own, from the system's package: on loopback, as a user without rights."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest


class PostgresServer:
    """One server with its data in a temporary folder; it can be stopped and started again."""

    def __init__(self) -> None:
        """Make the data; the test is skipped where PostgreSQL is not installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        self._programs = found[-1].parent if found else Path(shutil.which("initdb") or "/nowhere/x").parent
        if not (self._programs / "initdb").is_file():
            pytest.skip("PostgreSQL is not installed")
        self._user = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
        self._folder = Path(tempfile.mkdtemp(prefix="parmflow-postgres-"))
        self._log = self._folder.parent / f"{self._folder.name}.log"
        self._port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._coming: threading.Timer | None = None
        if self._user:
            shutil.chown(self._folder, self._user)
        options = ("-U", "parmflow", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        command = [self._programs / "initdb", "-D", self._folder / "data", *options]
        subprocess.run(command, user=self._user, check=True, timeout=300, stdout=subprocess.DEVNULL)

    @property
    def url(self) -> str:
        """Address of its one database."""
        return f"postgresql+psycopg://parmflow@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        words = [word for option in (f"port={self._port}", *options) for word in ("-c", option)]
        command = [self._programs / "postgres", "-D", self._folder / "data", *words]
        with self._log.open("a") as log:
            self._server = subprocess.Popen(
                command, user=self._user, stdout=log, stderr=log, start_new_session=True
            )
        _wait_for(self.url)

    def stop(self) -> None:
        """End it at once; who is connected is cut off."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(60)
        self._server = None

    def restart(self, *, after: float = 0.5) -> None:
        """End it at once, and start it again so many seconds after this returned."""
        self.wait_until_back()
        self.stop()
        self._coming = threading.Timer(after, self.start)
        self._coming.start()

    def wait_until_back(self) -> None:
        """Wait for a restart."""
        if self._coming is not None:
            self._coming.join()

    def ask_for_password(self, user: str, password: str) -> str:
        """Make a user whom it lets in with a password only; the address of the database for that user."""
        rules = self._folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all {user} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(self.url.replace("+psycopg", "")) as server:
            server.execute(f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'")
            server.execute("SELECT pg_reload_conf()")
        return self.url.replace("parmflow@", f"{user}@")

    def remove(self) -> None:
        """Stop it and remove its data."""
        self.wait_until_back()
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._log.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    """A server that listens may still be at the recovery of its data."""
    give_up = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
