"""Charges that a user brings: a data field of SDF, as the OpenFF toolkit writes it, or a column of mol2."""

import numpy as np

from pipeline.errors import RefusedLigandError
from pipeline.ledger_values import Prepared
from pipeline.library import CHARGE_FIELD, Record
from pipeline.mol2 import charge_words
from pipeline.schema import FloatArray

LARGEST_RESIDUAL = 0.01
"""elementary charges: a sum off by more than printed digits explain is somebody's mistake"""


def charges_of(record: Record, prepared: Prepared) -> FloatArray:
    """The record's own partial charges, (n_atoms,) elementary charges in its atom order.

    What printed digits leave of the sum is spread evenly; atoms that are alike keep what they were given.
    Raises RefusedLigandError, kind `charges`, where the record has none or they do not fit the ligand.
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
    return np.asarray(charges + residual / n_atoms)


def _refused(what: str, record: Record) -> RefusedLigandError:
    return RefusedLigandError(f"{record.name}: {what}", kind="charges")
