"""LEaP's route into Amber: mol2 and frcmod with types of two characters, and the script that loads them.

LEaP applies one improper per centre, a-b-centre-d, where the force field has the three rows of the trefoil:
the frcmod has the one with the same stiffness, and `check.json` what that leaves. prmtop and inpcrd are the
exact files. Formats: Tripos mol2; ambermd.org, "frcmod". Harmonic constants are halved, as in prmtop.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.export.leap_types import assign_leap_types
from pipeline.export.naming import ascii_title, build_atom_names
from pipeline.export.trefoils import sum_trefoils
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, Parametrized
from pipeline.topology import list_linear_chains
from pipeline.units import DEGREE_PER_RADIAN

RESIDUE = "LIG"
IMPROPER_PERIODICITY = 2

CHARGE_DECIMALS = 12
"""rounding 1000 charges so leaves their sum within 1e-9 of the integer"""
_RMIN_HALF_PER_SIGMA = 2.0 ** (1.0 / 6.0) / 2.0
_MOL2_BOND = {
    Chem.BondType.SINGLE: "1",
    Chem.BondType.DOUBLE: "2",
    Chem.BondType.TRIPLE: "3",
    Chem.BondType.AROMATIC: "ar",
}
_HYBRIDIZATION = {Chem.HybridizationType.SP: "sp", Chem.HybridizationType.SP2: "sp2"}

_ONE_PER_SESSION = "types are this ligand's alone: one parmflow ligand per LEaP session"


@dataclass(frozen=True, kw_only=True)
class LeapImproper:
    """The one improper of a centre: E = k (1 + cos(2 phi - phase))."""

    atoms: tuple[int, int, int, int]
    """centre in column 2, the others as LEaP orders them: by type, then by index"""
    k: float
    """kcal/mol, not negative"""
    phase: float
    """degrees: 180 holds the centre in the plane"""


def write_mol2(parametrized: Parametrized) -> str:
    """Write atoms with generated types and charges, bonds, coordinates in angstrom."""
    if parametrized.coords is None:
        raise ExportError(f"{parametrized.ligand.name}: no coordinates, so no mol2")
    topology = parametrized.topology
    types = assign_leap_types(topology, parametrized.parameters)
    rows = zip(
        build_atom_names(topology),
        parametrized.coords.tolist(),
        types,
        parametrized.parameters.charge.tolist(),
        strict=True,
    )
    atoms = [
        f"{number:6d} {name:<4} {x:16.8f} {y:16.8f} {z:16.8f} {kind} 1 {RESIDUE} {charge:.{CHARGE_DECIMALS}f}"
        for number, (name, (x, y, z), kind, charge) in enumerate(rows, start=1)
    ]
    mol = to_rdkit(parametrized.ligand)
    bonds = [
        f"{number:6d} {i + 1} {j + 1} {_MOL2_BOND[mol.GetBondBetweenAtoms(i, j).GetBondType()]}"
        for number, (i, j) in enumerate(topology.bonds.tolist(), start=1)
    ]
    head = f"# {ascii_title(parametrized.ligand.name, 80) or parametrized.id}\n@<TRIPOS>MOLECULE\n{RESIDUE}\n"
    counts = f"{len(atoms)} {len(bonds)} 1 0 0\nSMALL\nUSER_CHARGES\n"
    return (
        f"{head}{counts}{_block('@<TRIPOS>ATOM', atoms)}{_block('@<TRIPOS>BOND', bonds)}"
        f"{_block('@<TRIPOS>SUBSTRUCTURE', [f'1 {RESIDUE} 1'])}"
    )


def write_frcmod(parametrized: Parametrized) -> str:
    """Write the parameters of every combination of types that the ligand has."""
    topology, parameters = parametrized.topology, parametrized.parameters
    types = assign_leap_types(topology, parameters)
    table = Chem.GetPeriodicTable()
    atoms = np.arange(topology.n_atoms)[:, None]
    masses = np.array([[table.GetAtomicWeight(number)] for number in topology.atomic_numbers.tolist()])
    bonds = np.column_stack([parameters.bond_k / 2, parameters.bond_length])
    angles = np.column_stack([parameters.angle_k / 2, parameters.angle_theta * DEGREE_PER_RADIAN])
    vdw = np.column_stack([parameters.sigma * _RMIN_HALF_PER_SIGMA, parameters.epsilon])
    linear = list_linear_chains(topology)
    chains = [*topology.propers.tolist(), *linear]
    k_rows = np.vstack([parameters.proper_k, np.zeros((len(linear), parameters.proper_k.shape[1]))])
    sections = (
        ("MASS", _lines(types, atoms.tolist(), masses, _plain)),
        ("BOND", _lines(types, topology.bonds.tolist(), bonds, _plain)),
        ("ANGLE", _lines(types, topology.angles.tolist(), angles, _plain)),
        ("DIHE", _lines(types, chains, k_rows, _torsion)),
        ("IMPROPER", _improper_lines(parametrized, types)),
        ("NONBON", _lines(types, atoms.tolist(), vdw, _plain)),
    )
    title = f"parmflow {parametrized.id}: {_ONE_PER_SESSION}\n"
    return title + "\n".join(_block(name, lines) for name, lines in sections) + "\n"


def write_leap_input(parametrized: Parametrized) -> str:
    """Write the commands that name the elements of the types and load both files."""
    types = assign_leap_types(parametrized.topology, parametrized.parameters)
    mol = to_rdkit(parametrized.ligand)
    known = {
        kind: f'  {{ "{kind}" "{atom.GetSymbol()}" "{_HYBRIDIZATION.get(atom.GetHybridization(), "sp3")}" }}'
        for kind, atom in zip(types, mol.GetAtoms(), strict=True)
    }
    lines = ["addAtomTypes {", *known.values(), "}"]
    lines += ["loadAmberParams ligand.frcmod", f"{RESIDUE} = loadMol2 ligand.mol2"]
    return _block(f"# {_ONE_PER_SESSION}", lines)


def list_leap_impropers(parametrized: Parametrized, types: Sequence[str]) -> list[LeapImproper]:
    """Choose for each centre the one improper that is as stiff as its trefoil.

    A centre lifted by h over three bonds of projected length r turns each row of the trefoil by
    a = 2h/r, and a-b-centre-d by sqrt(3) a. So -sum over three rows of n^2 k_n a^2/2 equals
    -4 k (sqrt(3) a)^2/2 where k is the row's k_2 + k_1/4: the same to second order in h.
    """
    centres = parametrized.topology.impropers[::3].tolist()
    impropers = []
    sums = sum_trefoils(parametrized.topology, parametrized.parameters)
    for (a, centre, b, c), (k_1, k_2) in zip(centres, (sums / 3).tolist(), strict=True):
        first, second, last = sorted((a, b, c), key=lambda atom: (types[atom], atom))
        k = k_2 + k_1 / IMPROPER_PERIODICITY**2
        if k != 0.0:
            phase = 180.0 if k < 0 else 0.0
            impropers.append(LeapImproper(atoms=(first, second, centre, last), k=abs(k), phase=phase))
    return impropers


def _improper_lines(parametrized: Parametrized, types: Sequence[str]) -> list[str]:
    impropers = list_leap_impropers(parametrized, types)
    lines = {
        tuple(types[atom] for atom in improper.atoms): (
            f"{improper.k:.9f} {improper.phase:.1f} {IMPROPER_PERIODICITY:.1f}"
        )
        for improper in impropers
    }
    return [f"{'-'.join(row)}  {text}" for row, text in lines.items()]


def _lines(
    types: Sequence[str],
    rows: Iterable[Sequence[int]],
    values: FloatArray,
    write: Callable[[str, list[float]], list[str]],
) -> list[str]:
    """Write one entry per combination of types, with the mean of what differs by rounding only."""
    of_key: dict[tuple[str, ...], list[FloatArray]] = {}
    for atoms, row in zip(rows, values, strict=True):
        key = tuple(types[atom] for atom in atoms)
        of_key.setdefault(min(key, key[::-1]), []).append(row)
    return [
        line
        for key, found in of_key.items()
        for line in write("-".join(key), (np.add.reduce(found) / len(found)).tolist())
    ]


def _plain(key: str, values: list[float]) -> list[str]:
    return [f"{key}  {' '.join(f'{value:.10f}' for value in values)}"]


def _torsion(key: str, k_row: list[float]) -> list[str]:
    """IDIVF, PK, phase, PN: a negative PN says that another term of the same torsion follows."""
    present = [(column + 1, k) for column, k in enumerate(k_row) if k != 0.0] or [(1, 0.0)]
    last = present[-1][0]
    return [f"{key}  1 {k:.10f} 0.0 {n if n == last else -n:.1f}" for n, k in present]


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join([head, *lines]) + "\n"
