"""LAMMPS: the data file of one ligand and an input script that reads it, in `real` units.

Format: LAMMPS manual, `read_data`. Harmonic constants are halved (no 1/2 in the energy); a dihedral or
improper row is K (1 + d cos(n phi)) with d = 1, one type per force constant and periodicity. Impropers use
style `cvff`, whose angle is the plain dihedral of the four atoms as listed, here centre first. All styles are
in the core and in the package MOLECULE, which nearly every LAMMPS has; `fourier` is not.

A class II force field needs the package CLASS2: its bond and angle styles hold the anharmonic terms and the
couplings in angles; its dihedral style, with no torsion of its own, those in propers, whose cosines of up to
six periodicities stay rows of style harmonic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.atom_types import list_atom_types
from pipeline.export.naming import ascii_title, build_atom_names
from pipeline.export.openmm_system import COULOMB_14_SCALE, VDW_14_SCALE
from pipeline.schema import CrossTerms, FloatArray, IntArray, Parametrized
from pipeline.topology import coupled_rows
from pipeline.units import DEGREE_PER_RADIAN

DATA_FILE = "ligand.data"

BOX_MARGIN = 10.0
"""angstrom around the ligand"""
CUTOFF = 1000.0
"""angstrom; longer than any ligand"""

CHARGE_DECIMALS = 12
"""rounding 1000 charges so leaves their sum within 1e-9 of the integer"""


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """One kind of bonded term: coefficients of each type, and rows of atoms with their 1-based type."""

    name: str
    """singular: bond, angle, dihedral, improper"""
    titles: tuple[str, ...]
    """of the sections of coefficients"""
    types: tuple[tuple[str, ...], ...]
    """of each type, its line in each of these sections"""
    rows: tuple[str, ...]


def write_lammps_data(parametrized: Parametrized) -> str:
    """Write box, masses, coefficients, atoms and bonded terms; twelve digits, angstrom, kcal/mol, degrees."""
    if parametrized.coords is None:
        raise ExportError(f"{parametrized.ligand.name}: no coordinates, so no LAMMPS data file")
    types, type_of_atom = list_atom_types(parametrized.topology, parametrized.parameters)
    pair_coefficients = [f"{_number(kind.epsilon)} {_number(kind.sigma)}  # {kind.symbol}" for kind in types]
    terms = _bonded_terms(parametrized)
    counts = [f"{parametrized.topology.n_atoms} atoms"]
    counts += [f"{len(term.rows)} {term.name}s" for term in terms]
    counts += [f"{len(types)} atom types"]
    counts += [f"{len(term.types)} {term.name} types" for term in terms]
    return "".join(
        (
            ascii_title(f"parmflow: {parametrized.ligand.name}", 200) + "\n\n",
            "\n".join([*counts, "", *_box(parametrized.coords)]) + "\n\n",
            _section("Masses", [f"{kind.mass:.4f}" for kind in types]),
            _section("Pair Coeffs # lj/cut/coul/cut", pair_coefficients),
            *(
                _section(title, [kind[column] for kind in term.types])
                for term in terms
                for column, title in enumerate(term.titles)
            ),
            _section("Atoms # full", _atom_rows(parametrized, type_of_atom)),
            *(_section(f"{term.name.title()}s", term.rows) for term in terms),
        )
    )


def write_lammps_input(parametrized: Parametrized) -> str:
    """Write a script that sets the styles, reads the data file and computes the energy term by term."""
    facts = [("ligand", parametrized.ligand.name), ("id", parametrized.id), *parametrized.provenance]
    head = [ascii_title(f"# {key}: {value}", 160) for key, value in facts]
    # An ampersand at the end would continue the line.
    head = ["# written by parmflow", *(line.rstrip("&") for line in head)]
    return "\n".join(head) + _script(_styles(parametrized))


_STYLES = {"bond": "harmonic", "angle": "harmonic", "dihedral": "harmonic", "improper": "cvff"}

_HYBRID = "hybrid class2 harmonic"


def _styles(parametrized: Parametrized) -> dict[str, str]:
    """Styles of the bonded terms; LAMMPS crashes on a hybrid style without a single type."""
    if parametrized.parameters.cross is None:
        return _STYLES
    class2 = _STYLES | {"bond": "class2", "angle": "class2"}
    return class2 | {"dihedral": _HYBRID} if len(parametrized.topology.propers) else class2


def _script(styles: dict[str, str]) -> str:
    """The commands that do not depend on the ligand; `styles` names those of bonded terms."""
    return f"""

