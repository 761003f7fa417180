"""Amber: parameter-topology file (prmtop) and coordinates (inpcrd), written directly, without LEaP.

Format: ambermd.org "PARM" file specification. Every harmonic constant is halved (Amber's energy has no 1/2),
charges are multiplied by 18.2223, indices of bonded terms are 3 x the 0-based atom index.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.export.naming import ascii_title, build_atom_names
from pipeline.export.openmm_system import excluded_pairs
from pipeline.schema import MMParameters, Parametrized, Topology
from pipeline.units import AMBER_CHARGE_FACTOR

SCEE, SCNB = 1.2, 2.0
"""Amber divides: 1/1.2 is SMIRNOFF's 0.8333333333 to 4e-11, 1/2 its 0.5."""

_LINE = 80
"""characters of a full line in prmtop"""

CHARGE_DECIMALS = 7
"""5E16.8 holds charges below 100 Amber units (5.5 e) on a common grid of 1e-7 units, 5e-9 e."""

MAX_COORDINATE = 9999.0
"""angstrom; F12.7 runs over beyond it"""

_RADIUS_H_ON_N = 1.3
_RADII = {1: 1.2, 6: 1.7, 7: 1.55, 8: 1.5, 9: 1.5, 15: 1.85, 16: 1.8, 17: 1.7}
_SCREEN = {1: 0.85, 6: 0.72, 7: 0.79, 8: 0.85, 9: 0.88, 15: 0.86, 16: 0.96}
_DEFAULT_RADIUS, _DEFAULT_SCREEN = 1.5, 0.8
"""Generalised Born: the `mbondi2` set, which `mbondi3` changes for protein residues only."""


@dataclass(frozen=True, kw_only=True)
class _Bonded:
    """One kind of bonded term: distinct types, and rows of atom pointers plus 1-based type."""

    types: tuple[tuple[float, ...], ...]
    with_hydrogen: tuple[tuple[int, ...], ...]
    without_hydrogen: tuple[tuple[int, ...], ...]


def write_prmtop(parametrized: Parametrized) -> str:
    """Write an Amber topology of one residue: nine digits, several periodicities, signed force constants."""
    topology, parameters = parametrized.topology, parametrized.parameters
    bonds = _tabulate(
        topology, topology.bonds.tolist(), _pairs(parameters.bond_k / 2, parameters.bond_length)
    )
    angles = _tabulate(
        topology, topology.angles.tolist(), _pairs(parameters.angle_k / 2, parameters.angle_theta)
    )
    dihedrals = _dihedrals(topology, parameters)
    atom_types, type_index = _atom_types(topology, parameters)
    excluded = _excluded_lists(topology)
    pointers = _pointers(topology, (bonds, angles, dihedrals), len(atom_types), sum(map(len, excluded)))
    title = ascii_title(parametrized.ligand.name, 80) or parametrized.id
    sections = [
        "%VERSION  VERSION_STAMP = V0001.000  DATE = 01/01/00  00:00:00\n",
        f"%FLAG TITLE\n%FORMAT(20a4)\n{title}\n",
        _integers("POINTERS", pointers),
        *_atom_sections(parametrized, type_index, excluded),
        *_type_sections(bonds, angles, dihedrals),
        *_lennard_jones_sections(atom_types),
        *_pointer_sections("BONDS", bonds),
        *_pointer_sections("ANGLES", angles),
        *_pointer_sections("DIHEDRALS", dihedrals),
        _integers("EXCLUDED_ATOMS_LIST", [atom for row in excluded for atom in row]),
        *(_reals(flag, []) for flag in ("HBOND_ACOEF", "HBOND_BCOEF", "HBCUT")),
        *_trailing_sections(topology, [atom_types[index - 1][0] for index in type_index]),
    ]
    return "".join(sections)


