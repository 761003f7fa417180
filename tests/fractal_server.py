"""A QCFractal server with a worker, for tests: whole, on loopback, its data in a PostgreSQL of our own.

    python -m tests.fractal_server ADDRESS STORE N_TASKS     a runner, to be killed

Needs the packages qcfractal, qcfractalcompute and qcportal below 0.66 beside ours.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from pipeline.qm.budget import Budget
from pipeline.qm.levels import spec_by_name
from pipeline.qm.remote import Server, connect
from pipeline.qm.remote_batch import RemoteBatch
from pipeline.schema import QMTask
from pipeline.settings import ServerSettings
from pipeline.store import QMStore

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.1, -0.757, -0.5]])


class FractalServer:
    """A server whose worker can be started late; the test is skipped where it is not installed."""

    def __init__(self, database_url: str) -> None:
        """Start the server on an empty database of this PostgreSQL, without a worker."""
        snowflake = pytest.importorskip("qcfractal.snowflake")
        from qcfractal.config import DatabaseConfig
        from qcfractal.postgres_harness import PostgresHarness

        parts = urlsplit(database_url)
        config = DatabaseConfig(
            base_folder="/",
            own=False,
            host=parts.hostname,
            port=parts.port,
            username=parts.username,
            password="none",
            database_name="fractal",
        )
        PostgresHarness(config).create_database(create_tables=True)
        self._server: Any = snowflake.FractalSnowflake(
            start=False, compute_workers=1, database_config=config, host="127.0.0.1"
        )
        self._server._start_api()
        self._server._start_job_runner()
        self._server.wait_for_api()

    @property
    def address(self) -> str:
        """Where it answers."""
        return str(self._server.get_uri())

    def client(self) -> Any:
        """qcportal's own client."""
        return self._server.client()

    def connect(self) -> Server:
        """Ours."""
        return connect(ServerSettings(address=self.address, patience_seconds=0))

    def start_worker(self) -> None:
        """Let somebody compute; idempotent."""
        self._server._start_compute()

    def go_away(self) -> None:
        """Stop answering; a worker would give up beside it."""
        self._server._stop_compute()
        self._server._stop_api()

    def come_back(self) -> None:
        """Answer again, at the same address, with a worker."""
        self._server._start_api()
        self._server.wait_for_api()
        self._server._start_compute()

    def stop(self) -> None:
        """End all of it."""
        self._server.stop()


def make_tasks(n_tasks: int, program: str = "mopac", words: str = "am1") -> list[QMTask]:
    """Waters, each a little longer than the one before."""
    return [
        QMTask(
            ligand_key=f"water {n}",
            atomic_numbers=np.array([8, 1, 1]),
            coords=WATER * (1.0 + 0.01 * n),
            total_charge=0,
            spec=spec_by_name(words, program),
        )
        for n in range(n_tasks)
    ]


def run_remotely(
    server: Server, store: QMStore, tasks: Sequence[QMTask], seconds: float | None = None
) -> dict[str, Any]:
    """Endings by task key, looked for every second."""
    with RemoteBatch(store, server, budget=Budget(seconds), look_seconds=1.0) as batch:
        return batch.run(tasks, lambda *_: None)


def main() -> None:
    """Submit tasks and wait for them for ever."""
    address, path, n_tasks = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with QMStore(path) as store:
        run_remotely(connect(ServerSettings(address=address)), store, make_tasks(n_tasks))


if __name__ == "__main__":
    main()
