"""What the stages of a run hand on through its ledger, and how it is written: JSON that keeps every bit."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.schema import Confidence, CrossTerms, FloatArray, Ligand, MMParameters


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A standardised record: its ligand, and the canonical ligand on which everything is computed."""

    ligand: Ligand
    """in the record's atom order"""
    canonical: Ligand
    """the same molecule in canonical order; but for the name equal for all records of one molecule"""
    order: tuple[int, ...]
    """atom i of `canonical` is atom order[i] of `ligand`"""
    ligand_key: str
    pose: FloatArray | None
    """(n_atoms, 3) angstrom, the record's own coordinates in its order; None for SMILES and 2-D records"""
    charges: FloatArray | None = None
    """(n_atoms,) elementary charges, the record's own in its order; None: the model's are used"""
    note: str = ""
    """what was left out of the record or changed in it, for its outcome; empty where nothing was"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What the model gives a molecule, computed once for all of its records."""

    parameters: MMParameters
    """in canonical atom order"""
    coords: FloatArray | None
    """(n_atoms, 3) angstrom, canonical order: a conformer; None where no record has needed one"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What fine-tuning gave one ligand; errors are on conformers it was not tuned on."""

    parameters: MMParameters
    """in canonical atom order"""
    kept: str
    """`fine-tuned`, or `shipped` where tuning made the ligand worse"""
    n_qm: int
    """reference calculations used"""
    n_qm_failed: int
    energy_rmse_before: float
    """kcal/mol"""
    energy_rmse_after: float
    force_rmse_before: float
    """kcal/mol/angstrom"""
    force_rmse_after: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage that a record went through, in one attempt."""

    attempt: int
    """1 for the first"""
    stage: str
    seconds: float
    """wall-clock"""
    kind: str = ""
    """of the failure; empty where the stage succeeded"""
    message: str = ""
    """of the failure, with the tail of a child process' output"""


def to_json(value: object) -> str:
    """A dataclass as JSON; floats keep every bit, since repr does."""
    return json.dumps(dataclasses.asdict(value), default=_plain)  # type: ignore[call-overload]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in the ledger")


def prepared_from(text: str) -> Prepared:
    """Read what `to_json` wrote of a Prepared."""
    value = json.loads(text)
    return Prepared(
        ligand=Ligand(**value["ligand"]),
        canonical=Ligand(**value["canonical"]),
        order=tuple(value["order"]),
        ligand_key=value["ligand_key"],
        pose=array_from(value["pose"]),
        charges=array_from(value.get("charges")),
        note=value.get("note", ""),
    )


def prediction_from(text: str) -> Prediction:
    """Read what `to_json` wrote of a Prediction."""
    value = json.loads(text)
    return Prediction(parameters=_parameters(value["parameters"]), coords=array_from(value["coords"]))


def fit_from(text: str) -> Fit:
    """Read what `to_json` wrote of a Fit."""
    value = json.loads(text)
    return Fit(**{**value, "parameters": _parameters(value["parameters"])})


def _parameters(value: dict[str, Any]) -> MMParameters:
    cross, confidence = value.get("cross"), value.get("confidence")
    return MMParameters(
        **value
        | {
            "cross": None if cross is None else CrossTerms(**cross),
            "confidence": None if confidence is None else _confidence(confidence),
        }
    )


def _confidence(value: dict[str, Any]) -> Confidence:
    return Confidence(**value | {"unseen": tuple(value.get("unseen", ()))})


def array_from(value: Any) -> FloatArray | None:
    """Nested lists as an array; None stays None."""
    return None if value is None else np.array(value, dtype=np.float64)
