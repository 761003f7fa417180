"""A QCFractal server as an engine, with a client made of functions in the place of the network.

`test_qm_fractal` does the same and more with a real server, where one is installed.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.errors import QMError, SettingsError
from pipeline.outcome import Failure
from pipeline.qm.budget import Budget
from pipeline.qm.dispersion import corrections
from pipeline.qm.endings import Ending
from pipeline.qm.remote import Server, connect
from pipeline.qm.remote_batch import RemoteBatch
from pipeline.qm.stored import open_qm
from pipeline.refine_cost import say_cost
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.settings import QMSettings, ServerSettings, Settings, build_settings
from pipeline.store import SUBMITTED, QMStore
from pipeline.units import KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.1, -0.757, -0.5]])
REST = 2.0
"""bohr; a spring between the hydrogens of a server's world"""


class World:
    """Computes E = -76 + (|r_HH| - 2)^2 hartree once the client has waited `n_naps` times.

    It knows each question once, as a real server does.
    """

    def __init__(self, n_naps: int = 1) -> None:
        self.records: list[SimpleNamespace] = []
        self.submitted: list[tuple] = []
        self.n_reset = 0
        self.away = 0
        """how many questions are not answered"""
        self._n_naps = n_naps

    def add_singlepoints(self, molecules, program, driver, method, basis, keywords, *, compute_tag):
        self._answer()
        self.submitted.append((len(molecules), program, driver, method, basis, compute_tag))
        numbers, known = [], []
        for place, molecule in enumerate(molecules):
            question = (molecule.get_hash(), program, driver, method, basis, tuple(sorted(keywords.items())))
            same = [record.id for record in self.records if record.question == question]
            known += [place] if same else []
            numbers.append(same[0] if same else self._add(question, molecule, driver))
        return SimpleNamespace(success=True, existing_idx=known), numbers

    def _add(self, question, molecule, driver) -> int:
        arm = molecule.geometry[1] - molecule.geometry[2]
        length = np.linalg.norm(arm)
        gradient = np.zeros((3, 3))
        gradient[1] = 2 * (length - REST) * arm / length
        gradient[2] = -gradient[1]
        energy = -76.0 + (length - REST) ** 2
        record = SimpleNamespace(
            id=len(self.records),
            question=question,
            status="waiting" if self._n_naps > 0 else "complete",
            return_result=energy if driver == "energy" else gradient,
            properties={"return_energy": energy},
            molecule=molecule,
            provenance=SimpleNamespace(creator="Psi4", version="1.9", hostname="node7"),
            error=None,
        )
        self.records.append(record)
        return record.id

    def get_singlepoints(self, record_ids, _missing_ok, **_):
        self._answer()
        return [self.records[number] for number in record_ids]

    def reset_records(self, record_ids):
        self._answer()
        self.n_reset += 1
        for number in record_ids:
            self.records[number].status = "waiting"

    def query_managers(self, **_):
        self._answer()
        return [SimpleNamespace(programs={"psi4": ["1.9"]}, compute_tags=["big", "*"])]

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise ConnectionRefusedError("Could not connect to server")

    def nap(self, _seconds: float) -> None:
        """What happens while the client waits."""
        self._n_naps -= 1
        if self._n_naps <= 0:
            for record in self.records:
                record.status = "complete" if record.status == "waiting" else record.status


def make_task(coords: np.ndarray, driver: str = "gradient") -> QMTask:
    return QMTask(
        ligand_key="water",
        atomic_numbers=np.array([8, 1, 1]),
        coords=coords,
        total_charge=0,
        spec=QMSpec(program="psi4", driver=driver),
    )


def serve(world: World, patience_seconds: float = 0.0) -> Server:
    settings = ServerSettings(address="http://far.away", tag="big", patience_seconds=patience_seconds)
    return Server(world, settings, wait=world.nap)


def run(
    world: World,
    store: QMStore,
    tasks: list[QMTask],
    nap: Callable[[float], None] | None = None,
    budget: Budget | None = None,
) -> dict[str, Ending]:
    with RemoteBatch(
        store, serve(world), budget=budget or Budget(None), look_seconds=9.0, wait=nap or world.nap
    ) as batch:
        return batch.run(tasks, lambda *_: None)


def test_results_come_back_in_the_frame_of_the_task(tmp_path: Path) -> None:
    """Energy and gradient of a turned water, in our units: the spring's, along the line of its hydrogens, and
    the dispersion that belongs to the level."""
    world = World()
    turn = Rotation.random(random_state=2).as_matrix()
    coords = WATER @ turn.T + 4.0
    tasks = [make_task(coords), make_task(WATER, "energy"), make_task(coords)]
    with QMStore(tmp_path / "s") as store:
        endings = run(world, store, tasks)
        assert len(store) == 2
    assert list(endings) == [tasks[0].key, tasks[1].key]
    assert sorted(world.submitted) == [
        (1, "psi4", "energy", "b3lyp", "dzvp", "big"),
        (1, "psi4", "gradient", "b3lyp", "dzvp", "big"),
    ]
    record = endings[tasks[0].key]
    assert isinstance(record, QMRecord)
    assert record.gradient is not None
    (extra,) = corrections(tasks[0])
    arm = coords[1] - coords[2]
    length = np.linalg.norm(arm)
    stretch = length / 0.529177210903 - REST
    assert record.energy == pytest.approx((-76.0 + stretch**2 + extra.energy) * KCAL_PER_HARTREE, abs=1e-4)
    # QCSchema's molecules hold eight digits of a bohr.
    spring = np.outer([0, 1, -1], 2 * stretch * arm / length)
    expected = (spring + extra.gradient) * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    np.testing.assert_allclose(record.gradient, expected, atol=1e-4)
    assert record.spec == tasks[0].spec
    assert {("host", "node7"), ("program", "psi4"), ("version", "1.9")} <= set(record.provenance)


