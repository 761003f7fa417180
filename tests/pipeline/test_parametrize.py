"""The straight line of a batch: one outcome per record, whatever happens, and never the same work twice."""

import itertools
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from pipeline import parametrize
from pipeline.assign import assign
from pipeline.campaign import Campaign, begin_work, each, finish_run
from pipeline.errors import ChildError, DiskError, OutputFolderError, RefusedLigandError, StoreError
from pipeline.library import read_library
from pipeline.outcome import Failure
from pipeline.parametrize import StraightLine, attempt
from pipeline.process.child import run_in_child
from pipeline.rerun import compare_identity, take_in
from pipeline.run_folder import open_ledger
from pipeline.schema import MMParameters
from pipeline.settings import Settings
from tests.constant_model import ConstantPredictor, KeepingWatch, call_here

LIBRARY = """CCO ethanol
CC(=O)[O-].[Na+] salt
OCC ethanol-again
not-a-smiles broken
C=O formaldehyde
"""


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "library.smi"
    path.write_text(LIBRARY)
    return path


def make_campaign(folder, *, predictor=None, isolate=call_here):
    line = StraightLine(
        predictor=predictor or ConstantPredictor(), settings=Settings(), provenance=(), isolate=isolate
    )
    ticks = itertools.count()
    return Campaign(
        folder=folder,
        ledger=open_ledger(folder),
        line=line,
        watch=KeepingWatch(),
        clock=lambda: float(next(ticks)),
        jobs=2,
    )


def run(campaign, *libraries, identity=None):
    compare_identity(campaign, identity or {"model": "constant"})
    take_in(campaign, read_library(list(libraries)))
    assign(campaign, begin_work(campaign))
    finish_run(campaign)
    return list(campaign.ledger.outcomes())


def test_every_record_has_one_outcome_in_input_order(tmp_path, library):
    """Three good records around a salt and a broken line: five rows, two failed with their reasons."""
    outcomes = run(make_campaign(tmp_path / "out"), library)
    assert [outcome.record for outcome in outcomes] == [1, 2, 3, 4, 5]
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok", "failed", "ok"]
    assert [outcome.kind for outcome in outcomes if outcome.status == "failed"] == ["salt", "unreadable"]
    for outcome in outcomes:
        assert (outcome.folder != "") == (outcome.status == "ok")
        if outcome.folder:
            assert (tmp_path / "out" / outcome.folder / "check.json").is_file()


DEATHS = {
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "SIGABRT": os.abort,
    "status 3": lambda: os._exit(3),
}


def die_of_poison(where, how, function, *args):
    """As RDKit does of some molecules: the process of one step is gone."""
    if function.__name__ == where and "poison" in str(args[0]):
        DEATHS[how]()
    return function(*args)


@pytest.mark.parametrize("how", list(DEATHS))
@pytest.mark.parametrize("where", ["standardise_record", "embed_conformers", "deliver"])
def test_a_ligand_that_kills_its_process_fails_alone(tmp_path, where, how):
    """Death at the second of three, in a real child process: class `crash`, its signal; the others ok."""

    def isolate(function, *args, limits):
        return run_in_child(die_of_poison, where, how, function, *args, limits=limits)

    library = tmp_path / "library.smi"
    library.write_text("CCO ethanol\nNC=O poison\nC=O formaldehyde\n")
    outcomes = run(make_campaign(tmp_path / "out", isolate=isolate), library)
    assert [(outcome.status, outcome.kind) for outcome in outcomes] == [
        ("ok", ""),
        ("failed", "crash"),
        ("ok", ""),
    ]
    assert how in outcomes[1].message


def test_one_molecule_drawn_twice_gets_equal_parameters_in_each_order(tmp_path, library):
    """CCO and OCC: charges equal to the last bit after mapping by element and neighbours."""
    campaign = make_campaign(tmp_path / "out")
    first, _, second, *_ = run(campaign, library)
    sorted_charges = []
    for outcome, heavy in ((first, [6, 6, 8]), (second, [8, 6, 6])):
        values = json.loads((tmp_path / "out" / outcome.folder / "parameters.json").read_text())
        assert [atom["atomic_number"] for atom in values["atoms"]][:3] == heavy
        sorted_charges.append(sorted(atom["charge"] for atom in values["atoms"]))
    assert sorted_charges[0] == sorted_charges[1]
    assert len(campaign.line.predictor.asked) == 2  # ethanol once, and formaldehyde


