"""The ledger of a run: what became of each record, who works on it, and what the stages hand on.

By default one SQLite file in the run's output folder, else a schema of a PostgreSQL database. Everything a
run must not do twice is written here at once and in full, so that the same command after Ctrl-C, a crash or a
power cut goes on where it stood. What it holds hangs on two keys: a record's id, which contains the hash of
its text, and a ligand's key, which all records of one molecule share.

A record is waiting, running (somebody has a lease on it, see `pipeline.leases`), done or failed.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from pipeline.database import Database, Place, without_nul
from pipeline.errors import OutputFolderError, StoreError
from pipeline.history import STEP_TABLES, History
from pipeline.leases import LEASE_TABLES, NO_LEASE, Lease, Leases
from pipeline.ledger_values import (
    Fit,
    Prediction,
    Prepared,
    array_from,
    fit_from,
    prediction_from,
    prepared_from,
    to_json,
)
from pipeline.library import Record
from pipeline.outcome import Failure, Outcome
from pipeline.schema import FloatArray

LEDGER_VERSION = "2"

STAGES = ("read", "standardise", "predict", "conformers", "qm", "fine-tune", "deliver")
"""in the order in which a record goes through them"""
_KEPT_BY = {
    "standardise": ("prepared", "predictions", "geometries", "fits"),
    "predict": ("predictions", "fits"),
    "conformers": ("predictions", "geometries", "fits"),
    "qm": ("geometries", "fits"),
    "fine-tune": ("fits",),
    "deliver": (),
}
"""tables that hold what a stage and those after it made"""
_AFTER_REFERENCES = "('', 'fine-tune', 'deliver')"
"""Stages of outcomes that come after the QM references; a delivered ligand's stage is empty."""
_PAGE = 500
_OUTCOME = (
    "SELECT number, record, outcomes.id, folder, status, stage, kind, message, seconds"
    " FROM records JOIN outcomes ON outcomes.id = records.id"
)
"""see `_outcome_of`"""

_TABLES = """
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, id TEXT UNIQUE, name TEXT NOT NULL,
    record TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_by_name ON records (name);
CREATE TABLE IF NOT EXISTS prepared (id TEXT PRIMARY KEY, ligand_key TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS predictions (ligand_key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS geometries (ligand_key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fits (ligand_key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (id TEXT PRIMARY KEY, folder TEXT NOT NULL, status TEXT NOT NULL,
    stage TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL, seconds DOUBLE PRECISION NOT NULL,
    traceback TEXT NOT NULL, retryable INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS outcomes_by_status ON outcomes (status, kind);
"""
_OF_RECORDS = ("outcomes", "prepared", "retries", "steps", "leases")
"""tables that hold nothing of a record that is gone"""


