"""Functional groups by SMARTS: the table `functional_groups.csv` beside this module."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from rdkit import Chem

TABLE = "functional_groups.csv"
_MAX_MATCHES = 10_000


@dataclass(frozen=True, kw_only=True)
class FunctionalGroup:
    """One functional group found in a molecule."""

    name: str
    atoms: frozenset[int]
    """0-based indices"""


def find_functional_groups(mol: Chem.Mol) -> list[FunctionalGroup]:
    """List every functional group of a molecule with explicit hydrogens; groups may share atoms."""
    return [
        FunctionalGroup(name=name, atoms=frozenset(match))
        for name, pattern in _read_table()
        for match in mol.GetSubstructMatches(pattern, maxMatches=_MAX_MATCHES)
    ]


@cache
def _read_table() -> tuple[tuple[str, Chem.Mol], ...]:
    """Read the table once: name and compiled pattern of each row."""
    lines = resources.files("pipeline.fragments").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    patterns = [(row["name"], Chem.MolFromSmarts(row["smarts"])) for row in rows]
    wrong = [name for name, pattern in patterns if pattern is None]
    if wrong:
        raise ValueError(f"{TABLE}: SMARTS that RDKit cannot read: {', '.join(wrong)}")
    return tuple(patterns)
