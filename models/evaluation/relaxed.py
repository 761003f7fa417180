"""Score force fields on relaxed geometries: minimise every QM minimum, compare energies and shapes with QM.

    ddE_i = (E_MM,i - E_MM,0) - (E_QM,i - E_QM,0),   conformer 0: the molecule's QM minimum

as the OpenFF Industry Benchmark has it (D'Amore et al., J. Chem. Inf. Model. 62, 6094, 2022). Conformer 0
itself, where ddE is zero by definition, does not count in the energy figures; it does in RMSD and TFD.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers
from rdkit.Geometry import Point3D

from models.dataset import QMExample
from models.evaluation.geometry import compare_geometries
from models.evaluation.scoring import LeftOut, Parametrise
from models.relax import Relaxed, RelaxSettings, RelaxTask, relax
from pipeline.errors import LigandError, ParametersError
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray

WORST_WINDOW = 40.0
"""kcal/mol above the QM minimum: conformers beyond do not make a molecule one of the worst"""

Relaxer = Callable[[Sequence[QMExample]], list[Relaxed | LigandError]]
"""Minimises the conformers of every row, or says why it cannot; in order, one answer per row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RelaxedRow:
    """One molecule after minimisation, beside its QM minima; all (n_confs,)."""

    row: int
    """number of the row among the examples"""
    key: str
    total_charge: int
    qm_energy: FloatArray
    """kcal/mol, lowest is 0"""
    dde: FloatArray
    """kcal/mol; zero at the QM minimum"""
    rmsd: FloatArray
    """angstrom, heavy atoms, symmetry-aware"""
    tfd: FloatArray
    """torsion fingerprint deviation; NaN where the molecule has no torsion"""
    converged: np.ndarray
    """bool; a conformer that did not converge is scored where it stopped, and counted"""

    @property
    def is_reference(self) -> np.ndarray:
        """(n_confs,) True for the QM minimum, against which ddE is measured."""
        return np.arange(len(self.qm_energy)) == int(np.argmin(self.qm_energy))


@dataclass(frozen=True, kw_only=True)
class RelaxedScores:
    """One method over the minima of a table: every row is either scored or left out."""

    method: str
    rows: tuple[RelaxedRow, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True)
class RelaxedSummary:
    """One method over the molecules that all methods score. kcal/mol, angstrom."""

    method: str
    n_molecules: int
    n_confs: int
    """conformers with a ddE"""
    n_not_converged: int
    median_dde: float
    """median |ddE|"""
    mean_dde: float
    """mean |ddE|"""
    signed_dde: float
    """mean ddE: negative when MM puts the QM minimum too high"""
    median_rmsd: float
    mean_rmsd: float
    median_tfd: float
    mean_tfd: float


def class1_relaxer(parametrise: Parametrise, settings: RelaxSettings | None = None) -> Relaxer:
    """Minimise with anything that assigns class I parameters."""

    def run(examples: Sequence[QMExample]) -> list[Relaxed | LigandError]:
        answers: list[RelaxTask | LigandError] = []
        for example in examples:
            try:
                parameters = parametrise(example.ligand, example.topology)
            except LigandError as error:
                answers.append(error)
                continue
            coords = example.coords.astype(np.float64)
            answers.append(RelaxTask(topology=example.topology, parameters=parameters, coords=coords))
        done = iter(relax([task for task in answers if isinstance(task, RelaxTask)], settings))
        return [next(done) if isinstance(answer, RelaxTask) else answer for answer in answers]

    return run


def mmff94_relaxer(max_steps: int = 2000) -> Relaxer:
    """Minimise with MMFF94 as RDKit has it, to RDKit's own tolerance."""

    def run(examples: Sequence[QMExample]) -> list[Relaxed | LigandError]:
        answers: list[Relaxed | LigandError] = []
        for example in examples:
            try:
                answers.append(_relax_mmff94(example, max_steps))
            except LigandError as error:
                answers.append(error)
        return answers

    return run


def _relax_mmff94(example: QMExample, max_steps: int) -> Relaxed:
    mol = to_rdkit(example.ligand)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
    if properties is None:
        raise ParametersError(f"{example.key}: MMFF94 has no type for an atom", kind="mmff94")
    coords, energies, forces, converged = [], [], [], []
    for points in example.coords.astype(np.float64):
        conformer = Chem.Conformer(mol.GetNumAtoms())
        for atom, (x, y, z) in enumerate(points.tolist()):
            conformer.SetAtomPosition(atom, Point3D(x, y, z))
        mol.RemoveAllConformers()
        mol.AddConformer(conformer)
        # 1000 angstrom: no pair is cut off.
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, nonBondedThresh=1000.0)
        converged.append(field.Minimize(maxIts=max_steps) == 0)
        coords.append(mol.GetConformer().GetPositions())
        energies.append(field.CalcEnergy())
        gradient = np.array(field.CalcGrad()).reshape(-1, 3)
        forces.append(float(np.linalg.norm(gradient, axis=1).max()))
    return Relaxed(
        coords=np.array(coords),
        energy=np.array(energies),
        largest_force=np.array(forces),
        converged=np.array(converged),
        n_evaluations=np.full(len(coords), -1),
    )


