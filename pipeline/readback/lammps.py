"""Read LAMMPS files back: a small reader of the script and the data file, as LAMMPS' manual defines them.

It shares nothing with the writer: styles are taken from the script, 1-2, 1-3 and 1-4 neighbours from the
bonds, as LAMMPS does. What it does not know it refuses.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import openmm
from openmm import _openmm  # its functions take numbers at a quarter of the time

from pipeline.errors import VerificationError
from pipeline.readback.files import CHARGE_SUM_TOLERANCE, Check
from pipeline.readback.lammps_class2 import (
    DIHEDRAL_SECTIONS,
    SECTIONS,
    STYLES,
    Rows,
    Terms,
    build_class2_forces,
    split_dihedral_types,
)
from pipeline.units import ANGSTROM_PER_NM, DEGREE_PER_RADIAN, KJ_PER_KCAL
from pipeline.verify import Reference, check_system

COORDINATE_TOLERANCE = 1e-9
"""angstrom; ten decimals are printed"""

_FIXED = {
    "units": "real",
    "atom_style": "full",
    "bond_style": "harmonic",
    "angle_style": "harmonic",
    "dihedral_style": "harmonic",
    "improper_style": "cvff",
    "pair_modify": "mix arithmetic shift no tail no",
}
_INERT = ("boundary", "neighbor", "thermo_style", "thermo_modify", "run")
_SECTIONS = {
    "Masses": ("atom types", 2),
    "Pair Coeffs": ("atom types", 3),
    "Bond Coeffs": ("bond types", 3),
    "Angle Coeffs": ("angle types", 3),
    "Dihedral Coeffs": ("dihedral types", 4),
    "Improper Coeffs": ("improper types", 4),
    "Atoms": ("atoms", 7),
    "Bonds": ("bonds", 4),
    "Angles": ("angles", 5),
    "Dihedrals": ("dihedrals", 6),
    "Impropers": ("impropers", 6),
}
"""section: the header's word for its length, and the number of columns"""


@dataclass(frozen=True, kw_only=True)
class _Script:
    """What the input script says about energies."""

    data_file: str
    cutoff: float
    """angstrom"""
    vdw_factors: tuple[float, ...]
    coulomb_factors: tuple[float, ...]
    """for atoms one, two and three bonds apart"""
    class2: bool
    """whether the bonded styles are those of class II"""


def check_lammps(path: Path, reference: Reference) -> list[Check]:
    """Build the system that script and data file describe, and compare energies, charges and coordinates."""
    script = _read_script(path.read_text(encoding="utf-8"))
    text = path.with_name(script.data_file).read_text(encoding="utf-8")
    sections = read_sections(text, class2=script.class2)
    coords = np.array([row[4:7] for row in sections["Atoms"]], dtype=np.float64)
    expected = reference.parametrized.coords
    if expected is None or coords.shape != expected.shape:
        raise VerificationError(f"{script.data_file}: {len(coords)} atoms do not belong to this ligand")
    if not np.abs(coords - expected).max() <= COORDINATE_TOLERANCE:
        raise VerificationError(f"{script.data_file}: a coordinate differs from the ligand's")
    total = sum((Decimal(row[3]) for row in sections["Atoms"]), Decimal(0))
    if not abs(total - reference.parametrized.ligand.total_charge) <= CHARGE_SUM_TOLERANCE:
        raise VerificationError(f"{script.data_file}: the printed charges sum to {total}")
    if not np.linalg.norm(np.ptp(reference.geometries, axis=1), axis=1).max() < script.cutoff:
        raise VerificationError(f"{path.name}: the cutoff is shorter than the ligand")
    system = _build(script, sections)
    return [check_system(reference, system, file=path.name, reader="parmflow LAMMPS reader")]


def _read_script(text: str) -> _Script:
    """Read the styles; ValueError for a command that is not understood, KeyError for one that is missing."""
    commands = {}
    for line in text.splitlines():
        word, _, rest = line.split("#")[0].strip().partition(" ")
        if word and word not in _INERT:
            commands[word] = " ".join(rest.split())
    class2 = commands.get("bond_style") == STYLES["bond_style"]
    styles = STYLES if class2 else {}
    if commands.get("dihedral_style") == _FIXED["dihedral_style"]:  # of class II too, where there are none
        styles = styles | {"dihedral_style": _FIXED["dihedral_style"]}
    for word, value in (_FIXED | styles).items():
        if commands.pop(word) != value:
            raise ValueError(f"{word} is not {value}")
    pair_style, cutoff = commands.pop("pair_style").split()
    lj, *factors = commands.pop("special_bonds").split()
    if pair_style != "lj/cut/coul/cut" or lj != "lj" or factors[3] != "coul" or len(factors) != 7:
        raise ValueError("pair_style lj/cut/coul/cut and special_bonds lj a b c coul a b c are expected")
    script = _Script(
        data_file=commands.pop("read_data"),
        cutoff=float(cutoff),
        vdw_factors=tuple(map(float, factors[:3])),
        coulomb_factors=tuple(map(float, factors[4:])),
        class2=class2,
    )
    if commands:
        raise ValueError(f"unknown command {next(iter(commands))}")
    return script


