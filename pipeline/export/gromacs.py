"""GROMACS: topology (top), molecule and atom types to include (itp), coordinates (gro).

Format: GROMACS reference manual, "Topology file formats". Units are nm, kJ/mol and degrees; bonds and angles
carry the 1/2 of the energy; a periodic dihedral is k (1 + cos(n phi - phase)), one line per periodicity.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.atom_types import hash_prefix, list_atom_types
from pipeline.export.naming import ascii_title, build_atom_names
from pipeline.export.openmm_system import COULOMB_14_SCALE, VDW_14_SCALE
from pipeline.schema import FloatArray, IntArray, Parametrized
from pipeline.units import ANGSTROM_PER_NM, DEGREE_PER_RADIAN, KJ_PER_KCAL

MOLECULE_FILE, TYPES_FILE = "ligand.itp", "ligand_atomtypes.itp"
RESIDUE = "LIG"

COORDINATE_DECIMALS = 11
"""nm. Readers find the columns from the distance of the decimal points; OpenMM's tells an atom by what stands
in the columns of three decimals, which of all longer forms only the one of twice the width passes."""
MAX_COORDINATE = 999.0
"""nm; beyond it a column runs over"""

CHARGE_DECIMALS = 12
"""rounding 1000 charges so leaves their sum within 1e-9 of the integer"""

MIN_BOX = 20.0
"""nm; holds a ligand in vacuum with a cutoff of 9 nm"""

_HARMONIC, _PROPER, _IMPROPER, _PAIR = 1, 9, 4, 1
"""function types: harmonic, multiple periodic proper, periodic improper, Lennard-Jones and Coulomb 1-4"""


def write_top(parametrized: Parametrized) -> str:
    """Write the topology of a system of one ligand; it includes the two itp files beside it."""
    return (
        f"{_head(parametrized)}"
        f"{_section('defaults', 'nbfunc  comb-rule  gen-pairs  fudgeLJ  fudgeQQ', [_DEFAULTS])}"
        f'#include "{TYPES_FILE}"\n#include "{MOLECULE_FILE}"\n\n'
        f"[ system ]\n{_title(parametrized)}\n\n"
        f"[ molecules ]\n{parametrized.id} 1\n"
    )


def write_atomtypes_itp(parametrized: Parametrized) -> str:
    """Write the `[ atomtypes ]` alone, named with the ligand's hash, so that several ligands combine."""
    types, _ = list_atom_types(parametrized.topology, parametrized.parameters)
    prefix = hash_prefix(parametrized)
    rows = [
        f"{prefix}_{number} {kind.atomic_number:3d} {kind.mass:9.4f} 0.0 A "
        f"{_number(kind.sigma / ANGSTROM_PER_NM)} {_number(kind.epsilon * KJ_PER_KCAL)}"
        for number, kind in enumerate(types, start=1)
    ]
    return _head(parametrized) + _section(
        "atomtypes", "name  at.num  mass  charge  ptype  sigma  epsilon", rows
    )


def write_molecule_itp(parametrized: Parametrized) -> str:
    """Write the molecule: atoms, bonds, 1-4 pairs, angles, propers and impropers, each interaction once."""
    topology, parameters = parametrized.topology, parametrized.parameters
    bond_k = parameters.bond_k * (KJ_PER_KCAL * ANGSTROM_PER_NM**2)
    bonds = _harmonic(topology.bonds, parameters.bond_length / ANGSTROM_PER_NM, bond_k)
    angle_k = parameters.angle_k * KJ_PER_KCAL
    angles = _harmonic(topology.angles, parameters.angle_theta * DEGREE_PER_RADIAN, angle_k)
    pairs = [f"{_atoms(pair)} {_PAIR}" for pair in topology.pairs_14.tolist()]
    propers = _periodic(topology.propers, parameters.proper_k, _PROPER)
    # As everywhere the dihedral runs from the centre: phi(centre, a, b, c).
    impropers = _periodic(topology.improper_dihedrals, parameters.improper_k, _IMPROPER)
    return "".join(
        (
            _head(parametrized),
            _section("moleculetype", "name  nrexcl", [f"{parametrized.id} 3"]),
            _section("atoms", "nr  type  resnr  residue  atom  cgnr  charge  mass", _atom_rows(parametrized)),
            _section("bonds", "i  j  funct  r(nm)  k(kJ/mol/nm^2)", bonds),
            _section("pairs", "i  j  funct", pairs),
            _section("angles", "i  j  k  funct  theta(deg)  k(kJ/mol/rad^2)", angles),
            _section("dihedrals", "propers: i  j  k  l  funct  phase(deg)  k(kJ/mol)  n", propers),
            _section("dihedrals", "impropers: centre  j  k  l  funct  phase(deg)  k(kJ/mol)  n", impropers),
        )
    )


