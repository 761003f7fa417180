"""Library charges whose patterns hold a whole ligand: all heavy atoms at once, and hydrogens with them.

A pattern that tags every hydrogen would match once per way to permute them, methyl by methyl. So one hydrogen
of each kind is tagged, beside the others of the pattern while its matches are few, else in the next pattern.
"""

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from pipeline.export.smarts import Environment
from pipeline.schema import FloatArray, IntArray, Parametrized

MAX_PLACEMENTS = 200
"""Ways to place a pattern that its hydrogens may bring it to; some readers stop listing at 1,000."""


def build_whole_charges(ligands: Sequence[tuple[Environment, Parametrized]]) -> Element:
    """Write the charges of each ligand; atoms that a symmetry exchanges get the mean of theirs."""
    section = Element("LibraryCharges", version="0.3")
    for environment, one in ligands:
        groups = _group_tags(environment)
        charges = _even_out(one.parameters.charge, [placements for _, placements in groups])
        charges += (one.ligand.total_charge - float(charges.sum())) / len(charges)
        for tags, _ in groups:
            smirks = environment.draw(tags, environment.skeleton() | set(tags))
            element = ElementTree.SubElement(section, "LibraryCharge", smirks=smirks)
            for number, atom in enumerate(tags, start=1):
                element.set(f"charge{number}", f"{float(charges[atom])!r} * elementary_charge")
    return section


def _group_tags(environment: Environment) -> list[tuple[list[int], IntArray]]:
    """Tag every kind of atom once or more: tags of each pattern, with its placements (n_matches, n_tags).

    Hydrogens that no placement has met yet are tried one by one in the order of the ligand.
    """
    skeleton = environment.skeleton()
    groups: list[tuple[list[int], IntArray]] = [([*sorted(skeleton)], np.empty((0, 0), dtype=np.int64))]
    groups[0] = (groups[0][0], _place(environment, groups[0][0]))
    met = set(groups[0][1].ravel().tolist())
    for atom in range(len(environment.primitives)):
        if atom in met:
            continue
        wider = _place(environment, [*groups[-1][0], atom])
        if len(wider) <= MAX_PLACEMENTS:
            groups[-1] = ([*groups[-1][0], atom], wider)
        else:
            groups.append(([atom], _place(environment, [atom])))
        met.update(groups[-1][1][:, -1].tolist())
    return groups


def _place(environment: Environment, tags: Sequence[int]) -> IntArray:
    smirks = environment.draw(tags, environment.skeleton() | set(tags))
    return np.array(sorted(environment.match(smirks)), dtype=np.int64)


def _even_out(charge: FloatArray, placements: Sequence[IntArray]) -> FloatArray:
    """Give all atoms that one tag meets the same charge, their mean."""
    leader = np.arange(len(charge))
    for matches in placements:
        for column in matches.T:
            met = np.unique(leader[column])
            leader[np.isin(leader, met)] = met[0]
    _, orbit = np.unique(leader, return_inverse=True)
    means: FloatArray = np.bincount(orbit, weights=charge) / np.bincount(orbit)
    return means[orbit]
