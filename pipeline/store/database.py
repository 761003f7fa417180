"""The store's file: made private, opened, brought to this program's schema; SQLite's errors in our words."""

import contextlib
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from pipeline.errors import OutputFolderError, StoreError
from pipeline.store.rows import hash_molecule, hash_row

SCHEMA_VERSION = 2

BUSY_SECONDS = 30.0
_CACHE_KIB = 65536
"""SQLite's page cache; its own 2 MiB make random look-ups in a million keys read the disk"""
_MANY = 1000
"""rows between two steps of a migration"""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE specs (id INTEGER PRIMARY KEY, document TEXT NOT NULL UNIQUE)""",
    """CREATE TABLE molecules (
        id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, ligand_key TEXT NOT NULL, mapped_smiles TEXT,
        atomic_numbers BLOB, total_charge INTEGER
    )""",
    """CREATE INDEX molecules_by_ligand ON molecules (ligand_key)""",
    """CREATE TABLE results (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, molecule INTEGER NOT NULL REFERENCES molecules,
        spec INTEGER NOT NULL REFERENCES specs, coords BLOB NOT NULL, energy REAL NOT NULL, gradient BLOB,
        extras BLOB, provenance TEXT NOT NULL, content_hash TEXT NOT NULL
    )""",
    """CREATE INDEX results_by_molecule ON results (molecule)""",
    """CREATE TABLE attempts (
        number INTEGER PRIMARY KEY, task_key TEXT NOT NULL, started TEXT NOT NULL, seconds REAL NOT NULL,
        predicted_seconds REAL, kind TEXT NOT NULL, message TEXT NOT NULL, cpu_seconds REAL,
        n_cores INTEGER, rung TEXT NOT NULL DEFAULT '', host TEXT NOT NULL DEFAULT ''
    )""",
    """CREATE INDEX attempts_by_task ON attempts (task_key)""",
    """CREATE TABLE flags (
        number INTEGER PRIMARY KEY, task_key TEXT NOT NULL, flag TEXT NOT NULL, message TEXT NOT NULL,
        UNIQUE (task_key, flag)
    )""",
    # AUTOINCREMENT: a token is larger than every token before it, also after its row is gone.
    """CREATE TABLE leases (
        token INTEGER PRIMARY KEY AUTOINCREMENT, task_key TEXT NOT NULL UNIQUE, runner TEXT NOT NULL,
        expires REAL NOT NULL
    )""",
    """CREATE TRIGGER attempts_stay BEFORE UPDATE ON attempts
        BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END""",
    """CREATE TRIGGER attempts_are_kept BEFORE DELETE ON attempts
        BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END""",
    """CREATE TRIGGER results_stay BEFORE UPDATE ON results
        BEGIN SELECT RAISE(ABORT, 'results are immutable'); END""",
)


def open_database(path: Path) -> sqlite3.Connection:
    """Open or make the file at this program's schema version.

    An older store is copied to `<name>.v<version>.backup` beside it and then brought forward. Raises
    OutputFolderError when the path cannot be used at all, StoreError when it is no store or a newer one.
    """
    make_private(path)
    with told_apart(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        with told_apart(path):
            _prepare(connection, path)
    except StoreError:
        connection.close()
        raise
    return connection


class _Answer(Protocol):
    def close(self) -> None: ...


def use_wal(execute: Callable[[str], _Answer], is_busy: type[Exception] = sqlite3.OperationalError) -> None:
    """Switch a file to write-ahead logging by `execute`, waiting while another process has it locked.

    SQLite's own patience does not hold here: two that switch a new file at once would wait for each other,
    so one of them is told at once that it is locked. The answer is closed at once: while it is open SQLite
    takes the statement for one in progress and commits nothing.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            execute("PRAGMA journal_mode=WAL").close()
            return
        except is_busy as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    use_wal(connection.execute)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    found = _version(connection)
    if found is not None and found > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: store version {found} is newer than this program's {SCHEMA_VERSION}; "
            "update parmflow or give another --store",
            kind="version",
        )
    if found is not None and found < SCHEMA_VERSION:
        _back_up(connection, path, found)
    if found != SCHEMA_VERSION:
        with transaction(connection):
            _bring_forward(connection, _version(connection))  # another process may have been faster


