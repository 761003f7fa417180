import gzip
from pathlib import Path

import pytest

from pipeline.errors import LibraryFileError
from pipeline.library import ReadLimits, Record, read_library

DEFAULT = ReadLimits()
MOLBLOCK = """methane

  made by hand
  1  0  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
M  END
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def read(path: Path, limits: ReadLimits = DEFAULT) -> list[Record]:
    return list(read_library([path], limits))


def test_smi_lines_become_records(tmp_path):
    """Hand count: four records; blank lines, comments and the header are none; a missing name is made up."""
    text = "SMILES Name\nCCO ethanol\r\n\n# a comment\nCC\n\tnothing\nC[C@H](F)Cl |&1:1| a mixture\n"
    records = read(write(tmp_path, "few.smi", text))
    assert [(r.number, r.name, r.text) for r in records] == [
        (1, "ethanol", "CCO"),
        (2, "few-2", "CC"),
        (3, "nothing", ""),
        (4, "a mixture", "C[C@H](F)Cl |&1:1|"),
    ]


@pytest.mark.parametrize("name", ["a.smi.gz", "A.SMI", "b.smi"])
def test_compression_and_case_of_the_suffix_do_not_matter(tmp_path, name):
    """Symmetry: the same text, compressed or not, gives the same records."""
    assert [(r.name, r.text) for r in read(write(tmp_path, name, "CCO ethanol\n"))] == [("ethanol", "CCO")]


def test_numbers_run_on_over_several_files(tmp_path):
    """Hand count: the second file's first record follows the first file's last."""
    paths = [
        write(tmp_path, "one.smi", "C\nCC\n"),
        write(tmp_path, "two.csv", "id,Smiles\nthree,CCC\n"),
        write(tmp_path, "three.sdf", MOLBLOCK + "$$$$\n"),
    ]
    found = [(r.number, r.name, r.source, r.form) for r in read_library(paths)]
    assert found == [
        (1, "one-1", "one.smi:1", "smiles"),
        (2, "one-2", "one.smi:2", "smiles"),
        (3, "three", "two.csv:1", "smiles"),
        (4, "methane", "three.sdf:1", "molblock"),
    ]


def test_sdf_blocks_keep_title_and_drop_data_fields(tmp_path):
    """The molblock comes out byte for byte up to M  END, with blank title lines in place."""
    untitled = MOLBLOCK.replace("methane", "", 1)
    text = MOLBLOCK + "> <a>\n1\n\n$$$$\n" + untitled + "$$$$\n\n\n"
    records = read(write(tmp_path, "two.sdf.gz", text))
    assert [r.text for r in records] == [MOLBLOCK, untitled]
    assert [r.name for r in records] == ["methane", "two-2"]


def test_every_block_of_a_broken_sdf_is_one_record(tmp_path):
    """Count in = count out: empty, foreign and truncated blocks are records with a problem."""
    text = MOLBLOCK + "$$$$\n$$$$\nnot a molblock\n$$$$\n" + MOLBLOCK[:60]
    records = read(write(tmp_path, "broken.sdf", text))
    assert [bool(r.problem) for r in records] == [False, True, True, True]
    assert [r.number for r in records] == [1, 2, 3, 4]


def test_csv_columns_are_found_by_name(tmp_path):
    """Quoted cells, another delimiter, missing cells and a torn quote: one record per line."""
    text = 'Name;canonical_SMILES;SMILES\n"a;b";C;CC\nshort;C\nbad;"C;CC\n\n'
    records = read(write(tmp_path, "some.csv", text))
    assert (records[0].name, records[0].text) == ("a;b", "CC")
    assert [bool(r.problem) for r in records] == [False, True, True]


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ('"Compound, batch",SMILES,Parent_SMILES,Name', '"x, 1",CC(=O)[O-],CC(=O)O,acetate'),
        ("SMILES;Name, comment;id", "CC(=O)[O-];x, y;acetate"),
        ("Batch, comment, date;Parent_SMILES;SMILES;Name", "x;CC(=O)O;CC(=O)[O-];acetate"),
        ('"Batch", "SMILES", "Name"', '"1, x", "CC(=O)[O-]", "acetate"'),
        ("canonical_SMILES\tID", "CC(=O)[O-]\tacetate"),
    ],
)
def test_a_csv_header_is_split_as_its_rows_are(tmp_path, header, line):
    """Delimiters inside cells shift no column, quoted or of another kind: never the parent for the ligand."""
    records = read(write(tmp_path, "shift.csv", f"{header}\n{line}\n"))
    assert [(r.text, r.name, r.problem) for r in records] == [("CC(=O)[O-]", "acetate", "")]


def test_a_row_whose_columns_are_shifted_is_refused(tmp_path):
    """A comma that should stand in quotes puts carbon monoxide's name into the SMILES column; blank cells at
    the end, and commas behind a first column of SMILES, shift nothing."""
    records = read(write(tmp_path, "a.csv", "Name,SMILES\nfumes,CO,[C-]#[O+]\nmethanol,CO,,\n"))
    assert [(r.name, bool(r.problem)) for r in records] == [("a-1", True), ("methanol", False)]
    assert "double quotes" in records[0].problem
    (record,) = read(write(tmp_path, "b.csv", "SMILES,Comment\nCO,cheap,toxic\n"))
    assert (record.text, record.problem) == ("CO", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "C"),
        ("a.csv", "name,structure\na,C\n"),
        ("a.csv", ""),
        ("missing.smi", None),
        ("folder.smi", "folder"),
    ],
)
def test_unusable_files_are_refused_before_the_first_record(tmp_path, name, text):
    """The good first file yields nothing when a later one is unusable."""
    good = write(tmp_path, "good.smi", "C\n")
    path = tmp_path / name
    if text == "folder":
        path.mkdir()
    elif text is not None:
        path.write_text(text)
    with pytest.raises(LibraryFileError, match=name.split(".")[0]):
        read_library([good, path])


def test_no_file_and_a_false_gzip_are_refused(tmp_path):
    """A .gz that is none is a file error, like no file at all."""
    (tmp_path / "false.smi.gz").write_text("CCO\n")
    for paths in ([], [tmp_path / "false.smi.gz"]):
        with pytest.raises(LibraryFileError):
            read_library(paths)


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_an_overlong_line_is_one_record_with_a_problem(tmp_path, end):
    """The lines around it are read as ever; lines of limit - 1, limit and limit + 1 bytes with their end."""
    limits = ReadLimits(line_bytes=20)
    lines = ["C" * 19, "C" * 20, "C" * 200, "CC end"]
    records = read(write(tmp_path, "long.smi", end.join(lines) + end), limits)
    assert [bool(r.problem) for r in records] == [False, True, True, False]
    assert records[-1].name == "end"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "CCO a\n\nCCN b\nCCC c\n"),
        ("a.csv.gz", "SMILES,Name\nCCO,a\n\nCCN,b\nCCC,c\n"),
        ("a.sdf", MOLBLOCK + "> <a>\n1\n\n$$$$\n" + MOLBLOCK + "$$$$\n"),
    ],
)
def test_any_line_end_gives_the_same_records(tmp_path, name, text, end):
    """Of Unix, Windows, old Macs, and Windows twice over; wherever the limit cuts what is read at once."""
    expected = read(write(tmp_path, name, text))
    assert len(expected) == text.count("$$$$") or len(expected) == 3
    path = write(tmp_path, name, text.replace("\n", end))
    assert read(path) == expected
    for line_bytes in range(60, 75):
        assert read(path, ReadLimits(line_bytes=line_bytes)) == expected


def test_an_overlong_block_is_one_record_with_a_problem(tmp_path):
    """An SDF block with endless data is refused, the next one read."""
    limits = ReadLimits(record_bytes=1000)
    text = MOLBLOCK + "> <a>\n" + "x\n" * 2000 + "$$$$\n" + MOLBLOCK + "$$$$\n"
    records = read(write(tmp_path, "long.sdf", text), limits)
    assert [bool(r.problem) for r in records] == [True, False]
    assert len(records[0].text) < 100


@pytest.mark.parametrize("name", ["bomb.smi.gz", "bomb.sdf.gz", "bomb.csv.gz"])
def test_a_gzip_bomb_ends_in_one_record(tmp_path, name):
    """Twenty megabytes of one letter in 20 kB: reading stops and says so, memory stays at one line."""
    start = b"SMILES\n" if "csv" in name else b""
    path = write(tmp_path, name, start + b"C" * 20_000_000)
    records = read(path, ReadLimits(gz_free_bytes=100_000))
    assert len(records) == 1
    assert "expands" in records[0].problem


def test_a_gzip_cut_short_gives_what_was_whole(tmp_path):
    """The records before the cut are read; one more says that the file breaks off."""
    path = write(tmp_path, "cut.smi.gz", "".join(f"{'C' * n} n{n}\n" for n in range(1, 200)))
    path.write_bytes(path.read_bytes()[:-30])
    records = read(path)
    assert "breaks off" in records[-1].problem
    assert not any(r.problem for r in records[:-1])


def test_bytes_that_are_no_text_do_not_stop_the_batch(tmp_path):
    """Latin-1, NUL and a byte-order mark: as many records as lines."""
    records = read(write(tmp_path, "odd.smi", b"\xef\xbb\xbfCCO caf\xe9\nC\x00C nul\nCC plain\n"))
    assert [r.text for r in records] == ["CCO", "C\x00C", "CC"]
