"""Optimisation by geomeTRIC over the gradients of one of our engines. Runs in the child that runs the engine.

L.-P. Wang, C. C. Song, J. Chem. Phys. 2016, 144, 214108. Coordinates, convergence and the way constraints are
enforced are those of OpenFF's optimisation and torsion-drive data sets.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from geometric.engine import Engine
from geometric.errors import GeomOptNotConvergedError, GeomOptStructureError, LinearTorsionError
from geometric.internal import DelocalizedInternalCoordinates
from geometric.molecule import Molecule
from geometric.optimize import Optimize
from geometric.params import OptParams
from geometric.prepare import parse_constraints
from qcelemental import periodictable

from pipeline.errors import QMError
from pipeline.qm.connectivity import changed_bonds
from pipeline.qm.result import EngineResult
from pipeline.schema import FloatArray, QMTask
from pipeline.units import ANGSTROM_PER_BOHR, DEGREE_PER_RADIAN

_MAX_STEPS = 300
_ON_TARGET = math.radians(0.5)
"""A constraint is kept to 0.1 degree or better; farther off it was not."""

Compute = Callable[[QMTask], EngineResult]


class _Door(Engine):
    """What geomeTRIC asks for energies and gradients."""

    def __init__(self, molecule: Molecule, task: QMTask, compute: Compute) -> None:
        super().__init__(molecule)
        spec = dataclasses.replace(task.spec, driver="gradient")
        self._task = dataclasses.replace(task, spec=spec, constraints=())
        self._compute = compute
        self.results: list[EngineResult] = []

    def calc_new(self, coords: FloatArray, dirname: str) -> dict[str, object]:  # noqa: ARG002 - its contract
        """Energy in hartree and flat gradient in hartree/bohr at flat coordinates in bohr."""
        place = coords.reshape(-1, 3) * ANGSTROM_PER_BOHR
        result = self._compute(dataclasses.replace(self._task, coords=place))
        assert result.gradient is not None
        self.results.append(result)
        return {"energy": result.energy, "gradient": result.gradient.ravel()}


def optimise(task: QMTask, compute: Compute) -> EngineResult:
    """Optimise a geometry under its constraints; energy and gradient are those of the last geometry.

    Bonds formed or broken on the way are flagged `connectivity` in the provenance. Raises QMError of kind
    `linear` for a constraint over a linear angle, `geometry` when it does not converge, and what `compute`
    raises.
    """
    logging.disable(logging.CRITICAL)  # geomeTRIC tells every step; this child has nothing else to say
    molecule = Molecule()
    molecule.elem = [periodictable.to_E(int(number)) for number in task.atomic_numbers]
    molecule.xyzs = [np.array(task.coords)]
    molecule.build_topology()
    door = _Door(molecule, task, compute)
    if len(task.atomic_numbers) > 1:
        _minimise(task, molecule, door)
    else:
        door.calc_new(task.coords.ravel() / ANGSTROM_PER_BOHR, "")
    last = door.results[-1]
    _check_constraints(task, last.coords)
    notes = {"n_steps": str(len(door.results)), "geometric": version("geometric")}
    if changes := changed_bonds(task.atomic_numbers, task.coords, last.coords):
        notes |= {"flags": "connectivity", "changed_bonds": changes}
    return dataclasses.replace(last, provenance=last.provenance | notes)


def _minimise(task: QMTask, molecule: Molecule, door: _Door) -> None:
    who = f"{task.ligand_key}: {task.spec.program}"
    params = OptParams(
        enforce=0.1, epsilon=0.0, reset=True, qccnv=True, convergence_set="GAU", maxiter=_MAX_STEPS
    )
    folder = Path.cwd() / "geometric.tmp"
    folder.mkdir(exist_ok=True)
    try:
        constraints, values = parse_constraints(molecule, _constraints_text(task))
        internals = DelocalizedInternalCoordinates(
            molecule,
            build=True,
            connect=True,
            addcart=False,
            constraints=constraints,
            cvals=values[0] if values else None,
        )
        flat = task.coords.ravel() / ANGSTROM_PER_BOHR
        progress = Optimize(flat, molecule, internals, door, str(folder), params, print_info=False)
    except LinearTorsionError as error:
        raise QMError(f"{who}: an angle of a driven torsion became linear: {error}", kind="linear") from error
    except GeomOptNotConvergedError as error:
        message = f"{who}: the optimisation did not converge in {_MAX_STEPS} steps; check the geometry"
        raise QMError(message, kind="geometry") from error
    except GeomOptStructureError as error:
        raise QMError(f"{who}: the optimisation broke the structure: {error}", kind="geometry") from error
    if not np.allclose(progress.xyzs[-1], door.results[-1].coords, atol=1e-6):
        # The last accepted geometry is not the last computed one: compute it again, there.
        door.calc_new(progress.xyzs[-1].ravel() / ANGSTROM_PER_BOHR, "")


def _constraints_text(task: QMTask) -> str:
    """Constraints in geomeTRIC's own words: atoms from 1, degrees."""
    lines = []
    for held in task.constraints:
        atoms = " ".join(str(atom + 1) for atom in held.atoms)
        if held.angle is None:
            lines += ["$freeze", f"dihedral {atoms}"]
        else:
            lines += ["$set", f"dihedral {atoms} {held.angle * DEGREE_PER_RADIAN:.8f}"]
    return "\n".join(lines)


def _check_constraints(task: QMTask, coords: FloatArray) -> None:
    for held in task.constraints:
        wanted = dihedral_angle(task.coords, held.atoms) if held.angle is None else held.angle
        off = dihedral_angle(coords, held.atoms) - wanted
        off = abs((off + math.pi) % (2 * math.pi) - math.pi)
        if not off < _ON_TARGET:
            raise QMError(
                f"{task.ligand_key}: {task.spec.program}: the constrained dihedral {held.atoms} ended "
                f"{math.degrees(off):.1f} degrees off",
                kind="geometry",
            )


def dihedral_angle(coords: FloatArray, atoms: tuple[int, int, int, int]) -> float:
    """The dihedral of four atoms, radian in (-pi, pi], by the IUPAC sign."""
    i, j, k, m = (coords[atom] for atom in atoms)
    first, axis, last = j - i, k - j, m - k
    left, right = np.cross(first, axis), np.cross(axis, last)
    return math.atan2(float(np.linalg.norm(axis) * (first @ right)), float(left @ right))
