"""A QCFractal server as an engine, with a client made of functions in the place of the network."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.errors import QMError
from pipeline.outcome import Failure
from pipeline.qm.remote import compute_remotely, connect
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.units import KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.1, -0.757, -0.5]])
REST = 2.0
"""bohr; a spring between the hydrogens of a server's world"""


class Server:
    """Computes E = -76 + (|r_HH| - 2)^2 hartree; each record is seen waiting once before it is complete."""

    def __init__(self) -> None:
        self.records: list[SimpleNamespace] = []
        self.submitted: list[tuple] = []

    def add_singlepoints(self, molecules, program, driver, method, basis):
        self.submitted.append((len(molecules), program, driver, method, basis))
        start = len(self.records)
        for number, molecule in enumerate(molecules, start=start):
            arm = molecule.geometry[1] - molecule.geometry[2]
            length = np.linalg.norm(arm)
            gradient = np.zeros((3, 3))
            gradient[1] = 2 * (length - REST) * arm / length
            gradient[2] = -gradient[1]
            energy = -76.0 + (length - REST) ** 2
            self.records.append(
                SimpleNamespace(
                    id=number,
                    status="waiting",
                    return_result=energy if driver == "energy" else gradient,
                    properties={"return_energy": energy},
                    molecule=molecule,
                    error=None,
                )
            )
        return SimpleNamespace(success=True), list(range(start, len(self.records)))

    def get_singlepoints(self, record_ids):
        return [self.records[number] for number in record_ids]

    def work(self) -> None:
        """What happens while the client waits."""
        for record in self.records:
            record.status = "complete"


def make_task(coords: np.ndarray, driver: str = "gradient") -> QMTask:
    return QMTask(
        ligand_key="water",
        atomic_numbers=np.array([8, 1, 1]),
        coords=coords,
        total_charge=0,
        spec=QMSpec(program="psi4", driver=driver),
    )


def test_results_come_back_in_the_frame_of_the_task() -> None:
    """Energy and gradient of a turned water, in our units: the spring's, along the line of its hydrogens."""
    server = Server()
    turn = Rotation.random(random_state=2).as_matrix()
    coords = WATER @ turn.T + 4.0
    tasks = [make_task(coords), make_task(WATER, "energy"), make_task(coords)]
    endings = compute_remotely(tasks, server, server.work)
    assert list(endings) == [tasks[0].key, tasks[1].key]
    assert sorted(server.submitted) == [
        (1, "psi4", "energy", "b3lyp-d3bj", "dzvp"),
        (1, "psi4", "gradient", "b3lyp-d3bj", "dzvp"),
    ]
    record = endings[tasks[0].key]
    assert isinstance(record, QMRecord)
    assert record.gradient is not None
    arm = coords[1] - coords[2]
    length = np.linalg.norm(arm)
    stretch = length / 0.529177210903 - REST
    assert record.energy == pytest.approx((-76.0 + stretch**2) * KCAL_PER_HARTREE, abs=1e-4)
    # QCSchema's molecules hold eight digits of a bohr.
    expected = 2 * stretch * arm / length * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    np.testing.assert_allclose(record.gradient[1], expected, atol=1e-4)
    np.testing.assert_allclose(record.gradient[2], -expected, atol=1e-4)


def test_errors_of_the_server_are_classified() -> None:
    """A record in error becomes a Failure whose kind its words decide; another frame is noticed."""
    server = Server()
    tasks = [make_task(WATER), make_task(WATER * 1.01), make_task(WATER, "optimise")]

    def break_down() -> None:
        server.work()
        server.records[0].status = "error"
        server.records[0].error = {"error_message": "Could not converge SCF iterations"}
        server.records[1].molecule = SimpleNamespace(geometry=server.records[1].molecule.geometry[::-1])

    failures = compute_remotely(tasks, server, break_down)
    kinds = [failure.kind for failure in failures.values() if isinstance(failure, Failure)]
    assert kinds == ["scf", "geometry", "input"]


def test_without_qcportal_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to get it is in the message."""
    monkeypatch.setitem(sys.modules, "qcportal", None)
    with pytest.raises(QMError, match=r"pip install 'qcportal<0\.66'"):
        connect("http://localhost")


def test_spec_of_a_remote_task_is_kept() -> None:
    """The record names the spec of the task, so that the store finds it again."""
    server = Server()
    task = make_task(WATER)
    (record,) = compute_remotely([task], server, server.work).values()
    assert isinstance(record, QMRecord)
    assert (record.task_key, record.spec) == (task.key, dataclasses.replace(QMSpec(), program="psi4"))
