"""DOOR: the QM store, one SQLite file of finished calculations by content, never computed twice.

    results    one row per finished task, immutable; arrays as raw little-endian float64; a hash per row
    molecules, specs    what many results share
    attempts   every try, successful or not, append-only
    flags      what was found wrong with a result afterwards, append-only
    leases     who computes what just now (`pipeline.store.leases`)
    meta       the schema's version

WAL with synchronous FULL: what `put` returned from survives a power cut, and a writer killed at any moment
leaves either the whole row or nothing. Several processes may use one file.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.schema import QMRecord
from pipeline.store import attempts as history
from pipeline.store import leases
from pipeline.store.attempts import Attempt, Timing
from pipeline.store.database import open_database, told_apart, transaction
from pipeline.store.leases import Lease, Refused
from pipeline.store.rows import Composition, Entry, entry_of, hash_molecule, hash_row, row_of

_MANY = 500
"""keys per query; SQLite takes at least 999 parameters"""
_ROW = (
    "key, ligand_key, mapped_smiles, atomic_numbers, total_charge, document, coords, energy, gradient, "
    "extras, provenance, content_hash"
)
_FROM = "results JOIN molecules ON molecules.id = results.molecule JOIN specs ON specs.id = results.spec"
_FLAGS = "(SELECT group_concat(flag, ' ') FROM flags WHERE task_key = key)"


class QMStore:
    """The finished calculations of one file; open it with `with QMStore(path) as store`."""

    def __init__(self, path: Path) -> None:
        """Open or make the store; StoreError when it is no store or of a newer version.

        Raises OutputFolderError when the path cannot be used at all.
        """
        self.path = Path(path)
        self._connection = open_database(self.path)

    def __enter__(self) -> "QMStore":
        """Hand out the open store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file; what was put stays."""
        self._connection.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, its errors told apart."""
        with told_apart(self.path):
            yield self._connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction: all of the block or nothing of it."""
        with told_apart(self.path), transaction(self._connection):
            yield self._connection

    @contextlib.contextmanager
    def _passing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that need not survive a power cut, as no holder of a lease does: unsynced."""
        with self.reading() as connection:
            connection.execute("PRAGMA synchronous=NORMAL")
            try:
                with transaction(connection):
                    yield connection
            finally:
                connection.execute("PRAGMA synchronous=FULL")

    def __len__(self) -> int:
        """Count the finished calculations."""
        with self.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])

    # ---- results ----

    def get(self, key: str) -> QMRecord | None:
        """Look up a task's record by `QMTask.key`; None when it was never finished."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, QMRecord]:
        """Look up many records; keys without one are absent. StoreError when a row fails its hash."""
        return {key: entry.record for key, entry in self.entries(keys)}

    def entries(self, keys: Iterable[str] | None = None) -> Iterator[tuple[str, Entry]]:
        """Results with their atoms by key: these, or all in the order in which they came."""
        for row, content_hash, flags in self.rows(keys):
            if hash_row(row) != content_hash:
                raise StoreError(
                    f"{self.path}: the row {row[0][:12]} does not match its hash; "
                    "`parmflow store verify` lists the damage, `parmflow store gc` removes it",
                    kind="corrupt",
                )
            yield row[0], entry_of(row, flags)

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[tuple[tuple, str, str]]:
        """Rows as they stand in the file, unchecked, each with its hash and its flags."""
        if keys is not None:
            wanted = list(dict.fromkeys(keys))
            for start in range(0, len(wanted), _MANY):
                part = wanted[start : start + _MANY]
                yield from self._rows_where(f"key IN ({','.join('?' * len(part))})", part)
            return
        with self.reading() as connection:
            last = connection.execute("SELECT coalesce(max(number), 0) FROM results").fetchone()[0]
        for start in range(0, last, _MANY):
            between = (start, min(start + _MANY, last))
            yield from self._rows_where("results.number > ? AND results.number <= ?", between)

    def _rows_where(self, condition: str, values: Iterable[object]) -> Iterator[tuple[tuple, str, str]]:
        query = f"SELECT {_ROW}, {_FLAGS} FROM {_FROM} WHERE {condition} ORDER BY results.number"
        with self.reading() as connection:
            rows = connection.execute(query, tuple(values)).fetchall()
        for *row, content_hash, flags in rows:
            yield tuple(row), content_hash, flags or ""

    def put(self, record: QMRecord, composition: Composition | None = None) -> bool:
        """Keep a record for good; False when its task is already there (the first one stays)."""
        return self.put_many([Entry(record=record, composition=composition)]) == 1

    def put_many(self, entries: Iterable[Entry]) -> int:
        """Keep records in one transaction, all or none; return how many were not there yet."""
        with self.writing() as connection:
            return sum(_insert(connection, entry) for entry in entries)

    def flag(self, task_key: str, flag: str, message: str) -> None:
        """Note what was found wrong with a result: a word and a sentence; the first of a word stays."""
        with self.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO flags (task_key, flag, message) VALUES (?, ?, ?)",
                (task_key, flag, message),
            )

    # ---- who computes what ----

    def claim(self, task_key: str, runner: str) -> Lease | Refused:
        """Take the right to compute a task, unless it is done or another living runner has it."""
        with self._passing() as connection:
            return leases.claim(connection, task_key, runner)

    def renew(self, held: Iterable[Lease]) -> None:
        """Say that the runner of these leases lives."""
        with self._passing() as connection:
            leases.renew(connection, held)

    def finish(self, lease: Lease, entry: Entry, attempt: Attempt) -> None:
        """Keep a result with its attempt and give the lease back; StoreError of kind lease if it was lost."""
        with self.writing() as connection:
            leases.end(connection, lease)
            _insert(connection, entry)
            history.add(connection, attempt)

    def fail(self, lease: Lease, attempt: Attempt) -> None:
        """Note a failed attempt and give the lease back; one that was lost needs no giving back."""
        with self.writing() as connection:
            history.add(connection, attempt)
            with contextlib.suppress(StoreError):
                leases.end(connection, lease)

    def release(self, held: Iterable[Lease]) -> None:
        """Give leases back without a result, so that others can go on at once."""
        with self._passing() as connection:
            for lease in held:
                with contextlib.suppress(StoreError):
                    leases.end(connection, lease)

    # ---- the history ----

    def add_attempt(self, attempt: Attempt) -> None:
        """Append one try to the history."""
        with self.writing() as connection:
            history.add(connection, attempt)

    def attempts(self, task_key: str | None = None, after: int = 0) -> tuple[Attempt, ...]:
        """List the tries of one task, or all, oldest first; those after a number of `last_attempt`."""
        with self.reading() as connection:
            return history.read(connection, task_key, after)

    def last_attempt(self) -> int:
        """Number of the latest try; 0 before the first."""
        with self.reading() as connection:
            return history.last_number(connection)

    def timings(self, host: str, n_latest: int = 2000) -> tuple[Timing, ...]:
        """The latest successful tries on a machine beside what was predicted for them."""
        with self.reading() as connection:
            return history.timings(connection, host, n_latest)


def _insert(connection: sqlite3.Connection, entry: Entry) -> int:
    """Insert one result, and its molecule and spec where they are new; 0 when its task is there."""
    row = row_of(entry)
    key, ligand_key, mapped_smiles, numbers, charge, document, *rest = row
    digest = hash_molecule(row)
    connection.execute(
        "INSERT OR IGNORE INTO molecules (digest, ligand_key, mapped_smiles, atomic_numbers, total_charge) "
        "VALUES (?, ?, ?, ?, ?)",
        (digest, ligand_key, mapped_smiles, numbers, charge),
    )
    connection.execute("INSERT OR IGNORE INTO specs (document) VALUES (?)", (document,))
    return connection.execute(
        "INSERT OR IGNORE INTO results "
        "(key, molecule, spec, coords, energy, gradient, extras, provenance, content_hash) "
        "SELECT ?, molecules.id, specs.id, ?, ?, ?, ?, ?, ? FROM molecules, specs "
        "WHERE digest = ? AND document = ?",
        (key, *rest, hash_row(row), digest, document),
    ).rowcount
