"""DOOR: library files (.smi, .sdf, .mol2, .csv, each also .gz) -> records, streaming, one Record per record.

Reading never stops at a bad record: what cannot be read comes out as a Record whose `problem` says why, so
that it ends as a Failure under its own number. What makes a file unusable as a whole (missing, unknown
suffix, a CSV without a SMILES column) is a LibraryFileError before the first record.

Lines end with LF, CR LF or, as on old Macs, CR. What counts as a record:
- `.smi`: every line but blank lines and lines starting with `#`; a first line `SMILES ...` is a header. The
  SMILES ends at the first blank or tab, the rest is the name (a CXSMILES extension `|...|` is kept).
- `.sdf`: every block up to `$$$$`, and a last block without `$$$$` unless it is blank. The title line is the
  name.
- `.mol2`: every block from `@<TRIPOS>MOLECULE` to the next; the line below it is the name.
- `.csv`: every line after the header but blank ones (comma, semicolon or tab); a quoted cell may not run over
  several lines.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from pipeline.errors import LibraryFileError

_QUOTED_CHARS = 80
_NAME_COLUMNS = ("name", "id", "title")
_DELIMITERS = (",", ";", "\t")
_PARTS = re.compile(rb"[^\r\n]*(?:\r{0,2}\n|\r)|[^\r\n]+")
"""lines with their ends; a Windows end that is converted again becomes `\\r\\r\\n`"""
_MOL2_BLOCK = "@<TRIPOS>MOLECULE"
_MOL2_SECTIONS = (_MOL2_BLOCK, "@<TRIPOS>ATOM", "@<TRIPOS>BOND")


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """What one record or one compressed file may cost, against inputs made to exhaust memory."""

    line_bytes: int = 65_536
    record_bytes: int = 4_000_000
    """of one SDF or mol2 block, all its fields included"""
    gz_ratio: float = 200.0
    """decompressed over compressed size; chemistry compresses 5- to 20-fold"""
    gz_free_bytes: int = 64_000_000
    """decompressed bytes allowed whatever the ratio"""


Form = Literal["smiles", "molblock", "mol2"]

CHARGE_FIELD = "atom.dprop.PartialCharge"
"""of an SDF record: a partial charge per atom, in the order of the molblock"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One entry of a library, as text; nothing of it is understood yet."""

    number: int
    """1-based, over all files of the library"""
    name: str
    source: str
    """file name and the record's number in it"""
    form: Form
    text: str
    """SMILES, the molblock up to `M  END` and the fields we know, or the sections of a mol2 that we know; the
    first characters only when there is a problem"""
    problem: str = ""
    """why the text cannot be read; empty when it may be tried"""

    def field(self, name: str) -> str:
        """Content of a data field of an SDF record, its lines joined by blanks; empty where there is none."""
        _, _, rest = self.text.partition(f"\n> <{name}>\n")
        return " ".join(rest.partition("\n\n")[0].splitlines())


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A record without its numbers."""

    name: str
    form: Form
    text: str
    problem: str = ""


class _TooExpandedError(Exception):
    """A compressed file that grows beyond its allowance."""


def read_library(paths: Sequence[Path], limits: ReadLimits = ReadLimits()) -> Iterator[Record]:
    """Stream the records of several library files in order; raises LibraryFileError before the first record.

    Names default to `<stem>-<number in the file>`. As many records come out as go in.
    """
    if not paths:
        raise LibraryFileError("no library file was given; name at least one .smi, .sdf, .mol2 or .csv file")
    for path in paths:
        _check_file(path, limits)
    return _number_records(paths, limits)


def _number_records(paths: Sequence[Path], limits: ReadLimits) -> Iterator[Record]:
    number = 0
    for path in paths:
        stem = Path(path.name.removesuffix(".gz")).stem
        for n, entry in enumerate(_read_entries(path, limits), start=1):
            number += 1
            yield Record(
                number=number,
                name=entry.name.strip() or f"{stem}-{n}",
                source=f"{path.name}:{n}",
                form=entry.form,
                text=entry.text,
                problem=entry.problem,
            )


def _read_entries(path: Path, limits: ReadLimits) -> Iterator[_Entry]:
    """All entries of one file; where its bytes end in disorder, a last entry says so."""
    read = _READERS[_suffix(path)]
    problem = ""
    with path.open("rb") as raw:
        try:
            yield from read(_bounded_lines(path, raw, limits), limits)
        except (OSError, EOFError, zlib.error) as error:
            problem = f"{path.name} breaks off here ({error}); nothing after this record could be read"
        except _TooExpandedError:
            problem = (
                f"{path.name} expands more than {limits.gz_ratio:g}-fold; reading stopped here. "
                "Decompress it yourself if you trust it"
            )
    if problem:
        yield _Entry(name="", form=_FORMS.get(_suffix(path), "smiles"), text="", problem=problem)


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _check_file(path: Path, limits: ReadLimits) -> None:
    """Raise LibraryFileError unless the file can be opened and has a form we read."""
    if path.is_dir():
        raise LibraryFileError(f"{path}: a folder; give the library files in it")
    if _suffix(path) not in _READERS:
        raise LibraryFileError(
            f"{path}: unknown form; parmflow reads .smi, .sdf, .mol2 and .csv, each also as .gz"
        )
    if not path.exists():
        raise LibraryFileError(f"{path}: no such file")
    if not path.is_file():
        raise LibraryFileError(f"{path}: not a file")
    try:
        with path.open("rb") as raw:
            header = next(_bounded_lines(path, raw, limits), None)
    except _TooExpandedError:
        header = None
    except (OSError, EOFError, zlib.error) as error:
        raise LibraryFileError(f"{path}: cannot be read ({error})") from error
    if _suffix(path) == ".csv" and _find_columns(header) is None:
        raise LibraryFileError(
            f"{path}: no column named SMILES in the header {(header or '')[:_QUOTED_CHARS]!r}"
        )


def _bounded_lines(path: Path, raw: BinaryIO, limits: ReadLimits) -> Iterator[str | None]:
    """Decoded lines without their ends; None stands for a line longer than the limit."""
    compressed = path.name.lower().endswith(".gz")
    stream = gzip.GzipFile(fileobj=raw) if compressed else raw
    allowed = limits.gz_free_bytes + limits.gz_ratio * path.stat().st_size if compressed else float("inf")
    n_read, line = 0, b""
    while piece := stream.readline(limits.line_bytes):
        if piece.endswith(b"\r"):
            piece += stream.readline(limits.line_bytes)  # the limit may fall between "\r" and "\n"
        n_read += len(piece)
        if n_read > allowed:
            raise _TooExpandedError
        for part in _PARTS.findall(piece):
            line = (line + part)[: limits.line_bytes + 1]  # more need not be kept to know it too long
            if part.endswith((b"\n", b"\r")):
                yield _decode(line, limits)
                line = b""
    if line:
        yield _decode(line, limits)


def _decode(line: bytes, limits: ReadLimits) -> str | None:
    if len(line) > limits.line_bytes:
        return None
    return line.decode("utf-8", "replace").lstrip("\ufeff").rstrip("\r\n")


def _too_long(limits: ReadLimits) -> str:
    return f"the line is longer than {limits.line_bytes} bytes"


def _read_smi(lines: Iterable[str | None], limits: ReadLimits) -> Iterator[_Entry]:
    for n, line in enumerate(lines):
        if line is None:
            yield _Entry(name="", form="smiles", text="", problem=_too_long(limits))
        elif line.strip() and not line.startswith("#") and not (n == 0 and _is_smi_header(line)):
            text, name = _split_smi_line(line)
            yield _Entry(name=name, form="smiles", text=text)


def _is_smi_header(line: str) -> bool:
    return line.split()[0].casefold() == "smiles"


def _split_smi_line(line: str) -> tuple[str, str]:
    """SMILES (with its CXSMILES extension, if any) and name; a line that starts with a tab has no SMILES."""
    if line.startswith("\t"):
        return "", line.strip()
    smiles, _, rest = line.strip().replace("\t", " ").partition(" ")
    rest = rest.strip()
    if rest.startswith("|") and "|" in rest[1:]:
        extension, _, name = rest[1:].partition("|")
        return f"{smiles} |{extension}|", name
    return smiles, rest


def _read_sdf(lines: Iterable[str | None], limits: ReadLimits) -> Iterator[_Entry]:
    lines = iter(lines)
    while (entry := _read_block(lines, limits)) is not None:
        yield entry


def _read_block(lines: Iterator[str | None], limits: ReadLimits) -> _Entry | None:
    """Keep a block up to `M  END` and the fields we know; None when nothing but blank lines is left."""
    block: list[str] = []
    fields: list[str] = []
    n_bytes, complete, closed, wanted, problem = 0, False, False, False, ""
    for line in lines:
        if line is not None and line.startswith("$$$$"):
            closed = True
            break
        n_bytes += limits.line_bytes if line is None else len(line) + 1
        if n_bytes > limits.record_bytes:
            problem = f"the record is longer than {limits.record_bytes} bytes"
        elif line is None and not complete:
            problem = _too_long(limits)
        elif line is not None and not complete:
            block.append(line)
            complete = line.startswith("M  END")
        elif line is not None and (wanted or f"<{CHARGE_FIELD}>" in line):
            fields.append(line if wanted else f"> <{CHARGE_FIELD}>")
            wanted = bool(line.strip())
    if not closed and not problem and not any(line.strip() for line in block):
        return None
    return _molblock_entry(block + fields, complete, problem)


def _molblock_entry(block: list[str], complete: bool, problem: str) -> _Entry:
    name = block[0] if block else ""
    if not problem and not complete:
        problem = "the molblock has no M  END: the record is truncated or not a molblock"
    text = "\n".join(block) + "\n"
    return _Entry(name=name, form="molblock", text=text[:_QUOTED_CHARS] if problem else text, problem=problem)


def _read_mol2(lines: Iterable[str | None], limits: ReadLimits) -> Iterator[_Entry]:
    """Keep the sections we know of every block; what stands before the first block is a record of its own."""
    block: list[str] = []
    n_bytes, wanted, problem = 0, True, ""
    for line in chain(lines, [_MOL2_BLOCK]):  # the last block is closed as the others are
        if line is not None and line.startswith(_MOL2_BLOCK):
            if problem or any(kept.strip() and not kept.startswith("#") for kept in block):
                yield _mol2_entry(block, problem)
            block, n_bytes, problem = [], 0, ""
        if line is not None and line.startswith("@<TRIPOS>"):
            wanted = line.strip() in _MOL2_SECTIONS
        n_bytes += limits.line_bytes if line is None else len(line) + 1
        if n_bytes > limits.record_bytes:
            problem = f"the record is longer than {limits.record_bytes} bytes"
        elif line is None and wanted:
            problem = _too_long(limits)
        elif line is not None and wanted:
            block.append(line)


def _mol2_entry(block: list[str], problem: str) -> _Entry:
    text, is_block = "\n".join(block) + "\n", bool(block) and block[0].startswith(_MOL2_BLOCK)
    if not problem and not is_block:
        problem = f"text before the first {_MOL2_BLOCK}"
    name = block[1].strip(" *") if is_block and len(block) > 1 else ""
    return _Entry(name=name, form="mol2", text=text[:_QUOTED_CHARS] if problem else text, problem=problem)


@dataclass(frozen=True, kw_only=True)
class _Columns:
    delimiter: str
    n_columns: int
    smiles: int
    name: int | None


def _find_columns(header: str | None) -> _Columns | None:
    """Delimiter (of those that give a SMILES column, the one with the most) and columns; None without one."""
    found = [columns for delimiter in _DELIMITERS if (columns := _columns_by(header or "", delimiter))]
    return max(found, key=lambda columns: columns.n_columns, default=None)


def _columns_by(header: str, delimiter: str) -> _Columns | None:
    try:
        cells = [cell.strip().casefold() for cell in _split_csv_line(header, delimiter)]
    except csv.Error:
        return None
    smiles = [
        i
        for i, cell in enumerate(cells)
        if cell.endswith("smiles") and not set(cell).intersection(_DELIMITERS)
    ]
    if not smiles:
        return None
    exact = [i for i in smiles if cells[i] == "smiles"]
    names = [cells.index(name) for name in _NAME_COLUMNS if name in cells]
    return _Columns(
        delimiter=delimiter,
        n_columns=len(cells),
        smiles=(exact or smiles)[0],
        name=names[0] if names else None,
    )


def _split_csv_line(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True), [])


def _read_csv(lines: Iterable[str | None], limits: ReadLimits) -> Iterator[_Entry]:
    lines = iter(lines)
    columns = _find_columns(next(lines, None))
    if columns is None:
        return
    for line in lines:
        if line is None:
            yield _Entry(name="", form="smiles", text="", problem=_too_long(limits))
        elif line.strip():
            yield _csv_entry(line, columns)


def _csv_entry(line: str, columns: _Columns) -> _Entry:
    try:
        cells = _split_csv_line(line, columns.delimiter)
        problem = _shift(cells, columns)
    except csv.Error as error:
        problem = f"not a line of CSV ({error})"
    if problem:
        return _Entry(name="", form="smiles", text=line[:_QUOTED_CHARS], problem=problem)
    name = cells[columns.name] if columns.name is not None and columns.name < len(cells) else ""
    if columns.smiles >= len(cells):
        return _Entry(name=name, form="smiles", text="", problem="the line has no SMILES cell")
    return _Entry(name=name, form="smiles", text=cells[columns.smiles].strip())


def _shift(cells: Sequence[str], columns: _Columns) -> str:
    """Why the SMILES may stand in another column than the header says; empty when it may not."""
    if columns.smiles == 0 or not any(cell.strip() for cell in cells[columns.n_columns :]):
        return ""
    return (
        f"the line has {len(cells)} cells, the header {columns.n_columns}; "
        f"put a cell that holds {columns.delimiter!r} into double quotes"
    )


_READERS: dict[str, Callable[[Iterable[str | None], ReadLimits], Iterator[_Entry]]] = {
    ".smi": _read_smi,
    ".sdf": _read_sdf,
    ".mol2": _read_mol2,
    ".csv": _read_csv,
}
_FORMS: dict[str, Form] = {".sdf": "molblock", ".mol2": "mol2"}
"""the others hold SMILES"""
