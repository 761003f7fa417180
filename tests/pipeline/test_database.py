"""The connection of ledger and store: what interrupts and full disks leave can be used."""

import contextlib
import signal
import sqlite3
from pathlib import Path

import pytest

from pipeline.database import Database, Place, use_wal
from pipeline.errors import StoreError

LONG = {
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000) "
    "SELECT max(n) FROM c",
    "postgresql": "SELECT pg_sleep(200)",
}
"""statements that take their time"""


def test_an_interrupted_statement_leaves_a_usable_database(place: Place) -> None:
    """Ctrl-C inside a statement of a transaction: the interrupt is what is raised, the transaction is undone,
    and the next statements work.
    """
    database = Database(place, tables="CREATE TABLE IF NOT EXISTS t (n INTEGER);")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def insert_slowly() -> None:
        with database.transaction():
            database.execute("INSERT INTO t VALUES (1)")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            database.rows(LONG[place.backend])

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            insert_slowly()
    finally:
        signal.signal(signal.SIGALRM, before)
    with database.transaction():
        database.execute("INSERT INTO t VALUES (2)")
    assert database.rows("SELECT n FROM t") == [(2,)]
    database.close()


def test_only_a_full_disk_is_called_one(tmp_path: Path) -> None:
    """A database that may grow no further is of kind disk; a broken rule about a column `full` is not."""
    database = Database(Place.of_file(tmp_path / "l"), tables="CREATE TABLE t (full TEXT NOT NULL);")
    with pytest.raises(StoreError, match="NOT NULL") as caught:
        database.execute("INSERT INTO t VALUES (NULL)")
    assert caught.value.kind != "disk"
    pages = database.rows("PRAGMA page_count")[0][0]
    database.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="free space") as caught:
        database.execute("INSERT INTO t VALUES (:text)", text="x" * 100_000)
    assert caught.value.kind == "disk"
    database.close()


def test_the_switch_to_wal_leaves_no_statement_open(tmp_path: Path) -> None:
    """The pragma's answer is closed: else SQLite may refuse the next COMMIT, statements being in progress."""
    answers = []

    def execute(sql: str) -> sqlite3.Cursor:
        answers.append(connection.execute(sql))
        return answers[-1]

    with contextlib.closing(sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None)) as connection:
        use_wal(execute)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (answer,) = answers
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            answer.fetchone()
