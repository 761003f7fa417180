"""Quantum chemistry: what is asked, and what came out."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import numpy as np

from pipeline.schema.arrays import FloatArray, IntArray, freeze
from pipeline.schema.ligand import Ligand, Topology


@dataclass(frozen=True, kw_only=True)
class QMSpec:
    """A level of theory and what is asked of it. The default is OpenFF's level."""

    program: str = "pyscf"
    """psi4, pyscf, tblite, mopac, or another that `pipeline.qm.methods` lists"""
    method: str = "b3lyp"
    basis: str | None = "dzvp"
    dispersion: str | None = "d3bj"
    driver: str = "gradient"
    """energy, gradient, hessian, properties (dipole, bond orders), esp, or optimise"""
    keywords: tuple[tuple[str, str | int | float | bool], ...] = ()

    @property
    def level(self) -> str:
        """The level of theory in words, e.g. `b3lyp-d3bj/dzvp`."""
        method = f"{self.method}-{self.dispersion}" if self.dispersion else self.method
        return f"{method}/{self.basis}" if self.basis else method


@dataclass(frozen=True, kw_only=True)
class DihedralConstraint:
    """A dihedral that an optimisation keeps at a value."""

    atoms: tuple[int, int, int, int]
    """0-based"""
    angle: float | None = None
    """radian; None: as in the first geometry"""


@dataclass(frozen=True, kw_only=True, eq=False)
class QMTask:
    """One calculation: a molecule, a geometry, a spec; an optimisation starts at the geometry."""

    ligand_key: str
    atomic_numbers: IntArray
    """(n_atoms,)"""
    coords: FloatArray
    """(n_atoms, 3), angstrom"""
    total_charge: int
    spec: QMSpec
    constraints: tuple[DihedralConstraint, ...] = ()
    """of an optimisation"""

    def __post_init__(self) -> None:
        """Check shapes and make the arrays read-only."""
        freeze(self, "atomic_numbers", np.int64, (None,))
        freeze(self, "coords", np.float64, (len(self.atomic_numbers), 3))

    @property
    def key(self) -> str:
        """Content hash of atoms, geometry (to 1e-8 angstrom), charge, spec, constraints: the store's key."""
        content = {
            "atomic_numbers": self.atomic_numbers.tolist(),
            "coords": [[f"{x + 0.0:.8f}" for x in row] for row in np.round(self.coords, 8)],
            "total_charge": self.total_charge,
            "spec": dataclasses.asdict(self.spec),
        }
        if self.constraints:  # absent from the keys of single points, which older stores hold
            content["constraints"] = [
                [*held.atoms, None if held.angle is None else f"{held.angle + 0.0:.8f}"]
                for held in self.constraints
            ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class QMRecord:
    """The result of one QMTask, in the frame and atom order of the task."""

    task_key: str
    ligand_key: str
    spec: QMSpec
    coords: FloatArray
    """(n_atoms, 3), angstrom: the task's geometry; of an optimisation, the last one"""
    energy: float
    """total energy, kcal/mol"""
    gradient: FloatArray | None
    """(n_atoms, 3), dE/dx, kcal/mol/angstrom; None when only the energy was asked for"""
    hessian: FloatArray | None = None
    """(3 n_atoms, 3 n_atoms), symmetric, atom by atom x y z, kcal/mol/angstrom^2"""
    dipole: FloatArray | None = None
    """(3,), elementary charge times angstrom, about the mean of the nuclei's positions"""
    bond_orders: FloatArray | None = None
    """(n_atoms, n_atoms), Wiberg's, symmetric with a diagonal of zeros"""
    esp: FloatArray | None = None
    """(n_points, 4): a point's x, y, z in angstrom and the potential there, kcal/mol/elementary charge"""
    provenance: tuple[tuple[str, str], ...] = ()
    """program, version, wall seconds, host, ... as sorted pairs"""

    def __post_init__(self) -> None:
        """Check shapes, finiteness, and make the arrays read-only."""
        n_atoms = len(self.coords)
        shapes: dict[str, tuple[int | None, ...]] = {
            "coords": (n_atoms, 3),
            "gradient": (n_atoms, 3),
            "hessian": (3 * n_atoms, 3 * n_atoms),
            "dipole": (3,),
            "bond_orders": (n_atoms, n_atoms),
            "esp": (None, 4),
        }
        for name, shape in shapes.items():
            if getattr(self, name) is not None:
                freeze(self, name, np.float64, shape)
                if not np.isfinite(getattr(self, name)).all():
                    raise ValueError(f"QM {name} must be finite")
        if not np.isfinite(self.energy):
            raise ValueError("QM energy must be finite")

    @property
    def flags(self) -> tuple[str, ...]:
        """What is wrong with a finished result, e.g. `connectivity`; such a record is not trained on."""
        return tuple(dict(self.provenance).get("flags", "").split())


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A ligand with the QM records of its geometries, all at one level of theory and in its atom order."""

    ligand: Ligand
    topology: Topology
    records: tuple[QMRecord, ...]
    charges: FloatArray | None = None
    """(n_atoms,) elementary charges beside which the other terms are fitted; None: the model's"""
