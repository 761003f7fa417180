"""DOOR: the ledger of a run, one SQLite file in its output folder that knows what became of each record.

Everything a run must not do twice is written here at once and in full (WAL, synchronous FULL), so that the
same command after Ctrl-C, a crash or a power cut goes on where it stood. What it holds hangs on two keys: a
record's id, which contains the hash of its text, and a ligand's key, which all records of one molecule share.

The rule when a folder is used again: where the settings, the model or the programs differ, nothing that was
computed is kept; where only the library differs, the records that are still there with the same text are.
"""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import OutputFolderError
from pipeline.library import Record
from pipeline.outcome import Failure, Outcome
from pipeline.schema import FloatArray, Ligand, MMParameters

LEDGER_VERSION = "1"

_AFTER_REFERENCES = "('', 'fine-tune', 'deliver')"
"""Stages of outcomes that come after the QM references; a delivered ligand's stage is empty."""

_TABLES = """
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, id TEXT UNIQUE, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prepared (id TEXT PRIMARY KEY, ligand_key TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS geometries (ligand_key TEXT PRIMARY KEY, coords TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fits (ligand_key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    id TEXT PRIMARY KEY, folder TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL, kind TEXT NOT NULL,
    message TEXT NOT NULL, seconds REAL NOT NULL, traceback TEXT NOT NULL, retryable INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spent (id TEXT PRIMARY KEY, seconds REAL NOT NULL);
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A standardised record: its ligand, and the canonical ligand on which everything is computed."""

    ligand: Ligand
    """in the record's atom order"""
    canonical: Ligand
    """the same molecule in canonical order; but for the name equal for all records of one molecule"""
    order: tuple[int, ...]
    """atom i of `canonical` is atom order[i] of `ligand`"""
    ligand_key: str
    pose: FloatArray | None
    """(n_atoms, 3) angstrom, the record's own coordinates in its order; None for SMILES and 2-D records"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What fine-tuning gave one ligand; errors are on conformers it was not tuned on."""

    parameters: MMParameters
    """in canonical atom order"""
    kept: str
    """`fine-tuned`, or `shipped` where tuning made the ligand worse"""
    n_qm: int
    """reference calculations used"""
    n_qm_failed: int
    energy_rmse_before: float
    """kcal/mol"""
    energy_rmse_after: float
    force_rmse_before: float
    """kcal/mol/angstrom"""
    force_rmse_after: float


