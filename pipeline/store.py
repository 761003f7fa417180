"""DOOR: the QM store, one SQLite file of finished calculations by content, never computed twice.

    results    one row per finished task, immutable; arrays as raw little-endian float64; a hash per row
    attempts   every try, successful or not, append-only
    meta       the schema's version

WAL with synchronous FULL: what `put` returned from survives a power cut, and a writer killed at any moment
leaves either the whole row or nothing. Several processes may use one file.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import OutputFolderError, StoreError
from pipeline.schema import FloatArray, QMRecord, QMSpec

SCHEMA_VERSION = 1

_BUSY_SECONDS = 30.0
_MANY = 500
"""keys per query; SQLite takes at least 999 parameters"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, ligand_key TEXT NOT NULL, spec TEXT NOT NULL, coords BLOB NOT NULL,
    energy BLOB NOT NULL, gradient BLOB, provenance TEXT NOT NULL, content_hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS results_by_ligand ON results (ligand_key);
CREATE TABLE IF NOT EXISTS attempts (
    number INTEGER PRIMARY KEY, task_key TEXT NOT NULL, started TEXT NOT NULL, seconds REAL NOT NULL,
    predicted_seconds REAL, kind TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_by_task ON attempts (task_key);
CREATE TRIGGER IF NOT EXISTS attempts_stay BEFORE UPDATE ON attempts
    BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END;
CREATE TRIGGER IF NOT EXISTS results_stay BEFORE UPDATE ON results
    BEGIN SELECT RAISE(ABORT, 'results are immutable'); END;
"""
_COLUMNS = "key, ligand_key, spec, coords, energy, gradient, provenance"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a task, however it ended."""

    task_key: str
    seconds: float
    """wall-clock"""
    predicted_seconds: float | None
    """what the cost model said before, uncalibrated"""
    kind: str
    """ok, or the kind of the QMError"""
    message: str = ""
    started: str = ""
    """UTC, ISO 8601; stamped by the store"""


class QMStore:
    """The finished calculations of one file; open it with `with QMStore(path) as store`."""

    def __init__(self, path: Path) -> None:
        """Open or make the store; StoreError when it is no store or of a newer version.

        Raises OutputFolderError when the path cannot be used at all.
        """
        self.path = Path(path)
        _make_private(self.path)
        with _told_apart(self.path):
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with _told_apart(self.path):
                self._prepare()
        except StoreError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        found = self._version()
        if found is not None and found > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: store version {found} is newer than this program's {SCHEMA_VERSION}; "
                "update parmflow or give another --store",
                kind="version",
            )
        if found is None:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),)
            )

    def _version(self) -> int | None:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'meta'"
        if not self._connection.execute(query).fetchone()[0]:
            return None
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
        return None if row is None else int(row[0])

    def __enter__(self) -> "QMStore":
        """Hand out the open store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file; what was put stays."""
        self._connection.close()

    def __len__(self) -> int:
        """Count the finished calculations."""
        with _told_apart(self.path):
            return int(self._connection.execute("SELECT count(*) FROM results").fetchone()[0])

    def get(self, key: str) -> QMRecord | None:
        """Look up a task's record by `QMTask.key`; None when it was never finished."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, QMRecord]:
        """Look up many records; keys without one are absent. StoreError when a row fails its hash."""
        wanted, found = list(dict.fromkeys(keys)), {}
        with _told_apart(self.path):
            for start in range(0, len(wanted), _MANY):
                part = wanted[start : start + _MANY]
                marks = ",".join("?" * len(part))
                query = f"SELECT {_COLUMNS}, content_hash FROM results WHERE key IN ({marks})"
                for *row, content_hash in self._connection.execute(query, part):
                    found[row[0]] = self._record_of(tuple(row), content_hash)
        return found

    def put(self, record: QMRecord) -> bool:
        """Keep a record for good; False when its task is already there (the first one stays)."""
        row = _row_of(record)
        statement = f"INSERT OR IGNORE INTO results ({_COLUMNS}, content_hash) VALUES (?,?,?,?,?,?,?,?)"
        with _told_apart(self.path):
            return self._connection.execute(statement, (*row, _hash_of(row))).rowcount == 1

    def add_attempt(self, attempt: Attempt) -> None:
        """Append one try to the history."""
        statement = (
            "INSERT INTO attempts (task_key, started, seconds, predicted_seconds, kind, message) "
            "VALUES (?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?), ?, ?, ?, ?)"
        )
        row = (
            attempt.task_key,
            f"-{attempt.seconds:.3f} seconds",
            attempt.seconds,
            attempt.predicted_seconds,
            attempt.kind,
            attempt.message,
        )
        with _told_apart(self.path):
            self._connection.execute(statement, row)

    def attempts(self, task_key: str | None = None) -> tuple[Attempt, ...]:
        """List the tries of one task, or all, oldest first."""
        query = "SELECT task_key, started, seconds, predicted_seconds, kind, message FROM attempts"
        where, values = (" WHERE task_key = ?", (task_key,)) if task_key else ("", ())
        with _told_apart(self.path):
            rows = self._connection.execute(query + where + " ORDER BY number", values).fetchall()
        return tuple(
            Attempt(
                task_key=row[0],
                started=row[1],
                seconds=row[2],
                predicted_seconds=row[3],
                kind=row[4],
                message=row[5],
            )
            for row in rows
        )

    def time_ratios(self, program: str, n_latest: int = 200) -> tuple[float, ...]:
        """List actual over predicted seconds of a program's latest successful tries."""
        query = (
            "SELECT attempts.seconds / predicted_seconds FROM attempts JOIN results ON key = task_key "
            "WHERE kind = 'ok' AND predicted_seconds > 0 AND json_extract(spec, '$.program') = ? "
            "ORDER BY number DESC LIMIT ?"
        )
        with _told_apart(self.path):
            return tuple(row[0] for row in self._connection.execute(query, (program, n_latest)))

    def _record_of(self, row: tuple, content_hash: str) -> QMRecord:
        if _hash_of(row) != content_hash:
            raise StoreError(f"{self.path}: the row {row[0][:12]} does not match its hash", kind="corrupt")
        spec = json.loads(row[2])
        keywords = tuple((name, value) for name, value in spec.pop("keywords"))
        return QMRecord(
            task_key=row[0],
            ligand_key=row[1],
            spec=QMSpec(**spec, keywords=keywords),
            coords=_from_blob(row[3]),
            energy=float(np.frombuffer(row[4], "<f8")[0]),
            gradient=None if row[5] is None else _from_blob(row[5]),
            provenance=tuple((name, value) for name, value in json.loads(row[6])),
        )


