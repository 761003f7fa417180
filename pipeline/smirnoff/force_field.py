"""What an OFFXML file says: parameters in the order of the file, each with its compiled pattern."""

from dataclasses import dataclass

from pipeline.smirnoff.matching import Pattern


@dataclass(frozen=True, kw_only=True, eq=False)
class VdwType:
    """Lennard-Jones parameters of an atom."""

    id: str
    pattern: Pattern
    sigma: float
    """angstrom"""
    epsilon: float
    """kcal/mol"""


@dataclass(frozen=True, kw_only=True, eq=False)
class BondType:
    """A harmonic bond, E = k/2 (r - length)^2."""

    id: str
    pattern: Pattern
    length: float
    """angstrom"""
    k: float
    """kcal/mol/angstrom^2"""


@dataclass(frozen=True, kw_only=True, eq=False)
class AngleType:
    """A harmonic angle, E = k/2 (theta - angle)^2; the second tag is the centre."""

    id: str
    pattern: Pattern
    angle: float
    """radian"""
    k: float
    """kcal/mol/radian^2"""


@dataclass(frozen=True, kw_only=True)
class TorsionTerm:
    """One term of a torsion, E = k/idivf (1 + cos(periodicity phi - phase))."""

    periodicity: int
    phase: float
    """radian"""
    k: float
    """kcal/mol"""
    idivf: float | None
    """None: `auto`, (n_j - 1)(n_k - 1) for a proper, 3 for an improper"""


@dataclass(frozen=True, kw_only=True, eq=False)
class TorsionType:
    """A proper torsion, or an improper one whose second tag is the centre."""

    id: str
    pattern: Pattern
    terms: tuple[TorsionTerm, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LibraryCharge:
    """Partial charges of the tagged atoms."""

    id: str
    pattern: Pattern
    charges: tuple[float, ...]
    """elementary charges, by tag"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Constraint:
    """A constrained distance between the two tagged atoms."""

    id: str
    pattern: Pattern
    distance: float | None
    """angstrom; None: the equilibrium length of the bond"""


@dataclass(frozen=True, kw_only=True, eq=False)
class SmirnoffForceField:
    """A SMIRNOFF force field; in every section the last parameter that matches wins."""

    vdw: tuple[VdwType, ...] = ()
    bonds: tuple[BondType, ...] = ()
    angles: tuple[AngleType, ...] = ()
    propers: tuple[TorsionType, ...] = ()
    impropers: tuple[TorsionType, ...] = ()
    library_charges: tuple[LibraryCharge, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    vdw_scale14: float = 0.5
    coulomb_scale14: float = 0.8333333333
    charge_model: str = ""
    """section that would charge the atoms no library charge covers, e.g. `ToolkitAM1BCC`; empty: none"""
    author: str = ""
    date: str = ""
