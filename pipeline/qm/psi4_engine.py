"""psi4 (1.3.2, and 1.4 and later) behind the door, through QCEngine. Imported in child processes only."""

import dataclasses

import numpy as np
import qcengine
from qcelemental.models import AtomicInput, AtomicResult

from pipeline.errors import QMError
from pipeline.qm.dispersion import corrections
from pipeline.qm.faults import error_from_text
from pipeline.qm.molecule import to_molecule
from pipeline.qm.psi4_keywords import psi4_keywords, version_numbers
from pipeline.qm.psi4_properties import compute_properties
from pipeline.qm.qcengine_engine import MEMORY_SHARE, complaint_of, resources
from pipeline.qm.result import EngineResult
from pipeline.schema import QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_OLDEST = (1, 3, 2)
_LADDER: tuple[tuple[str, dict[str, object]], ...] = (
    ("default", {}),
    ("guess", {"guess": "gwh", "maxiter": 100}),
    ("damping", {"damping_percentage": 40.0, "maxiter": 150}),
    ("second-order", {"soscf": True, "soscf_start_convergence": 0.1, "maxiter": 150}),
)


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Compute what the driver asks of one geometry; QMError kind scf when no rung of the ladder converges."""
    version = _usable_version(task)
    for rung, keywords in _LADDER:
        options = psi4_keywords(task, version) | keywords | dict(task.spec.keywords)
        try:
            result = _compute(task, options, n_cores, memory_mb)
        except QMError as fault:
            if fault.kind != "scf":
                raise
        else:
            provenance = {"program": "psi4", "version": version, "scf_rung": rung}
            return dataclasses.replace(result, provenance=provenance)
    raise QMError(
        f"{task.ligand_key}: psi4: SCF not converged, also with another guess, damping and "
        "second order; check charge and geometry",
        kind="scf",
    )


def _usable_version(task: QMTask) -> str:
    version = str(qcengine.get_program("psi4").get_version())
    if version_numbers(version) < _OLDEST:
        raise QMError(
            f"{task.ligand_key}: psi4 {version} is too old; 1.3.2 or newer is needed", kind="engine"
        )
    return version


def _compute(task: QMTask, options: dict[str, object], n_cores: int, memory_mb: int) -> EngineResult:
    """Run one SCF with these options; QMError with a kind from psi4's words when it fails."""
    if task.spec.driver in ("properties", "esp"):
        return compute_properties(task, options, n_cores, int(memory_mb * MEMORY_SHARE))
    request = AtomicInput(
        molecule=to_molecule(task),
        driver=task.spec.driver,
        model={"method": task.spec.method, "basis": task.spec.basis},
        keywords=options,
    )
    answer = qcengine.compute(request, "psi4", task_config=resources(n_cores, memory_mb))
    if isinstance(answer, AtomicResult):
        return _to_result(task, answer)
    raise error_from_text(complaint_of(answer), who=f"{task.ligand_key}: psi4")


def _to_result(task: QMTask, answer: AtomicResult) -> EngineResult:
    energy, gradient = float(answer.properties.return_energy), None
    if task.spec.driver == "gradient":
        gradient = np.asarray(answer.return_result, dtype=float).reshape(-1, 3)
    for extra in corrections(task):
        energy += extra.energy
        gradient = None if gradient is None else gradient + extra.gradient
    spins = (answer.properties.calcinfo_nalpha, answer.properties.calcinfo_nbeta)
    return EngineResult(
        energy=energy,
        gradient=gradient,
        coords=np.asarray(answer.molecule.geometry) * ANGSTROM_PER_BOHR,
        electrons=None if None in spins else spins,
        provenance={},
    )
