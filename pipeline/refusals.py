"""Why a readable record is refused: each reason its own kind, each message saying what to do."""

from rdkit import Chem

from pipeline.atoms import atoms_of, bonds_of
from pipeline.errors import RefusedLigandError
from pipeline.resonance import resonance_forms
from pipeline.settings import LigandRules
from pipeline.stereo import list_unspecified_stereo

_NON_METALS = frozenset(
    {1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86}
)
"""Everything but metals; whether a non-metal is supported is for the rules to say."""
_ALKALI_AND_ALKALINE_EARTH = frozenset({3, 4, 11, 12, 19, 20, 37, 38, 55, 56, 87, 88})
_BOND_TYPES = frozenset(
    {Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC}
)


def check_symbols(mol: Chem.Mol) -> None:
    """Refuse placeholders before anything is made of them."""
    dummies = [a for a in atoms_of(mol) if a.GetAtomicNum() == 0 or a.HasQuery()]
    if dummies:
        raise RefusedLigandError(
            f"placeholder or query atoms at {name_atoms(dummies)}; replace each by a real atom",
            kind="dummy-atom",
        )


def check_bonds(mol: Chem.Mol) -> None:
    """Refuse bonds of unusual order, dative bonds and query bonds; those of metals are refused as metals."""
    odd = [
        bond
        for bond in bonds_of(mol)
        if bond.HasQuery()
        or bond.GetBondType() not in _BOND_TYPES
        or (bond.GetBondType() == Chem.BondType.AROMATIC and not bond.GetIsAromatic())
    ]
    if odd and all(atom.GetAtomicNum() in _NON_METALS for atom in atoms_of(mol)):
        raise RefusedLigandError(
            f"bond that is not single, double, triple or aromatic at {name_atoms([odd[0].GetBeginAtom()])}; "
            "draw it as one of these",
            kind="unsupported-bond",
        )


def check_metals(mol: Chem.Mol) -> None:
    """Refuse metals, save the lone alkali and alkaline earth ions that make a salt."""
    metals = [
        a
        for a in atoms_of(mol)
        if a.GetAtomicNum() not in _NON_METALS
        and not (a.GetAtomicNum() in _ALKALI_AND_ALKALINE_EARTH and a.GetDegree() == 0)
    ]
    if metals or (mol.GetNumAtoms() == 1 and mol.GetAtomWithIdx(0).GetAtomicNum() not in _NON_METALS):
        raise RefusedLigandError(
            f"metal at {name_atoms(metals or atoms_of(mol))}; metals and their complexes need a "
            "force field of their own; remove the metal or use a metal-centre tool",
            kind="metal",
        )


def check_atoms(mol: Chem.Mol, rules: LigandRules) -> None:
    """Refuse unsupported elements, isotopes, radicals, hypervalent centres and what is too large already."""
    check_size(mol.GetNumAtoms(), rules)
    foreign = [a for a in atoms_of(mol) if a.GetSymbol() not in rules.elements]
    if foreign:
        raise RefusedLigandError(
            f"element without parameters at {name_atoms(foreign)}; supported are {', '.join(rules.elements)}",
            kind="unsupported-element",
        )
    if mol.GetNumAtoms() == 1 and mol.GetAtomWithIdx(0).GetTotalNumHs() == 0:
        raise RefusedLigandError(
            f"a single atom, {name_atoms(atoms_of(mol))}, has no terms to fit; take its parameters "
            "from the water model",
            kind="single-atom",
        )
    labelled = [a for a in atoms_of(mol) if a.GetIsotope()]
    if labelled:
        raise RefusedLigandError(
            f"isotope label at {name_atoms(labelled)}; remove it and set the mass in the MD engine: a force "
            "field does not depend on it",
            kind="isotope",
        )
    radicals = [a for a in atoms_of(mol) if a.GetNumRadicalElectrons()]
    if radicals:
        raise RefusedLigandError(
            f"unpaired electron at {name_atoms(radicals)}; add the missing hydrogen or charge: only closed "
            "shells are parametrised",
            kind="radical",
        )
    crowded = [a for a in atoms_of(mol) if _n_domains(a) > 4]
    if crowded:
        raise RefusedLigandError(
            f"more than four neighbours and lone pairs at {name_atoms(crowded)}: angles near both 90 and 180 "
            "degrees, which no form of this force field holds; state the charge if it is an onium ion, else "
            "the group needs a force field of its own",
            kind="hypervalent",
        )


def _n_domains(atom: Chem.Atom) -> int:
    """Neighbours and lone pairs (VSEPR): of more than four some lie opposite each other."""
    n_outer = Chem.GetPeriodicTable().GetNOuterElecs(atom.GetAtomicNum())
    n_unshared = n_outer - atom.GetFormalCharge() - atom.GetTotalValence()
    return int(atom.GetTotalDegree() + max(0, n_unshared // 2))


def check_size(n_atoms: int, rules: LigandRules) -> None:
    """Refuse a molecule of more atoms than the rules allow."""
    if n_atoms > rules.max_atoms:
        raise RefusedLigandError(
            f"{n_atoms} atoms, more than {rules.max_atoms}; cut the molecule into fragments or raise "
            "ligand.max_atoms",
            kind="too-large",
        )


def check_stereo(mol: Chem.Mol, rules: LigandRules) -> None:
    """Refuse stereo left open (2-D, SMILES, racemic groups) unless the rules accept it."""
    if rules.unspecified_stereo == "accept":
        return
    delocalised = {
        bond.GetIdx()
        for form in resonance_forms(mol)
        for bond in bonds_of(form)
        if bond.GetBondType() == Chem.BondType.SINGLE
    }
    centres = list_unspecified_stereo(mol, delocalised)
    mixed = [g for g in mol.GetStereoGroups() if g.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE]
    if mixed:
        centres += [f"{name_atoms(group.GetAtoms())} (and/or group)" for group in mixed]
    if centres:
        raise RefusedLigandError(
            f"unspecified stereo at {', '.join(centres)} (atoms counted from 1); state it (@, /, wedges or "
            "3-D coordinates), or set ligand.unspecified_stereo to accept",
            kind="unspecified-stereo",
        )


def name_atoms(atoms: list[Chem.Atom]) -> str:
    """Symbol and 1-based number of the first few atoms."""
    shown = ", ".join(f"{a.GetSymbol()}{a.GetIdx() + 1}" for a in list(atoms)[:8])
    return shown + (", ..." if len(atoms) > 8 else "")