def write_inpcrd(parametrized: Parametrized) -> str:
    """Write Amber coordinates in angstrom, seven decimals, no box."""
    if parametrized.coords is None:
        raise ExportError(f"{parametrized.ligand.name}: no coordinates, so no inpcrd")
    if float(np.abs(parametrized.coords).max()) > MAX_COORDINATE:
        raise ExportError(
            f"{parametrized.ligand.name}: a coordinate beyond 9999 angstrom; move it to the origin"
        )
    title = ascii_title(parametrized.ligand.name, 80) or parametrized.id
    body = _columns("%12.7f", 12, 6, parametrized.coords.ravel().tolist())
    return f"{title}\n{parametrized.topology.n_atoms:5d}\n{body}"


def print_charges(parameters: MMParameters) -> list[Decimal]:
    """Round charges to the printed grid of Amber units so that the printed digits sum to the integer charge.

    What rounding leaves over goes, one last digit each, to the charges that were rounded the furthest.
    """
    step = Decimal(1).scaleb(-CHARGE_DECIMALS)
    exact = [Decimal(q) * Decimal(str(AMBER_CHARGE_FACTOR)) for q in parameters.charge.tolist()]
    target = round(float(parameters.charge.sum())) * Decimal(str(AMBER_CHARGE_FACTOR))
    printed = [charge.quantize(step) for charge in exact]
    steps_left = int((target - sum(printed, Decimal(0))) / step)
    sign = 1 if steps_left > 0 else -1
    by_rounding = sorted(range(len(exact)), key=lambda atom: sign * (printed[atom] - exact[atom]))
    for turn in range(abs(steps_left)):
        printed[by_rounding[turn % len(printed)]] += sign * step
    return printed


def _pairs(first: np.ndarray, second: np.ndarray) -> list[tuple[float, ...]]:
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _tabulate(
    topology: Topology, atoms: Sequence[Sequence[int]], values: Sequence[tuple[float, ...]]
) -> _Bonded:
    """Number the distinct values and split the rows by whether a hydrogen takes part.

    A negative sign of an atom is kept as the sign of its pointer.
    """
    types = {value: number for number, value in enumerate(dict.fromkeys(values), start=1)}
    hydrogens = set(np.flatnonzero(topology.atomic_numbers == 1).tolist())
    split: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    for row, value in zip(atoms, values, strict=True):
        heavy = hydrogens.isdisjoint(map(abs, row))
        split[heavy].append((*[3 * atom for atom in row], types[value]))
    return _Bonded(types=tuple(types), with_hydrogen=tuple(split[0]), without_hydrogen=tuple(split[1]))


def _dihedrals(topology: Topology, parameters: MMParameters) -> _Bonded:
    """List propers, carriers of 1-4 pairs without torsion, and impropers.

    A negative third atom says: do not count the 1-4 pair of the ends; a negative fourth: improper. Every pair
    of `pairs_14` is counted by exactly one row.
    """
    uncounted = {tuple(pair) for pair in topology.pairs_14.tolist()}
    rows: list[tuple[int, int, int, int]] = []
    values: list[tuple[float, ...]] = []
    for atoms, k_row in zip(topology.propers.tolist(), parameters.proper_k.tolist(), strict=True):
        i, j, k, m = _away_from_zero(atoms)
        ends = (min(i, m), max(i, m))
        for periodicity, k_n in _present(k_row):
            rows.append((i, j, k if ends in uncounted else -k, m))
            values.append((k_n, periodicity))
            uncounted.discard(ends)
    for path in _paths(topology, uncounted):
        rows.append(_away_from_zero(path))
        values.append((0.0, 1.0))
    impropers = topology.improper_dihedrals.tolist()
    for atoms, k_row in zip(impropers, parameters.improper_k.tolist(), strict=True):
        i, j, k, m = _away_from_zero(atoms)
        for periodicity, k_n in _present(k_row):
            rows.append((i, j, -k, -m))
            values.append((k_n, periodicity))
    return _tabulate(topology, rows, values)


def _present(k_row: Sequence[float]) -> list[tuple[float, float]]:
    """Periodicity and force constant of the terms of a torsion that are not zero."""
    return [(column + 1.0, k_n) for column, k_n in enumerate(k_row) if k_n != 0.0]


def _away_from_zero(atoms: Sequence[int]) -> tuple[int, int, int, int]:
    """Reverse a dihedral whose third or fourth atom is atom 0, which cannot carry a minus sign."""
    i, j, k, m = atoms
    return (m, k, j, i) if 0 in (k, m) else (i, j, k, m)


