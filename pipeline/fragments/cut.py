"""Cut from a ligand, for each torsion to drive, the smallest molecule that keeps the torsion's surroundings.

What is kept (after the Pfizer scheme of Rai et al., J. Chem. Inf. Model. 2019, 59, 4195, and what Stern et
al., bioRxiv 2020.08.27.270934, learnt from Wiberg bond orders: conjugation and charge reach furthest):
1. every atom within two bonds of the driven bond; the ortho substituents of its aromatic rings and of those
   that begin one bond away (the far ring of a diarylamine), with the branches of a branched alkyl;
2. charged atoms within three;
3. where the bond is conjugated, pi donors and acceptors on its aromatic rings in ortho and para position
   (odd distance from the bond, where resonance structures put the charge);
then, until nothing changes, whatever a kept atom would break: its whole ring system, multiple bonds,
conjugated chains, functional groups (`functional_groups.csv`).

What is cut is always a single bond outside rings. A cap of hydrogen takes the lost atom's place on an sp3 or
ring carbon. A methyl takes it elsewhere, where hydrogen would change the chemistry: N-H and O-H donate and
tautomerise, an aldehyde is no ketone, and =CH2 has no E and Z. The charge of a fragment is that of its atoms.

Ions are cut in their canonical resonance form: where it draws a double bond that a chemist would draw single,
the fragment comes out larger than need be, never smaller. Hydrogen bonds across the ligand are not kept.
"""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from pipeline.fragments.functional_groups import find_functional_groups
from pipeline.fragments.rotors import Bond, choose_dihedral, list_rotors
from pipeline.ligand import canonical_ligand, canonical_order, ligand_from_rdkit, to_rdkit
from pipeline.schema import IntArray, Ligand
from pipeline.settings import FragmentSettings
from pipeline.stereo import forget_inverting_nitrogen, list_unspecified_stereo

CAP = -1
"""The parent atom of a cap: none"""

_NEAR, _NEAR_CHARGED = 2, 3
"""bonds between an atom and the driven bond"""
_MAX_STEREOISOMERS = 64
_ORIGIN = "parmflow_parent"
_CARBON, _HYDROGEN = 6, 1
_PI_DONORS = frozenset({7, 8, 16})


@dataclass(frozen=True, kw_only=True, eq=False)
class Fragment:
    """A molecule on which torsions of a ligand are driven, and where its atoms come from.

    Its ligand is in canonical order, so equal fragments of different ligands are the same labelled molecule.
    """

    ligand: Ligand
    """named by its SMILES"""
    dihedrals: IntArray
    """(n_dihedrals, 4): the torsions to drive, 0-based atoms of the fragment; bond in columns 1 and 2"""
    parent_atoms: IntArray
    """(n_atoms,): the parent's atom, in the parent's order, of each atom; -1 for those of caps"""


def build_fragments(ligand: Ligand, settings: FragmentSettings) -> tuple[Fragment, ...]:
    """Build one fragment per bond to drive (`pipeline.fragments.rotors.list_rotors`).

    A ligand of up to `settings.whole_heavy_atoms` heavy atoms is the fragment of each of its bonds. Neither
    the order of the ligand's atoms nor the resonance form drawn changes the fragments.
    """
    order = canonical_order(ligand)
    parent = to_rdkit(canonical_ligand(ligand))
    whole = parent.GetNumHeavyAtoms() <= settings.whole_heavy_atoms
    fragments = []
    for bond in list_rotors(parent, settings):
        kept = set(range(parent.GetNumAtoms())) if whole else keep_surroundings(parent, bond)
        fragments.append(_fragment(parent, kept, bond, order))
    return tuple(fragments)


def keep_surroundings(mol: Chem.Mol, bond: Bond) -> set[int]:
    """Choose the atoms of a molecule that a fragment about a bond keeps, by the rules of this module."""
    distances = _distances_from(mol, bond)
    kept = {idx for idx, distance in distances.items() if distance <= _NEAR}
    kept |= {
        idx
        for idx, distance in distances.items()
        if distance <= _NEAR_CHARGED and _is_ionic(mol.GetAtomWithIdx(idx))
    }
    kept |= _ortho_substituents(mol, bond) | _coupled_substituents(mol, bond)
    units = [*_ring_systems(mol), *(group.atoms for group in find_functional_groups(mol)), *_chains(mol)]
    while True:
        grown = kept.union(*(unit for unit in units if unit & kept), _leaves(mol, kept))
        if grown == kept:
            return kept
        kept = grown


