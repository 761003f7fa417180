"""Which terms look alike out to so many bonds: colours that neighbours refine, shell by shell.

The colour of an atom in shell s says what its heavy neighbours out to s bonds are, as a tree. A pattern drawn
out to s bonds states the connections and hydrogens of every atom and draws all heavy neighbours but at its
rim, so what it matches has the term's colours in shell s. Rings may still tell look-alikes apart.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.export.smarts import Environment
from pipeline.schema import FloatArray, IntArray


class Colours:
    """The colours of the atoms of some ligands, counted on from ligand to ligand."""

    def __init__(self, environments: Sequence[Environment]) -> None:
        """Begin with what the patterns state about an atom by itself."""
        self.environments = environments
        self.starts = np.cumsum([0, *(len(one.primitives) for one in environments)])
        self._neighbours = [
            [start + other for other in others]
            for one, start in zip(environments, self.starts.tolist(), strict=False)
            for others in one.grown_neighbours
        ]
        numbers: dict[str, int] = {}
        primitives = [text for one in environments for text in one.primitives]
        self._shells = [np.array([numbers.setdefault(text, len(numbers)) for text in primitives])]

    def shell(self, number: int) -> IntArray:
        """The colours in a shell, (n_atoms,), whole numbers from 0 without gaps."""
        while len(self._shells) <= number:
            before = self._shells[-1].tolist()
            numbers: dict[tuple[int, ...], int] = {}
            views = (
                (before[atom], *sorted([before[other] for other in others]))
                for atom, others in enumerate(self._neighbours)
            )
            self._shells.append(np.array([numbers.setdefault(view, len(numbers)) for view in views]))
        return self._shells[number]

    def is_final(self, number: int) -> bool:
        """Whether the next shell splits no colour any more, nor does any after it."""
        return bool(self.shell(number + 1).max() == self.shell(number).max())


class Lookalikes:
    """The terms of one kind sorted into classes, in every shell."""

    def __init__(
        self, colours: Colours, atoms: Sequence[IntArray], spellings: Sequence[Sequence[int]]
    ) -> None:
        """Take the terms (n_terms, n_tags) of each ligand, and the orders of tags that mean the same."""
        starts = colours.starts.tolist()
        self._colours = colours
        self._atoms = np.vstack([rows + start for rows, start in zip(atoms, starts, strict=False)])
        self._spellings = [list(spelling) for spelling in spellings]
        self._classes: list[IntArray] = []
        self._members: dict[int, tuple[IntArray, list[int]]] = {}

    def first_shell_of_equals(self, values: FloatArray, allowed: FloatArray) -> IntArray:
        """Give for each term the first shell in which its look-alikes have its values, (n_terms,).

        `values`, and how far others may be off, `allowed`, are (n_terms, n_values). 0 for a term that no
        shell tells from others: only rings can.
        """
        first = np.zeros(len(values), dtype=np.int64)
        left = np.arange(len(values))
        shell = 0
        while len(left):
            classes = self.classes(shell)
            low, high = _extremes(classes, values)
            of_row, own, near = classes[left], values[left], allowed[left]
            equal = ((high[of_row] <= own + near) & (low[of_row] >= own - near)).all(axis=1)
            first[left[equal]] = shell
            left = left[~equal]
            if self._colours.is_final(shell):
                break
            shell += 1
        return first

    def members(self, row: int, shell: int) -> IntArray:
        """The terms that look like a term out to a shell."""
        classes = self.classes(shell)
        if shell not in self._members:
            order = np.argsort(classes, kind="stable")
            self._members[shell] = order, np.cumsum([0, *np.bincount(classes)]).tolist()
        (order, bounds), number = self._members[shell], int(classes[row])
        return order[bounds[number] : bounds[number + 1]]

    def classes(self, shell: int) -> IntArray:
        """The class of each term in a shell, (n_terms,), numbered from 0 without gaps."""
        while len(self._classes) <= shell:
            colours = self._colours.shell(len(self._classes))[self._atoms]
            spelled = np.stack([_as_numbers(colours[:, spelling]) for spelling in self._spellings])
            _, classes = np.unique(spelled.min(axis=0), return_inverse=True)
            self._classes.append(np.asarray(classes, dtype=np.int64).ravel())
        return self._classes[shell]


def _as_numbers(rows: IntArray) -> IntArray:
    """One whole number per row; should it overflow, two classes might at worst count as one."""
    base = int(rows.max(initial=0)) + 1
    numbers = np.zeros(len(rows), dtype=np.int64)
    for column in range(rows.shape[1]):
        numbers = numbers * base + rows[:, column]
    return numbers


def _extremes(classes: IntArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest value of each class: twice (n_classes, n_values)."""
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(classes.max() + 1))
    ordered = values[order]
    return np.minimum.reduceat(ordered, starts), np.maximum.reduceat(ordered, starts)