def write_gro(parametrized: Parametrized) -> str:
    """Write the coordinates in nm, eleven decimals, in a cubic box wide enough for vacuum."""
    if parametrized.coords is None:
        raise ExportError(f"{parametrized.ligand.name}: no coordinates, so no gro")
    return gro_frame(parametrized, parametrized.coords)


def gro_frame(parametrized: Parametrized, coords: FloatArray) -> str:
    """One frame of a gro file; `coords` is (n_atoms, 3) in angstrom. ExportError where a column runs over."""
    positions = coords / ANGSTROM_PER_NM
    if float(np.abs(positions).max()) > MAX_COORDINATE:
        raise ExportError(
            f"{parametrized.ligand.name}: a coordinate beyond 9990 angstrom; move it to the origin"
        )
    names = build_atom_names(parametrized.topology)
    width = COORDINATE_DECIMALS + 5
    rows = [
        f"{1:5d}{RESIDUE:<5}{name:>5}{number:5d}"
        + "".join(f"{x:{width}.{COORDINATE_DECIMALS}f}" for x in row)
        for number, (name, row) in enumerate(zip(names, positions.tolist(), strict=True), start=1)
    ]
    side = f"{box_side(positions):10.5f}"
    return "\n".join([_title(parametrized), f"{len(names):5d}", *rows, side * 3]) + "\n"


def box_side(positions: FloatArray) -> float:
    """Side of a cubic box, nm: more than twice the ligand's length, so that no atom sees a periodic image."""
    diagonal = float(np.linalg.norm(np.ptp(positions, axis=0)))
    return max(MIN_BOX, float(np.ceil(2.5 * diagonal + 2.0)))


_DEFAULTS = f"1 2 yes {VDW_14_SCALE} {COULOMB_14_SCALE}"
"""Lennard-Jones by sigma and epsilon, Lorentz-Berthelot, 1-4 parameters generated and scaled"""


def _atom_rows(parametrized: Parametrized) -> list[str]:
    types, type_of_atom = list_atom_types(parametrized.topology, parametrized.parameters)
    names = build_atom_names(parametrized.topology)
    charges = parametrized.parameters.charge.tolist()
    prefix = hash_prefix(parametrized)
    return [
        f"{number:5d} {prefix}_{kind + 1} 1 {RESIDUE} {name:<4} {number:5d} "
        f"{charge:{CHARGE_DECIMALS + 4}.{CHARGE_DECIMALS}f} {types[kind].mass:9.4f}"
        for number, (kind, name, charge) in enumerate(zip(type_of_atom, names, charges, strict=True), start=1)
    ]


def _harmonic(atoms: IntArray, rest: FloatArray, k: FloatArray) -> list[str]:
    rows = zip(atoms.tolist(), rest.tolist(), k.tolist(), strict=True)
    return [
        f"{_atoms(row)} {_HARMONIC} {_number(value)} {_number(stiffness)}" for row, value, stiffness in rows
    ]


def _periodic(atoms: IntArray, k_rows: FloatArray, function: int) -> list[str]:
    """One line per periodicity with a force constant, the phase always zero and the constant signed."""
    return [
        f"{dihedral} {function} 0.0 {k:20.12g} {periodicity}"
        for dihedral, k_row in zip(map(_atoms, atoms.tolist()), (k_rows * KJ_PER_KCAL).tolist(), strict=True)
        for periodicity, k in enumerate(k_row, start=1)
        if k != 0.0
    ]


def _atoms(row: Sequence[int]) -> str:
    return " ".join([f"{atom + 1:4d}" for atom in row])


def _number(value: float) -> str:
    return f"{value:20.12g}"


def _section(name: str, columns: str, rows: Iterable[str]) -> str:
    """Lay out one directive; one without rows is left out."""
    lines = list(rows)
    return "\n".join([f"[ {name} ]", f"; {columns}", *lines]) + "\n\n" if lines else ""


def _head(parametrized: Parametrized) -> str:
    ligand = parametrized.ligand
    facts = [("ligand", ligand.name), ("id", parametrized.id), ("charge", f"{ligand.total_charge:+d}")]
    lines = [ascii_title(f"; {key}: {value}", 160) for key, value in [*facts, *parametrized.provenance]]
    # A backslash would continue the line.
    return "\n".join(["; written by parmflow", *lines]).replace("\\", "/") + "\n\n"


def _title(parametrized: Parametrized) -> str:
    """The user's name without what the topology's preprocessor or a gro title would take for its own."""
    return ascii_title(parametrized.ligand.name, 80).translate(_MARKS).strip() or parametrized.id


_MARKS = str.maketrans(dict.fromkeys(';#\\[]"=<>', "_"))