def _version(connection: sqlite3.Connection) -> int | None:
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'meta'"
    if not connection.execute(query).fetchone()[0]:
        return None
    row = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    return None if row is None else int(row[0])


def _bring_forward(connection: sqlite3.Connection, found: int | None) -> None:
    """Make the schema, or move an older store's rows into it, one version after the other."""
    if found == SCHEMA_VERSION:
        return
    if found is None:
        for statement in _SCHEMA:
            connection.execute(statement)
    else:
        for version in range(found, SCHEMA_VERSION):
            _MIGRATIONS[version](connection)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))


def _from_1_to_2(connection: sqlite3.Connection) -> None:
    """Version 1 repeated molecule and spec in every result, knew no elements, and had no leases or flags.

    A row that does not match its old hash keeps it, so that it stays one that does not match.
    """
    for name in ("results", "attempts"):
        connection.execute(f"DROP TRIGGER {name}_stay")
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    for index in ("results_by_ligand", "attempts_by_task"):
        connection.execute(f"DROP INDEX {index}")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO specs (document) SELECT DISTINCT spec FROM old_results")
    keys = connection.execute("SELECT DISTINCT ligand_key FROM old_results").fetchall()
    connection.executemany(
        "INSERT INTO molecules (digest, ligand_key) VALUES (?, ?)",
        [(hash_molecule(("", key, None, None, None)), key) for (key,) in keys],
    )
    old = connection.execute(
        "SELECT key, ligand_key, spec, coords, energy, gradient, provenance, content_hash FROM old_results "
        "ORDER BY rowid"
    )
    while rows := old.fetchmany(_MANY):
        connection.executemany(
            "INSERT INTO results (key, molecule, spec, coords, energy, gradient, provenance, content_hash) "
            "SELECT ?, molecules.id, specs.id, ?, ?, ?, ?, ? FROM molecules, specs "
            "WHERE ligand_key = ? AND document = ?",
            [_moved(row) for row in rows],
        )
    connection.execute(
        "INSERT INTO attempts (number, task_key, started, seconds, predicted_seconds, kind, message) "
        "SELECT number, task_key, started, seconds, predicted_seconds, kind, message FROM old_attempts"
    )
    for name in ("results", "attempts"):
        connection.execute(f"DROP TABLE old_{name}")


def _moved(row: tuple) -> tuple:
    """Turn a row of version 1 into the values of the statement above."""
    *old, old_hash = row
    key, ligand_key, spec, coords, energy_bytes, gradient, provenance = old
    (energy,) = struct.unpack("<d", energy_bytes)
    whole = hash_row(tuple(old)) == old_hash
    new = (key, ligand_key, None, None, None, spec, coords, energy, gradient, None, provenance)
    content_hash = hash_row(new) if whole else old_hash
    return key, coords, energy, gradient, provenance, content_hash, ligand_key, spec


_MIGRATIONS = {1: _from_1_to_2}


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy the whole store beside itself; a copy that is there already is of the same version: it stays."""
    target = path.with_name(f"{path.name}.v{version}.backup")
    if target.exists():
        return
    unfinished = path.with_name(f"{target.name}.{os.getpid()}.tmp")
    make_private(unfinished)
    with contextlib.closing(sqlite3.connect(unfinished)) as copy:
        connection.backup(copy)
    unfinished.replace(target)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block's statements or none; nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def make_private(path: Path) -> None:
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
def told_apart(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error).lower()
        if "locked" in text or "busy" in text:
            raise StoreError(
                f"{path}: locked by another process for {BUSY_SECONDS:g} s", kind="locked", retryable=True
            ) from error
        if "full" in text or "disk i/o" in text:
            raise StoreError(
                f"{path}: the disk is full or fails ({error}); free space and repeat", kind="disk"
            ) from error
        if "malformed" in text or "not a database" in text:
            raise StoreError(f"{path}: not a readable store ({error})", kind="corrupt") from error
        raise StoreError(f"{path}: {error}") from error
