"""A database server that goes away: waited for between two statements, and told in a sentence."""

import threading
from collections.abc import Iterator

import pytest

from pipeline.database import Place
from pipeline.errors import StoreError
from pipeline.qm.batch import Batch
from pipeline.schema import QMRecord
from pipeline.store import QMStore
from tests.postgres_server import PostgresServer
from tests.scripted_engine import SETTINGS, Scripted, make_task


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test's own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def test_a_restart_of_the_server_costs_no_calculation(server: PostgresServer) -> None:
    """The server is stopped while calculations run, and comes back while they end: each is kept, none is
    made twice.
    """
    tasks = [make_task(f"task {n}", n) for n in range(6)]
    engine = Scripted({task.ligand_key: ["sleep 0.5"] for task in tasks})
    again = threading.Timer(2.0, server.start)

    def restart(*_: object) -> None:
        if not again.is_alive() and not again.finished.is_set():
            server.stop()
            again.start()

    with QMStore(Place(url=server.url, schema="qm")) as store:
        with Batch(store, SETTINGS, jobs=2, start=engine) as batch:
            endings = batch.run(tasks, restart)
        again.join()
        assert all(isinstance(ending, QMRecord) for ending in endings.values())
        assert len(store) == len(tasks)
        assert [attempt.kind for attempt in store.attempts()] == ["ok"] * len(tasks)
        assert set(engine.tries.values()) == {1}


def test_a_server_that_stays_away_is_a_sentence(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing end as StoreErrors that may be repeated; once it is back, the open store works."""
    monkeypatch.setattr("pipeline.database.BUSY_SECONDS", 0.5)
    with QMStore(Place(url=server.url, schema="qm")) as store:
        server.stop()
        for use in (lambda: store.get("k"), lambda: store.claim("k", "elsewhere 1 1.0"), lambda: len(store)):
            with pytest.raises(StoreError, match="does not answer") as caught:
                use()
            assert (caught.value.kind, caught.value.retryable) == ("lost", True)
        server.start()
        assert store.get("k") is None
        with pytest.raises(StoreError, match="does not answer"):
            QMStore(Place(url=server.url.replace("@127.0.0.1", "@nowhere.invalid"), schema="qm"))