def _distances_from(mol: Chem.Mol, bond: Bond) -> dict[int, int]:
    """Bonds between each atom and the nearer end of a bond."""
    distances = dict.fromkeys(bond, 0)
    frontier, distance = set(bond), 0
    while frontier:
        distance += 1
        frontier = {n for idx in frontier for n in _neighbours(mol, idx)} - distances.keys()
        distances |= dict.fromkeys(frontier, distance)
    return distances


def _is_ionic(atom: Chem.Atom) -> bool:
    """Whether an atom carries a charge that no neighbour neutralises, as nitro, N-oxide and azide do."""
    charge = atom.GetFormalCharge()
    return charge != 0 and all(n.GetFormalCharge() * charge >= 0 for n in atom.GetNeighbors())


def _neighbours(mol: Chem.Mol, idx: int) -> list[int]:
    return [n.GetIdx() for n in mol.GetAtomWithIdx(idx).GetNeighbors()]


def _ring_systems(mol: Chem.Mol) -> list[frozenset[int]]:
    """Rings that share an atom (fused, bridged, spiro) make one system."""
    systems: list[frozenset[int]] = []
    for ring in map(frozenset, mol.GetRingInfo().AtomRings()):
        apart = [system for system in systems if not system & ring]
        systems = [*apart, ring.union(*(system for system in systems if system & ring))]
    return systems


def _chains(mol: Chem.Mol) -> list[frozenset[int]]:
    """Bonds that are never cut: multiple ones, and single ones between unsaturated atoms outside rings."""
    pairs = []
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        multiple = bond.GetBondTypeAsDouble() > 1.0
        conjugated = all(_is_unsaturated(end) and not end.IsInRing() for end in ends)
        if multiple or conjugated:
            pairs.append(frozenset(end.GetIdx() for end in ends))
    return pairs


def _is_unsaturated(atom: Chem.Atom) -> bool:
    """Whether an atom of carbon or nitrogen has a multiple bond: sulfonyl and phosphoryl do not conjugate."""
    return atom.GetAtomicNum() in (6, 7) and any(b.GetBondTypeAsDouble() > 1.0 for b in atom.GetBonds())


def _leaves(mol: Chem.Mol, kept: set[int]) -> set[int]:
    """Hydrogens of kept atoms, and methyls where a cap would be a methyl anyway."""
    leaves = set()
    for idx in kept:
        for neighbour in mol.GetAtomWithIdx(idx).GetNeighbors():
            is_methyl = neighbour.GetAtomicNum() == _CARBON and neighbour.GetTotalNumHs(True) == 3
            needless = is_methyl and _takes_methyl(mol.GetAtomWithIdx(idx))
            if neighbour.GetAtomicNum() == _HYDROGEN or needless:
                leaves.add(neighbour.GetIdx())
    return leaves


def _takes_methyl(atom: Chem.Atom) -> bool:
    """Whether a cap on this atom must be a methyl rather than a hydrogen."""
    if atom.GetAtomicNum() != _CARBON:
        return True
    return not atom.IsInRing() and _is_unsaturated(atom)


def _ortho_substituents(mol: Chem.Mol, bond: Bond) -> set[int]:
    """First atoms of what stands ortho on the aromatic rings of a bond, or one bond away from it.

    A branched alkyl keeps its branches: isopropyl is no methyl.
    """
    ipso = set(bond).union(*(_across_chain_bonds(mol, idx) for idx in bond))
    positions = {
        link.GetOtherAtomIdx(idx)
        for idx in ipso
        for link in mol.GetAtomWithIdx(idx).GetBonds()
        if link.GetIsAromatic()
    }
    first = set().union(*(_across_chain_bonds(mol, idx) for idx in positions))
    branches = [_neighbours(mol, idx) for idx in first if _is_branched(mol.GetAtomWithIdx(idx))]
    return first.union(*branches)


