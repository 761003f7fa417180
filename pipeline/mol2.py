"""Read Tripos mol2: elements, bonds, coordinates and partial charges as written; formal charges are found.

A mol2 states no formal charges, and programs differ in how they type and bond carboxylates, guanidinium,
nitro groups and aromatic nitrogen. Of an atom type only the element is used. Hydrogens are explicit, so
localised bonds say an atom's charge by its valence; `ar` bonds are resolved into single and double ones with
the fewest charges. Where these leave the total open, the sum of the partial charges decides.

RDKit's own reader wants Corina's types: of 409 molecules that Open Babel wrote it refused 146 and gave eight
another total charge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from rdkit import Chem
from rdkit.Chem import BondType
from rdkit.Geometry import Point3D

from pipeline.errors import RecordError, RefusedLigandError

SECTION = "@<TRIPOS>"
MAX_CHARGED = 3
"""charged atoms tried in one group of `ar` bonds; a phosphate has two"""

_ORDERS = {"1": 1, "2": 2, "3": 3, "am": 1, "ar": 0}
_BOND_TYPES = {1: BondType.SINGLE, 2: BondType.DOUBLE, 3: BondType.TRIPLE}
_PLACEHOLDERS = {"Du", "LP", "Any", "Hal", "Het", "Hev"}

_CHARGE_BY_VALENCE = {
    (7, 2): -1,
    (7, 4): 1,
    (8, 1): -1,
    (8, 3): 1,
    (15, 4): 1,
    (16, 1): -1,
    (16, 3): 1,
    **{(halogen, 0): -1 for halogen in (9, 17, 35, 53)},
}
"""element and sum of bond orders -> formal charge; others have none, and lack hydrogens where too few"""

_PI_STATES = {
    (6, 2): ((1, 0),),
    (6, 3): ((1, 0),),
    (7, 1): ((2, 0),),
    (7, 2): ((1, 0), (0, -1)),
    (7, 3): ((0, 0), (1, 1)),
    (7, 4): ((0, 1),),
    (8, 1): ((1, 0), (0, -1)),
    (8, 2): ((0, 0), (1, 1)),
    (15, 3): ((0, 0), (1, 1)),
    (15, 4): ((1, 0),),
    (16, 1): ((1, 0), (0, -1)),
    (16, 2): ((0, 0), (1, 1)),
    (16, 3): ((1, 0),),
    (16, 4): ((2, 0), (0, 0)),
}
"""element and sum of bond orders, `ar` counted one -> (double bonds among the `ar`, formal charge), neutral
first"""


@dataclass(frozen=True, kw_only=True)
class _Bond:
    begin: int
    end: int
    order: int
    """0: `ar`, not resolved yet"""


@dataclass(frozen=True, kw_only=True)
class _Resolved:
    """One way to draw a group of `ar` bonds."""

    doubles: frozenset[int]
    """numbers of the bonds that are double"""
    charges: tuple[tuple[int, int], ...]
    """(atom, formal charge) of the charged ones"""

    @property
    def net(self) -> int:
        return sum(charge for _, charge in self.charges)


def read_mol2(text: str) -> Chem.Mol:
    """Build the molecule of one record, atoms in its order, not sanitised, with its coordinates in angstrom.

    Raises RecordError for a truncated record and for types that are not Tripos's; RefusedLigandError, kind
    `charges`, where the formal charges do not sum to what the partial charges do.
    """
    sections = _sections(text)
    n_atoms, n_bonds = _counts(sections)
    rows = _rows(sections, "ATOM", n_atoms, 6)
    idxs = {row[0]: index for index, row in enumerate(rows)}
    numbers = [_atomic_number(row) for row in rows]
    bonds = _with_dative_oxygen(numbers, [_bond(row, idxs) for row in _rows(sections, "BOND", n_bonds, 4)])
    total = _total_of(charge_words(text))
    orders, charges = _resolve(numbers, bonds, total)
    if total is not None and sum(charges) != total:
        raise RefusedLigandError(
            f"the bonds say a total charge of {sum(charges):+d}, the partial charges sum to {total:+d}; "
            "correct the bonds, hydrogens or charges, or mark the record NO_CHARGES",
            kind="charges",
        )
    mol = Chem.RWMol()
    for number, charge in zip(numbers, charges, strict=True):
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        mol.AddAtom(atom)
    for bond, order in zip(bonds, orders, strict=True):
        mol.AddBond(bond.begin, bond.end, _BOND_TYPES[order])
    mol.AddConformer(_conformer(rows))
    return mol.GetMol()


def charge_words(text: str) -> list[str]:
    """Column nine of the atom lines, as written; empty where the record has no charges."""
    sections = _sections(text)
    rows = [line.split() for line in sections.get("ATOM", [])]
    if "NO_CHARGES" in sections.get("MOLECULE", []) or any(len(row) < 9 for row in rows):
        return []
    return [row[8] for row in rows]


def _sections(text: str) -> dict[str, list[str]]:
    """Lines by section; comments and blank lines left out, but for the name, which may be blank."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith(SECTION):
            current = sections.setdefault(line.removeprefix(SECTION).strip(), [])
        elif not line.startswith("#") and (line.strip() or current is sections.get("MOLECULE")):
            current.append(line.strip())
    return sections


