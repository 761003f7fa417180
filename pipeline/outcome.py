"""What became of each record: one Outcome per input record, in input order, always."""

import traceback as traceback_module
from dataclasses import dataclass

from pipeline.errors import ParmflowError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one ligand failed."""

    ligand: str
    """the record's name"""
    stage: str
    """read, standardise, conformers, qm, predict, fine-tune, export, verify or deliver"""
    kind: str
    """class of the error, e.g. salt, radical, unspecified-stereo, scf, time, crash"""
    message: str
    traceback: str
    retryable: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row of outcomes.csv."""

    record: int
    """1-based number of the record over all library files"""
    name: str
    id: str
    """slug plus hash; the folder's name"""
    folder: str
    """relative to the output folder; empty when nothing was delivered"""
    status: str
    """ok or failed"""
    stage: str
    kind: str
    message: str
    seconds: float
    """of work in the latest attempt; what that kept of earlier ones is not counted again"""


def failure_from_exception(error: Exception, *, ligand: str, stage: str) -> Failure:
    """Turn what a step raised into a Failure: our own errors keep their kind, others are `unexpected`."""
    ours = isinstance(error, ParmflowError)
    return Failure(
        ligand=ligand,
        stage=stage,
        kind=error.kind if isinstance(error, ParmflowError) else "unexpected",
        message=str(error) if ours else f"{type(error).__name__}: {error}",
        traceback="".join(traceback_module.format_exception(error)),
        retryable=error.retryable if isinstance(error, ParmflowError) else False,
    )


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """Where a ligand's files are, and what to know of them."""

    folder: str
    """relative to the run's"""
    doubt: str
    """why the model is unsure of the ligand; empty when it is not"""
    note: str = ""
    """what was left out of the record or changed in it; empty when nothing was"""

    @property
    def warning(self) -> str:
        """What the outcome of a delivered ligand says; empty when there is nothing to say."""
        return "; ".join(
            filter(None, (self.note, f"outside the model's domain: {self.doubt}" if self.doubt else ""))
        )