def read_sections(text: str, *, class2: bool) -> dict[str, Rows]:
    """Rows of every section in the order of their numbers; ValueError unless as many as the header says."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()[1:]]
    known: dict[str, tuple[str, int | None]] = dict(_SECTIONS)
    if class2:  # rows of a hybrid style have lengths of their own
        known |= SECTIONS | dict.fromkeys(DIHEDRAL_SECTIONS, ("dihedral types", None))
    sections: dict[str, Rows] = {name: [] for name in known}
    counts, current = {}, ""
    for line in filter(None, lines):
        if line in known:
            current = line
        elif current:
            sections[current].append(line.split())
        else:
            number, _, what = line.partition(" ")
            counts[what] = number
    for name, (what, n_columns) in known.items():
        rows = sections[name]
        if len(rows) != int(counts[what]) or any(len(row) != (n_columns or len(row)) for row in rows):
            raise ValueError(f"{name}: {len(rows)} rows, the header says {counts[what]} {what}")
        rows.sort(key=lambda row: int(row[0]))
    return sections


def _build(script: _Script, sections: dict[str, Rows]) -> openmm.System:
    system = openmm.System()
    masses = _numbers(sections["Masses"])
    for row in sections["Atoms"]:
        system.addParticle(masses[int(row[2]) - 1][0])
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    dihedrals = _terms(sections, "Dihedral") if not script.class2 else []
    stretches, bends = _terms(sections, "Bond"), _terms(sections, "Angle")
    if script.class2:
        couplings, dihedrals = _dihedrals_by_style(sections)
        full_bends = _terms(sections, "Angle", ("BondBond", "BondAngle"))
        for force in build_class2_forces(stretches, full_bends, couplings):
            system.addForce(force)
        stretches = [(atoms, [k, rest]) for atoms, (rest, k, *_) in stretches]
        bends = [(atoms, [k, rest]) for atoms, (rest, k, *_) in bends]
    add_bond = partial(_openmm.HarmonicBondForce_addBond, bonds.this)
    for atoms, (k, length) in stretches:
        add_bond(*atoms, length / ANGSTROM_PER_NM, 2.0 * k * KJ_PER_KCAL * ANGSTROM_PER_NM**2)
    add_angle = partial(_openmm.HarmonicAngleForce_addAngle, angles.this)
    for atoms, (k, theta) in bends:
        add_angle(*atoms, theta / DEGREE_PER_RADIAN, 2.0 * k * KJ_PER_KCAL)
    torsions = openmm.PeriodicTorsionForce()
    add_torsion = partial(_openmm.PeriodicTorsionForce_addTorsion, torsions.this)
    for atoms, (k, sign, periodicity) in [*dihedrals, *_terms(sections, "Improper")]:
        add_torsion(*atoms, int(periodicity), 0.0 if sign > 0 else math.pi, k * KJ_PER_KCAL)
    for force in (bonds, angles, torsions, _nonbonded(script, sections)):
        system.addForce(force)
    return system


def _nonbonded(script: _Script, sections: dict[str, Rows]) -> openmm.NonbondedForce:
    force = openmm.NonbondedForce()
    coefficients = _numbers(sections["Pair Coeffs"])
    kinds = [coefficients[int(row[2]) - 1] for row in sections["Atoms"]]
    charges = [float(row[3]) for row in sections["Atoms"]]
    add_particle = partial(_openmm.NonbondedForce_addParticle, force.this)
    add_exception = partial(_openmm.NonbondedForce_addException, force.this)
    for charge, (epsilon, sigma) in zip(charges, kinds, strict=True):
        add_particle(charge, sigma / ANGSTROM_PER_NM, epsilon * KJ_PER_KCAL)
    for (i, j), n_bonds in _special_pairs(sections).items():
        add_exception(
            i,
            j,
            script.coulomb_factors[n_bonds - 1] * charges[i] * charges[j],
            (kinds[i][1] + kinds[j][1]) / 2 / ANGSTROM_PER_NM,
            script.vdw_factors[n_bonds - 1] * math.sqrt(kinds[i][0] * kinds[j][0]) * KJ_PER_KCAL,
        )
    return force


def _special_pairs(sections: dict[str, Rows]) -> dict[tuple[int, int], int]:
    """Number of bonds, one to three, on the shortest way between the atoms of a pair."""
    neighbours: list[set[int]] = [set() for _ in sections["Atoms"]]
    for (i, j), _ in _terms(sections, "Bond"):
        neighbours[i].add(j)
        neighbours[j].add(i)
    pairs: dict[tuple[int, int], int] = {}
    for start, first in enumerate(neighbours):
        second = {atom for middle in first for atom in neighbours[middle]}
        third = {atom for middle in second for atom in neighbours[middle]}
        for n_bonds, ends in enumerate((first, second, third), start=1):
            for end in ends:
                if start < end:
                    pairs.setdefault((start, end), n_bonds)
    return pairs


def _terms(sections: dict[str, Rows], name: str, more: tuple[str, ...] = ()) -> Terms:
    """0-based atoms and coefficients of every row; those of `more` sections follow."""
    tables = [_numbers(sections[f"{word} Coeffs"]) for word in (name, *more)]
    coefficients = [list(chain(*parts)) for parts in zip(*tables, strict=True)]
    return [(_atoms(row), coefficients[int(row[1]) - 1]) for row in sections[f"{name}s"]]


def _dihedrals_by_style(sections: dict[str, Rows]) -> tuple[Terms, Terms]:
    """The dihedrals of style class2 and those of style harmonic."""
    class2, harmonic = split_dihedral_types(sections)
    rows = [(int(row[1]), _atoms(row)) for row in sections["Dihedrals"]]
    return (
        [(atoms, class2[kind]) for kind, atoms in rows if kind in class2],
        [(atoms, harmonic[kind]) for kind, atoms in rows if kind in harmonic],
    )


def _atoms(row: list[str]) -> list[int]:
    return [int(word) - 1 for word in row[2:]]


def _numbers(rows: Rows) -> list[list[float]]:
    return [[float(word) for word in row[1:]] for row in rows]