def test_one_that_cannot_be_predicted_costs_the_others_nothing(tmp_path, library):
    """Predicted together, one is refused: it alone fails, by its own sentence."""

    class Choosy(ConstantPredictor):
        def predict(self, ligand, topology):
            if topology.n_atoms == 4:
                raise RefusedLigandError(f"{ligand.name}: not this one", kind="unsupported-element")
            return super().predict(ligand, topology)

    outcomes = run(make_campaign(tmp_path / "out", predictor=Choosy()), library)
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok", "failed", "failed"]
    assert (outcomes[4].stage, outcomes[4].kind) == ("predict", "unsupported-element")
    assert outcomes[4].message == "formaldehyde: not this one"


def test_the_next_are_predicted_while_the_last_are_delivered(tmp_path, library, monkeypatch):
    """Ethanol's delivery waits for the prediction of formaldehyde, two pieces on; leases are given up."""
    monkeypatch.setattr("pipeline.assign.AT_ONCE", 2)
    predicted = threading.Event()

    class Telling(ConstantPredictor):
        def predict(self, ligand, topology):
            if topology.n_atoms == 4:
                predicted.set()
            return super().predict(ligand, topology)

    def isolate(function, *args, limits):
        if function.__name__ == "deliver" and args[0].id.startswith("ethanol-"):
            assert predicted.wait(60)
        return function(*args)

    campaign = make_campaign(tmp_path / "out", predictor=Telling(), isolate=isolate)
    outcomes = run(campaign, library)
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok", "failed", "ok"]
    assert campaign.ledger.leases.running() == []


def test_a_finished_folder_is_not_computed_again(tmp_path, library):
    """The second run asks the predictor nothing and leaves the tables byte-equal."""
    run(make_campaign(tmp_path / "out"), library)
    before = (tmp_path / "out" / "outcomes.csv").read_bytes()
    again = make_campaign(tmp_path / "out")
    run(again, library)
    assert again.line.predictor.asked == []
    assert (tmp_path / "out" / "outcomes.csv").read_bytes() == before


def test_an_interrupted_run_goes_on_with_what_is_undone(tmp_path, library, monkeypatch):
    """Ctrl-C at the second prediction: it passes the boundary, and the next run does only the rest."""
    monkeypatch.setattr("pipeline.assign.AT_ONCE", 2)

    class Interrupted(ConstantPredictor):
        def predict(self, ligand, topology):
            if len(self.asked) == 1:
                raise KeyboardInterrupt
            return super().predict(ligand, topology)

    out = tmp_path / "out"
    interrupted = make_campaign(out, predictor=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, library)
    assert not (out / "outcomes.csv").exists()
    assert interrupted.ledger.n_outcomes() < 5
    assert interrupted.ledger.leases.running() == []
    interrupted.ledger.close()

    resumed = make_campaign(out)
    outcomes = run(resumed, library)
    assert [outcome.status for outcome in outcomes] == ["ok", "failed", "ok", "failed", "ok"]
    assert len(resumed.line.predictor.asked) == 1


def test_what_is_in_work_at_ctrl_c_is_given(tmp_path):
    """SIGINT while both of two items are in work: both end after it and are given, then it passes."""
    begun, interrupted = [], threading.Event()

    def interrupt(*_):
        interrupted.set()
        raise KeyboardInterrupt

    def items():
        yield from ("first", "second")
        begun.append(True)  # no Event: SIGINT in its methods may leave its lock taken

    def work(item):
        while not begun:
            time.sleep(0.01)
        if item == "first":
            time.sleep(0.5)  # by now the main thread waits for an ending
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        interrupted.wait()
        return item.upper()

    campaign = make_campaign(tmp_path / "out")
    given = []
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            given.extend(value for _, value, _ in each(campaign, "assign", items(), work))
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(given) == ["FIRST", "SECOND"]


def test_what_a_killed_writer_left_is_swept(tmp_path, library):
    """A half-written table of a process that was killed is gone after the next run; the user's file stays."""
    campaign = make_campaign(tmp_path / "out")
    (campaign.folder / ".outcomes.csv.123-123.part").write_text("rec")
    (campaign.folder / "notes.part").write_text("mine")
    run(campaign, library)
    assert [path.name for path in campaign.folder.glob("*.part")] == ["notes.part"]


def test_another_model_recomputes_everything_and_says_so(tmp_path, library):
    """A run with another identity in the same folder: the difference is named, no file of the first stays."""
    out = tmp_path / "out"
    first = run(make_campaign(out), library, identity={"model": {"name": "a"}})
    again = make_campaign(out)
    (out / first[0].folder / "stray").write_text("from the first run")
    run(again, library, identity={"model": {"name": "b"}})
    assert any("model.name (a -> b)" in sentence for sentence in again.watch.said)
    assert len(again.line.predictor.asked) == 2
    assert not (out / first[0].folder / "stray").exists()