def test_errors_of_the_server_are_classified(tmp_path: Path) -> None:
    """A record in error becomes a Failure whose kind its words decide; another frame is noticed; a clash is
    never sent."""
    world = World()
    tasks = [make_task(WATER), make_task(WATER * 1.01), make_task(WATER * 0.1)]

    def break_down(seconds: float) -> None:
        world.nap(seconds)
        world.records[0].status = "error"
        world.records[0].error = {"error_message": "Could not converge SCF iterations"}
        world.records[1].molecule = SimpleNamespace(geometry=world.records[1].molecule.geometry[::-1])

    with QMStore(tmp_path / "s") as store:
        failures = run(world, store, tasks, break_down)
        assert [attempt.kind for attempt in store.attempts()] == [SUBMITTED, SUBMITTED, "scf", "geometry"]
    kinds = [failure.kind for failure in failures.values() if isinstance(failure, Failure)]
    assert kinds == ["scf", "geometry", "geometry"]
    assert "record 0 on http://far.away: psi4 failed (scf)" in failures[tasks[0].key].message
    assert len(world.records) == 2


def test_a_crash_is_tried_again_and_an_old_error_once_more(tmp_path: Path) -> None:
    """Kind crash has two tries: the record is reset once, then the failure stands. The next run resets it
    again, for the machine may have been mended; this time it succeeds."""
    world = World()
    task = make_task(WATER)

    def crash(seconds: float) -> None:
        world.nap(seconds)
        world.records[0].status = "error"
        world.records[0].error = {"error_message": "Segmentation fault"}

    with QMStore(tmp_path / "s") as store:
        failure = run(world, store, [task], crash)[task.key]
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.retryable, world.n_reset) == ("crash", True, 1)
        assert isinstance(run(world, store, [task])[task.key], QMRecord)
        assert world.n_reset == 2
        assert [attempt.kind for attempt in store.attempts()] == [SUBMITTED, "crash", "crash", "ok"]
    assert len(world.submitted) == 1


def test_the_budget_ends_the_wait_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    """What is unfinished at the end of the budget is a failure of kind budget; the next run finds the record
    by its number, and its lease is free."""
    world = World(n_naps=100)
    task = make_task(WATER)
    hours = iter(range(100))
    with QMStore(tmp_path / "s") as store:
        budget = Budget(3.0, clock=lambda: float(next(hours)))
        failure = run(world, store, [task], budget=budget)[task.key]
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.retryable) == ("budget", True)
        world.records[0].status = "complete"
        assert isinstance(run(world, store, [task])[task.key], QMRecord)
    assert len(world.submitted) == 1


def test_an_absence_is_waited_for_and_a_long_one_is_a_sentence(tmp_path: Path) -> None:
    """Within the patience nothing happens; beyond it the batch ends, and the task is free for others."""
    world = World()
    task = make_task(WATER)
    with QMStore(tmp_path / "s") as store:
        world.away = 10**9
        with pytest.raises(QMError, match=r"far\.away does not answer.*\n.*same command again"):
            run(world, store, [task])
        assert store.claim(task.key, "elsewhere 1 1.0") is not None
        world.away = 3
        assert serve(world, patience_seconds=1e6).programs() == {"psi4": ("1.9",)}


def test_only_single_points_of_the_references_go_there(tmp_path: Path) -> None:
    """The cost says how many go where; an optimisation and another level are computed here."""
    world = World(n_naps=0)
    settings = Settings(qm=QMSettings(server=ServerSettings(address="http://far.away")), jobs=1)
    assert settings.qm.program == "psi4"
    cheap = QMSpec(program="tblite", method="gfn2-xtb", basis=None, dispersion=None)
    there = make_task(WATER)
    here = QMTask(**(vars(there) | {"spec": cheap}))
    optimise = make_task(WATER, "optimise")
    said: list[str] = []
    with open_qm(tmp_path / "s", settings, serve(world)) as qm:
        assert qm.elsewhere([there, here, optimise]) == (1, "http://far.away (psi4 1.9)")
        say_cost(qm, SimpleNamespace(say=said.append), [there, here], None)
        assert "2 calculations, 1 on http://far.away (psi4 1.9), the others estimated at" in said[0]
        endings: dict[str, Ending] = {}
        qm.compute([there, here], lambda task, ending: endings.update({task.key: ending}))
        assert all(isinstance(ending, QMRecord) for ending in endings.values())
    assert [program for _, program, *_ in world.submitted] == ["psi4"]


@pytest.mark.parametrize(
    ("qm", "words"),
    [
        ({"server": {"address": "https://me:hush@host"}}, "QCPORTAL_PASSWORD"),
        ({"server": {"address": "host:7777"}}, "write https://host"),
        ({"server": {"address": "https://host"}, "program": "tblite", "spec": "fast"}, "take psi4"),
        ({"server": {"address": "https://host"}, "spec": "fast"}, "take program tblite"),
    ],
)
def test_settings_that_cannot_be_are_said(qm: dict, words: str) -> None:
    """An address is one; what it must not hold is not repeated; a program that no server has is named."""
    with pytest.raises(SettingsError, match=words) as caught:
        build_settings({"qm": qm})
    assert "hush" not in str(caught.value)


def test_without_qcportal_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to get it is in the message."""
    monkeypatch.setitem(sys.modules, "qcportal", None)
    with pytest.raises(SettingsError, match=r"pip install 'qcportal<0\.66'"):
        connect(ServerSettings(address="http://localhost"))
