"""Delivery: complete and proved, or nothing; an older delivery stays until the new one is whole."""

import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline.deliver
from pipeline.deliver import CHECK_FILE, FILES, deliver, sweep
from pipeline.errors import DiskError, ParametersError, VerificationError
from pipeline.readback.energies import TERMS
from pipeline.schema import Parametrized
from pipeline.verify import ENERGY_TOLERANCE, build_reference

FORMATS = ("offxml", "amber", "openmm", "gromacs", "lammps")
ALL = {kind.name for kind in FILES} | {CHECK_FILE}


@pytest.fixture
def parametrized(build_ligand, parametrize_ligand) -> Parametrized:
    return parametrize_ligand(build_ligand("CC(=O)[O-]"))


def _listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_delivery_holds_the_named_files(parametrized, tmp_path):
    """What is returned is what is there, and nothing is left beside it."""
    folder = tmp_path / "shard" / parametrized.id
    names = deliver(parametrized, folder, FORMATS)
    assert set(names) == ALL == _listing(folder)
    assert _listing(folder.parent) == {parametrized.id}


def test_what_is_warmed_up_is_delivered_without_another_import(parametrized, tmp_path):
    """The sample of the warm-up is delivered itself; afterwards a child finds every module loaded."""
    deliver(pipeline.deliver._acetamide(), tmp_path / "sample", FORMATS)
    (tmp_path / "ligand.pkl").write_bytes(pickle.dumps(parametrized))
    program = (
        "import pickle, sys; from pathlib import Path; from pipeline.deliver import deliver, warm_up; "
        "folder = Path(sys.argv[1]); ligand = pickle.loads((folder / 'ligand.pkl').read_bytes()); "
        "warm_up(); before = set(sys.modules); deliver(ligand, folder / 'x', sys.argv[2:]); "
        "print(sorted(set(sys.modules) - before))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path), *FORMATS]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    answer = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout == "[]\n"
    assert _listing(tmp_path) == {"sample", "ligand.pkl", "x"}


def test_only_asked_formats_are_written(parametrized, tmp_path):
    """SDF, JSON and the check come always; the engines' files only when asked for."""
    names = deliver(parametrized, tmp_path / "x", ("openmm",))
    assert set(names) == {
        "ligand.sdf",
        "openmm_system.xml",
        "openmm_forcefield.xml",
        "parameters.json",
        "check.json",
    }


def test_without_coordinates_the_topologies_come(parametrized, tmp_path):
    """No geometry: no SDF and no inpcrd, and the topologies are proved all the same."""
    names = deliver(replace(parametrized, coords=None), tmp_path / "x", FORMATS)
    assert set(names) == ALL - {kind.name for kind in FILES if kind.needs_coords}
    assert "ligand.top" in names


def test_check_json_holds_the_proof(parametrized, tmp_path):
    """Reports of each file at each geometry, the direct system's, and the largest difference per term."""
    deliver(parametrized, tmp_path / "x", FORMATS)
    check = json.loads((tmp_path / "x" / CHECK_FILE).read_text())
    weighed = [entry for entry in check["checks"] if "reports" in entry and "note" not in entry]
    assert {"ligand.offxml", "ligand.prmtop", "openmm_system.xml"} <= {entry["file"] for entry in weighed}
    assert {entry["file"] for entry in check["checks"]} == {kind.name for kind in FILES if kind.check}
    reference = build_reference(parametrized)
    for geometry, report in enumerate(reference.reports):
        for term in TERMS:
            assert check["reference"][geometry][term] == pytest.approx(getattr(report, term), rel=1e-12)
            read = [entry["reports"][geometry][term] for entry in weighed]
            largest = max(abs(energy - getattr(report, term)) for energy in read)
            assert largest <= check["largest_difference"][term] + 1e-15  # the sum of two roundings
    assert max(check["largest_difference"].values()) < ENERGY_TOLERANCE


def test_unphysical_parameters_deliver_nothing(parametrized, tmp_path):
    """The guard stands before the first file."""
    bond_k = np.full_like(parametrized.parameters.bond_k, np.nan)
    broken = replace(parametrized, parameters=replace(parametrized.parameters, bond_k=bond_k))
    with pytest.raises(ParametersError):
        deliver(broken, tmp_path / "x", FORMATS)
    assert _listing(tmp_path) == set()


def _lying_files(write) -> tuple:
    """The table of files with the prmtop's writer replaced."""
    return tuple(replace(kind, write=write) if kind.name == "ligand.prmtop" else kind for kind in FILES)


def test_a_file_that_disagrees_is_not_delivered(
    parametrized, build_ligand, parametrize_ligand, tmp_path, monkeypatch
):
    """Another ligand's numbers in one file: VerificationError, no folder, and an old one untouched."""
    deliver(parametrized, tmp_path / "old", FORMATS)
    before = (tmp_path / "old" / "ligand.prmtop").read_bytes()
    other = parametrize_ligand(build_ligand("CC(=O)[O-]"), seed=9)
    write = next(kind.write for kind in FILES if kind.name == "ligand.prmtop")
    monkeypatch.setattr(pipeline.deliver, "FILES", _lying_files(lambda _: write(other)))
    for name in ("new", "old"):
        with pytest.raises(
            VerificationError, match=r"ligand.prmtop read by OpenMM .* energy .* direct system"
        ):
            deliver(parametrized, tmp_path / name, FORMATS)
    assert _listing(tmp_path) == {"old"}
    assert (tmp_path / "old" / "ligand.prmtop").read_bytes() == before


def test_a_full_disk_leaves_nothing_and_can_be_retried(parametrized, tmp_path, monkeypatch):
    """ENOSPC in the middle: an error of the disk that says what to do, and no half folder."""

    def write(_: Parametrized) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline.deliver, "FILES", _lying_files(write))
    with pytest.raises(DiskError, match="free space") as caught:
        deliver(parametrized, tmp_path / "x", FORMATS)
    assert caught.value.kind == "disk"
    assert caught.value.retryable
    assert _listing(tmp_path) == set()


