"""Where a SMARTS pattern with tagged atoms matches a molecule: every match, in every order of its tags."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.ligand import to_rdkit
from pipeline.schema import IntArray, Ligand
from pipeline.smirnoff.quantities import FILE_KIND

Atoms = tuple[int, ...]
"""atom indices of an interaction"""

MAX_MATCHES = 200_000
"""RDKit stops at 1,000 unless told otherwise, and says nothing; reaching this bound is an error."""


_WHOLE_KIND = re.compile(r"\[(#\d+X\d+H\d+x\d+)(?:[+-]\d+)?(?::\d+)?\]")
"""A query atom that states element, connections, hydrogens and ring bonds, as our own exporter writes them"""

FEW_PATTERNS = 1000
"""So many are tried faster than sorted out by the atoms that they need."""

MAX_COMPILED = 50_000
"""Patterns kept compiled, 30 kilobytes each; the file of a library of 400 ligands has 40,000."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern:
    """A SMARTS pattern whose atoms `:1`, `:2`, ... are the atoms of an interaction."""

    smirks: str
    tagged: tuple[int, ...]
    """query atom of tag 1, 2, ..."""

    @property
    def query(self) -> Chem.Mol:
        """The compiled pattern."""
        return _compile(self.smirks)


@lru_cache(maxsize=MAX_COMPILED)
def _compile(smirks: str) -> Chem.Mol | None:
    return Chem.MolFromSmarts(smirks)


@lru_cache(maxsize=MAX_COMPILED)
def compile_pattern(smirks: str, n_tags: int | None) -> Pattern:
    """Check a pattern whose tags run from 1 to `n_tags` (None: any number of tags, at least one).

    Raises ParametersError for a pattern that RDKit cannot read or that is tagged otherwise.
    """
    query = _compile(smirks)
    if query is None:
        raise ParametersError(f"{smirks!r} is not a SMARTS pattern", kind=FILE_KIND)
    tags = [query.GetAtomWithIdx(index).GetAtomMapNum() for index in range(query.GetNumAtoms())]
    tagged = sorted(filter(None, tags))
    n_wanted = len(tagged) if n_tags is None else n_tags
    if not tagged or tagged != list(range(1, n_wanted + 1)):
        wanted = "1, 2, ..." if n_tags is None else f"1 to {n_tags}"
        raise ParametersError(f"{smirks!r}: tags must be {wanted}, each once", kind=FILE_KIND)
    return Pattern(smirks=smirks, tagged=tuple(tags.index(tag) for tag in tagged))


def molecule_for_matching(ligand: Ligand) -> Chem.Mol:
    """Build the molecule as SMIRNOFF perceives it: explicit hydrogens, aromatic by the MDL model.

    In the MDL model (`OEAroModel_MDL`) only six-membered rings of alternating double bonds and systems fused
    from them are aromatic; five-membered heterocycles keep their drawn double bonds.
    """
    mol = to_rdkit(ligand)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    Chem.SetAromaticity(mol, Chem.AromaticityModel.AROMATICITY_MDL)
    return mol


def find_matches(pattern: Pattern, mol: Chem.Mol, limit: int = MAX_MATCHES) -> set[Atoms]:
    """List the tagged atoms of every match, tag 1 first; a symmetric pattern matches in each direction.

    Raises ParametersError when `limit` matches are reached, because the list would then be cut short.
    """
    matches = mol.GetSubstructMatches(pattern.query, _options(limit))
    if len(matches) >= limit:
        raise ParametersError(
            f"{pattern.smirks!r} matches {limit} times or more: patterns must not list the hydrogens of "
            "several methyl groups one by one; give them as counts (H3)",
            kind="too-many-matches",
        )
    tagged = pattern.tagged
    return {tuple(match[i] for i in tagged) for match in matches}


@lru_cache(maxsize=8)
def _options(limit: int) -> Chem.SubstructMatchParameters:
    options = Chem.SubstructMatchParameters()
    options.uniquify = False
    options.useChirality = True
    options.maxMatches = limit
    options.maxRecursiveMatches = limit
    return options


