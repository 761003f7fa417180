"""tblite behind the door: GFN1-xTB and GFN2-xTB. Imported in child processes only."""

from importlib.metadata import version

import numpy as np
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator, Result

from pipeline.errors import QMError
from pipeline.qm.faults import error_from_text
from pipeline.qm.result import EngineResult, to_bohr
from pipeline.schema import FloatArray, QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_NAMES = {"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB"}
_ACCURACY = 0.01
"""tblite's unit: SCC energy converged to 1e-6 times this, hartree"""
_MAX_ITERATIONS = 250
_MIXER_DAMPING = {"default": 0.4, "damping": 0.1}


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:  # noqa: ARG001 - the engines' contract
    """Compute what the driver asks of one geometry; QMError kind scf when no rung of the ladder converges."""
    for rung in _MIXER_DAMPING:
        try:
            return _compute(task, rung)
        except TBLiteRuntimeError as error:
            fault = error_from_text(str(error), who=f"{task.ligand_key}: tblite")
            if fault.kind != "scf":
                raise fault from error
    raise QMError(
        f"{task.ligand_key}: tblite: SCC not converged, also with damping; check charge and geometry",
        kind="scf",
    )


def _compute(task: QMTask, rung: str) -> EngineResult:
    bohr: FloatArray = to_bohr(task)
    calculator = Calculator(
        _NAMES[task.spec.method], task.atomic_numbers, bohr, charge=task.total_charge, uhf=0
    )
    calculator.set("verbosity", 0)
    calculator.set("accuracy", _ACCURACY)
    calculator.set("max-iter", int(dict(task.spec.keywords).get("maxiter", _MAX_ITERATIONS)))
    calculator.set("mixer-damping", _MIXER_DAMPING[rung])
    result: Result = calculator.singlepoint()
    orders = None
    if task.spec.driver == "properties":
        orders = np.array(result.get("bond-orders")).reshape(len(bohr), len(bohr), -1).sum(axis=2)  # spins
        np.fill_diagonal(orders, 0.0)
    return EngineResult(
        energy=float(result.get("energy")),
        gradient=result.get("gradient") if task.spec.driver == "gradient" else None,
        coords=bohr * ANGSTROM_PER_BOHR,  # tblite does not touch it
        dipole=np.array(result.get("dipole")) if task.spec.driver == "properties" else None,
        bond_orders=orders,
        provenance={"program": "tblite", "version": version("tblite"), "scf_rung": rung},
    )