def _counts(sections: dict[str, list[str]]) -> tuple[int, int]:
    """Atoms and bonds that the second line of the record announces."""
    words = [*sections.get("MOLECULE", []), "", ""][1].split()
    try:
        return int(words[0]), int(words[1]) if len(words) > 1 else 0
    except (ValueError, IndexError) as error:
        raise RecordError("the mol2 record has no line of counts below its name; write it anew") from error


def _rows(sections: dict[str, list[str]], name: str, n: int, n_words: int) -> list[list[str]]:
    rows = [line.split() for line in sections.get(name, [])]
    if len(rows) != n or any(len(row) < n_words for row in rows):
        complete = sum(len(row) >= n_words for row in rows)
        raise RecordError(
            f"the mol2 record announces {n} lines of {name} and has {complete}: it is truncated or damaged"
        )
    return rows


def _atomic_number(row: Sequence[str]) -> int:
    """Element by the part of the type before the dot, case and all: `ca` is GAFF's carbon, not calcium."""
    symbol = row[5].partition(".")[0]
    if symbol in _PLACEHOLDERS:
        return 0
    try:
        return int(Chem.GetPeriodicTable().GetAtomicNumber(symbol))
    except RuntimeError as error:
        raise RecordError(
            f"atom {row[0]} has type {row[5]!r}, which is not of Tripos; write the file with Tripos types "
            "(antechamber: -at sybyl) or as SDF"
        ) from error


def _bond(row: Sequence[str], idxs: dict[str, int]) -> _Bond:
    try:
        return _Bond(begin=idxs[row[1]], end=idxs[row[2]], order=_ORDERS[row[3].lower()])
    except KeyError as error:
        raise RecordError(f"bond {row[0]}: no atom or no bond type {error}; write the file anew") from error


def _conformer(rows: Sequence[Sequence[str]]) -> Chem.Conformer:
    try:
        coords = np.array([[float(word) for word in row[2:5]] for row in rows])
    except ValueError as error:
        raise RecordError(f"coordinates: {error}; write the file anew") from error
    conformer = Chem.Conformer(len(coords))
    conformer.Set3D(bool(np.any(coords[:, 2] != 0.0)))
    for index, position in enumerate(coords.tolist()):
        conformer.SetAtomPosition(index, Point3D(*position))
    return conformer


def _total_of(words: Sequence[str]) -> int | None:
    """The integer nearest to the sum of the partial charges; None where they say nothing."""
    try:
        charges = [float(word) for word in words]
    except ValueError:
        return None
    if not any(charges) or not np.isfinite(charges).all():
        return None
    return round(sum(charges))


def _with_dative_oxygen(numbers: Sequence[int], bonds: Sequence[_Bond]) -> list[_Bond]:
    """Nitro groups and N-oxides with five bonds at the nitrogen: N=O becomes N-O."""
    bonds = list(bonds)
    for atom in (index for index, number in enumerate(numbers) if number == 7):
        own = [n for n, bond in enumerate(bonds) if atom in (bond.begin, bond.end)]
        valence = sum(bonds[n].order or 1.5 for n in own)
        for n in own:
            ends = {numbers[bonds[n].begin], numbers[bonds[n].end]}
            if valence > 4 and bonds[n].order == 2 and ends == {7, 8}:
                bonds[n] = _Bond(begin=bonds[n].begin, end=bonds[n].end, order=1)
                valence -= 1
    return bonds


