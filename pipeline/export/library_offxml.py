"""One OFFXML for a whole library: patterns that give the right parameters in every ligand of it.

Bonded terms and van der Waals: the environment of a term grows until nothing in any ligand that the pattern
matches has other parameters, so that what ligands have in common is written once. Charges: every pattern
holds a whole ligand. A heavy atom in a pattern states its connections and hydrogens, and all its heavy
neighbours are drawn: what it matches has no further atom. So no ligand is taken for a part of another, and a
molecule that is none of them finds no charges, which readers say.

Bond orders, charges and stereo are not in the patterns, see `Environment`. Ligands that differ in these alone
share their patterns where their parameters are equal, as stereoisomers' are; else each gets patterns of
whole ligands with formal charges as drawn, which tell a quinone from its dianion.
"""

from collections.abc import Iterable, Iterator, Sequence
from xml.etree.ElementTree import Element

import numpy as np
from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.export.lookalikes import Colours
from pipeline.export.naming import printable
from pipeline.export.offxml import build_charges, build_constraints, build_sections, to_text
from pipeline.export.patterns import SAME_ABSOLUTE, SAME_RELATIVE
from pipeline.export.smarts import Environment
from pipeline.export.whole_charges import build_whole_charges
from pipeline.ligand import to_rdkit
from pipeline.resonance import bare_graph
from pipeline.schema import CLASS1_FIELDS, MMParameters, Parametrized
from pipeline.topology import restore_order


class _ChargedLigand(Environment):
    """Draws each pattern over all heavy atoms, with their formal charges."""

    def __init__(self, mol: Chem.Mol) -> None:
        """Prepare an RDKit molecule whose hydrogens are explicit."""
        super().__init__(mol)
        charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
        self.primitives = [
            f"{primitives}{charge:+d}" for primitives, charge in zip(self.primitives, charges, strict=True)
        ]

    def shells(self, atoms: Sequence[int]) -> Iterator[set[int]]:
        """Grow at once to the whole."""
        yield self.skeleton() | set(atoms)


def write_library_offxml(parametrized: Sequence[Parametrized], *, constraints: bool = False) -> str:
    """Write one file with the parameters of all these ligands, bonds to hydrogen constrained where asked.

    Raises ExportError for two ligands that SMARTS cannot tell apart and whose parameters differ.
    """
    if any(one.parameters.cross is not None for one in parametrized):
        raise ExportError("SMIRNOFF has no cubic bond term: a class II force field has no OFFXML")
    plain, special = _distinct(parametrized)
    sections = [build_constraints()] if constraints else []
    if plain:
        environments = [Environment(to_rdkit(one.ligand)) for one in plain]
        sections += build_sections(Colours(environments), plain)
        sections.append(build_whole_charges(list(zip(environments, plain, strict=True))))
    # The last pattern that matches wins: those of special ligands stand after what all others share.
    for one in special:
        colours = Colours([_ChargedLigand(to_rdkit(one.ligand))])
        sections += [*build_sections(colours, [one]), build_charges(colours, one)]
    names = ", ".join(printable(one.ligand.name, 80) for one in parametrized)
    comment = f"parmflow, for these {len(parametrized)} ligands and no other molecule: {names}"
    return to_text(comment.replace("--", "- -").replace("--", "- -"), _merge(sections))


def _merge(sections: Iterable[Element]) -> list[Element]:
    """Put the sections of one name together, their parameters numbered anew."""
    merged: dict[str, Element] = {}
    for section in sections:
        known = merged.setdefault(section.tag, section)
        if known is not section:
            # The zero proper for everything stands first, once.
            known.extend([child for child in section if not child.get("smirks", "").startswith("[*:1]")])
    for section in merged.values():
        for number, child in enumerate(section, start=1):
            child.set("id", f"{child.tag[0].lower()}{number}")
    return list(merged.values())


def _distinct(parametrized: Sequence[Parametrized]) -> tuple[list[Parametrized], list[Parametrized]]:
    """One ligand for all that have its graph and its parameters; apart those told by their charges only."""
    plain, special = [], []
    for members in _grouped(parametrized, with_charges=False):
        if _first_other(members) is None:
            plain.append(members[0])
            continue
        for charged in _grouped(members, with_charges=True):
            other = _first_other(charged)
            if other is not None:
                raise ExportError(
                    f"{charged[0].ligand.name} and {other.ligand.name} differ in stereo or bond orders only, "
                    "which the patterns do not hold, but not in their parameters; use one OFFXML per ligand"
                )
            special.append(charged[0])
    return plain, special


def _grouped(parametrized: Sequence[Parametrized], *, with_charges: bool) -> list[list[Parametrized]]:
    """Ligands of one graph of elements (and charges) together, in input order."""
    groups: dict[str, list[Parametrized]] = {}
    for one in parametrized:
        graph = bare_graph(to_rdkit(one.ligand), with_charges=with_charges)
        groups.setdefault(Chem.MolToSmiles(graph), []).append(one)
    return list(groups.values())


def _first_other(members: Sequence[Parametrized]) -> Parametrized | None:
    """The first whose parameters are not those of the first member, atom by matching atom."""
    first = members[0]
    graph = bare_graph(to_rdkit(first.ligand))
    for other in members[1:]:
        order = bare_graph(to_rdkit(other.ligand)).GetSubstructMatch(graph)
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
