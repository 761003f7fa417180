"""Charges fitted to electrostatic potentials: the two-stage RESP procedure.

C. I. Bayly, P. Cieplak, W. D. Cornell, P. A. Kollman, J. Phys. Chem. 1993, 97, 10269. Minimised is

    chi^2 = sum_points (V_QM - sum_j q_j / r_ij)^2 + 2 a sum_heavy (sqrt(q_j^2 + b^2) - b)

under the total charge and equal charges of equivalent atoms, V in atomic units. The paper has no factor of
two; Amber's program, from which everybody's RESP charges come, has it. The hyperbola is flat at zero and
linear far away; its weight depends on q, so the linear equations are solved again until q stands still. Stage
one fits all atoms with a weak restraint; stage two keeps them but for the sp3 carbons with two or three
hydrogens and those hydrogens, whose restraint is stronger and which are made equal there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from pipeline.errors import QMError
from pipeline.ligand import to_rdkit
from pipeline.resonance import equivalence_classes
from pipeline.schema import FloatArray, IntArray, Ligand, QMRecord
from pipeline.units import ANGSTROM_PER_BOHR, KCAL_PER_HARTREE

MAX_POTENTIALS = 5
"""conformers of a ligand, the lowest ones, to whose potentials charges are fitted together"""
WEAK, STRONG = 0.0005, 0.001
"""hartree^2/e^2, restraint weights of the stages, per conformer's sum over points"""
TIGHTNESS = 0.1
"""e"""
_STANDING_STILL = 1e-8
"""e"""
_MAX_CYCLES = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class ESPFit:
    """Fitted charges and how well they give the potential back."""

    charges: FloatArray
    """(n_atoms,), elementary charges; the sum is the total charge to rounding"""
    rms: float
    """of the potential over all points, kcal/mol/e"""
    relative_rms: float
    """the same over the RMS of the potential itself"""


def fit_resp(ligand: Ligand, records: Sequence[QMRecord]) -> ESPFit:
    """Fit charges of a ligand to the potentials of one or several of its conformers, in two stages.

    Records come from the driver `esp`, in the ligand's atom order. Raises QMError (kind input) when one has
    no potential.
    """
    lacking = [record for record in records if record.esp is None]
    if lacking or not records:
        raise QMError(f"{ligand.name}: RESP needs records with a potential (driver esp)", kind="input")
    mol = to_rdkit(ligand)
    normal = _normal_equations(records)
    is_heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
    alkyl = _alkyl_groups(mol)
    classes = equivalence_classes(mol)
    in_second = np.zeros(mol.GetNumAtoms(), dtype=bool)
    in_second[[atom for group in alkyl for atom in group]] = True
    # First stage: atoms that stage two will not touch are equal where the graph says so.
    first_groups = _groups(classes, ~in_second)
    first = solve_restrained(
        normal, total_charge=ligand.total_charge, groups=first_groups, weights=np.where(is_heavy, WEAK, 0.0)
    )
    if not in_second.any():
        return _judge(first, records)
    second = solve_restrained(
        normal,
        total_charge=ligand.total_charge,
        groups=_groups(classes, in_second),
        weights=np.where(is_heavy, STRONG, 0.0),
        fixed=np.where(in_second, np.nan, first),
    )
    return _judge(second, records)


def _normal_equations(records: Sequence[QMRecord]) -> tuple[FloatArray, FloatArray]:
    """A = sum 1/r_i 1/r_j and B = sum V/r_i over points, in atomic units, the mean over conformers."""
    matrices, vectors = [], []
    for record in records:
        inverse, potential = _design(record)
        matrices.append(inverse.T @ inverse)
        vectors.append(inverse.T @ potential)
    return np.mean(matrices, axis=0), np.mean(vectors, axis=0)


