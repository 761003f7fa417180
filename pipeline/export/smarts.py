"""SMARTS that match exactly the terms meant, within one ligand.

Patterns know elements, connections, hydrogens and ring bonds, but neither bond orders, nor aromaticity, nor
formal charges: those depend on which resonance form was drawn and on a toolkit's aromaticity model.
"""

import re
from collections.abc import Iterator, Sequence

from rdkit import Chem

from pipeline.errors import ExportError

_TAG = re.compile(r"(?::(\d+))?\]")

MAX_MATCHES = 100_000
"""Matches of one pattern in one ligand; reaching it is an error, never a silent truncation."""


class Environment:
    """A ligand prepared for drawing SMARTS around some of its atoms."""

    def __init__(self, mol: Chem.Mol) -> None:
        """Prepare an RDKit molecule whose hydrogens are explicit."""
        self.mol = mol
        self.neighbours = [sorted(n.GetIdx() for n in atom.GetNeighbors()) for atom in mol.GetAtoms()]
        self.primitives = [_primitives(atom) for atom in mol.GetAtoms()]
        heavy = {atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1}
        # A hydrogen molecule has no heavy atom that would count its hydrogens.
        self.grown_neighbours = [
            heavy.intersection(atoms) or (set() if atom in heavy else set(atoms))
            for atom, atoms in enumerate(self.neighbours)
        ]

    def shells(self, atoms: Sequence[int]) -> Iterator[set[int]]:
        """Grow from the atoms outwards by one bond at a time, until the whole ligand is in.

        Hydrogens other than the given atoms are left out: the count on their parent says the same.
        """
        grown, outer = set(atoms), set(atoms)
        while outer:
            yield grown
            outer = {n for atom in outer for n in self.grown_neighbours[atom]} - grown
            grown = grown | outer

    def skeleton(self) -> set[int]:
        """All heavy atoms; the atoms of a hydrogen molecule, which has none to count them on."""
        heavy = {atom.GetIdx() for atom in self.mol.GetAtoms() if atom.GetAtomicNum() != 1}
        return heavy or set(range(self.mol.GetNumAtoms()))

    def draw(self, tagged: Sequence[int], atoms: set[int]) -> str:
        """Draw the connected subgraph of `atoms` as SMARTS; `tagged[i]` gets the tag i + 1."""
        tags = {atom: number for number, atom in enumerate(tagged, start=1)}
        order = self._depth_first(tagged[0], atoms)
        closures = self._ring_closures(order, atoms)
        children: dict[int, list[int]] = {atom: [] for atom in order}
        for atom, parent in order.items():
            if parent is not None:
                children[parent].append(atom)

        def text(atom: int) -> str:
            tag = f":{tags[atom]}" if atom in tags else ""
            branches = [f"~{text(child)}" for child in children[atom]]
            sides = "".join(f"({branch})" for branch in branches[:-1])
            return f"[{self.primitives[atom]}{tag}]{closures[atom]}{sides}{''.join(branches[-1:])}"

        return text(tagged[0])

    def match(self, smarts: str) -> set[tuple[int, ...]]:
        """Match the tagged atoms of a pattern: the set of their index tuples, in tag order."""
        pattern = Chem.MolFromSmarts(smarts)
        if pattern is None:
            raise ExportError(f"RDKit cannot read the SMARTS {smarts}")
        # RDKit numbers the atoms of a pattern as they are written.
        tags = [int(tag) if tag else 0 for tag in _TAG.findall(smarts)]
        columns = [tags.index(tag) for tag in range(1, max(tags) + 1)]
        matches = self.mol.GetSubstructMatches(pattern, uniquify=False, maxMatches=MAX_MATCHES)
        if len(matches) >= MAX_MATCHES:
            raise ExportError(f"more than {MAX_MATCHES} matches of {smarts}: too symmetric for SMARTS")
        return {tuple(match[column] for column in columns) for match in matches}

    def _depth_first(self, start: int, atoms: set[int]) -> dict[int, int | None]:
        """Order the atoms by depth-first search; the value is the atom's parent."""
        order: dict[int, int | None] = {}
        stack: list[tuple[int, int | None]] = [(start, None)]
        while stack:
            atom, parent = stack.pop()
            if atom not in order:
                order[atom] = parent
                stack += [(n, atom) for n in reversed(self.neighbours[atom]) if n in atoms and n not in order]
        return order

    def _ring_closures(self, order: dict[int, int | None], atoms: set[int]) -> dict[int, str]:
        """Number the bonds that the tree of the search leaves open."""
        closures = dict.fromkeys(order, "")
        number = 0
        for atom, parent in order.items():
            for neighbour in self.neighbours[atom]:
                in_tree = neighbour == parent or order.get(neighbour, -1) == atom
                if neighbour in atoms and atom < neighbour and not in_tree:
                    number += 1
                    for end in (atom, neighbour):
                        closures[end] += f"~%{number:02d}" if number > 9 else f"~{number}"
        return closures


def _primitives(atom: Chem.Atom) -> str:
    """Element, total connections, hydrogens, ring bonds: the same in every resonance form."""
    if atom.GetAtomicNum() == 1:
        return f"#1X{atom.GetDegree()}"
    n_hydrogens = sum(neighbour.GetAtomicNum() == 1 for neighbour in atom.GetNeighbors())
    n_ring_bonds = sum(bond.IsInRing() for bond in atom.GetBonds())
    return f"#{atom.GetAtomicNum()}X{atom.GetDegree()}H{n_hydrogens}x{n_ring_bonds}"
