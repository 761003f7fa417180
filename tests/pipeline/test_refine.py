"""Refine: QM once per molecule, joint tuning, the same result however often it is interrupted."""

import csv
import itertools
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pipeline.campaign import Campaign, begin_work, finish_run
from pipeline.errors import QMError, SettingsError
from pipeline.library import read_library
from pipeline.outcome import failure_from_exception
from pipeline.parametrize import StraightLine
from pipeline.qm.relax import foreseen_by
from pipeline.refine import refine
from pipeline.refine_bench import Bench, ChargeBench
from pipeline.refine_cost import in_words
from pipeline.rerun import compare_identity, take_in
from pipeline.run_folder import open_ledger
from pipeline.schema import MMParameters, QMRecord, QMSpec
from pipeline.settings import Settings, build_settings
from tests.constant_model import ConstantPredictor, KeepingWatch, call_here

LIBRARY = "CCO ethanol\nCC(=O)[O-].[Na+] salt\nOCC ethanol-again\nC=O formaldehyde\nCN methylamine\n"
N_POINTS = 4


class SpringBench:
    """QM of a world in which every atom hangs on a spring at the origin; fails or stops where told."""

    spec = QMSpec(program="spring", method="spring", basis=None, dispersion=None)

    def __init__(self, store=None):
        self.store = {} if store is None else store
        self.n_computed = 0
        self.stop_after = None
        self.failing_atoms = None
        self.failing_driver = None
        self.failures = ()

    def find(self, keys):
        return {key: self.store[key] for key in keys if key in self.store}

    def what_would_fit(self, tasks, budget_seconds):
        return f"of {len(tasks)} some would fit in {budget_seconds} s"

    def elsewhere(self, *_: object):
        return 0, ""

    def estimate_seconds(self, tasks):
        return 2.0 * len(tasks)

    def compute(self, tasks, on_result):
        failures = itertools.chain(self.failures, itertools.repeat(("scf", True)))
        for n_task, task in enumerate(tasks):
            if self.n_computed == self.stop_after:
                raise KeyboardInterrupt
            fails = len(task.atomic_numbers) == self.failing_atoms and not (
                self.failures and n_task % N_POINTS < N_POINTS - len(self.failures)
            )
            if fails or task.spec.driver == self.failing_driver:
                kind, retryable = next(failures)
                error = QMError(f"{kind} failed", kind=kind, retryable=retryable)
                on_result(task, failure_from_exception(error, ligand=task.ligand_key, stage="qm"))
                continue
            self.n_computed += 1
            record = QMRecord(
                task_key=task.key,
                ligand_key=task.ligand_key,
                spec=task.spec,
                coords=task.coords,
                energy=float((task.coords**2).sum()),
                gradient=2 * task.coords,
                esp=np.array([[9.0, 0, 0, 1.0], [0, 9.0, 0, 0.5]]) if task.spec.driver == "esp" else None,
                provenance=(("wall_seconds", "7"),),
            )
            self.store[task.key] = record
            on_result(task, record)


@dataclass
class ScaledFit:
    """A fit whose bond constants tell on how many references and points it rests."""

    parameters: MMParameters
    kept: str = "fine-tuned"
    energy_rmse_before: float = 2.0
    energy_rmse_after: float = 1.0
    force_rmse_before: float = 8.0
    force_rmse_after: float = 6.0


def tune_by_scaling(references, ring):
    ring()
    n_points = sum(len(reference.records) for reference in references)
    fits = []
    for reference in references:
        shipped = ConstantPredictor().predict(reference.ligand, reference.topology)
        values = {**vars(shipped), "bond_k": shipped.bond_k + n_points}
        fits.append(ScaledFit(parameters=MMParameters(**values)))
    return fits


class Run:
    """One process' worth of a run: a fresh campaign on the folder, a bench on the shared store."""

    def __init__(self, out, library, store, *, tune=tune_by_scaling):
        settings = build_settings({"qm": {"n_points": N_POINTS}, "conformers": {"n_embed": 2}})
        line = StraightLine(
            predictor=ConstantPredictor(), settings=settings, provenance=(), isolate=call_here
        )
        ticks = itertools.count()
        self.qm = SpringBench(store)
        self.tuned = []
        self.library = library
        self.campaign = Campaign(
            folder=out,
            ledger=open_ledger(out),
            line=line,
            watch=KeepingWatch(),
            clock=lambda: 0.001 * next(ticks),
            jobs=1,
        )

        def tune_and_count(references, ring):
            self.tuned.append(len(references))
            return tune(references, ring)

        self.n_made = 0

        def make_and_count(prepared):
            self.n_made += 1
            return line.make_geometries(prepared)

        self.bench = Bench(qm=self.qm, make_geometries=make_and_count, fine_tune=tune_and_count, n_steps=1)

    def go(self):
        compare_identity(self.campaign, {"settings": Settings().model_dump(mode="json")})
        take_in(self.campaign, read_library([self.library]))
        begin_work(self.campaign)
        refine(self.campaign, self.bench)
        finish_run(self.campaign)
        return list(self.campaign.ledger.outcomes())


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "library.smi"
    path.write_text(LIBRARY)
    return path


