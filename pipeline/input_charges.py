"""Charges that a user brings: a data field of SDF, as the OpenFF toolkit writes it, or a column of mol2."""

import numpy as np
from rdkit import Chem

from pipeline.errors import RefusedLigandError
from pipeline.ledger_values import Prepared
from pipeline.library import CHARGE_FIELD, Record
from pipeline.ligand import to_rdkit
from pipeline.mol2 import charge_words
from pipeline.refusals import name_atoms
from pipeline.resonance import equivalence_classes
from pipeline.schema import FloatArray

LARGEST_RESIDUAL = 0.01
"""elementary charges: a sum off by more than printed digits explain is somebody's mistake"""
LARGEST_SPREAD = 0.1
"""elementary charges: one conformer leaves less between equivalent atoms, another order of atoms more"""
PRINTED_SPREAD = 2e-4
"""elementary charges: what the four decimals of a mol2 leave between equal charges"""


def charges_of(record: Record, prepared: Prepared) -> tuple[FloatArray, str]:
    """The record's own partial charges, (n_atoms,) elementary charges in its atom order, and what to say.

    What printed digits leave of the sum is spread evenly; equivalent atoms get their mean, and the sentence
    says so where they differed by more than digits. Raises RefusedLigandError, kind `charges`, where the
    record has none or they do not fit the ligand.
    """
    is_mol2 = record.form == "mol2"
    source = "the mol2's charges" if is_mol2 else CHARGE_FIELD
    words = charge_words(record.text) if is_mol2 else record.field(CHARGE_FIELD).split()
    n_atoms, total = len(prepared.order), prepared.ligand.total_charge
    if not words:
        missing = "charges in its atom lines" if is_mol2 else f"field {CHARGE_FIELD}"
        raise _refused(f"the record has no {missing}; add them, or leave --charges out", record)
    try:
        charges = np.array([float(word) for word in words])
    except ValueError as error:
        raise _refused(f"{source}: {error}; give one number per atom", record) from error
    if len(charges) != n_atoms:
        raise _refused(
            f"{len(charges)} charges for {n_atoms} atoms; give one per atom, hydrogens and all, of a record "
            "that needs no atom added or taken away",
            record,
        )
    residual = total - charges.sum()
    if not np.isfinite(charges).all() or abs(residual) > LARGEST_RESIDUAL:
        raise _refused(
            f"the charges sum to {charges.sum():.4f}, {-residual:+.4f} from the total charge {total:+d}; "
            "correct them or the formal charges",
            record,
        )
    return _equalise(charges + residual / n_atoms, record, to_rdkit(prepared.ligand))


def _equalise(charges: FloatArray, record: Record, mol: Chem.Mol) -> tuple[FloatArray, str]:
    """The mean over each class of equivalent atoms, and how far the most different ones were apart."""
    classes = equivalence_classes(mol)
    groups = [np.flatnonzero(classes == kind) for kind in np.unique(classes)]
    widest = max(groups, key=lambda group: float(np.ptp(charges[group])))
    spread = float(np.ptp(charges[widest]))
    names = name_atoms([mol.GetAtomWithIdx(int(atom)) for atom in widest])
    if spread > LARGEST_SPREAD:
        raise _refused(
            f"the charges of the equivalent atoms {names} differ by {spread:.4f}, over {LARGEST_SPREAD}: "
            "correct their order, or average them",
            record,
        )
    equal = charges.copy()
    for group in groups:
        equal[group] = charges[group].mean()
    if spread <= PRINTED_SPREAD:
        return equal, ""
    return equal, f"charges of equivalent atoms averaged; those of {names} differed by {spread:.4f}"


def _refused(what: str, record: Record) -> RefusedLigandError:
    return RefusedLigandError(f"{record.name}: {what}", kind="charges")