def _design(record: QMRecord) -> tuple[FloatArray, FloatArray]:
    """1/r, (n_points, n_atoms) 1/bohr, and the potential, (n_points,) hartree/e."""
    assert record.esp is not None
    away = np.linalg.norm(record.esp[:, None, :3] - record.coords[None], axis=2)
    return ANGSTROM_PER_BOHR / away, record.esp[:, 3] / KCAL_PER_HARTREE


def solve_restrained(
    normal: tuple[FloatArray, FloatArray],
    *,
    total_charge: int,
    groups: Sequence[IntArray],
    weights: FloatArray,
    fixed: FloatArray | None = None,
) -> FloatArray:
    """Minimise the restrained sum of squares: (n_atoms,) charges.

    `groups` lists the atoms that must be equal; `weights` are the restraints' (n_atoms,); `fixed` holds the
    charges that stay, NaN for the others. Atoms in no group are free for themselves.
    """
    matrix, vector = normal
    n_atoms = len(vector)
    stays = np.zeros(n_atoms, dtype=bool) if fixed is None else ~np.isnan(fixed)
    held = np.zeros(n_atoms) if fixed is None else np.where(stays, fixed, 0.0)
    share = _sharing(groups, stays)
    n_free = share.shape[1]
    charges = held.copy()
    for _ in range(_MAX_CYCLES):
        # Half of d/dq of 2 a (sqrt(q^2 + b^2) - b), as the rows of the matrix are half of d/dq, over q
        restraint = weights / np.sqrt(charges**2 + TIGHTNESS**2)
        full = matrix + np.diag(restraint)
        system = np.zeros((n_free + 1, n_free + 1))
        system[:n_free, :n_free] = share.T @ full @ share
        system[:n_free, n_free] = system[n_free, :n_free] = share.sum(axis=0)
        right = np.append(share.T @ (vector - full @ held), total_charge - held.sum())
        new = held + share @ np.linalg.lstsq(system, right, rcond=None)[0][:n_free]
        moved = float(np.abs(new - charges).max())
        charges = new
        if moved < _STANDING_STILL:
            return charges
    raise QMError(f"the restrained fit did not stand still in {_MAX_CYCLES} cycles", kind="engine")


def _sharing(groups: Sequence[IntArray], stays: np.ndarray) -> FloatArray:
    """(n_atoms, n_free): which atom takes which free charge."""
    n_atoms = len(stays)
    column = {int(atom): number for number, group in enumerate(groups) for atom in group}
    free = [atom for atom in range(n_atoms) if not stays[atom]]
    places: dict[int, int] = {}
    share = np.zeros((n_atoms, n_atoms))
    for atom in free:
        key = column.get(atom, len(groups) + atom)
        share[atom, places.setdefault(key, len(places))] = 1.0
    return share[:, : len(places)]


def _groups(classes: IntArray, wanted: np.ndarray) -> list[IntArray]:
    """Atoms of equal rank among the wanted."""
    found = [np.flatnonzero((classes == kind) & wanted) for kind in np.unique(classes)]
    return [group for group in found if len(group) > 1]


def _alkyl_groups(mol: Chem.Mol) -> list[list[int]]:
    """Each sp3 carbon with two or three hydrogens, with them: what stage two fits again."""
    groups = []
    for atom in mol.GetAtoms():
        hydrogens = [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
        if atom.GetAtomicNum() == 6 and atom.GetDegree() == 4 and len(hydrogens) >= 2:
            groups.append([atom.GetIdx(), *hydrogens])
    return groups


def _judge(charges: FloatArray, records: Sequence[QMRecord]) -> ESPFit:
    errors, potentials = [], []
    for record in records:
        inverse, potential = _design(record)
        errors.append(inverse @ charges - potential)
        potentials.append(potential)
    rms = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    scale = float(np.sqrt(np.mean(np.concatenate(potentials) ** 2)))
    return ESPFit(charges=charges, rms=rms * KCAL_PER_HARTREE, relative_rms=rms / scale)