def delivered(out, outcomes):
    return {o.id: (out / o.folder / "parameters.json").read_bytes() for o in outcomes if o.folder}


def test_a_molecule_that_comes_twice_is_computed_once_and_delivered_twice(tmp_path, library):
    """Four good records of three molecules: 3 x 4 calculations, 3 fits, 4 deliveries of tuned numbers."""
    run = Run(tmp_path / "out", library, {})
    outcomes = run.go()
    assert [o.status for o in outcomes] == ["ok", "failed", "ok", "ok", "ok"]
    assert run.qm.n_computed == 3 * N_POINTS
    assert run.tuned == [3]
    for content in delivered(tmp_path / "out", outcomes).values():
        assert json.loads(content)["bonds"][0]["k"] == pytest.approx(600.0 + 3 * N_POINTS, rel=1e-12)


def test_the_cost_is_said_before_the_first_calculation(tmp_path, library):
    """Twelve tasks of two seconds: 24 s are announced, and only then QM runs."""
    run = Run(tmp_path / "out", library, {})
    run.qm.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert any("12 calculations, estimated at 24 s" in sentence for sentence in run.campaign.watch.said)


def test_optimisations_are_in_the_cost_and_the_budget(tmp_path, library):
    """Three molecules of four geometries, each optimised and then calculated: 24 tasks of two seconds are
    said, and refused by 47 s, before any geometry is made; 48 s are enough, and what is left is said again.
    """
    settings = build_settings({"qm": {"n_points": N_POINTS, "optimise_spec": "fast"}})
    run = Run(tmp_path / "out", library, {})
    run.bench = replace(run.bench, foresee_relaxed=foreseen_by(settings), budget_seconds=47.0)
    with pytest.raises(SettingsError, match="more than the budget of 47 s"):
        run.go()
    assert (run.n_made, run.qm.n_computed) == (0, 0)
    run.bench = replace(run.bench, budget_seconds=48.0)
    run.campaign.watch.said.clear()
    assert [o.status for o in run.go()] == ["ok", "failed", "ok", "ok", "ok"]
    costs = [sentence for sentence in run.campaign.watch.said if "estimated at" in sentence]
    assert [sentence.partition(": ")[2] for sentence in costs] == [
        "24 calculations, estimated at 48 s.",
        "12 calculations, estimated at 24 s.",
    ]
    assert costs[0].startswith("QM at spring (spring), gfn2-xtb (tblite), b3lyp-d3bj/dzvp (pyscf): ")


@pytest.mark.parametrize(("n_points", "n_potentials"), [(4, 4), (9, 5)])
def test_potentials_are_foreseen(build_ligand, n_points, n_potentials):
    """As many as there may be conformers, and no more than charges are fitted to."""
    qm = {"n_points": n_points, "optimise_spec": "fast"}
    foresee = foreseen_by(build_settings({"charges": "resp", "qm": qm}))
    drivers = [task.spec.driver for task in foresee(build_ligand("CO"), "key")]
    assert [drivers.count(driver) for driver in ("optimise", "gradient", "esp")] == [
        n_points,
        n_points,
        n_potentials,
    ]


def test_fits_are_tabled_per_record(tmp_path, library):
    """fits.csv: a row per delivered record with errors before and after and the count of QM results."""
    Run(tmp_path / "out", library, {}).go()
    with (tmp_path / "out" / "fits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["record"] for row in rows] == ["1", "3", "4", "5"]
    assert {(r["n_qm"], r["energy_rmse_before"], r["energy_rmse_after"]) for r in rows} == {("4", "2", "1")}


@pytest.mark.parametrize("stop_after", [0, 1, 5, 11])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, library, stop_after):
    """Stopped after some calculations and started again: no result computed twice, parameters byte-equal."""
    whole = Run(tmp_path / "whole", library, {}).go()
    store = {}
    first = Run(tmp_path / "out", library, store)
    first.qm.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        first.go()
    assert not (tmp_path / "out" / "outcomes.csv").exists()
    first.campaign.ledger.close()
    second = Run(tmp_path / "out", library, store)
    outcomes = second.go()
    assert first.qm.n_computed + second.qm.n_computed == 3 * N_POINTS
    assert delivered(tmp_path / "out", outcomes) == delivered(tmp_path / "whole", whole)


def test_a_finished_refinement_computes_and_tunes_nothing(tmp_path, library):
    """The same command on a finished folder only writes the same tables."""
    store = {}
    Run(tmp_path / "out", library, store).go()
    tables = [(tmp_path / "out" / name).read_bytes() for name in ("outcomes.csv", "fits.csv")]
    again = Run(tmp_path / "out", library, store)
    again.go()
    assert (again.qm.n_computed, again.tuned) == (0, [])
    assert tables == [(tmp_path / "out" / name).read_bytes() for name in ("outcomes.csv", "fits.csv")]


