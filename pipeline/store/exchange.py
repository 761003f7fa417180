"""What leaves a store and what comes into it, by the kind of the file."""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowException

from pipeline.errors import OutputFolderError, StoreError
from pipeline.store.parquet import is_store_export, read_parquet, write_parquet
from pipeline.store.qcschema import read_qcschema, write_qcschema
from pipeline.store.qm_store import QMStore
from pipeline.store.rows import Entry
from pipeline.store.tables import read_table

_TRANSACTION = 2000
"""results put at once; a killed import goes on after the last whole transaction"""
JSON_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
SUFFIXES = (".parquet", *JSON_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    n_written: int
    n_left_out: int
    """without elements, which QCSchema cannot do without"""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came in."""

    n_read: int
    n_new: int
    """others were there already; the first result of a task stays"""
    refused: tuple[str, ...]
    """one sentence per row or record that could not be used"""


def export_store(store: QMStore, path: Path, level: str | None = None) -> Exported:
    """Write all results, or those of one level of theory, as Parquet or as QCSchema JSON, by the suffix."""
    check_suffix(path)
    entries = (
        entry for _, entry in store.entries() if level is None or entry.record.spec.level == level.lower()
    )
    try:
        if path.name.endswith(".parquet"):
            return Exported(n_written=write_parquet(path, entries), n_left_out=0)
        n_written, n_left_out = write_qcschema(path, entries)
    except OSError as error:
        raise OutputFolderError(f"{path}: cannot be written: {error.strerror or error}") from error
    return Exported(n_written=n_written, n_left_out=n_left_out)


def import_file(store: QMStore, path: Path, on_progress: Callable[[int], None] = lambda _: None) -> Imported:
    """Take in our own export, a table of QM references, or QCSchema or QCArchive documents."""
    check_suffix(path)
    try:
        if path.name.endswith(".parquet"):
            source: Iterator[Entry | str] = read_parquet(path) if is_store_export(path) else read_table(path)
        else:
            source = read_qcschema(path)
        return import_entries(store, source, on_progress)
    except (OSError, EOFError, zlib.error, ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {error}", kind="import") from error


def import_entries(
    store: QMStore, source: Iterable[Entry | str], on_progress: Callable[[int], None] = lambda _: None
) -> Imported:
    """Put results into the store, some thousands at a time; texts among them are refusals."""
    n_read, n_new, refused = 0, 0, []
    source = iter(source)
    while some := list(itertools.islice(source, _TRANSACTION)):
        entries = [each for each in some if isinstance(each, Entry)]
        refused += [each for each in some if isinstance(each, str)]
        n_new += store.put_many(entries)
        n_read += len(entries)
        on_progress(n_read)
    return Imported(n_read=n_read, n_new=n_new, refused=tuple(refused))


def check_suffix(path: Path) -> None:
    """Raise OutputFolderError about a file whose kind cannot be seen from its name."""
    if not path.name.endswith(SUFFIXES):
        raise OutputFolderError(f"{path}: the name must end with one of {', '.join(SUFFIXES)}")