def assign_last(
    patterns: Sequence[Pattern],
    mol: Chem.Mol,
    wanted: Iterable[Atoms],
    key_of: Callable[[Atoms], Atoms],
) -> dict[Atoms, int]:
    """Give for each wanted interaction the number of the last pattern that matches it.

    `key_of` maps the tagged atoms of a match to the one spelling of the interaction used in `wanted`.
    Patterns are tried from the last to the first, until nothing is left to find.
    """
    left = set(wanted)
    winners: dict[Atoms, int] = {}
    for number in reversed(list_possible(patterns, mol)):
        if not left:
            break
        found = left.intersection(map(key_of, find_matches(patterns[number], mol)))
        winners.update(dict.fromkeys(found, number))
        left -= found
    return winners


def list_possible(patterns: Sequence[Pattern], mol: Chem.Mol) -> list[int]:
    """Give the numbers of the patterns for which the molecule has enough atoms of each kind; all, where few.

    Only these need to be tried: in the file of a library most patterns hold another whole molecule.
    """
    if len(patterns) < FEW_PATTERNS:
        return list(range(len(patterns)))
    needs = _needs_of(tuple(patterns))
    have = Counter(map(_kind_of, mol.GetAtoms()))
    n_have = np.array([have[kind] for kind in needs.kinds], dtype=np.int64)
    possible = np.ones(len(patterns), dtype=bool)
    possible[needs.pattern[n_have[needs.kind] < needs.count]] = False
    numbers: list[int] = np.flatnonzero(possible).tolist()
    return numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class _Needs:
    """How many atoms of a kind each pattern needs, one row per pattern and kind, as far as its atoms say."""

    kinds: tuple[str, ...]
    pattern: IntArray
    """(n_rows,), the number of the pattern"""
    kind: IntArray
    """(n_rows,), the position in `kinds`"""
    count: IntArray
    """(n_rows,)"""


@lru_cache(maxsize=16)
def _needs_of(patterns: tuple[Pattern, ...]) -> _Needs:
    """Read them off the patterns; nothing of those of which a part is recursive."""
    numbers: dict[str, int] = {}
    rows = [
        (number, numbers.setdefault(kind, len(numbers)), count)
        for number, pattern in enumerate(patterns)
        if "$" not in pattern.smirks
        for kind, count in Counter(_WHOLE_KIND.findall(pattern.smirks)).items()
    ]
    pattern, kind, count = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return _Needs(kinds=tuple(numbers), pattern=pattern, kind=kind, count=count)


def _kind_of(atom: Chem.Atom) -> str:
    n_hydrogens = atom.GetTotalNumHs(includeNeighbors=True)
    n_ring_bonds = sum(bond.IsInRing() for bond in atom.GetBonds())
    return f"#{atom.GetAtomicNum()}X{atom.GetTotalDegree()}H{n_hydrogens}x{n_ring_bonds}"


def either_way(atoms: Atoms) -> Atoms:
    """Spell a chain of atoms with its smaller end first: i-j-k-l is l-k-j-i."""
    return atoms if atoms[0] <= atoms[-1] else atoms[::-1]


def match_whole(pattern: Pattern, mol: Chem.Mol) -> Atoms | None:
    """Give the tagged atoms of the first match only, for a pattern of the whole molecule.

    The other matches differ from it by a symmetry of the molecule. None where the pattern does not match.
    """
    match = mol.GetSubstructMatch(pattern.query, useChirality=True)
    return tuple(match[i] for i in pattern.tagged) if match else None


def name_atoms(mol: Chem.Mol, atoms: Sequence[int]) -> str:
    """Name atoms for a message, e.g. `C1-C2-O3`, counted from 1."""
    return "-".join(f"{mol.GetAtomWithIdx(i).GetSymbol()}{i + 1}" for i in atoms)