def test_a_changed_library_computes_only_what_is_new(tmp_path, library):
    """One record replaced: one prediction, the old one's folder gone, the new order kept."""
    out = tmp_path / "out"
    before = run(make_campaign(out), library)
    library.write_text(LIBRARY.replace("CCO ethanol\n", "CN methylamine\n"))
    again = make_campaign(out)
    after = run(again, library)
    assert len(again.line.predictor.asked) == 1
    assert not (out / before[0].folder).exists()
    assert [outcome.name for outcome in after] == [
        "methylamine",
        "salt",
        "ethanol-again",
        "broken",
        "formaldehyde",
    ]


def test_a_ligand_for_which_the_model_is_absurd_fails_with_the_numbers(tmp_path, library):
    """Infinite bond constants do not pass the check; the ligand fails at `predict`, nothing is delivered."""

    class Absurd(ConstantPredictor):
        def predict(self, ligand, topology):
            good = super().predict(ligand, topology)
            bad = np.where(np.arange(len(good.bond_k)) == 0, np.inf, good.bond_k)
            return MMParameters(**{**vars(good), "bond_k": bad})

    outcomes = run(make_campaign(tmp_path / "out", predictor=Absurd()), library)
    assert [(outcome.stage, outcome.kind) for outcome in outcomes if outcome.record in (1, 3, 5)] == [
        ("predict", "parameters")
    ] * 3
    assert not list((tmp_path / "out").glob("ligands/*/*"))


def test_two_equal_records_are_two_ligands_with_two_folders(tmp_path):
    """The same line twice: two ids, two folders, two rows."""
    path = tmp_path / "twice.smi"
    path.write_text("C methane\nC methane\n")
    first, second = run(make_campaign(tmp_path / "out"), path)
    assert first.id != second.id
    assert (tmp_path / "out" / first.folder).is_dir()
    assert (tmp_path / "out" / second.folder).is_dir()


def test_the_boundary_keeps_what_is_about_a_ligand_and_passes_what_is_not():
    """A ZeroDivisionError becomes a Failure; Ctrl-C and a full disk pass."""

    def fail(error):
        raise error

    failure = attempt("x", "predict", fail, ZeroDivisionError("1/0"))
    assert isinstance(failure, Failure)
    assert (failure.ligand, failure.stage, failure.kind) == ("x", "predict", "unexpected")
    assert "ZeroDivisionError" in failure.traceback
    for error in (KeyboardInterrupt(), DiskError("disk full"), StoreError("disk full")):
        with pytest.raises(type(error)):
            attempt("x", "deliver", fail, error)
    with pytest.raises(DiskError, match="no room"):
        attempt("x", "deliver", fail, ChildError("no room", kind="disk"))
    assert isinstance(attempt("x", "deliver", fail, ChildError("died")), Failure)


def test_a_folder_that_holds_something_else_is_refused_untouched(tmp_path):
    """A non-empty folder without a ledger is somebody's data."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputFolderError, match="holds no parmflow run"):
        open_ledger(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_3d_record_keeps_its_pose(tmp_path):
    """An SDF record's own coordinates are delivered to 1e-4 angstrom, the precision of a molblock."""

    mol = Chem.AddHs(Chem.MolFromSmiles("OCC(N)=O"))
    AllChem.EmbedMolecule(mol, randomSeed=11)
    path = tmp_path / "posed.sdf"
    with Chem.SDWriter(str(path)) as writer:
        writer.write(mol)
    (outcome,) = run(make_campaign(tmp_path / "out"), path)
    delivered = Chem.MolFromMolFile(str(tmp_path / "out" / outcome.folder / "ligand.sdf"), removeHs=False)
    np.testing.assert_allclose(
        delivered.GetConformer().GetPositions(), mol.GetConformer().GetPositions(), atol=1e-4
    )


def test_there_is_one_broad_except_in_the_repository():
    """Only the ligand's boundary may catch everything; elsewhere that would hide a lost ligand."""
    root = Path(parametrize.__file__).parent.parent
    places = [
        path.name
        for package in ("pipeline", "models", "flows")
        for path in (root / package).rglob("*.py")
        if re.search(r"except\s*(Exception\b|:)", path.read_text())
    ]
    assert places == ["parametrize.py"]


def test_nothing_reads_a_pickle_from_a_file():
    """Only a child process and its parent exchange pickles; what reads one from a file is not even named."""
    root = Path(parametrize.__file__).parent.parent
    named = {
        path.name
        for package in ("pipeline", "models", "flows")
        for path in (root / package).rglob("*.py")
        if re.search(
            r"import pickle|cloudpickle|torch\.load\b|load_graphs|allow_pickle|read_pickle|joblib",
            path.read_text(),
        )
    }
    assert named == {"child.py", "warden.py", "worker.py", "side_by_side.py"}