def _across_chain_bonds(mol: Chem.Mol, idx: int) -> set[int]:
    """Neighbours across bonds that lie in no ring."""
    return {b.GetOtherAtomIdx(idx) for b in mol.GetAtomWithIdx(idx).GetBonds() if not b.IsInRing()}


def _is_branched(atom: Chem.Atom) -> bool:
    """An sp3 carbon outside rings with at least two branches of more than hydrogen."""
    n_heavy = sum(n.GetAtomicNum() != _HYDROGEN for n in atom.GetNeighbors())
    return atom.GetAtomicNum() == _CARBON and not atom.IsInRing() and atom.GetDegree() == 4 and n_heavy > 2


def _coupled_substituents(mol: Chem.Mol, bond: Bond) -> set[int]:
    """First atoms of the pi donors and acceptors that resonance couples to a conjugated bond."""
    if not all(_has_pi(mol.GetAtomWithIdx(idx)) for idx in bond):
        return set()
    coupled = set()
    for start in bond:
        for ring_atom, distance in _aromatic_distances(mol, start).items():
            if distance % 2:
                beside = _across_chain_bonds(mol, ring_atom)
                coupled |= {idx for idx in beside if _is_coupling(mol.GetAtomWithIdx(idx))}
    return coupled


def _has_pi(atom: Chem.Atom) -> bool:
    """Whether an atom has a pi bond, or a lone pair to give to one beside it."""
    return _is_unsaturated(atom) or (atom.GetAtomicNum() in _PI_DONORS and atom.GetTotalDegree() < 4)


def _aromatic_distances(mol: Chem.Mol, start: int) -> dict[int, int]:
    """Bonds from a ring atom to each atom of its aromatic ring system, along aromatic bonds."""
    distances, frontier = {start: 0}, [start]
    for idx in frontier:
        for bond in mol.GetAtomWithIdx(idx).GetBonds():
            other = bond.GetOtherAtomIdx(idx)
            if bond.GetIsAromatic() and other not in distances:
                distances[other] = distances[idx] + 1
                frontier.append(other)
    return distances


def _is_coupling(atom: Chem.Atom) -> bool:
    """Amino, oxy, thio, and acyl, nitro, cyano, sulfonyl, phosphoryl; no halogen, alkyl, aryl or vinyl."""
    if atom.GetIsAromatic() or atom.GetAtomicNum() == _HYDROGEN:
        return False
    if atom.GetAtomicNum() in _PI_DONORS:
        return True
    return any(
        bond.GetBondTypeAsDouble() > 1.0 and bond.GetOtherAtom(atom).GetAtomicNum() in _PI_DONORS
        for bond in atom.GetBonds()
    )


def _fragment(parent: Chem.Mol, kept: set[int], bond: Bond, order: IntArray) -> Fragment:
    """Cut the kept atoms out, bring them into canonical order, choose the dihedral, trace the atoms back."""
    mol = _cut(parent, kept)
    origins = [atom.GetIntProp(_ORIGIN) for atom in mol.GetAtoms()]
    named = ligand_from_rdkit(mol, Chem.MolToSmiles(Chem.RemoveHs(mol)))
    sources = canonical_order(named)
    canonical = canonical_ligand(named)
    labelled = to_rdkit(canonical)
    places = {origins[source]: place for place, source in enumerate(sources)}
    own_bond = (min(places[bond[0]], places[bond[1]]), max(places[bond[0]], places[bond[1]]))
    turned, first_bond = _turn_to_first(labelled, own_bond)
    parents = [origins[sources[place]] for place in turned]
    return Fragment(
        ligand=Ligand(
            name=Chem.MolToSmiles(Chem.RemoveHs(labelled)),
            mapped_smiles=canonical.mapped_smiles,
            total_charge=canonical.total_charge,
        ),
        dihedrals=np.array([choose_dihedral(labelled, first_bond)], dtype=np.int64),
        parent_atoms=np.array([CAP if idx == CAP else order[idx] for idx in parents], dtype=np.int64),
    )