def test_a_file_that_the_system_cuts_short_is_not_delivered(parametrized, tmp_path):
    """A real limit on file size (2 kB) stops the write; nothing under the final name, nothing beside it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DiskError, match="File too large"):
            deliver(parametrized, tmp_path / "x", FORMATS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _listing(tmp_path) == set()


def test_a_folder_that_cannot_be_made_is_named(parametrized, tmp_path):
    """A file where the parent folder should be: the sentence names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file/x"):
        deliver(parametrized, tmp_path / "file" / "x", FORMATS)


def test_leftovers_of_a_dead_process_are_swept(parametrized, tmp_path):
    """The next delivery removes them; folders of other ligands stay."""
    for name in (".x.12345.tmp", ".xy.12345.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ligand.sdf").write_text("half")
    deliver(parametrized, tmp_path / "x", ("openmm",))
    assert _listing(tmp_path) == {"x", ".xy.12345.tmp"}
    sweep(tmp_path / "xy")
    assert _listing(tmp_path) == {"x"}


def test_delivery_replaces_where_names_cannot_be_swapped(parametrized, tmp_path, monkeypatch):
    """On file systems without an atomic swap the new delivery still takes the old one's place."""
    deliver(parametrized, tmp_path / "x", FORMATS)
    monkeypatch.setattr(pipeline.deliver, "_exchange", lambda *_: False)
    names = deliver(parametrized, tmp_path / "x", ("openmm",))
    assert _listing(tmp_path / "x") == set(names)
    assert _listing(tmp_path) == {"x"}


def _deliver_for_ever(versions: tuple[Parametrized, Parametrized], folder: Path) -> None:
    while True:
        for version in versions:
            deliver(version, folder, FORMATS)


def _version(folder: Path) -> set[str]:
    """The versions that the files of a folder name."""
    return {
        json.loads((folder / name).read_text())["provenance"]["model"]
        for name in (CHECK_FILE, "parameters.json")
    } | {"one" if "model: one" in (folder / "ligand.offxml").read_text() else "two"}


def test_kill_nine_leaves_the_old_or_the_new(parametrized, tmp_path):
    """A process that replaces one delivery by another is killed ten times: the folder is always whole."""
    versions = tuple(replace(parametrized, provenance=(("model", name),)) for name in ("one", "two"))
    folder = tmp_path / "x"
    deliver(versions[0], folder, FORMATS)
    generator = np.random.default_rng(1)
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        process = fork.Process(target=_deliver_for_ever, args=(versions, folder))
        process.start()
        time.sleep(float(generator.uniform(0.05, 0.35)))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert _listing(folder) == ALL
        assert len(_version(folder)) == 1
    deliver(versions[0], folder, FORMATS)
    assert _listing(tmp_path) == {"x"}
