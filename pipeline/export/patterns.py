"""Choose, for the terms of one kind, the fewest and smallest SMARTS that give each its own parameters.

The terms may be those of several ligands: a pattern then gives the right parameters in all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.lookalikes import Colours, Lookalikes
from pipeline.schema import FloatArray, IntArray
from pipeline.smirnoff.matching import name_atoms

SAME_RELATIVE, SAME_ABSOLUTE = 1e-6, 1e-7
"""Parameters closer than this are one parameter: symmetric atoms leave a network with float32 noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """The interactions of one kind in one ligand, with their parameters."""

    atoms: IntArray
    """(n_terms, n_tags)"""
    values: FloatArray
    """(n_terms, n_values)"""
    rows: Mapping[tuple[int, ...], int]
    """the term of an index tuple, in each order of the atoms that means the same"""
    spellings: tuple[tuple[int, ...], ...]
    """the orders of a term's atoms that mean the same"""
    has_default: bool
    """whether a tuple that is no term may be matched by a pattern whose values are all zero"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A pattern and the parameters of everything that it matches."""

    smirks: str
    values: FloatArray
    """(n_values,)"""
    rows: tuple[int, ...]
    """the terms that it matches, counted over all ligands"""


def chain_terms(atoms: IntArray, values: Sequence[FloatArray], *, has_default: bool = False) -> Terms:
    """Terms that read the same backwards: atoms, bonds, angles, propers."""
    forwards = tuple(range(atoms.shape[1]))
    return _terms(atoms, np.column_stack(values), (forwards, forwards[::-1]), has_default)


def star_terms(atoms: IntArray, values: FloatArray) -> Terms:
    """Terms about a centre in column 1 whose three ends may be in any order: impropers."""
    spellings = tuple((a, 1, b, c) for a, b, c in permutations((0, 2, 3)))
    return _terms(atoms, values, spellings, has_default=True)


def _terms(
    atoms: IntArray, values: FloatArray, spellings: tuple[tuple[int, ...], ...], has_default: bool
) -> Terms:
    rows = {
        tuple(row): number
        for spelling in spellings
        for number, row in enumerate(atoms[:, list(spelling)].tolist())
    }
    return Terms(atoms=atoms, values=values, rows=rows, spellings=spellings, has_default=has_default)


def choose_patterns(colours: Colours, ligands: Sequence[Terms]) -> list[Entry]:
    """Choose patterns so that every term is matched, and only by patterns with its own parameters.

    Around each term that has no pattern yet the environment grows bond by bond until everything that the
    pattern matches, in any of the ligands, has the term's parameters. Terms whose values are all zero are
    skipped where zero is the default. Raises ExportError when even the whole ligand cannot tell two
    different terms apart.
    """
    table = _Table(colours, ligands)
    covered: set[int] = set()
    if ligands[0].has_default:
        covered.update(np.flatnonzero((np.abs(table.values[:-1]) <= SAME_ABSOLUTE).all(axis=1)).tolist())
    entries = []
    for row in range(len(table.values) - 1):
        if row not in covered:
            entries.append(table.smallest_pattern(row))
            covered.update(entries[-1].rows)
    return entries


class _Table:
    """The terms of all ligands one below the other; the last row stands for what is no term."""

    def __init__(self, colours: Colours, ligands: Sequence[Terms]) -> None:
        self.environments, self.ligands = colours.environments, ligands
        missing = np.full((1, ligands[0].values.shape[1]), 0.0 if ligands[0].has_default else np.nan)
        self.values = np.vstack([*(terms.values for terms in ligands), missing])
        counts = [len(terms.atoms) for terms in ligands]
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.ligand_of = np.repeat(np.arange(len(ligands)), counts)
        self.lookalikes = Lookalikes(colours, [terms.atoms for terms in ligands], ligands[0].spellings)
        allowed = SAME_ABSOLUTE + SAME_RELATIVE * np.abs(self.values[:-1])
        self.first_shell = self.lookalikes.first_shell_of_equals(self.values[:-1], allowed)

    def smallest_pattern(self, row: int) -> Entry:
        """Draw the first shell around a term whose pattern matches only terms of the same parameters.

        What a pattern matches looks like the term as far as it is drawn, so only ligands that hold such a
        look-alike are searched, and the search begins where all look-alikes have the same parameters.
        """
        ligand = int(self.ligand_of[row])
        environment = self.environments[ligand]
        atoms = tuple(self.ligands[ligand].atoms[row - self.offsets[ligand]].tolist())
        own = self.values[row]
        for number, shell in _from(int(self.first_shell[row]), environment.shells(atoms)):
            smirks = environment.draw(atoms, shell)
            alike = self.lookalikes.members(row, number)
            if len(alike) == 1:  # a pattern matches nothing but look-alikes, and the term it is drawn from
                return Entry(smirks=smirks, values=own, rows=(row,))
            holders = set(self.ligand_of[alike].tolist())
            matched = sorted({hit for holder in holders for hit in self._match(smirks, holder)})
            if _same(self.values[matched], own):
                values = np.add.reduce(self.values[matched]) / len(matched)
                return Entry(smirks=smirks, values=values, rows=tuple(hit for hit in matched if hit >= 0))
        other = next(hit for hit in matched if not _same(self.values[hit : hit + 1], own))
        raise ExportError(
            f"{self._name(row)} and {self._name(other)} are equivalent but their parameters differ: "
            f"{own.tolist()} and {self.values[other].tolist()}; SMARTS cannot tell them apart"
        )

    def _match(self, smirks: str, ligand: int) -> set[int]:
        """The terms of a ligand that a pattern matches; -1 for what is no term."""
        terms, offset = self.ligands[ligand], int(self.offsets[ligand])
        found = {terms.rows.get(match, -1) for match in self.environments[ligand].match(smirks)}
        return {row if row < 0 else row + offset for row in found}

    def _name(self, row: int) -> str:
        if row < 0:
            return "atoms that are no term"
        ligand = int(self.ligand_of[row])
        atoms = self.ligands[ligand].atoms[row - self.offsets[ligand]].tolist()
        return name_atoms(self.environments[ligand].mol, atoms)


def _from(first: int, shells: Iterable[set[int]]) -> Iterator[tuple[int, set[int]]]:
    """Number the shells and leave out those before the first wanted; at least the last is given."""
    for number, shell in enumerate(shells):
        if number >= first:
            yield number, shell
    if number < first:
        yield number, shell


def _same(rows: FloatArray, own: FloatArray) -> bool:
    return bool((np.abs(rows - own) <= SAME_ABSOLUTE + SAME_RELATIVE * np.abs(own)).all())
