"""Standardise: from a record to a Ligand in the user's atom order, or a refusal with a reason.

Order of atoms. A molblock or a mol2 keeps its own order (hydrogens added to a 2-D drawing without any come
last, grouped by their heavy atom in order). A SMILES gives its heavy atoms in the order written, then all
hydrogens, written or implied, grouped by their heavy atom in order.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase

from pipeline.atoms import atoms_of
from pipeline.errors import LigandError, RecordError, RefusedLigandError
from pipeline.library import Record
from pipeline.mol2 import read_mol2
from pipeline.refusals import (
    check_atoms,
    check_bonds,
    check_metals,
    check_size,
    check_stereo,
    check_symbols,
    name_atoms,
)
from pipeline.resonance import join_ylides, resonance_forms, stands_alone
from pipeline.salts import keep_one_fragment
from pipeline.schema import Conformers, FloatArray, IntArray, Ligand
from pipeline.settings import LigandRules
from pipeline.stereo import forget_inverting_nitrogen, read_stereo

PERCEPTION_VERSION = "2"
"""Part of every ligand key: changes when the rules below, or a new RDKit, would name a molecule otherwise."""

_REMEMBERED = 64
"""molecules whose reading is kept: each is asked for several times on its way"""
_CLOSEST_ATOMS = 0.4
"""angstrom; shorter than half of any bond: two atoms in one place"""


class Standardised(NamedTuple):
    """What a record holds."""

    ligand: Ligand
    conformers: Conformers | None
    """the geometry of a 3-D molblock, (1, n_atoms, 3) in angstrom"""
    note: str
    """what of the record was left out; empty where all of it is the ligand"""


def standardise(record: Record, rules: LigandRules) -> Standardised:
    """Read one record and check it.

    Raises RecordError (the text cannot be read) or RefusedLigandError (it can, but is outside the rules);
    `kind` names the reason, the message says what to do.
    """
    try:
        with _quiet_rdkit():
            return _standardise(record, rules)
    except LigandError as error:
        raise type(error)(f"{record.name}: {error}", kind=error.kind) from error


def to_rdkit(ligand: Ligand) -> Chem.Mol:
    """Build the RDKit molecule of a ligand, atoms in the ligand's order, no map numbers, no conformer."""
    return Chem.Mol(_read_mapped(ligand.mapped_smiles))


@lru_cache(maxsize=_REMEMBERED)
def _read_mapped(mapped_smiles: str) -> Chem.Mol:
    options = Chem.SmilesParserParams()
    options.removeHs = False
    mol = Chem.MolFromSmiles(mapped_smiles, options)
    if mol is None:
        raise RecordError(f"RDKit cannot read the mapped SMILES {mapped_smiles!r}")
    order: list[int] = [0] * mol.GetNumAtoms()
    for atom in atoms_of(mol):
        order[atom.GetAtomMapNum() - 1] = atom.GetIdx()
    mol = Chem.RenumberAtoms(mol, order)
    for atom in atoms_of(mol):
        atom.SetAtomMapNum(0)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def ligand_from_rdkit(mol: Chem.Mol, name: str) -> Ligand:
    """Write the Ligand of an RDKit molecule with explicit hydrogens, in its atom order, without checks."""
    return Ligand(name=name, mapped_smiles=_mapped_smiles(mol), total_charge=Chem.GetFormalCharge(mol))


def _mapped_smiles(mol: Chem.Mol) -> str:
    mapped = Chem.Mol(mol)
    mapped.RemoveAllConformers()
    for atom in atoms_of(mapped):
        atom.SetAtomMapNum(atom.GetIdx() + 1)
        # Else RDKit may write a meso ring as its mirror image, which for labelled atoms is another molecule.
        atom.ClearProp("_ringStereoAtoms")
    return Chem.MolToSmiles(mapped)


@contextmanager
def _quiet_rdkit() -> Iterator[None]:
    """Keep RDKit's warnings off the terminal: what matters of them is in our messages."""
    block = rdBase.BlockLogs()
    try:
        yield
    finally:
        del block


def _standardise(record: Record, rules: LigandRules) -> Standardised:
    if record.problem:
        raise RecordError(f"{record.problem}; mend the record")
    mol = _parse(record)
    check_metals(mol)
    mol, note = keep_one_fragment(mol, rules)
    try:
        ligand, coords = _standardise_fragment(mol, record, rules)
    except LigandError as error:
        if not note:
            raise
        raise type(error)(f"{note}; {error}", kind=error.kind) from error
    conformers = None if coords is None else Conformers(coords=coords[None])
    return Standardised(ligand=ligand, conformers=conformers, note=note)