class Ledger:
    """The state of one run; safe to open from several threads or processes, each with its own Ledger."""

    def __init__(self, path: Path) -> None:
        try:
            self._database = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._database.executescript(
                f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; BEGIN IMMEDIATE; {_TABLES} COMMIT;"
            )
        except sqlite3.DatabaseError as error:
            raise OutputFolderError(
                f"{path}: not a readable ledger ({error}); choose another folder"
            ) from error
        if self.recall("ledger version", LEDGER_VERSION) != LEDGER_VERSION:
            raise OutputFolderError(
                f"{path} was written by another version of parmflow; choose another folder"
            )
        self.remember("ledger version", LEDGER_VERSION)

    def close(self) -> None:
        """Close the file; what was written is already safe."""
        self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing of it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # ---- facts about the run ----

    def remember(self, name: str, value: str) -> None:
        """Keep a fact about the run."""
        self._database.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, value))

    def recall(self, name: str, default: str = "") -> str:
        """Give back a fact about the run."""
        row = self._database.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else default

    # ---- the library ----

    def take_in(self, records: Iterable[tuple[str, Record]]) -> tuple[int, int, list[str]]:
        """Make these records, each with its id, the run's library, in one transaction.

        Returns how many are new, how many are gone, and the folders that the gone ones had.
        """
        with self._transaction() as database:
            database.execute("CREATE TEMP TABLE before AS SELECT id FROM records")
            database.execute("DELETE FROM records")
            database.executemany(
                "INSERT INTO records VALUES (?, ?, ?)",
                ((record.number, id_, json.dumps(dataclasses.asdict(record))) for id_, record in records),
            )
            n_new = self._count("records WHERE id NOT IN (SELECT id FROM before)")
            n_gone = self._count("before WHERE id NOT IN (SELECT id FROM records)")
            gone = "FROM outcomes WHERE id NOT IN (SELECT id FROM records)"
            folders = [row[0] for row in database.execute(f"SELECT folder {gone} AND folder != ''")]
            for table in ("outcomes", "prepared", "spent"):
                database.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT id FROM records)")
            database.execute("DROP TABLE before")
        return n_new, n_gone, folders

    def _count(self, rest: str) -> int:
        return int(self._database.execute(f"SELECT COUNT(*) FROM {rest}").fetchone()[0])

    def n_records(self) -> int:
        """Number of records in the run's library."""
        return self._count("records")

    def record(self, number: int) -> tuple[str, Record]:
        """One record of the library with its id."""
        row = self._database.execute("SELECT id, record FROM records WHERE number = ?", (number,)).fetchone()
        return row[0], Record(**json.loads(row[1]))

    # ---- outcomes ----

    def settle(self, outcome: Outcome, failure: Failure | None = None) -> None:
        """Write what became of a record."""
        told = (failure.traceback, failure.retryable) if failure else ("", False)
        self._database.execute(
            "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                outcome.id,
                outcome.folder,
                outcome.status,
                outcome.stage,
                outcome.kind,
                outcome.message,
                outcome.seconds,
                *told,
            ),
        )

    def outcomes(self) -> list[Outcome]:
        """The outcomes there are, in input order."""
        rows = self._database.execute(
            "SELECT number, record, id, folder, status, stage, kind, message, seconds"
            " FROM records JOIN outcomes USING (id) ORDER BY number"
        )
        return [
            Outcome(
                record=row[0],
                name=json.loads(row[1])["name"],
                id=row[2],
                folder=row[3],
                status=row[4],
                stage=row[5],
                kind=row[6],
                message=row[7],
                seconds=row[8],
            )
            for row in rows
        ]

    def numbers(self, *, status: str) -> list[int]:
        """Record numbers with this status (`ok`, `failed` or `undone`), in input order."""
        rows = self._database.execute(
            "SELECT number FROM records LEFT JOIN outcomes USING (id)"
            " WHERE COALESCE(status, 'undone') = ? ORDER BY number",
            (status,),
        )
        return [row[0] for row in rows]

    def in_tuning(self) -> list[tuple[int, str]]:
        """Record number and ligand key of what is not failed, or failed only after fine-tuning began.

        What is tuned must not depend on how far delivery got. In input order.
        """
        rows = self._database.execute(
            "SELECT number, ligand_key FROM records"
            " LEFT JOIN outcomes USING (id) LEFT JOIN prepared USING (id)"
            f" WHERE COALESCE(stage, '') IN {_AFTER_REFERENCES} ORDER BY number"
        )
        return rows.fetchall()

    def traceback(self, id_: str) -> str:
        """The traceback of a failure; empty when there is none."""
        row = self._database.execute("SELECT traceback FROM outcomes WHERE id = ?", (id_,)).fetchone()
        return str(row[0]) if row else ""

    def n_retryable(self) -> int:
        """Number of failures that trying again may cure."""
        return self._count("outcomes WHERE status = 'failed' AND retryable")

    def forget_retryable_failures(self) -> int:
        """Drop the failures that trying again may cure: their records are undone again; returns how many."""
        where = "status = 'failed' AND retryable"
        with self._transaction() as database:
            database.execute(f"DELETE FROM spent WHERE id IN (SELECT id FROM outcomes WHERE {where})")
            return database.execute(f"DELETE FROM outcomes WHERE {where}").rowcount

    def forget_deliveries(self) -> None:
        """Drop the outcomes that rest on fine-tuning, delivered or not."""
        self._database.execute(f"DELETE FROM outcomes WHERE stage IN {_AFTER_REFERENCES}")

    def forget_everything(self) -> list[str]:
        """Drop all that was computed, keep the library; returns the folders there were."""
        with self._transaction() as database:
            folders = [row[0] for row in database.execute("SELECT folder FROM outcomes WHERE folder != ''")]
            for table in ("outcomes", "prepared", "geometries", "fits", "spent"):
                database.execute(f"DELETE FROM {table}")
            database.execute("DELETE FROM run WHERE name = 'references'")
        return folders

    def spend(self, id_: str, seconds: float) -> float:
        """Add to the time that a record has cost; returns the sum."""
        row = self._database.execute(
            "INSERT INTO spent VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET seconds = spent.seconds + excluded.seconds RETURNING seconds",
            (id_, seconds),
        ).fetchone()
        return float(row[0])

    # ---- what the stages hand on ----

    def keep_prepared(self, id_: str, prepared: Prepared) -> None:
        """Keep a standardised record."""
        self._database.execute(
            "INSERT OR REPLACE INTO prepared VALUES (?, ?, ?)", (id_, prepared.ligand_key, _to_json(prepared))
        )

    def prepared(self, id_: str) -> Prepared | None:
        """A standardised record; None when it was not reached yet."""
        row = self._database.execute("SELECT value FROM prepared WHERE id = ?", (id_,)).fetchone()
        if row is None:
            return None
        value = json.loads(row[0])
        return Prepared(
            ligand=Ligand(**value["ligand"]),
            canonical=Ligand(**value["canonical"]),
            order=tuple(value["order"]),
            ligand_key=value["ligand_key"],
            pose=None if value["pose"] is None else np.array(value["pose"], dtype=np.float64),
        )

    def keep_geometries(self, ligand_key: str, coords: FloatArray) -> None:
        """Keep the geometries (n_points, n_atoms, 3) of a ligand's QM calculations."""
        self._database.execute(
            "INSERT OR REPLACE INTO geometries VALUES (?, ?)", (ligand_key, json.dumps(coords.tolist()))
        )

    def geometries(self, ligand_key: str) -> FloatArray | None:
        """The geometries of a ligand's QM calculations; None when there are none yet."""
        row = self._database.execute(
            "SELECT coords FROM geometries WHERE ligand_key = ?", (ligand_key,)
        ).fetchone()
        return None if row is None else np.array(json.loads(row[0]), dtype=np.float64)

    def replace_fits(self, references: str, fits: dict[str, Fit]) -> None:
        """Keep the fits by ligand key together with the digest of the references they were tuned on."""
        with self._transaction() as database:
            database.execute("DELETE FROM fits")
            database.executemany(
                "INSERT INTO fits VALUES (?, ?)", [(key, _to_json(fit)) for key, fit in fits.items()]
            )
            database.execute("INSERT OR REPLACE INTO run VALUES ('references', ?)", (references,))

    def fit(self, ligand_key: str) -> Fit | None:
        """What fine-tuning gave a ligand; None when it was not reached yet."""
        row = self._database.execute("SELECT value FROM fits WHERE ligand_key = ?", (ligand_key,)).fetchone()
        if row is None:
            return None
        value = json.loads(row[0])
        return Fit(**{**value, "parameters": MMParameters(**value["parameters"])})


def _to_json(value: object) -> str:
    """A dataclass as JSON; floats keep every bit, since repr does."""
    return json.dumps(dataclasses.asdict(value), default=_plain)  # type: ignore[call-overload]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in the ledger")
