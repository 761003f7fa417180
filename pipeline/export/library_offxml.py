"""One OFFXML for a whole library: every pattern holds a whole molecule, so that none fits another ligand's.

A heavy atom in a pattern states its connections and hydrogens, and all its heavy neighbours are drawn: what
the pattern matches has no further atom. A ligand is therefore never taken for a part of another, nor a
tautomer or another protonation state for this one. Bond orders, charges and stereo are not in the patterns,
see `Environment`. Ligands that differ in these alone share their patterns where their parameters are equal,
as stereoisomers' are; else formal charges as drawn are added, which tell a quinone from its dianion.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.export.atom_types import hash_prefix
from pipeline.export.naming import printable
from pipeline.export.offxml import build_constraints, build_sections, to_text
from pipeline.export.patterns import SAME_ABSOLUTE, SAME_RELATIVE
from pipeline.export.smarts import Environment
from pipeline.ligand import to_rdkit
from pipeline.schema import CLASS1_FIELDS, MMParameters, Parametrized
from pipeline.topology import restore_order


class _WholeLigand(Environment):
    """Draws each pattern over all heavy atoms."""

    def shells(self, atoms: Sequence[int]) -> Iterator[set[int]]:
        """Grow at once to the whole; hydrogen molecules have no heavy atom to count their atoms on."""
        all_atoms = set(range(self.mol.GetNumAtoms()))
        heavy = {index for index in all_atoms if self.mol.GetAtomWithIdx(index).GetAtomicNum() != 1}
        yield (heavy or all_atoms) | set(atoms)


class _ChargedLigand(_WholeLigand):
    """Draws the formal charges too."""

    def __init__(self, mol: Chem.Mol) -> None:
        """Prepare an RDKit molecule whose hydrogens are explicit."""
        super().__init__(mol)
        charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
        self._primitives = [
            f"{primitives}{charge:+d}" for primitives, charge in zip(self._primitives, charges, strict=True)
        ]


def write_library_offxml(parametrized: Sequence[Parametrized], *, constraints: bool = False) -> str:
    """Write one file with the parameters of all these ligands, bonds to hydrogen constrained where asked.

    Raises ExportError for two ligands that SMARTS cannot tell apart and whose parameters differ.
    """
    merged = {"Constraints": build_constraints()} if constraints else {}
    for first, environment in _distinct(parametrized):
        label = hash_prefix(first)
        for section in build_sections(environment, first):
            known = merged.setdefault(section.tag, section)
            if known is not section:
                # The zero proper for everything stands first, once.
                known.extend([child for child in section if not child.get("smirks", "").startswith("[*:1]")])
            for child in section:
                child.set("id", f"{child.get('id')}-{label}")
    names = ", ".join(printable(one.ligand.name, 80) for one in parametrized)
    comment = f"parmflow, for these {len(parametrized)} ligands and no other molecule: {names}"
    return to_text(comment.replace("--", "- -").replace("--", "- -"), merged.values())


def _distinct(parametrized: Sequence[Parametrized]) -> Iterator[tuple[Parametrized, Environment]]:
    """One ligand for all that have its graph and its parameters, with what draws its patterns."""
    for members in _grouped(parametrized, with_charges=False):
        if _first_other(members) is None:
            yield members[0], _WholeLigand(to_rdkit(members[0].ligand))
            continue
        for charged in _grouped(members, with_charges=True):
            other = _first_other(charged)
            if other is not None:
                raise ExportError(
                    f"{charged[0].ligand.name} and {other.ligand.name} differ in stereo or bond orders only, "
                    "which the patterns do not hold, but not in their parameters; use one OFFXML per ligand"
                )
            yield charged[0], _ChargedLigand(to_rdkit(charged[0].ligand))


def _grouped(parametrized: Sequence[Parametrized], *, with_charges: bool) -> list[list[Parametrized]]:
    """Ligands of one graph of elements (and charges) together, in input order."""
    groups: dict[str, list[Parametrized]] = {}
    for one in parametrized:
        graph = _bare_graph(one, with_charges=with_charges)
        groups.setdefault(Chem.MolToSmiles(graph), []).append(one)
    return list(groups.values())


def _bare_graph(parametrized: Parametrized, *, with_charges: bool) -> Chem.Mol:
    """The molecule with all bonds alike, without stereo and, unless wanted, without charges."""
    bare = Chem.RWMol(to_rdkit(parametrized.ligand))
    Chem.RemoveStereochemistry(bare)
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetIsAromatic(False)
        atom.SetNumRadicalElectrons(0)
        if not with_charges:
            atom.SetFormalCharge(0)
    for bond in bare.GetBonds():
        bond.SetIsAromatic(False)
        bond.SetBondType(Chem.BondType.SINGLE)
    return bare.GetMol()


def _first_other(members: Sequence[Parametrized]) -> Parametrized | None:
    """The first whose parameters are not those of the first member, atom by matching atom."""
    first = members[0]
    graph = _bare_graph(first, with_charges=False)
    for other in members[1:]:
        order = _bare_graph(other, with_charges=False).GetSubstructMatch(graph)
        _, parameters = restore_order(other.topology, other.parameters, np.argsort(order))
        if not _same(first.parameters, parameters):
            return other
    return None


def _same(one: MMParameters, other: MMParameters) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in CLASS1_FIELDS]
    return all(
        have.shape == want.shape and np.allclose(have, want, SAME_RELATIVE, SAME_ABSOLUTE)
        for want, have in pairs
    )
