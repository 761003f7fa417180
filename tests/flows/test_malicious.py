"""A library, a force field and weights made to do harm: refused with one row or one sentence each."""

import gzip
import json
import os
import pickle
import resource
import stat

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.flow_report import code
from models.weights import load_model_folder
from pipeline.errors import LigandError, SettingsError, UsageError
from pipeline.library import read_library
from pipeline.smirnoff import read_smirnoff

NAMES = [
    "../../etc/passwd",
    "/etc/shadow",
    "CON",
    "nul.txt",
    "a\x00b",
    "x" * 300,
    "Lig",
    "lig",
    "LIG",
    ".",
    "..",
    "-rf",
    "a/b\\c:d*e?f",
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "ＬＩＧ",
    "\x1b]0;owned\x07",
    "💥" * 60,
]


def test_names_that_are_paths_devices_or_markup_stay_names(tmp_path, model_folder):
    """Every record has its row and its own folder below the run's, on file systems without case too."""
    library = tmp_path / "names.smi"
    library.write_text("".join(f"C {name}\n" for name in NAMES), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ("assign", library, "--out", out, "--model", model_folder, "--formats", "openmm", "--json")
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["outcomes"]
    assert len(rows) == len(NAMES)
    folders = [row["folder"] for row in rows]
    assert len({folder.casefold() for folder in folders}) == len(NAMES)
    for folder in folders:
        assert (out / folder).resolve().is_relative_to(out.resolve())
        assert folder.isascii()
        assert len(folder.rsplit("/", 1)[1]) <= 60
    everything = {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)}
    assert everything == {library}


def test_nothing_that_a_run_makes_may_be_written_by_everybody(tmp_path, model_folder, monkeypatch):
    """With a umask of zero: folders and files below the run's are closed to others, its state unreadable."""
    library = tmp_path / "one.smi"
    library.write_text("C methane\n")
    out = tmp_path / "deep" / "out"
    before = os.umask(0)
    try:
        arguments = ("assign", library, "--out", out, "--model", model_folder, "--formats", "openmm")
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    for path in (out.parent, out, *out.rglob("*")):
        assert not path.stat().st_mode & stat.S_IWOTH, path
    assert stat.S_IMODE((out / ".parmflow").stat().st_mode) == 0o700


def test_a_line_of_gigabytes_is_one_row_and_little_memory(tmp_path):
    """A sparse line of 1 GB between two good ones: three records, less than 50 MB more memory."""
    path = tmp_path / "long.smi"
    with path.open("wb") as file:
        file.write(b"C first\n")
        file.seek(2**30, os.SEEK_CUR)
        file.write(b"\nCC last\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    records = list(read_library([path]))
    assert [record.name for record in records] == ["first", "long-2", "last"]
    assert "longer than" in records[1].problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_gzip_bomb_is_one_row(tmp_path):
    """300 MB of one letter in 300 kB: one good record, then one that says that reading stopped."""
    path = tmp_path / "bomb.smi.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b"C first\n")
        for _ in range(300):
            file.write(b"C" * 1_000_000)
    records = list(read_library([path]))
    assert [record.problem != "" for record in records] == [False, True]
    assert "expands more than" in records[1].problem


BOMB = """<?xml version="1.0"?>
<!DOCTYPE SMIRNOFF [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">]>
<SMIRNOFF version="0.3" aromaticity_model="OEAroModel_MDL">&d;</SMIRNOFF>"""
STEAL = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>
<SMIRNOFF version="0.3">&e;</SMIRNOFF>"""


@pytest.mark.parametrize("text", [BOMB, STEAL], ids=["entities within entities", "another file"])
def test_entities_in_a_force_field_are_refused_in_a_sentence(text):
    """No document type is read at all."""
    with pytest.raises((LigandError, UsageError), match="entity") as refused:
        read_smirnoff(text)
    assert len(str(refused.value).splitlines()) == 1
    assert "root:" not in str(refused.value)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harm-was-done",)


def test_weights_that_are_a_pickle_are_refused_and_not_run(tmp_path, model_folder, monkeypatch):
    """A pickle in the place of the weights, with its hash in the manifest: refused, nothing executed."""
    import hashlib
    import shutil

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "charges.safetensors").write_bytes(pickle.dumps(Harm()))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["charges.safetensors"] = hashlib.sha256(
        (folder / "charges.safetensors").read_bytes()
    ).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SettingsError):
        load_model_folder(folder)
    assert not (tmp_path / "harm-was-done").exists()


def test_a_name_in_a_report_of_the_ui_is_no_markup():
    """Backticks, tags and line ends of a file's name come out as text."""
    assert code("`<b>`\n# x") == "`'&lt;b&gt;' # x`"