def _cut(parent: Chem.Mol, kept: set[int]) -> Chem.Mol:
    """Make the first lost atom of each cut bond its cap, in place so that stereo stays; drop the rest."""
    mol = Chem.RWMol(parent)
    caps = {n: idx for idx in kept for n in _neighbours(parent, idx) if n not in kept}
    for atom in mol.GetAtoms():
        atom.SetIntProp(_ORIGIN, atom.GetIdx() if atom.GetIdx() in kept else CAP)
    for idx, neighbour in caps.items():
        cap = Chem.Atom(_CARBON if _takes_methyl(parent.GetAtomWithIdx(neighbour)) else _HYDROGEN)
        cap.SetNoImplicit(cap.GetAtomicNum() == _HYDROGEN)
        cap.SetIntProp(_ORIGIN, CAP)
        mol.ReplaceAtom(idx, cap)
    mol.BeginBatchEdit()
    for idx in range(parent.GetNumAtoms()):
        if idx not in kept and idx not in caps:
            mol.RemoveAtom(idx)
    mol.CommitBatchEdit()
    Chem.SanitizeMol(mol)
    capped = Chem.AddHs(mol)
    for atom in list(capped.GetAtoms())[mol.GetNumAtoms() :]:
        atom.SetIntProp(_ORIGIN, CAP)
    Chem.AssignStereochemistry(capped, cleanIt=True, force=True)
    return _settle_stereo(capped)


def _settle_stereo(mol: Chem.Mol) -> Chem.Mol:
    """Choose, of stereo that the cut alone made (equal arms, one cut short), the isomer first by its text.

    Either describes the ligand equally well, since the arms were equal there.
    """
    forget_inverting_nitrogen(mol)
    if not list_unspecified_stereo(mol):
        return mol
    options = StereoEnumerationOptions(
        onlyUnassigned=True, unique=True, maxIsomers=_MAX_STEREOISOMERS, rand=1
    )
    isomers = list(EnumerateStereoisomers(mol, options=options))
    for isomer in isomers:
        forget_inverting_nitrogen(isomer)
    return min(isomers, key=Chem.MolToSmiles)


def _turn_to_first(mol: Chem.Mol, bond: Bond) -> tuple[list[int], Bond]:
    """Relabel a molecule onto itself so that a bond comes to lie on the first of its equivalents.

    Returns `turned`, with old atom `turned[i]` at place i, and the bond that then is the driven one.
    """
    ranks = Chem.CanonicalRankAtoms(mol, breakTies=False)
    kind = sorted(ranks[idx] for idx in bond)
    text, _ = _write_marked(mol, bond)
    labelled = ligand_from_rdkit(mol, "").mapped_smiles
    for candidate in sorted(
        tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in mol.GetBonds() if not b.IsInRing()
    ):
        if candidate == bond:
            break
        if sorted(ranks[idx] for idx in candidate) != kind or _write_marked(mol, candidate)[0] != text:
            continue
        turned = _match_marked(mol, candidate, bond)
        if ligand_from_rdkit(Chem.RenumberAtoms(mol, turned), "").mapped_smiles == labelled:
            return turned, candidate
    return list(range(mol.GetNumAtoms())), bond


def _mark(mol: Chem.Mol, bond: Bond) -> Chem.Mol:
    marked = Chem.Mol(mol)
    for idx in bond:
        marked.GetAtomWithIdx(idx).SetIsotope(1)
    return marked


def _write_marked(mol: Chem.Mol, bond: Bond) -> tuple[str, list[int]]:
    """Canonical SMILES with a bond's atoms marked, and the atoms in the order written."""
    marked = _mark(mol, bond)
    text = Chem.MolToSmiles(marked)
    written = marked.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"]
    return text, list(written)


def _match_marked(mol: Chem.Mol, candidate: Bond, bond: Bond) -> list[int]:
    """For each atom, the one that plays its part when `bond` takes the place of `candidate`."""
    parts = dict(zip(_write_marked(mol, candidate)[1], _write_marked(mol, bond)[1], strict=True))
    return [int(parts[idx]) for idx in range(mol.GetNumAtoms())]