def _paths(topology: Topology, pairs: set[tuple[int, ...]]) -> list[tuple[int, int, int, int]]:
    """Find, for every pair three bonds apart, one path of bonds between its ends."""
    neighbours: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for i, j in topology.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return [
        next((i, j, k, m) for j in neighbours[i] for k in neighbours[j] if m in neighbours[k])
        for i, m in sorted(pairs)
    ]


def _atom_types(
    topology: Topology, parameters: MMParameters
) -> tuple[list[tuple[str, float, float]], list[int]]:
    """Number the distinct (element, sigma, epsilon); name each by element and number."""
    keys = list(
        zip(
            topology.atomic_numbers.tolist(),
            parameters.sigma.tolist(),
            parameters.epsilon.tolist(),
            strict=True,
        )
    )
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}
    table = Chem.GetPeriodicTable()
    types = [
        (f"{table.GetElementSymbol(key[0])[0]}{number}", key[1], key[2]) for key, number in numbers.items()
    ]
    return types, [numbers[key] for key in keys]


def _excluded_lists(topology: Topology) -> list[list[int]]:
    """List for every atom the 1-based later atoms within three bonds; a single 0 where there is none."""
    lists: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    pairs_14 = {(i, j) for i, j in topology.pairs_14.tolist()}
    for i, j in sorted(excluded_pairs(topology) | pairs_14):
        lists[i].append(j + 1)
    return [row or [0] for row in lists]


def _pointers(
    topology: Topology, bonded: tuple[_Bonded, _Bonded, _Bonded], n_types: int, n_excluded: int
) -> list[int]:
    """Count everything: the 31 integers of the POINTERS section."""
    bonds, angles, dihedrals = bonded
    n = topology.n_atoms
    counts = [n, n_types]
    for terms in bonded:
        counts += [len(terms.with_hydrogen), len(terms.without_hydrogen)]
    counts += [0, 0, n_excluded, 1]
    counts += [len(terms.without_hydrogen) for terms in bonded]
    counts += [len(bonds.types), len(angles.types), len(dihedrals.types), n_types, 0]
    counts += [0, 0, 0, 0, 0, 0, 0]
    return [*counts, 0, n, 0, 0]


def _atom_sections(parametrized: Parametrized, type_index: list[int], excluded: list[list[int]]) -> list[str]:
    topology = parametrized.topology
    table = Chem.GetPeriodicTable()
    numbers = topology.atomic_numbers.tolist()
    n_types = max(type_index)
    packed = [_packed(min(i, j), max(i, j)) for i in range(1, n_types + 1) for j in range(1, n_types + 1)]
    return [
        _names("ATOM_NAME", build_atom_names(topology)),
        _reals("CHARGE", [float(charge) for charge in print_charges(parametrized.parameters)]),
        _integers("ATOMIC_NUMBER", numbers),
        _reals("MASS", [table.GetAtomicWeight(number) for number in numbers]),
        _integers("ATOM_TYPE_INDEX", type_index),
        _integers("NUMBER_EXCLUDED_ATOMS", [len(row) for row in excluded]),
        _integers("NONBONDED_PARM_INDEX", packed),
        _names("RESIDUE_LABEL", ["LIG"]),
        _integers("RESIDUE_POINTER", [1]),
    ]


def _packed(i: int, j: int) -> int:
    """Index of the pair of types i <= j, 1-based, in the packed lower triangle."""
    return j * (j - 1) // 2 + i


def _type_sections(bonds: _Bonded, angles: _Bonded, dihedrals: _Bonded) -> list[str]:
    n_dihedral_types = len(dihedrals.types)
    return [
        _reals("BOND_FORCE_CONSTANT", [k for k, _ in bonds.types]),
        _reals("BOND_EQUIL_VALUE", [length for _, length in bonds.types]),
        _reals("ANGLE_FORCE_CONSTANT", [k for k, _ in angles.types]),
        _reals("ANGLE_EQUIL_VALUE", [theta for _, theta in angles.types]),
        _reals("DIHEDRAL_FORCE_CONSTANT", [k for k, _ in dihedrals.types]),
        _reals("DIHEDRAL_PERIODICITY", [periodicity for _, periodicity in dihedrals.types]),
        _reals("DIHEDRAL_PHASE", [0.0] * n_dihedral_types),
        _reals("SCEE_SCALE_FACTOR", [SCEE] * n_dihedral_types),
        _reals("SCNB_SCALE_FACTOR", [SCNB] * n_dihedral_types),
    ]