def _standardise_fragment(
    mol: Chem.Mol, record: Record, rules: LigandRules
) -> tuple[Ligand, FloatArray | None]:
    """The ligand, and coordinates (n_atoms, 3), angstrom, where the record has them."""
    check_atoms(mol, rules)
    mol = _order_smiles_atoms(mol) if record.form == "smiles" else _complete_molblock(mol)
    check_size(mol.GetNumAtoms(), rules)
    coords = _geometry(mol)
    if coords is not None:
        read_stereo(mol)
    forget_inverting_nitrogen(mol)
    check_stereo(mol, rules)
    return ligand_from_rdkit(mol, record.name), coords


def _parse(record: Record) -> Chem.Mol:
    """Read the text, all hydrogens kept, sanitised; what sanitising refuses gets its own kind."""
    raw = _parse_raw(record)
    if raw.GetNumAtoms() == 0:
        raise RefusedLigandError("the record has no atoms; give a SMILES or a molblock", kind="empty")
    check_symbols(raw)
    for atom in atoms_of(raw):
        atom.SetAtomMapNum(0)
    mol = Chem.Mol(raw)
    try:
        Chem.SanitizeMol(mol)
    except Chem.AtomValenceException as error:
        atom = raw.GetAtomWithIdx(error.cause.GetAtomIdx())
        raise RefusedLigandError(
            f"{name_atoms([atom])} has too many bonds; correct them, or state the formal charge",
            kind="valence",
        ) from error
    except Chem.MolSanitizeException as error:
        raise RefusedLigandError(
            f"no single and double bonds fit the aromatic atoms: {str(error).strip()} (from 0); write the "
            "hydrogen, e.g. [nH], or the double bonds",
            kind="aromaticity",
        ) from error
    check_bonds(mol)
    if record.form == "molblock":
        mol = Chem.MolFromMolBlock(record.text, sanitize=True, removeHs=False)
        if mol is None:
            raise RecordError("RDKit cannot read this molblock; write it anew from your drawing program")
        for atom in atoms_of(mol):
            atom.SetAtomMapNum(0)
    return mol


def _parse_raw(record: Record) -> Chem.Mol:
    if record.form == "molblock":
        mol = Chem.MolFromMolBlock(record.text, sanitize=False, removeHs=False)
        what = "molblock"
    elif record.form == "mol2":
        return read_mol2(record.text)
    else:
        options = Chem.SmilesParserParams()
        options.sanitize = False
        options.removeHs = False
        mol = Chem.MolFromSmiles(record.text, options)
        what = f"SMILES {record.text[:80]!r}"
    if mol is None:
        raise RecordError(f"RDKit cannot read the {what}; check it for typing errors")
    return mol


def _order_smiles_atoms(mol: Chem.Mol) -> Chem.Mol:
    """Add hydrogens; heavy atoms as written first, then hydrogens by heavy atom."""
    mol = Chem.AddHs(mol)
    hydrogens = [a for a in atoms_of(mol) if a.GetAtomicNum() == 1]
    heavy = [a.GetIdx() for a in atoms_of(mol) if a.GetAtomicNum() != 1]
    parent = {h.GetIdx(): min((n.GetIdx() for n in h.GetNeighbors()), default=-1) for h in hydrogens}
    return Chem.RenumberAtoms(mol, heavy + sorted(parent, key=lambda h: (parent[h], h)))


def _complete_molblock(mol: Chem.Mol) -> Chem.Mol:
    """Add hydrogens to a 2-D drawing that has none; refuse any other molblock that lacks some."""
    bare = [a for a in atoms_of(mol) if a.GetTotalNumHs() > 0]
    if not bare:
        return mol
    has_hydrogens = any(a.GetAtomicNum() == 1 for a in atoms_of(mol))
    if _is_3d(mol) or has_hydrogens:
        raise RefusedLigandError(
            f"missing hydrogens at {name_atoms(bare)}; add hydrogens first, or state the formal charge "
            "of an ion",
            kind="missing-hydrogens",
        )
    return Chem.AddHs(mol)


def _is_3d(mol: Chem.Mol) -> bool:
    return mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()


