"""Looking after a store: is all of it whole, what is in it, and what can go."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.database import Database
from pipeline.schema import QMTask
from pipeline.store import leases
from pipeline.store.qm_store import QMStore
from pipeline.store.rows import Entry, entry_of, hash_row, spec_of

_USED = {"flags": "key = task_key", "molecules": "molecule = molecules.id", "specs": "spec = specs.id"}
"""when a row of these tables is in use"""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a check of every row found."""

    n_results: int
    damaged: tuple[tuple[str, str], ...]
    """key and what is wrong"""
    complaints: tuple[str, ...]
    """of SQLite about the file itself"""

    @property
    def is_whole(self) -> bool:
        """Nothing is wrong."""
        return not self.damaged and not self.complaints


def verify(store: QMStore) -> Verified:
    """Read every row: its hash, its values, and whether its key is that of what it holds; and the file."""
    damaged, n_results = [], 0
    for key, wrong in _examined(store):
        n_results += 1
        if wrong:
            damaged.append((key, wrong))
    complaints = tuple(_complaints(store.database)) if store.place.is_sqlite else ()
    return Verified(n_results=n_results, damaged=tuple(damaged), complaints=complaints)


def _complaints(database: Database) -> Iterator[str]:
    yield from (line for (line,) in database.rows("PRAGMA integrity_check") if line != "ok")
    yield from (f"foreign key: {row}" for row in database.rows("PRAGMA foreign_key_check"))


def _examined(store: QMStore) -> Iterator[tuple[str, str]]:
    """Every key with what is wrong with its row, or an empty text."""
    for row, content_hash, _ in store.rows():
        if hash_row(row) != content_hash:
            yield row[0], "does not match its hash"
            continue
        try:
            yield row[0], _wrong_with(entry_of(row))
        except (ValueError, TypeError) as error:
            yield row[0], str(error)


def _wrong_with(entry: Entry) -> str:
    """Compare the key with that of the task which the row describes; an optimisation's start is not kept."""
    record, atoms = entry.record, entry.composition
    if atoms is None or record.spec.driver == "optimise":
        return ""
    task = QMTask(
        ligand_key=record.ligand_key,
        atomic_numbers=atoms.atomic_numbers,
        coords=record.coords,
        total_charge=atoms.total_charge,
        spec=record.spec,
    )
    return "" if task.key == record.task_key else "is not the result of its key"


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was removed."""

    n_damaged: int
    n_dead_leases: int
    n_files: int
    """copies made before a change of version, and unfinished ones"""
    bytes_before: int
    bytes_after: int


def clean(store: QMStore, *, keep_backups: bool = True) -> Cleaned:
    """Remove what serves nobody: damaged results (they are computed again when they are wanted), leases of
    dead runners, molecules and specs without results, unfinished copies; then give the space back.
    """
    database, before = store.database, _size_of(store)
    damaged = verify(store).damaged
    with database.transaction():
        database.execute_many("DELETE FROM results WHERE key = :key", ({"key": key} for key, _ in damaged))
        n_dead = leases.remove_dead(database)
        for table, used in _USED.items():
            database.execute(f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM results WHERE {used})")
    files = _copies(store.place.path, keep_backups=keep_backups) if store.place.is_sqlite else []
    for path in files:
        path.unlink()
    if store.place.is_sqlite:
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        database.execute("VACUUM results, molecules, specs, flags, leases")
    return Cleaned(
        n_damaged=len(damaged),
        n_dead_leases=n_dead,
        n_files=len(files),
        bytes_before=before,
        bytes_after=_size_of(store),
    )


def _copies(path: Path, *, keep_backups: bool) -> list[Path]:
    """The copies beside a file that can go."""
    pattern = f"{path.name}.v*.backup*" if not keep_backups else f"{path.name}.v*.backup.*.tmp"
    return [copy for copy in path.parent.glob(pattern) if copy.stat().st_uid == os.getuid()]


def _size_of(store: QMStore) -> int:
    """Bytes on disk."""
    if store.place.is_sqlite:
        path = store.place.path
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    return store.database.number(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = CAST(current_schema AS regnamespace)"
    )


@dataclass(frozen=True, kw_only=True)
class LevelCount:
    """Results of one level, program and driver."""

    level: str
    program: str
    driver: str
    n_results: int
    n_molecules: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is in a store."""

    n_results: int
    n_molecules: int
    bytes: int
    levels: tuple[LevelCount, ...]
    attempts: tuple[tuple[str, int, float], ...]
    """kind of ending, how many, hours of wall time"""
    rungs: tuple[tuple[str, int], ...]
    """of the SCF ladder, how many converged there"""
    n_flagged: int
    n_leases: int
    """calculations that are being made now"""


def count(store: QMStore) -> Statistics:
    """Count what is in a store; no result is read."""
    database = store.database
    return Statistics(
        n_results=len(store),
        n_molecules=database.number("SELECT count(DISTINCT ligand_key) FROM molecules"),
        bytes=_size_of(store),
        levels=_levels(database),
        attempts=tuple(
            database.rows(
                "SELECT kind, count(*), sum(seconds) / 3600.0 FROM attempts GROUP BY kind ORDER BY 2 DESC"
            )
        ),
        rungs=tuple(
            database.rows(
                "SELECT rung, count(*) FROM attempts WHERE rung != '' GROUP BY rung ORDER BY 2 DESC"
            )
        ),
        n_flagged=database.number("SELECT count(DISTINCT task_key) FROM flags"),
        n_leases=leases.count(database),
    )


def _levels(database: Database) -> tuple[LevelCount, ...]:
    rows = database.rows(
        "SELECT document, count(*), count(DISTINCT ligand_key) FROM results "
        "JOIN molecules ON molecules.id = molecule JOIN specs ON specs.id = spec "
        "GROUP BY document ORDER BY 2 DESC"
    )
    return tuple(
        LevelCount(
            level=(spec := spec_of(document)).level,
            program=spec.program,
            driver=spec.driver,
            n_results=n_results,
            n_molecules=n_molecules,
        )
        for document, n_results, n_molecules in rows
    )
