"""MOPAC behind the door: AM1, one process per geometry, its AUX file read strictly. In children only."""

import math
import re
from pathlib import Path

import numpy as np
from qcelemental import periodictable
from rdkit import Chem

from pipeline.errors import ChildError, QMError
from pipeline.process.program import run_program
from pipeline.qm.result import EngineResult
from pipeline.schema import FloatArray, QMTask
from pipeline.units import (
    ANGSTROM_PER_BOHR,
    DEBYE_PER_E_ANGSTROM,
    KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    KCAL_PER_HARTREE,
)

_KEYWORDS = "1SCF GRADIENTS AUX(PRECISION=9,MOS=-99999) XYZ SINGLET NOSYM GEO-OK RELSCF=0.01 BONDS THREADS=1"
_LADDER = {"default": "", "damping": "SHIFT=80", "pulay": "PULAY"}
_MAX_CYCLES = 500
_NOT_CONVERGED = "UNABLE TO ACHIEVE SELF-CONSISTENCE"
_SECONDS = 1e6
"""The door's own limit on the job ends it long before."""


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:  # noqa: ARG001 - the engines' contract
    """Compute heat of formation and gradient; QMError kind scf when no rung of the ladder converges."""
    for rung in _LADDER:
        aux = _run(task, rung)
        if _NOT_CONVERGED not in aux:
            return _read(task, aux, rung)
    raise QMError(
        f"{task.ligand_key}: mopac: SCF not converged, also with level shift and Pulay's method; "
        "check charge and geometry",
        kind="scf",
    )


def _run(task: QMTask, rung: str) -> str:
    """Run MOPAC in the job's folder and give the text of its AUX file."""
    cycles = int(dict(task.spec.keywords).get("maxiter", _MAX_CYCLES))
    words = f"{task.spec.method.upper()} {_KEYWORDS} CHARGE={task.total_charge} ITRY={cycles} {_LADDER[rung]}"
    atoms = [
        f"{periodictable.to_E(int(number))} " + " ".join(f"{x:.12f} 1" for x in row)
        for number, row in zip(task.atomic_numbers, task.coords, strict=True)
    ]
    folder = Path.cwd()
    (folder / "job.mop").write_text("\n".join([words, "", "", *atoms, ""]))
    aux = folder / "job.aux"
    aux.unlink(missing_ok=True)
    try:
        output = run_program(["mopac", "job.mop"], folder, seconds=_SECONDS)
    except ChildError as error:
        raise QMError(f"{task.ligand_key}: mopac: {error}", kind="crash", retryable=True) from error
    if not aux.is_file():
        raise QMError(f"{task.ligand_key}: mopac wrote no results: {output[-500:].strip()}", kind="engine")
    return aux.read_text(errors="replace")


def _read(task: QMTask, aux: str, rung: str) -> EngineResult:
    if complaints := re.findall(r'ERROR_MESSAGE="([^"]*)"', aux):
        kind = "input" if any("not available" in text for text in complaints) else "engine"
        raise QMError(f"{task.ligand_key}: mopac: {' '.join(map(str.strip, complaints))}", kind=kind)
    n_atoms = len(task.atomic_numbers)
    energy = _numbers(task, aux, "HEAT_OF_FORMATION:KCAL/MOL", 1)[0]
    gradient = _numbers(task, aux, "GRADIENTS:KCAL/MOL/ANGSTROM", 3 * n_atoms).reshape(n_atoms, 3)
    dipole = _numbers(task, aux, "DIP_VEC:DEBYE", 3) / DEBYE_PER_E_ANGSTROM
    orders = np.zeros((n_atoms, n_atoms))
    orders[np.tril_indices(n_atoms)] = _numbers(task, aux, "BOND_ORDERS", n_atoms * (n_atoms + 1) // 2)
    orders = orders + orders.T
    np.fill_diagonal(orders, 0.0)  # the valences
    # Of an ion MOPAC gives the dipole about the centre of mass.
    origin = task.total_charge * _centre_of_mass(task)
    return EngineResult(
        energy=float(energy) / KCAL_PER_HARTREE,
        gradient=gradient / KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
        coords=_numbers(task, aux, "ATOM_X_OPT:ANGSTROMS", 3 * n_atoms).reshape(n_atoms, 3),
        dipole=(dipole + origin) / ANGSTROM_PER_BOHR,
        bond_orders=orders,
        provenance={"program": "mopac", "version": _version(task, aux), "scf_rung": rung},
    )


def _numbers(task: QMTask, aux: str, name: str, count: int) -> FloatArray:
    """Take the numbers of one entry of the AUX file; QMError when they are absent or not as many."""
    match = re.search(rf"^ {re.escape(name)}(?:\[\d+\])?=([-+.\dEeD\s]*?)(?=^ [A-Z#]|\Z)", _bare(aux), re.M)
    words = match[1].replace("D", "E").split() if match else []
    values = np.array([float(word) for word in words])
    if len(values) != count or not all(map(math.isfinite, values)):
        raise QMError(
            f"{task.ligand_key}: mopac gave {len(values)} numbers of {name}, not {count}", kind="engine"
        )
    return values


def _bare(aux: str) -> str:
    """The file without its comments."""
    return re.sub(r"^ #.*\n", "", aux, flags=re.M)


def _version(task: QMTask, aux: str) -> str:
    match = re.search(r"^ MOPAC_VERSION=(\S+)", aux, re.M)
    if match is None:
        raise QMError(f"{task.ligand_key}: mopac does not say its version", kind="engine")
    return match[1]


def _centre_of_mass(task: QMTask) -> FloatArray:
    table = Chem.GetPeriodicTable()
    masses = np.array([table.GetAtomicWeight(int(number)) for number in task.atomic_numbers])
    centre: FloatArray = masses @ task.coords / masses.sum()
    return centre
