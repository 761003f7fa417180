"""The ledger's connection: what an interrupt in mid-statement leaves can be used."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import event

from pipeline.database import Database, Place
from pipeline.errors import StoreError
from pipeline.store.database import use_wal


def test_an_interrupted_statement_leaves_a_usable_database(tmp_path: Path) -> None:
    """Ctrl-C inside a statement of a transaction: the interrupt is what is raised, the transaction is undone,
    and the next statements work.
    """
    database = Database(Place.of_file(tmp_path / "l"), tables="CREATE TABLE IF NOT EXISTS t (n INTEGER);")
    interrupts = iter([True])

    def interrupt(*arguments: object) -> None:
        if "VALUES (2)" in str(arguments[2]) and next(interrupts, False):
            raise KeyboardInterrupt

    event.listen(database._engine, "after_cursor_execute", interrupt)

    def insert_two() -> None:
        with database.transaction():
            database.execute("INSERT INTO t VALUES (1)")
            database.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(KeyboardInterrupt):
        insert_two()
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
