"""DOOR: a QCFractal server as a remote engine, through qcportal where that is installed.

Tasks go there in their own frame, with the orientation fixed, and come back as the same checked records that
a local engine gives. The server has queues and a store of its own; what it computed before it gives back at
once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.errors import QMError
from pipeline.outcome import Failure, failure_from_exception
from pipeline.qm.faults import error_from_text
from pipeline.qm.qcengine_engine import to_molecule
from pipeline.qm.record import in_own_frame, to_record
from pipeline.qm.result import EngineResult
from pipeline.schema import QMRecord, QMTask
from pipeline.units import ANGSTROM_PER_BOHR

DRIVERS = ("energy", "gradient", "hessian")
_UNFINISHED = ("waiting", "running")


class Client(Protocol):
    """What is asked of a server: these two methods of `qcportal.PortalClient`."""

    def add_singlepoints(
        self, molecules: Sequence[Any], program: str, driver: str, method: str, basis: Any
    ) -> Any:
        """Submit molecules at one level; gives (metadata, record ids in the order of the molecules)."""

    def get_singlepoints(self, record_ids: Sequence[int]) -> Sequence[Any]:
        """The records of these ids: status, return_result, properties, molecule, provenance, error."""


def connect(address: str) -> Client:
    """Open a server by its address; QMError (kind engine) without qcportal."""
    try:
        from qcportal import PortalClient
    except ImportError as error:
        # Later ones want a qcelemental with which psi4 1.3.2 cannot be driven.
        raise QMError("qcportal is not installed: pip install 'qcportal<0.66'", kind="engine") from error
    client: Client = PortalClient(address)
    return client


def compute_remotely(
    tasks: Sequence[QMTask], client: Client, wait: Callable[[], None]
) -> dict[str, QMRecord | Failure]:
    """Compute tasks on a server: their endings by task key, in the order of the tasks.

    `wait` is called between two looks at the server, e.g. to sleep for a minute. Single points only; others
    end as a Failure of kind input.
    """
    endings: dict[str, QMRecord | Failure] = {}
    submitted: dict[int, QMTask] = {}
    for some in _by_level(tasks):
        if some[0].spec.driver not in DRIVERS:
            error = QMError(f"{some[0].spec.driver} is not computed remotely", kind="input")
            endings |= {task.key: _failure(task, error) for task in some}
            continue
        submitted |= dict(zip(_submit(some, client), some, strict=True))
    unfinished = list(submitted)
    while unfinished:
        found = dict(zip(unfinished, client.get_singlepoints(unfinished), strict=True))
        for number, record in found.items():
            if _status(record) not in _UNFINISHED:
                endings[submitted[number].key] = _ending(submitted[number], record)
        unfinished = [number for number, record in found.items() if _status(record) in _UNFINISHED]
        if unfinished:
            wait()
    return {task.key: endings[task.key] for task in tasks}


def _by_level(tasks: Iterable[QMTask]) -> list[list[QMTask]]:
    levels: dict[Any, dict[str, QMTask]] = {}
    for task in tasks:
        levels.setdefault(task.spec, {})[task.key] = task
    return [list(some.values()) for some in levels.values()]


def _submit(tasks: Sequence[QMTask], client: Client) -> list[int]:
    spec = tasks[0].spec
    method = f"{spec.method}-{spec.dispersion}" if spec.dispersion else spec.method
    _, numbers = client.add_singlepoints(
        [to_molecule(in_own_frame(task)) for task in tasks], spec.program, spec.driver, method, spec.basis
    )
    return list(numbers)


def _status(record: Any) -> str:
    """The status as a word; qcportal's is an enumeration of words."""
    return str(getattr(record.status, "value", record.status))


def _ending(task: QMTask, record: Any) -> QMRecord | Failure:
    who = f"{task.ligand_key}: {task.spec.program} (remote)"
    if _status(record) != "complete":
        words = (
            (record.error or {}).get("error_message", "") if isinstance(record.error, dict) else record.error
        )
        return _failure(task, error_from_text(f"{_status(record)}: {words}", who=who))
    try:
        return to_record(task, _result(task, record))
    except QMError as error:
        return _failure(task, error)


def _result(task: QMTask, record: Any) -> EngineResult:
    n_atoms = len(task.atomic_numbers)
    found = np.asarray(record.return_result, dtype=float)
    driver = task.spec.driver
    energy = float(found) if driver == "energy" else float(record.properties["return_energy"])
    gradient = found.reshape(n_atoms, 3) if driver == "gradient" else None
    if driver == "hessian":
        gradient = np.asarray(record.properties["return_gradient"], dtype=float).reshape(n_atoms, 3)
    return EngineResult(
        energy=energy,
        gradient=gradient,
        hessian=found.reshape(3 * n_atoms, 3 * n_atoms) if driver == "hessian" else None,
        coords=np.asarray(record.molecule.geometry).reshape(n_atoms, 3) * ANGSTROM_PER_BOHR,
        provenance={"program": task.spec.program, "server_record": str(record.id)},
    )


def _failure(task: QMTask, error: QMError) -> Failure:
    return failure_from_exception(error, ligand=task.ligand_key, stage="qm")