def _resolve(
    numbers: Sequence[int], bonds: Sequence[_Bond], total: int | None
) -> tuple[list[int], list[int]]:
    """The order of every bond and the formal charge of every atom."""
    valence = [0] * len(numbers)
    for bond in bonds:
        for atom in (bond.begin, bond.end):
            valence[atom] += bond.order or 1
    open_ = [n for n, bond in enumerate(bonds) if bond.order == 0]
    shared = {atom for n in open_ for atom in (bonds[n].begin, bonds[n].end)}
    charges = [
        0 if atom in shared else _CHARGE_BY_VALENCE.get((number, valence[atom]), 0)
        for atom, number in enumerate(numbers)
    ]
    for bond in bonds:  # an isocyanide
        for carbon, nitrogen in ((bond.begin, bond.end), (bond.end, bond.begin)):
            if bond.order == 3 and (numbers[carbon], valence[carbon]) == (6, 3) and charges[nitrogen] == 1:
                charges[carbon] = -1
    states = {atom: _PI_STATES.get((numbers[atom], valence[atom]), ((0, 0),)) for atom in shared}
    groups = [list(_ways(group, bonds, states)) for group in _groups(open_, bonds)]
    chosen = next(
        (ways for ways in product(*groups) if sum(charges) + sum(way.net for way in ways) == total),
        tuple(ways[0] for ways in groups if ways),
    )
    if len(chosen) < len(groups):
        raise RefusedLigandError(
            "no single and double bonds fit the aromatic atoms; write the double bonds, or give an SDF",
            kind="aromaticity",
        )
    for way in chosen:
        for atom, charge in way.charges:
            charges[atom] = charge
    doubles = {n for way in chosen for n in way.doubles}
    return [bond.order or (2 if n in doubles else 1) for n, bond in enumerate(bonds)], charges


def _groups(open_: Sequence[int], bonds: Sequence[_Bond]) -> list[list[int]]:
    """Bonds that hang together, as lists of their numbers."""
    groups: list[tuple[set[int], list[int]]] = []
    for n in open_:
        atoms = {bonds[n].begin, bonds[n].end}
        touching = [group for group in groups if group[0] & atoms]
        groups = [group for group in groups if not group[0] & atoms]
        groups.append((atoms.union(*(g[0] for g in touching)), [n, *(m for g in touching for m in g[1])]))
    return [sorted(numbers) for _, numbers in groups]


States = dict[int, tuple[tuple[int, int], ...]]


def _ways(group: Sequence[int], bonds: Sequence[_Bond], states: States) -> Iterator[_Resolved]:
    """The ways to draw a group with the fewest charged atoms, one for each net charge, the smallest first."""
    atoms = sorted({atom for n in group for atom in (bonds[n].begin, bonds[n].end)})
    flexible = [atom for atom in atoms if len(states[atom]) > 1]
    for n_charged in range(MAX_CHARGED + 1):
        found: dict[int, _Resolved] = {}
        for charged in combinations(flexible, n_charged):
            state = {atom: states[atom][int(atom in charged)] for atom in atoms}
            charges = tuple((atom, charge) for atom, (_, charge) in state.items() if charge)
            net = sum(charge for _, charge in charges)
            if net in found:
                continue
            doubles = _match({atom: n_pi for atom, (n_pi, _) in state.items()}, group, bonds)
            if doubles is not None:
                found[net] = _Resolved(doubles=doubles, charges=charges)
        if found:
            yield from sorted(found.values(), key=lambda way: (abs(way.net), -way.net))
            return


def _match(wanted: dict[int, int], group: Sequence[int], bonds: Sequence[_Bond]) -> frozenset[int] | None:
    """Bonds to make double so that each atom has as many as it wants; None when there are no such."""
    open_ = [n for n in group if wanted[bonds[n].begin] and wanted[bonds[n].end]]
    choices = {atom: [n for n in open_ if atom in (bonds[n].begin, bonds[n].end)] for atom in wanted}
    hungry = [atom for atom, n in wanted.items() if n]
    if not hungry:
        return frozenset()
    if sum(wanted.values()) % 2:
        return None
    atom = min(hungry, key=lambda atom: len(choices[atom]) - wanted[atom])
    for n in choices[atom]:
        left = wanted | {end: wanted[end] - 1 for end in (bonds[n].begin, bonds[n].end)}
        rest = _match(left, [m for m in open_ if m != n], bonds)
        if rest is not None:
            return rest | {n}
    return None
