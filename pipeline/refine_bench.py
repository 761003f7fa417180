"""What refine works with: the doors that it needs, what the fine-tuner says, the molecules of a library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.drives import DriveBench
from pipeline.ledger_values import Prepared
from pipeline.library import Record
from pipeline.qm.bench import QMBench
from pipeline.schema import FloatArray, Ligand, MMParameters, QMSpec, QMTask, Reference


class LigandFit(Protocol):
    """What the fine-tuner says of one ligand; errors are on held-out geometries (kcal/mol, angstrom)."""

    @property
    def parameters(self) -> MMParameters:
        """Tuned, or the shipped ones where tuning made them worse."""

    @property
    def kept(self) -> str:
        """`fine-tuned` or `shipped`."""

    @property
    def energy_rmse_before(self) -> float:
        """Of the shipped parameters."""

    @property
    def energy_rmse_after(self) -> float:
        """Of the parameters kept."""

    @property
    def force_rmse_before(self) -> float:
        """Of the shipped parameters."""

    @property
    def force_rmse_after(self) -> float:
        """Of the parameters kept."""


@dataclass(frozen=True, kw_only=True)
class ChargeBench:
    """How charges are fitted to electrostatic potentials."""

    spec: QMSpec
    """of the potentials"""
    prune_rms: float
    """angstrom; geometries closer than this to another one are no conformer of their own"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The doors that refine needs beyond those of a campaign."""

    qm: QMBench
    make_geometries: Callable[[Prepared], FloatArray]
    """(n_points, n_atoms, 3) angstrom in canonical order: conformers first, then displaced copies"""
    fine_tune: Callable[[Sequence[Reference], Callable[[], None]], Sequence[LigandFit]]
    """references and a bell to ring after each step; one fit per reference, in order"""
    n_steps: int
    """steps that the fine-tuner will ring for"""
    budget_seconds: float | None = None
    """QM that is estimated to take longer is not begun"""
    drives: DriveBench | None = None
    """how torsion drives are made; None: none are"""
    charges: ChargeBench | None = None
    """how charges are fitted; None: the model's are used"""
    check: Callable[[Ligand], None] | None = None
    """raises QMError for a ligand that the levels of theory cannot compute; None: they take all"""
    foresee_relaxed: Callable[[Ligand, str], Sequence[QMTask]] | None = None
    """a ligand and its key -> stand-ins for QM in `make_geometries` and what follows; None: none"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Molecule:
    """All records of one molecule; the first speaks for the others."""

    ligand_key: str
    prepared: Prepared
    members: list[tuple[str, Record]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first record's name."""
        return self.prepared.ligand.name