def test_a_ligand_more_tunes_all_again_with_only_its_own_qm(tmp_path, library):
    """Joint tuning: a fourth molecule costs its own calculations and changes everyone's parameters."""
    store = {}
    Run(tmp_path / "out", library, store).go()
    library.write_text(LIBRARY + "CO methanol\n")
    more = Run(tmp_path / "out", library, store)
    outcomes = more.go()
    assert more.qm.n_computed == N_POINTS
    assert more.tuned == [4]
    for content in delivered(tmp_path / "out", outcomes).values():
        assert json.loads(content)["bonds"][0]["k"] == pytest.approx(600.0 + 4 * N_POINTS, rel=1e-12)


def test_failed_qm_fails_its_ligand_only_and_can_be_retried(tmp_path, library):
    """Formaldehyde (4 atoms) does not converge: its row says so; retried with a better engine all is well."""
    store = {}
    first = Run(tmp_path / "out", library, store)
    first.qm.failing_atoms = 4
    outcomes = first.go()
    failed = outcomes[3]
    assert (failed.status, failed.stage, failed.kind) == ("failed", "qm", "scf")
    assert "0 of 4" in failed.message
    assert first.tuned == [2]
    second = Run(tmp_path / "out", library, store)
    assert second.campaign.ledger.forget_failures() == 1
    assert [o.status for o in second.go()] == ["ok", "failed", "ok", "ok", "ok"]
    assert second.qm.n_computed == N_POINTS
    assert second.tuned == [3]


@pytest.mark.parametrize(
    ("failures", "kind", "n_forgotten"),
    [
        ([("time", True), ("input", False)], "time", 1),
        ([("input", False), ("time", True)], "time", 1),
        ([("input", False), ("input", False)], "input", 0),
        ([("time", True), ("input", False), ("input", False)], "input", 0),
        ([("input", False), ("time", True), ("time", True)], "time", 1),
    ],
)
def test_a_retry_is_offered_where_it_can_make_up_the_number(tmp_path, library, failures, kind, n_forgotten):
    """Of four calculations three are needed: with the good ones, those worth a retry must make up three."""
    run = Run(tmp_path / "out", library, {})
    run.qm.failing_atoms, run.qm.failures = 4, failures
    failed = run.go()[3]
    assert (failed.status, failed.kind) == ("failed", kind)
    assert f"only {N_POINTS - len(failures)} of 4" in failed.message
    assert run.campaign.ledger.forget_failures() == n_forgotten


def test_no_result_depends_on_the_budget(tmp_path, library):
    """Three of formaldehyde's four calculations would do, but one waits for budget: so does its row."""
    store = {}
    first = Run(tmp_path / "out", library, store)
    first.qm.failing_atoms, first.qm.failures = 4, [("budget", True)]
    waiting = first.go()[3]
    assert (waiting.status, waiting.stage, waiting.kind) == ("failed", "qm", "budget")
    assert "1 of 4 QM calculations wait" in waiting.message
    second = Run(tmp_path / "out", library, store)
    assert second.campaign.ledger.forget_failures(kinds=["budget"]) == 1
    assert second.go()[3].status == "ok"
    assert second.qm.n_computed == 1


def test_a_potential_that_lacks_fails_the_ligand(tmp_path, library):
    """Its charges would depend on which potentials there are: a row says so, and a retry makes it good."""
    store = {}
    bench = ChargeBench(spec=replace(SpringBench.spec, driver="esp"), prune_rms=0.5)
    first = Run(tmp_path / "out", library, store)
    first.bench = replace(first.bench, charges=bench)
    first.qm.failing_driver = "esp"
    assert {(o.stage, o.kind) for o in first.go() if o.record != 2} == {("qm", "scf")}
    assert first.qm.n_computed == 3 * N_POINTS
    second = Run(tmp_path / "out", library, store)
    second.bench = replace(second.bench, charges=bench)
    assert second.campaign.ledger.forget_failures() == 4
    assert [o.status for o in second.go()] == ["ok", "failed", "ok", "ok", "ok"]
    assert second.qm.n_computed == 3


def test_a_broken_fine_tuner_fails_every_ligand_with_its_reason(tmp_path, library):
    """No silent fallback to shipped parameters: the rows say `fine-tune`, nothing is delivered."""

    def broken(references, ring):
        raise FloatingPointError("the loss is not finite")

    outcomes = Run(tmp_path / "out", library, {}, tune=broken).go()
    assert {o.stage for o in outcomes if o.record != 2} == {"fine-tune"}
    assert all("not finite" in o.message for o in outcomes if o.record != 2)
    assert not list((tmp_path / "out").glob("ligands/*/*"))


def test_seconds_include_the_qm_of_the_record_that_paid_for_it(tmp_path, library):
    """Ethanol's first record paid 4 x 7 s; its second record paid none of it."""
    outcomes = Run(tmp_path / "out", library, {}).go()
    assert outcomes[0].seconds > 28 > outcomes[2].seconds


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (89, "89 s"), (120, "2 min"), (5399, "90 min"), (7200, "2.0 h")]
)
def test_durations_read_as_people_say_them(seconds, words):
    """Seconds below 90, minutes below 90, hours beyond."""
    assert in_words(seconds) == words
