"""What a run did with each record: every stage of every attempt, its time, and why it failed."""

from collections.abc import Callable

from pipeline.database import Database, without_nul
from pipeline.ledger_values import Step

STEP_TABLES = """
CREATE TABLE IF NOT EXISTS retries (id TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS steps (id TEXT NOT NULL, attempt INTEGER NOT NULL, stage TEXT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL,
    ended DOUBLE PRECISION NOT NULL);
CREATE INDEX IF NOT EXISTS steps_by_id ON steps (id);
"""


class History:
    """The steps of the records of one ledger; only ever added to."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        """`now` gives UTC seconds."""
        self._database, self._now = database, now

    def note(self, id_: str, stage: str, seconds: float, kind: str = "", message: str = "") -> None:
        """Add that a record went through a stage; kind and message of a failure. Once, if the database asks
        for it twice.
        """
        self._database.execute(
            "INSERT INTO steps SELECT :id, 1 + COALESCE((SELECT number FROM retries WHERE id = :id), 0),"
            " :stage, :seconds, :kind, :message, :ended WHERE NOT EXISTS (SELECT 1 FROM steps WHERE id = :id"
            " AND stage = :stage AND seconds = :seconds AND ended = :ended)",
            id=id_,
            stage=stage,
            seconds=seconds,
            kind=kind,
            message=without_nul(message),
            ended=self._now(),
        )

    def of(self, id_: str) -> list[Step]:
        """The steps of a record, oldest first."""
        rows = self._database.rows(
            "SELECT attempt, stage, seconds, kind, message FROM steps WHERE id = :id ORDER BY attempt, ended",
            id=id_,
        )
        names = ("attempt", "stage", "seconds", "kind", "message")
        return [Step(**dict(zip(names, row, strict=True))) for row in rows]

    def seconds(self, id_: str) -> float:
        """What a record has cost in its latest attempt."""
        row = self._database.row(
            "SELECT SUM(seconds) FROM steps WHERE id = :id"
            " AND attempt = 1 + COALESCE((SELECT number FROM retries WHERE id = :id), 0)",
            id=id_,
        )
        return float(row[0] or 0.0) if row else 0.0

    def count_retries(self, ids: str, **values: object) -> None:
        """Begin the next attempt of the records that a query gives."""
        self._database.execute(
            f"INSERT INTO retries SELECT id, 1 FROM ({ids}) AS again WHERE true"
            " ON CONFLICT (id) DO UPDATE SET number = retries.number + 1",
            **values,
        )
