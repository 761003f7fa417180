"""The ledger's connection: what an interrupt in mid-statement leaves can be used."""

from pathlib import Path

import pytest
from sqlalchemy import event

from pipeline.database import Database, Place


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
