"""The force field of a ligand, and the energies that it gives."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.schema.arrays import FloatArray, IntArray, freeze
from pipeline.schema.ligand import Ligand, Topology

N_PROPER_PERIODICITIES = 6
N_IMPROPER_PERIODICITIES = 2
N_CROSS_PERIODICITIES = 3

_MAX_NAMED = 8
"""atoms listed in a sentence"""

CONVENTIONS_VERSION = "1"
"""Changes when the meaning of a parameter changes (see `MMParameters`); stamped on every artefact."""


CROSS_ROWS = {
    "bond_k3": "bonds",
    "bond_k4": "bonds",
    "angle_k3": "angles",
    "angle_k4": "angles",
    "bond_bond": "angles",
    "bond_angle": "angles",
    "bond_torsion": "propers",
    "angle_torsion": "propers",
    "angle_angle_torsion": "propers",
    "pair_coulomb": "pairs",
    "pair_repulsion": "pairs",
    "pair_dispersion": "pairs",
}
"""the rows of a Topology beside which each class II term stands"""
PAIR_FACTORS = tuple(name for name, rows in CROSS_ROWS.items() if rows == "pairs")
"""the terms that may be missing: the factors of nonbonded pairs"""


def _no_rows() -> FloatArray:
    return np.zeros(0)


class PairsOrNone:
    """Class II terms as arrays or tensors, with or without the factors of nonbonded pairs."""

    pair_coulomb: Any

    @property
    def has_pairs(self) -> bool:
        """Whether there are factors of the nonbonded pairs."""
        return len(self.pair_coulomb) > 0

    @property
    def rows(self) -> dict[str, str]:
        """Names of the terms that there are, and of the rows of a Topology beside which they stand."""
        return {name: rows for name, rows in CROSS_ROWS.items() if self.has_pairs or name not in PAIR_FACTORS}


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossTerms(PairsOrNone):
    """What class II adds: anharmonicity and couplings, row by row beside the Topology.

    E = sum_bonds bond_k3 (r - l)^3 + bond_k4 (r - l)^4
      + sum_angles angle_k3 (theta - theta0)^3 + angle_k4 (theta - theta0)^4
      + sum_angles bond_bond (r1 - l1) (r2 - l2) + (theta - theta0) sum_e bond_angle_e (r_e - l_e)
      + sum_propers (r_jk - l_jk) sum_n bond_torsion_n cos n phi
      + sum_propers sum_e (theta_e - theta0_e) sum_n angle_torsion_en cos n phi
      + sum_propers angle_angle_torsion (theta_1 - theta0_1) (theta_2 - theta0_2) cos phi
      + sum_pairs pair_coulomb C q_i q_j / r
                  + 4 epsilon (pair_repulsion (sigma / r)^12 - pair_dispersion (sigma / r)^6)

    e: the two bonds i-j, j-k of an angle i-j-k, or the two angles i-j-k, j-k-l of a proper i-j-k-l, in that
    order; lengths l and angles theta0 are those of `MMParameters`. These are terms of the class II force
    fields (Maple et al., J. Comput. Chem. 15, 162, 1994) in the form of LAMMPS' class2 styles.
    `pipeline.topology.coupled_rows` says which bonds and angles a row couples. The last sum, where it is
    there, stands in place of the nonbonded terms of class I and their 1-4 factors, for all `Topology.pairs`.
    """

    bond_k3: FloatArray
    """(n_bonds,), kcal/mol/angstrom^3"""
    bond_k4: FloatArray
    """(n_bonds,), kcal/mol/angstrom^4"""
    angle_k3: FloatArray
    """(n_angles,), kcal/mol/radian^3"""
    angle_k4: FloatArray
    """(n_angles,), kcal/mol/radian^4"""
    bond_bond: FloatArray
    """(n_angles,), kcal/mol/angstrom^2"""
    bond_angle: FloatArray
    """(n_angles, 2), kcal/mol/angstrom/radian; columns: bonds i-j and j-k"""
    bond_torsion: FloatArray
    """(n_propers, 3), kcal/mol/angstrom; column c holds periodicity c + 1"""
    angle_torsion: FloatArray
    """(n_propers, 2, 3), kcal/mol/radian; angles i-j-k and j-k-l, then periodicity"""
    angle_angle_torsion: FloatArray
    """(n_propers,), kcal/mol/radian^2"""
    pair_coulomb: FloatArray = field(default_factory=_no_rows)
    """(n_pairs,): factor of the Coulomb energy of a pair; this and the next two have no rows where the
    nonbonded terms are those of class I"""
    pair_repulsion: FloatArray = field(default_factory=_no_rows)
    """(n_pairs,): factor of the term in r^-12, positive"""
    pair_dispersion: FloatArray = field(default_factory=_no_rows)
    """(n_pairs,): factor of the term in r^-6, positive"""

    def __post_init__(self) -> None:
        """Check shapes and make the arrays read-only."""
        for name in ("bond_k3", "bond_k4", "angle_k3", "angle_k4", "bond_bond", "angle_angle_torsion"):
            freeze(self, name, np.float64, (None,))
        freeze(self, "bond_angle", np.float64, (None, 2))
        freeze(self, "bond_torsion", np.float64, (None, N_CROSS_PERIODICITIES))
        freeze(self, "angle_torsion", np.float64, (None, 2, N_CROSS_PERIODICITIES))
        for name in PAIR_FACTORS:
            freeze(self, name, np.float64, (None,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Confidence:
    """How sure a model is of the parameters it gave, row by row beside the Topology; kcal/mol but charges."""

    uncertainty: float
    """one number for the ligand: how far the model's networks, of all forms, disagree over its torsions"""
    limit: float
    """what is usual: 95 % of the molecules that the model was judged on are below"""
    unseen: tuple[int, ...] = ()
    """atoms, counted from 0, whose surroundings were not in the training: outside the model's domain"""
    doubt: str
    """why else the ligand is outside, in a sentence without atoms; empty inside"""
    charge_doubt: str = ""
    """the same of its charges, which does not count where charges come from elsewhere"""
    bond: FloatArray
    """(n_bonds,): what the scatter of the rest length costs, k/2 var(l)"""
    angle: FloatArray
    """(n_angles,): k/2 var(theta0)"""
    proper: FloatArray
    """(n_propers,): standard deviation of the cosine series over a full turn"""
    improper: FloatArray
    """(n_impropers,): the same, per trefoil row"""
    charge: FloatArray
    """(n_atoms,): standard deviation of the charge, elementary charges"""

    def __post_init__(self) -> None:
        """Check shapes and make the arrays read-only."""
        for name in ("bond", "angle", "proper", "improper", "charge"):
            freeze(self, name, np.float64, (None,))

    @property
    def doubts(self) -> str:
        """All doubts, atoms counted from 1; empty where there is none."""
        return "; ".join(filter(None, (self._about_unseen(), self.doubt, self.charge_doubt)))

    def _about_unseen(self) -> str:
        if not self.unseen:
            return ""
        atoms = ", ".join(str(atom + 1) for atom in self.unseen[:_MAX_NAMED])
        more = ", ..." if len(self.unseen) > _MAX_NAMED else ""
        return f"surroundings of atoms {atoms}{more} were not in the training"

    def without_charges(self) -> "Confidence":
        """The same about the other terms, where the charges are not the model's."""
        return dataclasses.replace(self, charge_doubt="", charge=np.zeros_like(self.charge))