def _geometry(mol: Chem.Mol) -> FloatArray | None:
    """Coordinates (n_atoms, 3) in angstrom of a 3-D molblock; None for a drawing or a SMILES."""
    if not _is_3d(mol):
        return None
    coords = np.array(mol.GetConformer().GetPositions(), dtype=np.float64)
    if not np.isfinite(coords).all():
        raise RefusedLigandError("coordinates that are not numbers; mend the record", kind="coordinates")
    distances = np.linalg.norm(coords[:, None] - coords[None], axis=-1) + 10.0 * np.eye(len(coords))
    if distances.min() < _CLOSEST_ATOMS:
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        raise RefusedLigandError(
            f"atoms {i + 1} and {j + 1} lie {distances.min():.2f} angstrom apart; mend the geometry or give "
            "the record without one",
            kind="coordinates",
        )
    return coords


def ligand_key(ligand: Ligand) -> str:
    """Name a molecule: sha256 (hex) of the perception version and the canonical explicit-hydrogen SMILES."""
    text, _ = _canonical_form(ligand.mapped_smiles)
    return hashlib.sha256(f"{PERCEPTION_VERSION}|{text}".encode()).hexdigest()


def canonical_order(ligand: Ligand) -> IntArray:
    """Atom order that all records of a molecule share: `order[i]` is the ligand's index of canonical atom i.

    Heavy atoms in the order of the canonical SMILES, then hydrogens. The order is read off the very text that
    is the molecule's identity, so ties between equivalent atoms, however broken, give one labelled molecule.
    """
    text, form = _canonical_form(ligand.mapped_smiles)
    reference = _read_canonical(text)
    written = list(form.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])
    order = _heavy_first(form, written)
    if _mapped_smiles(Chem.RenumberAtoms(form, order)) != _mapped_smiles(reference):
        # In a meso ring the writer may run round the mirror image: match with the labels' handedness.
        order = list(form.GetSubstructMatch(reference, useChirality=True)) or order
    return np.array(order, dtype=np.int64)


def canonical_ligand(ligand: Ligand) -> Ligand:
    """The molecule in canonical order and preferred resonance form: but for the name, a function of its key.

    Its atom i is the ligand's atom `canonical_order(ligand)[i]`.
    """
    text, _ = _canonical_form(ligand.mapped_smiles)
    return ligand_from_rdkit(_read_canonical(text), ligand.name)


def reorder_ligand(ligand: Ligand, order: IntArray) -> Ligand:
    """The same ligand, drawn as before, with atom `order[i]` as its atom i."""
    mol = Chem.RenumberAtoms(to_rdkit(ligand), [int(i) for i in order])
    return ligand_from_rdkit(mol, ligand.name)


@lru_cache(maxsize=_REMEMBERED)
def _canonical_form(mapped_smiles: str) -> tuple[str, Chem.Mol]:
    """The canonical SMILES, and the resonance form it was written from (only to be read), in atom order."""
    drawn = join_ylides(_read_mapped(mapped_smiles))
    form = min(resonance_forms(drawn), key=lambda form: (*_preference(form), _n_changes(drawn, form)))
    return Chem.MolToSmiles(form), form


def _preference(mol: Chem.Mol) -> tuple[int, int, int, int, str]:
    """Fewest charges, fewest without their opposite beside them, fewest on carbon, most aromatic atoms, text.

    So what a chemist would draw comes first.
    """
    charged = [atom for atom in atoms_of(mol) if atom.GetFormalCharge()]
    return (
        sum(abs(atom.GetFormalCharge()) for atom in charged),
        sum(stands_alone(atom) for atom in charged),
        sum(atom.GetAtomicNum() == 6 for atom in charged),
        -sum(atom.GetIsAromatic() for atom in atoms_of(mol)),
        Chem.MolToSmiles(mol),
    )


def _n_changes(drawn: Chem.Mol, form: Chem.Mol) -> int:
    """In how many formal charges a form differs from the drawing: of two mirror images the drawn one wins."""
    pairs = zip(atoms_of(drawn), atoms_of(form), strict=True)
    return sum(a.GetFormalCharge() != b.GetFormalCharge() for a, b in pairs)


def _read_canonical(text: str) -> Chem.Mol:
    """Read a canonical SMILES, hydrogens explicit, heavy atoms first."""
    options = Chem.SmilesParserParams()
    options.removeHs = False
    mol = Chem.MolFromSmiles(text, options)
    return Chem.RenumberAtoms(mol, _heavy_first(mol, list(range(mol.GetNumAtoms()))))


def _heavy_first(mol: Chem.Mol, idxs: list[int]) -> list[int]:
    is_hydrogen = [atom.GetAtomicNum() == 1 for atom in atoms_of(mol)]
    return [i for i in idxs if not is_hydrogen[i]] + [i for i in idxs if is_hydrogen[i]]