def _lennard_jones_sections(atom_types: list[tuple[str, float, float]]) -> list[str]:
    """A = 4 eps sigma^12 and B = 4 eps sigma^6 of every pair of types, Lorentz-Berthelot."""
    a_coefficients, b_coefficients = [], []
    for j, (_, sigma_j, epsilon_j) in enumerate(atom_types):
        for _, sigma_i, epsilon_i in atom_types[: j + 1]:
            sigma6 = (0.5 * (sigma_i + sigma_j)) ** 6
            epsilon = math.sqrt(epsilon_i * epsilon_j)
            a_coefficients.append(4 * epsilon * sigma6**2)
            b_coefficients.append(4 * epsilon * sigma6)
    return [
        _reals("SOLTY", [0.0] * len(atom_types)),
        _reals("LENNARD_JONES_ACOEF", a_coefficients),
        _reals("LENNARD_JONES_BCOEF", b_coefficients),
    ]


def _pointer_sections(kind: str, terms: _Bonded) -> list[str]:
    return [
        _integers(f"{kind}_INC_HYDROGEN", [value for row in terms.with_hydrogen for value in row]),
        _integers(f"{kind}_WITHOUT_HYDROGEN", [value for row in terms.without_hydrogen for value in row]),
    ]


def _trailing_sections(topology: Topology, type_names: list[str]) -> list[str]:
    n = topology.n_atoms
    numbers = topology.atomic_numbers.tolist()
    return [
        _names("AMBER_ATOM_TYPE", type_names),
        _names("TREE_CHAIN_CLASSIFICATION", ["M"] * n),
        _integers("JOIN_ARRAY", [0] * n),
        _integers("IROTAT", [0] * n),
        "%FLAG RADIUS_SET\n%FORMAT(1a80)\nH(N)-modified Bondi radii (mbondi2)\n",
        _reals("RADII", _born_radii(topology)),
        _reals("SCREEN", [_SCREEN.get(number, _DEFAULT_SCREEN) for number in numbers]),
    ]


def _born_radii(topology: Topology) -> list[float]:
    numbers = topology.atomic_numbers
    radii = [_RADII.get(number, _DEFAULT_RADIUS) for number in numbers.tolist()]
    for pair in topology.bonds.tolist():
        for hydrogen, partner in (pair, pair[::-1]):
            if numbers[hydrogen] == 1 and numbers[partner] == 7:
                radii[hydrogen] = _RADIUS_H_ON_N
    return radii


def _integers(flag: str, values: Iterable[int]) -> str:
    return _section(flag, "10I8", "%8d", 8, values)


def _reals(flag: str, values: Iterable[float]) -> str:
    return _section(flag, "5E16.8", "%16.8E", 16, values)


def _names(flag: str, values: Iterable[str]) -> str:
    return _section(flag, "20a4", "%-4s", 4, values)


def _section(flag: str, form: str, field: str, width: int, values: Iterable[object]) -> str:
    try:
        return f"%FLAG {flag}\n%FORMAT({form})\n{_columns(field, width, _LINE // width, values)}"
    except ValueError as error:
        raise ExportError(f"prmtop: a value in {flag} does not fit its column") from error


def _columns(field: str, width: int, per_line: int, values: Iterable[object]) -> str:
    """Lay values out in lines of equal fields; an empty section is one empty line."""
    cells = tuple(values)
    text = field * len(cells) % cells
    if len(text) != width * len(cells):
        raise ValueError(f"a value wider than {width}")
    length = width * per_line
    lines = [text[start : start + length] for start in range(0, len(text), length)] or [""]
    return "\n".join(lines) + "\n"