@dataclass(frozen=True, kw_only=True, eq=False)
class MMParameters:
    """The force field of one ligand, row by row beside its Topology: class I, and more with `cross`.

    E = sum k/2 (r - l)^2 + sum k/2 (theta - theta0)^2
      + sum_propers sum_n k_n (1 + cos n phi)
      + sum_improper_rows sum_n k_n (1 + cos n phi)        (three rows per centre: the row k is a third of k)
      + Lennard-Jones (Lorentz-Berthelot, 1-4 scaled 0.5) + Coulomb (1-4 scaled 0.8333333333)

    Phases are zero and k may be negative: folding the sign into a phase would shift the energy by 2|k|.
    """

    bond_k: FloatArray
    """(n_bonds,), kcal/mol/angstrom^2"""
    bond_length: FloatArray
    """(n_bonds,), angstrom"""
    angle_k: FloatArray
    """(n_angles,), kcal/mol/radian^2"""
    angle_theta: FloatArray
    """(n_angles,), radian"""
    proper_k: FloatArray
    """(n_propers, 6), kcal/mol; column c holds periodicity c + 1"""
    improper_k: FloatArray
    """(n_impropers, 2), kcal/mol; column c holds periodicity c + 1; per trefoil row"""
    charge: FloatArray
    """(n_atoms,), elementary charges; the sum is the ligand's total charge exactly"""
    sigma: FloatArray
    """(n_atoms,), angstrom"""
    epsilon: FloatArray
    """(n_atoms,), kcal/mol"""
    cross: CrossTerms | None = None
    """the terms beyond class I; None: there are none"""
    confidence: Confidence | None = None
    """None where the parameters do not come from an ensemble that knows its domain"""

    def __post_init__(self) -> None:
        """Check shapes and make the arrays read-only."""
        for name in ("bond_k", "bond_length", "angle_k", "angle_theta", "charge", "sigma", "epsilon"):
            freeze(self, name, np.float64, (None,))
        freeze(self, "proper_k", np.float64, (None, N_PROPER_PERIODICITIES))
        freeze(self, "improper_k", np.float64, (None, N_IMPROPER_PERIODICITIES))

    def with_charges(self, charge: FloatArray) -> "MMParameters":
        """The same beside charges (n_atoms,) from elsewhere, of which the model's confidence says nothing."""
        sure = self.confidence and self.confidence.without_charges()
        return dataclasses.replace(self, charge=charge, confidence=sure)


