"""Two-character atom types for LEaP: as few as give every bonded term of the ligand its own parameters."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_letters, digits
from typing import Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.patterns import SAME_ABSOLUTE, SAME_RELATIVE
from pipeline.export.trefoils import sum_trefoils
from pipeline.schema import FloatArray, IntArray, MMParameters, Topology
from pipeline.topology import list_linear_chains

TAKEN = frozenset({"2C", "3C"})
"""Names of a digit and a letter in parm10 and its kin; GAFF's and GAFF2's begin with a small letter."""

CODES = tuple(
    code
    for code in (digit + letter for digit in digits if digit != "6" for letter in ascii_letters)
    if code not in TAKEN
)
"""All types of Amber's FB15 begin with 6."""

Key = tuple[Any, ...]
"""whole numbers and tuples of them; of one kind of term, so that keys can be ordered"""


@dataclass(frozen=True, kw_only=True)
class _Term:
    """One bonded term: its atoms, and a label that equal parameters share."""

    atoms: tuple[int, ...]
    value: Key
    is_star: bool
    """an improper: centre first, the others in any order"""

    def key(self, colours: Sequence[int]) -> tuple[int, ...]:
        """The types of its atoms in the one spelling that LEaP looks up."""
        row = tuple([colours[atom] for atom in self.atoms])
        return (row[0], *sorted(row[1:])) if self.is_star else min(row, row[::-1])

    def views(self, colours: Sequence[int]) -> list[Key]:
        """What each of its atoms sees of the term."""
        if self.is_star:
            key = self.key(colours)
            return [(*self.value, position == 0, key) for position in range(len(self.atoms))]
        row = tuple([colours[atom] for atom in self.atoms])
        back = row[::-1]
        return [
            (*self.value, min((position, row), (from_end, back)))
            for position, from_end in zip(range(len(row)), range(len(row) - 1, -1, -1), strict=True)
        ]


@lru_cache(maxsize=1)
def assign_leap_types(topology: Topology, parameters: MMParameters) -> tuple[str, ...]:
    """Give each atom a type of two characters; symmetric atoms share one.

    Atoms are told apart by element, Lennard-Jones parameters and, again and again, by the terms they take
    part in, until no two terms with different parameters have the same types. The last ligand's are kept, for
    the three files that need them. Raises ExportError when the ligand needs more types than there are names,
    or when its improper rows differ.
    """
    terms = _list_terms(topology, parameters)
    colours = _number(_vdw_labels(topology, parameters))
    while True:
        colours = _refine(colours, terms)
        ambiguous = _find_ambiguous(colours, terms)
        if ambiguous is None:
            break
        colours[ambiguous.atoms[0]] = max(colours) + 1
    n_types = len(set(colours))
    if n_types > len(CODES):
        raise ExportError(
            f"{n_types} atom types are needed, LEaP's two characters give us {len(CODES)} names"
        )
    names: dict[int, str] = {}
    return tuple(names.setdefault(colour, CODES[len(names)]) for colour in colours)


def _list_terms(topology: Topology, parameters: MMParameters) -> list[_Term]:
    centres = topology.improper_dihedrals[::3]
    linear = list_linear_chains(topology)
    rows = (
        (topology.bonds, np.column_stack([parameters.bond_k, parameters.bond_length])),
        (topology.angles, np.column_stack([parameters.angle_k, parameters.angle_theta])),
        (topology.propers, parameters.proper_k),
        (np.array(linear, dtype=np.int64).reshape(-1, 4), np.zeros((len(linear), 1))),
        (centres, sum_trefoils(topology, parameters)),
    )
    return [
        _Term(atoms=atoms, value=(kind, *label), is_star=kind == len(rows) - 1)
        for kind, (table, values) in enumerate(rows)
        for atoms, label in zip(_tuples(table), _label_rows(values), strict=True)
    ]


def _vdw_labels(topology: Topology, parameters: MMParameters) -> list[Key]:
    labels = _label_rows(np.column_stack([parameters.sigma, parameters.epsilon]))
    return [(number, *label) for number, label in zip(topology.atomic_numbers.tolist(), labels, strict=True)]


def _label_rows(values: FloatArray) -> list[tuple[int, ...]]:
    """Number the distinct values of each column; those within the noise of symmetric atoms are one."""
    labels = np.zeros(values.shape, dtype=np.int64)
    for column in range(values.shape[1]):
        order = np.argsort(values[:, column], kind="stable")
        ordered = values[order, column]
        gap = np.diff(ordered) > SAME_ABSOLUTE + SAME_RELATIVE * np.abs(ordered[1:])
        labels[order[1:], column] = np.cumsum(gap)
    return _tuples(labels)


def _tuples(table: IntArray) -> list[tuple[int, ...]]:
    return [tuple(row) for row in table.tolist()]


def _number(labels: Iterable[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(label, len(numbers)) for label in labels]


def _refine(colours: list[int], terms: Sequence[_Term]) -> list[int]:
    """Split atoms of one colour that see different terms, until nothing splits any more."""
    while True:
        seen: list[list[Key]] = [[] for _ in colours]
        for term in terms:
            for atom, view in zip(term.atoms, term.views(colours), strict=True):
                seen[atom].append(view)
        finer = _number((colour, tuple(sorted(views))) for colour, views in zip(colours, seen, strict=True))
        if len(set(finer)) == len(set(colours)):
            return finer
        colours = finer


def _find_ambiguous(colours: Sequence[int], terms: Sequence[_Term]) -> _Term | None:
    """A term whose types are those of another term with other parameters."""
    values: dict[Key, Key] = {}
    for term in terms:
        # A bond, an angle and a proper differ by their number of types; a zero torsion is a proper here.
        key = (term.is_star, *term.key(colours))
        if values.setdefault(key, term.value) != term.value:
            return term
    return None