class Ledger:
    """The state of one run; open it once per thread or process."""

    def __init__(
        self,
        place: Place,
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        """Open the ledger, making it where it is not there; `now` gives UTC seconds.

        Raises OutputFolderError for what is no ledger, or one of another version, and SettingsError where a
        server refuses us.
        """
        try:
            self._database = Database(place, tables=_TABLES + LEASE_TABLES + STEP_TABLES, read_only=read_only)
        except StoreError as error:
            advice = "" if error.retryable else "; choose another folder"
            raise OutputFolderError(f"{error}{advice}") from error
        is_there = self._database.has_table("run")  # who only reads does not make it
        version = self.recall("ledger version", "" if read_only else LEDGER_VERSION) if is_there else ""
        if version != LEDGER_VERSION:
            self.close()
            what = "was written by another version of parmflow" if is_there else "holds no ledger any more"
            raise OutputFolderError(f"{place} {what}; choose another folder")
        if not read_only:
            self.remember("ledger version", LEDGER_VERSION)
        self.leases = Leases(self._database, now)
        self.history = History(self._database, now)

    @classmethod
    def of_file(cls, path: Path) -> "Ledger":
        """The ledger in a SQLite file."""
        return cls(Place.of_file(path))

    def close(self) -> None:
        """Let go; what was written is already safe."""
        self._database.close()

    def remove(self) -> None:
        """Remove the ledger from PostgreSQL, and let go."""
        self._database.drop()
        self.close()

    def together(self, work: Callable[[], None]) -> None:
        """What the work writes is written as a whole; it is begun again where the database was away."""
        self._database.together(work)

    # ---- facts about the run ----

    def remember(self, name: str, value: str) -> None:
        """Keep a fact about the run."""
        self._database.execute(
            "INSERT INTO run VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name=name,
            value=value,
        )

    def recall(self, name: str, default: str = "") -> str:
        """Give back a fact about the run."""
        row = self._database.row("SELECT value FROM run WHERE name = :name", name=name)
        return str(row[0]) if row else default

    # ---- the library ----

    def take_in(self, records: Iterable[tuple[str, Record]]) -> tuple[int, int, list[str]]:
        """Make these records, each with its id, the run's library, in one transaction.

        Returns how many are new, how many are gone, and the folders that the gone ones had.
        """
        database = self._database
        with database.transaction():
            database.execute("CREATE TEMPORARY TABLE before_records AS SELECT id FROM records")
            database.execute("DELETE FROM records")
            database.execute_many(
                "INSERT INTO records VALUES (:number, :id, :name, :record)",
                (
                    {
                        "number": record.number,
                        "id": id_,
                        "name": without_nul(record.name),
                        "record": json.dumps(dataclasses.asdict(record)),
                    }
                    for id_, record in records
                ),
            )
            n_new = self._count("records WHERE id NOT IN (SELECT id FROM before_records)")
            n_gone = self._count("before_records WHERE id NOT IN (SELECT id FROM records)")
            gone = "WHERE id NOT IN (SELECT id FROM records)"
            rows = database.rows(f"SELECT folder FROM outcomes {gone} AND folder != ''")
            for table in _OF_RECORDS:
                database.execute(f"DELETE FROM {table} {gone}")
            database.execute("DROP TABLE before_records")
        return n_new, n_gone, [row[0] for row in rows]

    def _count(self, rest: str, **values: object) -> int:
        return self._database.number(f"SELECT COUNT(*) FROM {rest}", **values)

    def n_records(self) -> int:
        """Number of records in the run's library."""
        return self._count("records")

    def record(self, number: int) -> tuple[str, Record]:
        """One record of the library with its id."""
        row = self._database.row("SELECT id, record FROM records WHERE number = :number", number=number)
        if row is None:
            raise OutputFolderError(f"no record {number} in {self._database.place}")
        return row[0], Record(**json.loads(row[1]))

    def find(self, text: str) -> list[int]:
        """Numbers of the records whose id or name this is, in input order."""
        rows = self._database.rows(
            "SELECT number FROM records WHERE id = :text OR name = :text ORDER BY number",
            text=without_nul(text),
        )
        return [row[0] for row in rows]

    # ---- outcomes ----

    def settle(self, outcome: Outcome, failure: Failure | None = None, lease: Lease = NO_LEASE) -> bool:
        """Write what became of a record and give up its lease; False, and nothing written, when too late."""

        def write() -> bool:
            if not self.leases.holds(lease, outcome.id):
                return False
            values = {**dataclasses.asdict(outcome), "message": without_nul(outcome.message)}
            self._database.execute(
                "INSERT INTO outcomes VALUES (:id, :folder, :status, :stage, :kind, :message, :seconds,"
                " :traceback, :retryable) ON CONFLICT (id) DO UPDATE SET folder = excluded.folder,"
                " status = excluded.status, stage = excluded.stage, kind = excluded.kind,"
                " message = excluded.message, seconds = excluded.seconds, traceback = excluded.traceback,"
                " retryable = excluded.retryable",
                **{name: value for name, value in values.items() if name not in ("record", "name")},
                traceback=without_nul(failure.traceback) if failure else "",
                retryable=int(failure.retryable) if failure else 0,
            )
            self.leases.end(outcome.id)
            return True

        return self._database.together(write)

    def outcomes(self, *, status: str = "", kind: str = "", stage: str = "") -> Iterator[Outcome]:
        """The outcomes there are, or those of a status, a kind or a stage, in input order, page by page."""
        named = {"status": status, "kind": kind, "stage": stage}
        wanted = {name: value for name, value in named.items() if value}
        where = "".join(f" AND {name} = :{name}" for name in wanted)
        last = 0
        while True:
            rows = self._database.rows(
                f"{_OUTCOME} WHERE number > :last{where} ORDER BY number LIMIT {_PAGE}",
                last=last,
                **wanted,
            )
            yield from map(_outcome_of, rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def outcome(self, id_: str) -> Outcome | None:
        """What became of one record; None where it is not settled."""
        row = self._database.row(f"{_OUTCOME} WHERE records.id = :id", id=id_)
        return None if row is None else _outcome_of(row)

    def n_outcomes(self, *, status: str = "") -> int:
        """Number of records settled, or settled with a status."""
        if status:
            return self._count("outcomes WHERE status = :status", status=status)
        return self._count("outcomes")

    def failures_by_class(self) -> list[tuple[str, str, int, int]]:
        """Stage, kind, how many records failed so, and for how many of them trying again may help."""
        return [
            (row[0], row[1], int(row[2]), int(row[3]))
            for row in self._database.rows(
                "SELECT stage, kind, COUNT(*), SUM(retryable) FROM outcomes WHERE status = 'failed'"
                " GROUP BY stage, kind ORDER BY COUNT(*) DESC, stage, kind"
            )
        ]

    def numbers(self, *, status: str) -> list[int]:
        """Record numbers with this status (`ok`, `failed` or `undone`), in input order."""
        rows = self._database.rows(
            "SELECT number FROM records LEFT JOIN outcomes ON outcomes.id = records.id"
            " WHERE COALESCE(status, 'undone') = :status ORDER BY number",
            status=status,
        )
        return [row[0] for row in rows]

    def in_tuning(self) -> list[tuple[int, str]]:
        """Record number and ligand key of what is not failed, or failed only after fine-tuning began.

        What is tuned must not depend on how far delivery got. In input order.
        """
        rows = self._database.rows(
            "SELECT number, ligand_key FROM records LEFT JOIN outcomes ON outcomes.id = records.id"
            " LEFT JOIN prepared ON prepared.id = records.id"
            f" WHERE COALESCE(stage, '') IN {_AFTER_REFERENCES} ORDER BY number"
        )
        return [(row[0], row[1]) for row in rows]

    def traceback(self, id_: str) -> str:
        """The traceback of a failure; empty when there is none."""
        row = self._database.row("SELECT traceback FROM outcomes WHERE id = :id", id=id_)
        return str(row[0]) if row else ""

    def n_retryable(self) -> int:
        """Number of failures that trying again may cure."""
        return self._count("outcomes WHERE status = 'failed' AND retryable = 1")

    def forget_failures(self, *, kinds: Collection[str] = ()) -> int:
        """Make failed records undone again: those of these kinds or stages, else those that may be cured.

        Returns how many; the next attempt of each has the next number.
        """
        names = {f"kind{n}": kind for n, kind in enumerate(sorted(kinds))}
        marks = ", ".join(f":{name}" for name in names)
        chosen = f"(kind IN ({marks}) OR stage IN ({marks}))" if names else "retryable = 1"
        return self._database.together(lambda: self._forget(f"status = 'failed' AND {chosen}", **names))

    def forget_deliveries(self) -> None:
        """Drop the outcomes that rest on fine-tuning, delivered or not."""
        self._database.together(lambda: self._forget(f"stage IN {_AFTER_REFERENCES}"))

    def _forget(self, where: str, **values: object) -> int:
        """Drop the outcomes that a condition chooses and begin their records' next attempt; how many."""
        self.history.count_retries(f"SELECT id FROM outcomes WHERE {where}", **values)
        return self._database.execute(f"DELETE FROM outcomes WHERE {where}", **values)

    def forget_from(self, stages: Collection[str]) -> tuple[int, list[str]]:
        """Drop what these stages and those after them made: outcomes, and values that later stages read.

        A record that failed before the first of the stages stays failed; what was in them begins its next
        attempt. Returns how many outcomes went, and their folders.
        """
        first = min(STAGES.index(stage) for stage in stages)
        later = ", ".join(f"'{stage}'" for stage in ("", *STAGES[first:]))
        database = self._database

        def forget() -> list[tuple]:
            rows = database.rows(f"SELECT folder FROM outcomes WHERE stage IN ({later})")
            undone = "SELECT DISTINCT id FROM steps WHERE id NOT IN (SELECT id FROM outcomes)"
            self.history.count_retries(f"{undone} AND stage IN ({later})")
            self._forget(f"stage IN ({later})")
            for table in sorted({table for stage in stages for table in _KEPT_BY[stage]}):
                database.execute(f"DELETE FROM {table}")
                if table == "fits":
                    database.execute("DELETE FROM run WHERE name = 'references'")
            return rows

        rows = database.together(forget)
        return len(rows), [row[0] for row in rows if row[0]]

    # ---- what the stages hand on ----

    def _keep(self, table: str, key: str, value: str) -> None:
        self._database.execute(
            f"INSERT INTO {table} VALUES (:key, :value)"
            " ON CONFLICT (ligand_key) DO UPDATE SET value = excluded.value",
            key=key,
            value=value,
        )

    def _kept(self, table: str, key: str) -> str | None:
        row = self._database.row(f"SELECT value FROM {table} WHERE ligand_key = :key", key=key)
        return None if row is None else str(row[0])

    def keep_prepared(self, id_: str, prepared: Prepared) -> None:
        """Keep a standardised record."""
        self._database.execute(
            "INSERT INTO prepared VALUES (:id, :key, :value)"
            " ON CONFLICT (id) DO UPDATE SET ligand_key = excluded.ligand_key, value = excluded.value",
            id=id_,
            key=prepared.ligand_key,
            value=to_json(prepared),
        )

    def prepared(self, id_: str) -> Prepared | None:
        """A standardised record; None when it was not reached yet."""
        row = self._database.row("SELECT value FROM prepared WHERE id = :id", id=id_)
        return None if row is None else prepared_from(row[0])

    def ligand_key(self, id_: str) -> str:
        """The key of a record's molecule; empty when it was not reached yet."""
        row = self._database.row("SELECT ligand_key FROM prepared WHERE id = :id", id=id_)
        return "" if row is None else str(row[0])

    def keep_prediction(self, ligand_key: str, prediction: Prediction) -> None:
        """Keep what the model gave a molecule."""
        self._keep("predictions", ligand_key, to_json(prediction))

    def prediction(self, ligand_key: str) -> Prediction | None:
        """What the model gave a molecule; None when it was not reached yet."""
        text = self._kept("predictions", ligand_key)
        return None if text is None else prediction_from(text)

    def keep_geometries(self, ligand_key: str, coords: FloatArray) -> None:
        """Keep the geometries (n_points, n_atoms, 3) of a ligand's QM calculations."""
        self._keep("geometries", ligand_key, json.dumps(coords.tolist()))

    def geometries(self, ligand_key: str) -> FloatArray | None:
        """The geometries of a ligand's QM calculations; None when there are none yet."""
        text = self._kept("geometries", ligand_key)
        return None if text is None else array_from(json.loads(text))

    def replace_fits(self, references: str, fits: dict[str, Fit]) -> None:
        """Keep the fits by ligand key together with the digest of the references they were tuned on."""

        def replace() -> None:
            self._database.execute("DELETE FROM fits")
            for key, fit in fits.items():
                self._keep("fits", key, to_json(fit))
            self.remember("references", references)

        self._database.together(replace)

    def fit(self, ligand_key: str) -> Fit | None:
        """What fine-tuning gave a ligand; None when it was not reached yet."""
        text = self._kept("fits", ligand_key)
        return None if text is None else fit_from(text)


def _outcome_of(row: tuple) -> Outcome:
    number, record, *others = row
    names = ("id", "folder", "status", "stage", "kind", "message", "seconds")
    return Outcome(record=number, name=json.loads(record)["name"], **dict(zip(names, others, strict=True)))