CLASS1_FIELDS = tuple(
    one.name for one in dataclasses.fields(MMParameters) if one.name not in ("cross", "confidence")
)
"""names of the arrays that every force field has"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parametrized:
    """A ligand with its force field: what every exporter takes."""

    id: str
    """file-safe name: slug plus hash"""
    ligand: Ligand
    topology: Topology
    parameters: MMParameters
    coords: FloatArray | None
    """(n_atoms, 3), angstrom; None when there is no geometry"""
    provenance: tuple[tuple[str, str], ...] = ()
    """model, versions, hashes, settings as pairs; stamped on every file"""

    def __post_init__(self) -> None:
        """Check the rows of the parameters against the topology."""
        if self.coords is not None:
            freeze(self, "coords", np.float64, (self.topology.n_atoms, 3))
        topology, parameters = self.topology, self.parameters
        for have, want, name in (
            (parameters.bond_k, topology.bonds, "bond_k"),
            (parameters.bond_length, topology.bonds, "bond_length"),
            (parameters.angle_k, topology.angles, "angle_k"),
            (parameters.angle_theta, topology.angles, "angle_theta"),
            (parameters.proper_k, topology.propers, "proper_k"),
            (parameters.improper_k, topology.impropers, "improper_k"),
            (parameters.charge, topology.atomic_numbers, "charge"),
            (parameters.sigma, topology.atomic_numbers, "sigma"),
            (parameters.epsilon, topology.atomic_numbers, "epsilon"),
        ):
            _check_rows(name, have, want)
        if parameters.cross is not None:
            for name, rows in parameters.cross.rows.items():
                _check_rows(name, getattr(parameters.cross, name), getattr(topology, rows))


def _check_rows(name: str, have: FloatArray, want: IntArray) -> None:
    if len(have) != len(want):
        raise ValueError(f"{name}: {len(have)} rows for {len(want)} interactions")


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """The energy of one geometry, term by term, kcal/mol."""

    bond: float
    angle: float
    proper: float
    improper: float
    vdw: float
    coulomb: float
    cross: float = 0.0
    """all terms of CrossTerms; zero for class I"""

    @property
    def total(self) -> float:
        """Sum of all terms."""
        terms = (self.bond, self.angle, self.proper, self.improper, self.vdw, self.coulomb, self.cross)
        return sum(terms)