def evaluate_relaxed(examples: Sequence[QMExample], relaxer: Relaxer, name: str) -> RelaxedScores:
    """Minimise and score every row of QM minima; rows of other kinds are not asked for."""
    numbers = [number for number, example in enumerate(examples) if example.kind == "minima"]
    rows, left_out = [], []
    for number, answer in zip(numbers, relaxer([examples[number] for number in numbers]), strict=True):
        example = examples[number]
        if isinstance(answer, LigandError):
            reason = str(answer)
        elif not np.isfinite(answer.energy).all():
            reason = f"{example.key}: energies that are not finite"
        else:
            rows.append(score_relaxed(number, example, answer))
            continue
        left_out.append(LeftOut(row=number, key=example.key, source=example.source, reason=reason))
    return RelaxedScores(method=name, rows=tuple(rows), left_out=tuple(left_out))


def score_relaxed(row: int, example: QMExample, relaxed: Relaxed) -> RelaxedRow:
    """Compare the minimised conformers of one molecule with the QM minima they started from."""
    lowest = int(np.argmin(example.energy))
    qm = example.energy - example.energy[lowest]
    deviations = compare_geometries(example.ligand, relaxed.coords, example.coords.astype(np.float64))
    return RelaxedRow(
        row=row,
        key=example.key,
        total_charge=example.ligand.total_charge,
        qm_energy=qm,
        dde=(relaxed.energy - relaxed.energy[lowest]) - qm,
        rmsd=deviations.rmsd,
        tfd=deviations.tfd,
        converged=np.asarray(relaxed.converged),
    )


def relaxed_in_common(scores: Sequence[RelaxedScores]) -> tuple[RelaxedScores, ...]:
    """Keep the molecules that every method scores; a method that scores none at all is left aside."""
    shown = [method for method in scores if method.rows]
    if not shown:
        return ()
    common = set.intersection(*({row.row for row in method.rows} for method in shown))
    return tuple(restrict_relaxed(method, common) for method in shown)


def restrict_relaxed(scores: RelaxedScores, rows: Set[int]) -> RelaxedScores:
    """Keep the molecules of these row numbers."""
    return replace(scores, rows=tuple(row for row in scores.rows if row.row in rows))


def pooled_dde(scores: RelaxedScores) -> FloatArray:
    """Every ddE of a method but those of the reference conformers, kcal/mol; unknown ones are left out."""
    dde = np.concatenate([row.dde[~row.is_reference] for row in scores.rows])
    return dde[np.isfinite(dde)]


def pooled(scores: RelaxedScores, name: Literal["rmsd", "tfd"]) -> FloatArray:
    """Every known RMSD or TFD of a method, reference conformers included."""
    values = np.concatenate([getattr(row, name) for row in scores.rows])
    return values[np.isfinite(values)]


def summarise_relaxed(scores: RelaxedScores) -> RelaxedSummary:
    """Pool the conformers of all molecules, each counts once; figures of nothing are NaN."""
    dde, rmsd, tfd = pooled_dde(scores), pooled(scores, "rmsd"), pooled(scores, "tfd")
    return RelaxedSummary(
        method=scores.method,
        n_molecules=len(scores.rows),
        n_confs=len(dde),
        n_not_converged=int(sum((~row.converged).sum() for row in scores.rows)),
        median_dde=_or_nan(np.median, np.abs(dde)),
        mean_dde=_or_nan(np.mean, np.abs(dde)),
        signed_dde=_or_nan(np.mean, dde),
        median_rmsd=_or_nan(np.median, rmsd),
        mean_rmsd=_or_nan(np.mean, rmsd),
        median_tfd=_or_nan(np.median, tfd),
        mean_tfd=_or_nan(np.mean, tfd),
    )


def _or_nan(average: Callable[[FloatArray], np.floating], values: FloatArray) -> float:
    return float(average(values)) if len(values) else float("nan")


def worst_molecules(scores: RelaxedScores, n: int = 10) -> list[tuple[float, RelaxedRow]]:
    """The molecules with the largest mean |ddE|, and that figure, worst first.

    Conformers beyond the energy window do not count here: the benchmark holds a few minima of 90 kcal/mol
    with carbons turned inside out, which no force field keeps.
    """
    ranked = []
    for row in scores.rows:
        counted = ~row.is_reference & (row.qm_energy <= WORST_WINDOW)
        if counted.any():
            ranked.append((float(np.mean(np.abs(row.dde[counted]))), row))
    return sorted(ranked, key=lambda pair: -pair[0])[:n]
