"""Where a SMARTS pattern with tagged atoms matches a molecule: every match, in every order of its tags."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.ligand import to_rdkit
from pipeline.schema import Ligand
from pipeline.smirnoff.quantities import FILE_KIND

Atoms = tuple[int, ...]
"""atom indices of an interaction"""

MAX_MATCHES = 200_000
"""RDKit stops at 1,000 unless told otherwise, and says nothing; reaching this bound is an error."""


AtomKind = tuple[int, ...]
"""atomic number, connections, hydrogens, ring bonds"""

_WHOLE_KIND = re.compile(r"\[#(\d+)X(\d+)H(\d+)x(\d+)(?:[+-]\d+)?(?::\d+)?\]")
"""A query atom that states all four, as our own exporter writes them"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern:
    """A compiled SMARTS pattern whose atoms `:1`, `:2`, ... are the atoms of an interaction."""

    smirks: str
    query: Chem.Mol
    tagged: tuple[int, ...]
    """query atom of tag 1, 2, ..."""
    needed: Mapping[AtomKind, int]
    """how many atoms of each kind a molecule must have at least, as far as the query atoms say; nothing where
    a part of the pattern is recursive"""


def compile_pattern(smirks: str, n_tags: int | None) -> Pattern:
    """Compile a pattern whose tags run from 1 to `n_tags` (None: any number of tags, at least one).

    Raises ParametersError for a pattern that RDKit cannot read or that is tagged otherwise.
    """
    query = Chem.MolFromSmarts(smirks)
    if query is None:
        raise ParametersError(f"{smirks!r} is not a SMARTS pattern", kind=FILE_KIND)
    tags = {atom.GetAtomMapNum(): atom.GetIdx() for atom in query.GetAtoms() if atom.GetAtomMapNum()}
    n_tagged = sum(1 for atom in query.GetAtoms() if atom.GetAtomMapNum())
    n_wanted = n_tagged if n_tags is None else n_tags
    if not n_tagged or n_tagged != n_wanted or sorted(tags) != list(range(1, n_wanted + 1)):
        wanted = "1, 2, ..." if n_tags is None else f"1 to {n_tags}"
        raise ParametersError(f"{smirks!r}: tags must be {wanted}, each once", kind=FILE_KIND)
    kinds = [] if "$" in smirks else _WHOLE_KIND.findall(smirks)
    needed = Counter(tuple(map(int, kind)) for kind in kinds)
    return Pattern(smirks=smirks, query=query, tagged=tuple(tags[tag] for tag in sorted(tags)), needed=needed)


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
    options = Chem.SubstructMatchParameters()
    options.uniquify = False
    options.useChirality = True
    options.maxMatches = limit
    options.maxRecursiveMatches = limit
    matches = mol.GetSubstructMatches(pattern.query, options)
    if len(matches) >= limit:
        raise ParametersError(
            f"{pattern.smirks!r} matches {limit} times or more: patterns must not list the hydrogens of "
            "several methyl groups one by one; give them as counts (H3)",
            kind="too-many-matches",
        )
    tagged = pattern.tagged
    return {tuple(match[i] for i in tagged) for match in matches}


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
    """Give the numbers of the patterns for which the molecule has enough atoms of each kind.

    Only these need to be tried: in the file of a library most patterns hold another whole molecule.
    """
    have = Counter(map(_kind_of, mol.GetAtoms()))
    return [
        number
        for number, pattern in enumerate(patterns)
        if all(have[kind] >= count for kind, count in pattern.needed.items())
    ]


def _kind_of(atom: Chem.Atom) -> AtomKind:
    n_hydrogens = atom.GetTotalNumHs(includeNeighbors=True)
    n_ring_bonds = sum(bond.IsInRing() for bond in atom.GetBonds())
    return (atom.GetAtomicNum(), atom.GetTotalDegree(), n_hydrogens, n_ring_bonds)


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
