"""psi4 (1.3.2, and 1.4 and later) behind the door, through QCEngine. Imported in child processes only."""

import os
import re

import numpy as np
import qcengine
from qcelemental import periodictable
from qcelemental.models import AtomicInput, AtomicResult, FailedOperation, Molecule

from pipeline.errors import QMError
from pipeline.qm.dispersion import compute_d3bj
from pipeline.qm.faults import error_from_text
from pipeline.qm.levels import MAX_FITTED_ATOMIC_NUMBER
from pipeline.qm.result import EngineResult, to_bohr
from pipeline.schema import QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_OLDEST = (1, 3, 2)
_RENAMED = (1, 4)
"""from here on the auxiliary basis of all def2 sets has its own name, which pyscf uses too"""
_KEYWORDS = {
    "e_convergence": 1e-9,
    "d_convergence": 1e-7,
    "maxiter": 60,
    "fail_on_maxiter": True,
}
_LADDER: tuple[tuple[str, dict[str, object]], ...] = (
    ("default", {}),
    ("damping", {"damping_percentage": 40.0, "maxiter": 150}),
    ("second-order", {"soscf": True, "soscf_start_convergence": 0.1, "maxiter": 150}),
)
_MEMORY_SHARE = 0.6


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Compute energy and gradient of one geometry; QMError kind scf when no rung of the ladder converges."""
    version = _usable_version(task)
    integrals = _integrals(task, version)
    for rung, keywords in _LADDER:
        answer = _run(task, integrals | keywords, n_cores, memory_mb)
        if isinstance(answer, AtomicResult):
            return _to_result(task, answer, {"program": "psi4", "version": version, "scf_rung": rung})
        fault = error_from_text(_complaint(answer), who=f"{task.ligand_key}: psi4")
        if fault.kind != "scf":
            raise fault
    raise QMError(
        f"{task.ligand_key}: psi4: SCF not converged, also with damping and second order; "
        "check charge and geometry",
        kind="scf",
    )


def _usable_version(task: QMTask) -> str:
    version = str(qcengine.get_program("psi4").get_version())
    if _numbers(version) < _OLDEST:
        raise QMError(
            f"{task.ligand_key}: psi4 {version} is too old; 1.3.2 or newer is needed", kind="engine"
        )
    return version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _integrals(task: QMTask, version: str) -> dict[str, object]:
    """Fit with psi4's own default basis, written out so that pyscf can use the same; where it ends, exact."""
    if task.atomic_numbers.max() > MAX_FITTED_ATOMIC_NUMBER:
        return {"scf_type": "pk", "df_scf_guess": False}
    name = "def2-universal-jkfit" if _numbers(version) >= _RENAMED else "def2-qzvpp-jkfit"
    return {"scf_type": "df", "df_basis_scf": name}


def _run(
    task: QMTask, keywords: dict[str, object], n_cores: int, memory_mb: int
) -> AtomicResult | FailedOperation:
    own = dict(task.spec.keywords)
    request = AtomicInput(
        molecule=Molecule(
            symbols=[periodictable.to_E(int(number)) for number in task.atomic_numbers],
            geometry=to_bohr(task),
            molecular_charge=task.total_charge,
            molecular_multiplicity=1,
            fix_com=True,  # without these two the gradient comes back turned
            fix_orientation=True,
            fix_symmetry="c1",
        ),
        driver=task.spec.driver,
        model={"method": task.spec.method, "basis": task.spec.basis},
        keywords=_KEYWORDS | keywords | own,
    )
    config = {
        "ncores": n_cores,
        "memory": memory_mb * _MEMORY_SHARE / 1024,
        "scratch_directory": os.getcwd(),  # noqa: PTH109 - the job's own folder
        "retries": 0,
    }
    return qcengine.compute(request, "psi4", task_config=config)


def _complaint(failure: FailedOperation) -> str:
    return f"{failure.error.error_type}: {failure.error.error_message}"


def _to_result(task: QMTask, answer: AtomicResult, provenance: dict[str, str]) -> EngineResult:
    energy, gradient = float(answer.properties.return_energy), None
    if task.spec.driver == "gradient":
        gradient = np.asarray(answer.return_result, dtype=float).reshape(-1, 3)
    if task.spec.dispersion:
        extra = compute_d3bj(task.spec.method, task.atomic_numbers, to_bohr(task))
        energy += extra.energy
        gradient = None if gradient is None else gradient + extra.gradient
    return EngineResult(
        energy=energy,
        gradient=gradient,
        coords=np.asarray(answer.molecule.geometry) * ANGSTROM_PER_BOHR,
        provenance=provenance,
    )
