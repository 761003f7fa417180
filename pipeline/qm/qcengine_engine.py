"""Any program that QCEngine has a harness for: learned potentials, xtb, NWChem, ... In children only."""

import os

import numpy as np
import qcengine
from qcelemental.models import AtomicInput, FailedOperation

from pipeline.qm.dispersion import corrections
from pipeline.qm.faults import error_from_text
from pipeline.qm.molecule import to_molecule
from pipeline.qm.result import EngineResult
from pipeline.schema import QMTask
from pipeline.units import ANGSTROM_PER_BOHR

MEMORY_SHARE = 0.6
"""of the address space allowed; the rest is libraries"""


def resources(n_cores: int, memory_mb: int) -> dict[str, object]:
    """What QCEngine is told of the machine: one try, in the job's own folder."""
    return {
        "ncores": n_cores,
        "memory": memory_mb * MEMORY_SHARE / 1024,
        "scratch_directory": os.getcwd(),  # noqa: PTH109 - the job's own folder
        "retries": 0,
    }


def complaint_of(failure: FailedOperation) -> str:
    """A harness's words about its failure."""
    return f"{failure.error.error_type}: {failure.error.error_message}"


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Compute energy or gradient of one geometry; the kind of a QMError comes from the program's words."""
    spec = task.spec
    request = AtomicInput(
        molecule=to_molecule(task),
        driver=spec.driver,
        model={"method": spec.method, "basis": spec.basis},
        keywords=dict(spec.keywords),
    )
    answer = qcengine.compute(request, spec.program, task_config=resources(n_cores, memory_mb))
    if isinstance(answer, FailedOperation):
        raise error_from_text(complaint_of(answer), who=f"{task.ligand_key}: {spec.program}")
    found = answer.properties.return_energy if spec.driver == "gradient" else answer.return_result
    energy, gradient = float(found), None
    if spec.driver == "gradient":
        gradient = np.asarray(answer.return_result, dtype=float).reshape(-1, 3)
    for extra in corrections(task):
        energy += extra.energy
        gradient = None if gradient is None else gradient + extra.gradient
    return EngineResult(
        energy=energy,
        gradient=gradient,
        coords=np.asarray(answer.molecule.geometry) * ANGSTROM_PER_BOHR,
        provenance={
            "program": str(answer.provenance.creator).lower(),
            "version": str(answer.provenance.version),
            "scf_rung": "default",
        },
    )