units real
atom_style full
boundary m m m
neighbor 2.0 nsq
pair_style lj/cut/coul/cut {CUTOFF}
pair_modify mix arithmetic shift no tail no
special_bonds lj 0.0 0.0 {VDW_14_SCALE} coul 0.0 0.0 {COULOMB_14_SCALE}
bond_style {styles["bond"]}
angle_style {styles["angle"]}
dihedral_style {styles["dihedral"]}
improper_style {styles["improper"]}
read_data {DATA_FILE}
thermo_style custom step ebond eangle edihed eimp evdwl ecoul pe
thermo_modify format float %.10g
run 0
"""


def _bonded_terms(parametrized: Parametrized) -> tuple[_Terms, ...]:
    topology, parameters = parametrized.topology, parametrized.parameters
    impropers = _periodic(topology.improper_dihedrals, parameters.improper_k)
    improper = _tabulate("improper", ("Improper Coeffs # cvff",), *impropers)
    if parameters.cross is not None:
        return (*_class2_terms(parametrized, parameters.cross), improper)
    theta = parameters.angle_theta * DEGREE_PER_RADIAN
    bonds = _lines(parameters.bond_k / 2, parameters.bond_length)
    angles = _lines(parameters.angle_k / 2, theta)
    propers = _periodic(topology.propers, parameters.proper_k)
    return (
        _tabulate("bond", ("Bond Coeffs # harmonic",), topology.bonds.tolist(), _side_by_side(bonds)),
        _tabulate("angle", ("Angle Coeffs # harmonic",), topology.angles.tolist(), _side_by_side(angles)),
        _tabulate("dihedral", ("Dihedral Coeffs # harmonic",), *propers),
        improper,
    )


_BOND_TITLES = ("Bond Coeffs # class2",)
_ANGLE_TITLES = ("Angle Coeffs # class2", "BondBond Coeffs", "BondAngle Coeffs")
_DIHEDRAL_TITLES = (
    "Dihedral Coeffs # hybrid",
    "MiddleBondTorsion Coeffs",
    "EndBondTorsion Coeffs",
    "AngleTorsion Coeffs",
    "AngleAngleTorsion Coeffs",
    "BondBond13 Coeffs",
)


def _class2_terms(parametrized: Parametrized, cross: CrossTerms) -> tuple[_Terms, ...]:
    """Bonds and angles of style class2; propers once for their couplings and once per periodicity."""
    topology, parameters = parametrized.topology, parametrized.parameters
    coupled = coupled_rows(topology)
    lengths = parameters.bond_length[coupled.angle_bonds]
    theta = parameters.angle_theta * DEGREE_PER_RADIAN
    bonds = _lines(parameters.bond_length, parameters.bond_k / 2, cross.bond_k3, cross.bond_k4)
    angles = (
        _lines(theta, parameters.angle_k / 2, cross.angle_k3, cross.angle_k4),
        _lines(cross.bond_bond, *lengths.T),
        _lines(*cross.bond_angle.T, *lengths.T),
    )
    length, ends = parameters.bond_length[coupled.proper_bond], theta[coupled.proper_angles]
    none = np.zeros(len(length))
    couplings = (
        _lines(*[none] * 6),
        _lines(*cross.bond_torsion.T, length),
        _lines(*[none] * 6, length, length),
        _lines(*cross.angle_torsion.reshape(len(none), 6).T, *ends.T),
        _lines(cross.angle_angle_torsion, *ends.T),
        _lines(none, length, length),
    )
    rows, cosines = _periodic(topology.propers, parameters.proper_k)
    propers = [
        *_side_by_side(*([f"class2 {line}" for line in lines] for lines in couplings)),
        *((f"harmonic {line}", *["skip"] * (len(couplings) - 1)) for (line,) in cosines),
    ]
    return (
        _tabulate("bond", _BOND_TITLES, topology.bonds.tolist(), _side_by_side(bonds)),
        _tabulate("angle", _ANGLE_TITLES, topology.angles.tolist(), _side_by_side(*angles)),
        _tabulate("dihedral", _DIHEDRAL_TITLES, [*topology.propers.tolist(), *rows], propers),
    )


def _lines(*columns: FloatArray) -> list[str]:
    """The numbers of each row, with a space between."""
    return [" ".join(map(_number, row)) for row in np.column_stack(columns).tolist()]


def _side_by_side(*sections: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*sections, strict=True))


def _periodic(atoms: IntArray, k_rows: FloatArray) -> tuple[list[list[int]], list[tuple[str, ...]]]:
    """Atoms and coefficients, one row per periodicity with a force constant."""
    rows: list[list[int]] = []
    values: list[tuple[str, ...]] = []
    for row, k_row in zip(atoms.tolist(), k_rows.tolist(), strict=True):
        for periodicity, k in enumerate(k_row, start=1):
            if k != 0.0:
                rows.append(row)
                values.append((f"{_number(k)} 1 {periodicity}",))
    return rows, values


def _tabulate(
    name: str, titles: tuple[str, ...], atoms: Sequence[Sequence[int]], values: Sequence[tuple[str, ...]]
) -> _Terms:
    """Number the distinct coefficients and write each row as `type atom atom ...`."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values), start=1)}
    rows = [
        " ".join([str(numbers[value]), *[str(atom + 1) for atom in row]])
        for row, value in zip(atoms, values, strict=True)
    ]
    return _Terms(name=name, titles=titles, types=tuple(numbers), rows=tuple(rows))


def _atom_rows(parametrized: Parametrized, type_of_atom: Sequence[int]) -> list[str]:
    """Molecule, type, charge, x, y, z, and the name as a comment."""
    assert parametrized.coords is not None
    rows = zip(
        type_of_atom,
        parametrized.parameters.charge.tolist(),
        parametrized.coords.tolist(),
        build_atom_names(parametrized.topology),
        strict=True,
    )
    return [
        f"1 {kind + 1} {charge:.{CHARGE_DECIMALS}f} {x:.10f} {y:.10f} {z:.10f}  # {name}"
        for kind, charge, (x, y, z), name in rows
    ]


def _box(coords: FloatArray) -> list[str]:
    low, high = coords.min(axis=0) - BOX_MARGIN, coords.max(axis=0) + BOX_MARGIN
    return [
        f"{start:.4f} {end:.4f} {axis}lo {axis}hi" for axis, start, end in zip("xyz", low, high, strict=True)
    ]


def _number(value: float) -> str:
    return f"{value:.12g}"


def _section(title: str, rows: Iterable[str]) -> str:
    """Lay out one section, its rows numbered from 1; one without rows is left out."""
    lines = [f"{number} {row}" for number, row in enumerate(rows, start=1)]
    return f"{title}\n\n" + "\n".join(lines) + "\n\n" if lines else ""
