"""Choose, for the terms of one kind, the fewest and smallest SMARTS that give each its own parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.smarts import Environment
from pipeline.schema import FloatArray, IntArray

SAME_RELATIVE, SAME_ABSOLUTE = 1e-6, 1e-7
"""Parameters closer than this are one parameter: symmetric atoms leave a network with float32 noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """The interactions of one kind with their parameters."""

    atoms: IntArray
    """(n_terms, n_tags)"""
    values: FloatArray
    """(n_terms, n_values)"""
    rows: Mapping[tuple[int, ...], int]
    """the term of an index tuple, in each order of the atoms that means the same"""
    has_default: bool
    """whether a tuple that is no term may be matched by a pattern whose values are all zero"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A pattern and the parameters of everything that it matches."""

    smirks: str
    values: FloatArray
    """(n_values,)"""
    rows: tuple[int, ...]
    """the terms that it matches"""


def chain_terms(atoms: IntArray, values: Sequence[FloatArray], *, has_default: bool = False) -> Terms:
    """Terms that read the same backwards: atoms, bonds, angles, propers."""
    rows = {tuple(row): number for number, row in enumerate(atoms.tolist())}
    rows |= {tuple(row[::-1]): number for number, row in enumerate(atoms.tolist())}
    return Terms(atoms=atoms, values=np.column_stack(values), rows=rows, has_default=has_default)


def star_terms(atoms: IntArray, values: FloatArray) -> Terms:
    """Terms about a centre in column 1 whose three ends may be in any order: impropers."""
    rows: dict[tuple[int, ...], int] = {
        (ends[0], centre, ends[1], ends[2]): number
        for number, (a, centre, b, c) in enumerate(atoms.tolist())
        for ends in permutations((a, b, c))
    }
    return Terms(atoms=atoms, values=values, rows=rows, has_default=True)


def choose_patterns(environment: Environment, terms: Terms) -> list[Entry]:
    """Choose patterns so that every term is matched, and only by patterns with its own parameters.

    Around each term that has no pattern yet the environment grows bond by bond until everything that the
    pattern matches has the term's parameters. Terms whose values are all zero are skipped where zero is the
    default. Raises ExportError when even the whole ligand cannot tell two different terms apart.
    """
    missing = 0.0 if terms.has_default else np.nan
    table = np.vstack([terms.values, np.full((1, terms.values.shape[1]), missing)])
    covered: set[int] = set()
    entries = []
    for number, atoms in enumerate(terms.atoms.tolist()):
        is_default = terms.has_default and _same(table[number : number + 1], table[-1])
        if number not in covered and not is_default:
            entries.append(_smallest_pattern(environment, terms, table, tuple(atoms)))
            covered.update(entries[-1].rows)
    return entries


def _smallest_pattern(
    environment: Environment, terms: Terms, table: FloatArray, atoms: tuple[int, ...]
) -> Entry:
    own = table[terms.rows[atoms]]
    for shell in environment.shells(atoms):
        smirks = environment.draw(atoms, shell)
        matched = sorted({terms.rows.get(match, -1) for match in environment.match(smirks)})
        if _same(table[matched], own):
            values = table[matched].mean(axis=0)
            return Entry(smirks=smirks, values=values, rows=tuple(matched))
    other = next(row for row in matched if not _same(table[row : row + 1], own))
    raise ExportError(
        f"atoms {atoms} and {tuple(terms.atoms[other].tolist())} are equivalent but their parameters differ: "
        f"{own.tolist()} and {table[other].tolist()}; SMARTS cannot tell them apart"
    )


def _same(rows: FloatArray, own: FloatArray) -> bool:
    return bool((np.abs(rows - own) <= SAME_ABSOLUTE + SAME_RELATIVE * np.abs(own)).all())
