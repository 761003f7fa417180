"""DOOR: the QM store, finished calculations by content in SQLite or PostgreSQL, never computed twice.

    results    one row per finished task, immutable; arrays as raw little-endian float64; a hash per row
    molecules, specs    what many results share
    attempts   every try, successful or not, append-only
    flags      what was found wrong with a result afterwards, append-only
    leases     who computes what just now (`pipeline.store.leases`)
    meta       the schema's version

What `put` returned from survives a power cut, and a writer killed at any moment leaves either the whole row
or nothing. Several processes may use one store, in PostgreSQL on several machines.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from pipeline.database import Backend, Database, Place, without_nul
from pipeline.errors import StoreError
from pipeline.schema import QMRecord
from pipeline.store import attempts as history
from pipeline.store import leases
from pipeline.store.attempts import Attempt, Timing
from pipeline.store.database import open_database
from pipeline.store.leases import Lease, Refused
from pipeline.store.rows import Composition, Entry, entry_of, hash_molecule, hash_row, row_of

_MANY = 500
"""rows read or written at once; SQLite takes at least 999 parameters"""
_FROM = "results JOIN molecules ON molecules.id = results.molecule JOIN specs ON specs.id = results.spec"
_FLAGS: Mapping[Backend, str] = {
    "sqlite": "(SELECT group_concat(flag, ' ') FROM flags WHERE task_key = key)",
    "postgresql": "(SELECT string_agg(flag, ' ' ORDER BY number) FROM flags WHERE task_key = key)",
}
_ADD_MOLECULE = (
    "INSERT INTO molecules (digest, ligand_key, mapped_smiles, atomic_numbers, total_charge) "
    "VALUES (:digest, :ligand_key, :mapped_smiles, :atomic_numbers, :total_charge) ON CONFLICT DO NOTHING"
)
_ADD_SPEC = "INSERT INTO specs (document) VALUES (:document) ON CONFLICT DO NOTHING"
_ADD_RESULT = (
    "INSERT INTO results (key, molecule, spec, coords, energy, gradient, extras, provenance, content_hash) "
    "VALUES (:key, (SELECT id FROM molecules WHERE digest = :digest), "
    "(SELECT id FROM specs WHERE document = :document), "
    ":coords, :energy, :gradient, :extras, :provenance, :content_hash) ON CONFLICT DO NOTHING"
)
_NAMES = (
    *("key", "ligand_key", "mapped_smiles", "atomic_numbers", "total_charge", "document"),
    *("coords", "energy", "gradient", "extras", "provenance"),
)
"""of the values of a row"""


class QMStore:
    """The finished calculations of one place; open it with `with QMStore(path) as store`."""

    def __init__(self, place: Place | Path) -> None:
        """Open or make the store, at a path in a file; StoreError when it is no store or of a newer version.

        Raises OutputFolderError when the path cannot be used at all.
        """
        self.place = Place.of_file(place) if isinstance(place, Path) else place
        self.database = open_database(self.place)

    def __enter__(self) -> "QMStore":
        """Hand out the open store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go; what was put stays."""
        self.database.close()

    def __len__(self) -> int:
        """Count the finished calculations."""
        return self.database.number("SELECT count(*) FROM results")

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
                    f"{self.place}: the row {row[0][:12]} does not match its hash; "
                    "`parmflow store verify` lists the damage, `parmflow store gc` removes it",
                    kind="corrupt",
                )
            yield row[0], entry_of(row, flags)

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[tuple[tuple, str, str]]:
        """Rows as they stand in the store, unchecked, each with its hash and its flags."""
        if keys is not None:
            wanted = list(dict.fromkeys(keys))
            for start in range(0, len(wanted), _MANY):
                part = wanted[start : start + _MANY]
                values = {f"key{n}": key for n, key in enumerate(part)}
                names = ", ".join(f":{name}" for name in values)
                yield from self._rows_where(f"key IN ({names})", **values).values()
            return
        start, last = 0, self.database.number("SELECT coalesce(max(number), 0) FROM results")
        while start < last:
            between = "results.number > :start AND results.number <= :last"
            page = self._rows_where(between, start=start, last=last)
            yield from page.values()
            start = max(page, default=last)

    def _rows_where(self, condition: str, **values: object) -> dict[int, tuple[tuple, str, str]]:
        """At most so many rows as a page has, by number."""
        rows = self.database.rows(
            f"SELECT results.number, {', '.join(_NAMES)}, content_hash, {_FLAGS[self.place.backend]} "
            f"FROM {_FROM} WHERE {condition} ORDER BY results.number LIMIT {_MANY}",
            **values,
        )
        return {row[0]: (row[1:-2], row[-2], row[-1] or "") for row in rows}

    def put(self, record: QMRecord, composition: Composition | None = None) -> bool:
        """Keep a record for good; False when its task is already there (the first one stays)."""
        return self.put_many([Entry(record=record, composition=composition)]) == 1

    def put_many(self, entries: Iterable[Entry]) -> int:
        """Keep records in one transaction, all or none; return how many were not there yet."""
        entries, n_new = iter(entries), 0
        with self.database.transaction():
            while some := list(islice(entries, _MANY)):
                n_new += _insert(self.database, some)
        return n_new

    def flag(self, task_key: str, flag: str, message: str) -> None:
        """Note what was found wrong with a result: a word and a sentence; the first of a word stays."""
        self.database.execute(
            "INSERT INTO flags (task_key, flag, message) VALUES (:task_key, :flag, :message) "
            "ON CONFLICT DO NOTHING",
            task_key=task_key,
            flag=flag,
            message=without_nul(message),
        )

    # ---- who computes what ----

    def claim(self, task_key: str, runner: str) -> Lease | Refused:
        """Take the right to compute a task, unless it is done or another living runner has it."""
        return self.database.passing(lambda: leases.claim(self.database, task_key, runner))

    def renew(self, held: Iterable[Lease]) -> None:
        """Say that the runner of these leases lives."""
        held = tuple(held)
        self.database.passing(lambda: leases.renew(self.database, held))

    def finish(self, lease: Lease, entry: Entry, attempt: Attempt) -> None:
        """Keep a result with its attempt and give the lease back; StoreError of kind lease if it was lost."""

        def write() -> None:
            if not leases.end(self.database, lease):
                raise StoreError(
                    f"the lease of task {lease.task_key[:12]} was lost to another runner: nothing is written",
                    kind="lease",
                    retryable=True,
                )
            _insert(self.database, [entry])
            history.add(self.database, attempt)

        self.database.together(write)

    def fail(self, lease: Lease, attempt: Attempt) -> None:
        """Note a failed attempt and give the lease back; one that was lost needs no giving back."""

        def write() -> None:
            history.add(self.database, attempt)
            leases.end(self.database, lease)

        self.database.together(write)

    def release(self, held: Iterable[Lease]) -> None:
        """Give leases back without a result, so that others can go on at once."""
        held = tuple(held)

        def write() -> None:
            for lease in held:
                leases.end(self.database, lease)

        self.database.passing(write)

    # ---- the history ----

    def add_attempt(self, attempt: Attempt) -> None:
        """Append one try to the history."""
        self.database.together(lambda: history.add(self.database, attempt))

    def attempts(self, task_key: str | None = None, after: int = 0) -> tuple[Attempt, ...]:
        """List the tries of one task, or all, oldest first; those after a number of `last_attempt`."""
        return history.read(self.database, task_key, after)

    def last_attempt(self) -> int:
        """Number of the latest try; 0 before the first."""
        return history.last_number(self.database)

    def timings(self, host: str, n_latest: int = 2000) -> tuple[Timing, ...]:
        """The latest successful tries on a machine beside what was predicted for them."""
        return history.timings(self.database, host, n_latest)


def _insert(database: Database, entries: Sequence[Entry]) -> int:
    """Insert results, and their molecules and specs where they are new; how many were not there yet.

    Call it inside a transaction.
    """
    rows = [
        dict(zip(_NAMES, row, strict=True)) | {"digest": hash_molecule(row), "content_hash": hash_row(row)}
        for row in map(row_of, entries)
    ]
    database.execute_many(_ADD_MOLECULE, {row["digest"]: row for row in rows}.values())
    database.execute_many(_ADD_SPEC, {row["document"]: row for row in rows}.values())
    return database.execute_many(_ADD_RESULT, rows)