def _row_of(record: QMRecord) -> tuple:
    return (
        record.task_key,
        record.ligand_key,
        json.dumps(asdict(record.spec), sort_keys=True),
        _to_blob(record.coords),
        _to_blob(np.array(record.energy)),
        None if record.gradient is None else _to_blob(record.gradient),
        json.dumps(record.provenance),
    )


def _hash_of(row: tuple) -> str:
    """Hash every column with its length in front, so that no byte can move to a neighbour unnoticed."""
    digest = hashlib.sha256()
    for value in row:
        data = b"" if value is None else value if isinstance(value, bytes) else str(value).encode()
        digest.update(f"{-1 if value is None else len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def _to_blob(array: FloatArray) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _from_blob(data: bytes) -> FloatArray:
    return np.frombuffer(data, dtype="<f8").reshape(-1, 3).astype(np.float64)


def _make_private(path: Path) -> None:
    """Make folder and file so that other users can neither read nor write them; a link is not followed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise OutputFolderError(
            f"{path}: cannot be opened: {error.strerror}; give another --store"
        ) from error
    mode = os.fstat(descriptor).st_mode
    os.close(descriptor)
    if mode & stat.S_IWOTH:
        raise StoreError(f"{path}: every user may write it; run `chmod o-w` on it", kind="permissions")


@contextlib.contextmanager
def _told_apart(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error).lower()
        if "locked" in text or "busy" in text:
            raise StoreError(
                f"{path}: locked by another process for {_BUSY_SECONDS:g} s", kind="locked", retryable=True
            ) from error
        if "full" in text or "disk i/o" in text:
            raise StoreError(
                f"{path}: the disk is full or fails ({error}); free space and repeat", kind="disk"
            ) from error
        if "malformed" in text or "not a database" in text:
            raise StoreError(f"{path}: not a readable store ({error})", kind="corrupt") from error
        raise StoreError(f"{path}: {error}") from error
