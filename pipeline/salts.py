"""Which molecule of a salt is the ligand: not what is known as a counter-ion; of the rest, the largest."""

import csv
from functools import cache
from importlib import resources

from rdkit import Chem
from rdkit.Chem.SaltRemover import SaltRemover

from pipeline.errors import RefusedLigandError
from pipeline.settings import LigandRules

TABLE = "counter_ions.csv"
_LARGE = 8
"""heavy atoms: an organic molecule of so many that is no known counter-ion may be the ligand"""
_SHOWN = 200
"""characters of SMILES in a sentence"""


def keep_one_fragment(mol: Chem.Mol, rules: LigandRules) -> tuple[Chem.Mol, str]:
    """The ligand of a record, and what was left out beside it, in words; empty where nothing was.

    Raises RefusedLigandError where the rules take no salts, and where more than one molecule may be meant.
    """
    fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    if len(fragments) == 1:
        return mol, ""
    bare = [Chem.RemoveHs(fragment, sanitize=False) for fragment in fragments]
    texts = [Chem.MolToSmiles(one) for one in bare]
    if not rules.strip_salts:
        raise RefusedLigandError(
            f"{len(fragments)} separate molecules ({_listed(texts)}); give one per record, or set "
            "ligand.strip_salts to leave out counter-ions",
            kind="salt",
        )
    of_text = dict(zip(texts, bare, strict=True))
    candidates = {text: one for text, one in of_text.items() if not is_counter_ion(one)} or of_text
    n_heavy = {text: one.GetNumHeavyAtoms() for text, one in candidates.items()}
    most = max(n_heavy.values())
    meant = [text for text, n in n_heavy.items() if n == most or (n >= _LARGE and _is_organic(of_text[text]))]
    if len(meant) > 1:
        raise RefusedLigandError(
            f"each of {_listed(meant)} may be the ligand; give the one that is meant", kind="salt"
        )
    kept = texts.index(meant[0])
    return fragments[kept], f"kept {_listed(meant)}, left out {_listed(texts[:kept] + texts[kept + 1 :])}"


def is_counter_ion(molecule: Chem.Mol) -> bool:
    """Whether a molecule without explicit hydrogens is inorganic, or known from salts at whatever charge."""
    return not _is_organic(molecule) or any(
        known.GetNumAtoms() == molecule.GetNumAtoms()
        and known.GetNumBonds() == molecule.GetNumBonds()
        and molecule.HasSubstructMatch(known)
        for known in _counter_ions()
    )


def _is_organic(molecule: Chem.Mol) -> bool:
    return any(atom.GetAtomicNum() == 6 for atom in molecule.GetAtoms())


@cache
def _counter_ions() -> tuple[Chem.Mol, ...]:
    """RDKit's patterns and ours; each is a whole molecule."""
    lines = resources.files("pipeline").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return (*SaltRemover().salts, *(Chem.MolFromSmarts(row["smarts"]) for row in rows))


def _listed(texts: list[str]) -> str:
    joined = " + ".join(sorted(texts))
    return joined if len(joined) <= _SHOWN else f"{joined[:_SHOWN]}..."
