"""Damage to a QM store, as a disk or a careless hand does it."""

import contextlib

from pipeline.database import Database, Place


def damage(place: Place, statement: str, **values: object) -> None:
    """Run a statement that the store's own guard would refuse; the guard is gone afterwards."""
    with contextlib.closing(Database(place)) as database:
        table = "" if place.is_sqlite else "ON results"
        database.execute(f"DROP TRIGGER IF EXISTS results_stay {table}")
        database.execute(statement, **values)
