"""What a training run is decided by: one TOML file, unknown keys are errors."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import SettingsError


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(_Config):
    """Size of one graph network."""

    width: int = Field(default=128, ge=8)
    n_layers: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """share of the update's inputs dropped while training"""
    pi: bool = False
    """whether pi electrons are among the features"""


class ScheduleConfig(_Config):
    """AdamW with linear warm-up and cosine decay."""

    epochs: int = Field(ge=1)
    batch_molecules: int = Field(default=48, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_fraction: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=1e-5, ge=0)
    clip: float = Field(default=10.0, gt=0)
    """largest gradient norm of one step"""
    average: float = Field(default=0.0, ge=0, lt=1)
    """decay per step of the running average of the weights that is scored and kept; 0: none"""
    keep: Literal["best", "last"] = "best"
    """the epoch whose weights are the result: the one with the best score, or the last"""


class ChargeStage(_Config):
    """Partial charges on AM1-BCC labels."""

    network: NetworkConfig = NetworkConfig()
    schedule: ScheduleConfig
    members: int = Field(default=1, ge=1)
    """networks trained from different seeds, whose mean is the charge"""
    processes: int = Field(default=1, ge=1)
    """members trained side by side"""
    max_molecules: int | None = None


class PriorStage(_Config):
    """Valence readouts on a classical force field, before any QM."""

    schedule: ScheduleConfig | None = None
    """None: none, the training goes on from finished networks"""
    force_field: str
    """OFFXML file below the data folder"""
    max_molecules: int | None = None


class ValenceStage(_Config):
    """Valence readouts on QM energies and gradients."""

    network: NetworkConfig = NetworkConfig()
    schedule: ScheduleConfig | None = None
    """of the first training on the tables; None: none, the training goes on from finished networks"""
    members: int = Field(default=1, ge=1)
    """networks trained from different seeds, whose mean is the model"""
    processes: int = Field(default=1, ge=1)
    """members trained side by side"""
    device: str = "cpu"
    """where the networks are trained, e.g. cuda; pure torch, the same numbers but for rounding"""
    tables: tuple[str, ...] = ("qm/train.parquet",)
    """Parquet files below the data folder"""
    sources: dict[str, int]
    """data source -> largest number of rows taken (0: all)"""
    profiles: tuple[str, ...] = ()
    """Parquet files below the data folder: torsion profiles without geometries, which rounds scan"""
    dev_minima: int = Field(default=32, ge=0)
    """molecules of the dev minima that are relaxed after every epoch"""
    mean_of_steps: int = Field(default=1, ge=1)
    """the weights are the mean of those after each of the last so many steps (this one, or the networks gone
    on from, and the rounds)"""
    max_confs: int = Field(default=12, ge=2)
    """conformers drawn per row and epoch"""
    energy_window: float = Field(default=30.0, gt=0)
    """kcal/mol above the row's lowest point"""
    energy_scale: float = Field(default=1.0, gt=0)
    """kcal/mol: errors are divided by this"""
    gradient_scale: float = Field(default=5.0, gt=0)
    """kcal/mol/angstrom: gradient errors are divided by this"""
    huber: float = Field(default=3.0, gt=0)
    """scaled errors beyond this count linearly"""
    torsion_penalty: float = Field(default=1e-3, ge=0)
    """L2 on proper and improper force constants, (kcal/mol)^-2"""
    stiffness_pull: float = Field(default=0.02, ge=0)
    """weight of the pull of bond and angle stiffness to the prior"""
    soft_modes: int = Field(default=24, ge=0)
    """softest modes along which gradients are compared once more, weighed by what they cost"""
    soft_weight: float = Field(default=0.5, ge=0)
    """weight of the energy that gradient errors along the soft modes cost, per kcal/mol"""
    soft_huber: float = Field(default=1.0, gt=0)
    """(kcal/mol)^(1/2): errors along a mode that cost more than half the square of this count linearly"""


class Round(_Config):
    """The members' mean relaxes DFT minima, what it meets joins the rows, and the members train on."""

    visits: int = Field(ge=0)
    """minima visited"""
    relaxed: int = Field(default=0, ge=0)
    """molecules all of whose minima are relaxed; where they end they have the energies of the QM minima"""
    escapes: int = Field(default=0, ge=0)
    """molecules of which a minimum that was left in these relaxations is visited"""
    scans: int = Field(default=0, ge=0)
    """torsion profiles that are scanned; where the scan ends it has the energies of the profile"""
    visit_share: float = Field(default=1.0, ge=0, le=1)
    """share of the cheap level's rows, also those of rounds before, that an epoch of this round sees"""
    own_share: float | None = Field(default=None, ge=0, le=1)
    """the same of what this round itself visits; None: as `visit_share`"""
    visit_window: float | None = Field(default=None, gt=0)
    """kcal/mol above the minimum: points of the cheap level beyond, also those of rounds before, are not seen
    in this round; None: all within the energy window are"""
    energy_weight: float = Field(default=1.0, gt=0)
    """what errors of energies count in this round, of all rows; those of gradients count 1"""
    energy_huber: float | None = Field(default=None, gt=0)
    """scaled errors of energies beyond this count linearly in this round; None: as `valence.huber` has it"""
    relaxed_weight: float = Field(default=1.0, gt=0)
    """what errors of energies of relaxed minima count besides"""
    schedule: ScheduleConfig
    max_confs: int | None = Field(default=None, ge=2)
    """conformers drawn per row and epoch; None: as before the rounds"""

    @model_validator(mode="after")
    def _escapes_are_from_relaxations(self) -> "Round":
        if self.escapes and not self.relaxed:
            raise ValueError("escapes are found where minima are relaxed: set relaxed")
        return self


class Class2Stage(_Config):
    """The class II form, started from the trained class I networks, on the same rows."""

    schedule: ScheduleConfig | None = None
    """of the first training in this form; None: none, it goes on from finished networks"""
    members: int = Field(default=1, ge=1)
    """of the class I members, the first so many go on"""
    after_round: int | None = Field(default=None, ge=0)
    """the round of class I after which it begins, meeting nothing of later ones; 0: before the first,
    None: after the last"""
    relaxed: int = Field(default=0, ge=0)
    """molecules all of whose minima are relaxed before, by the class I members' mean; as in a round"""
    rounds: tuple[Round, ...] = ()
    """in this form, after the first training"""
    mean_of_steps: int = Field(default=1, ge=1)
    """as for class I, of the steps in this form"""
    pairs: bool = False
    """whether nonbonded pairs get factors of their own in place of class I's 1-4 factors"""
    coupling_penalty: float = Field(default=1e-4, ge=0)
    """L2 on torsion couplings, (kcal/mol per angstrom or radian)^-2"""


class TrainConfig(_Config):
    """One training run."""

    name: str
    version: str
    seed: int
    start: str | None = None
    """finished weights, `name/version` or a folder, whose charges are kept and whose valence networks the
    rounds train on; None: everything is trained"""
    charges: ChargeStage | None = None
    prior: PriorStage
    valence: ValenceStage
    rounds: tuple[Round, ...] = ()
    class2: Class2Stage | None = None

    @model_validator(mode="after")
    def _every_network_has_one_beginning(self) -> "TrainConfig":
        beginnings = {
            "charges": self.charges,
            "prior.schedule": self.prior.schedule,
            "valence.schedule": self.valence.schedule,
        }
        if self.class2 is not None:
            beginnings["class2.schedule"] = self.class2.schedule
        for name, beginning in beginnings.items():
            if self.start is None and beginning is None:
                raise ValueError(f"{name} is missing, and there is no start to go on from")
            if self.start is not None and beginning is not None:
                raise ValueError(f"{name} would train what start has already: leave one of them out")
        if self.start is not None and self.class2 is not None and self.class2.relaxed:
            raise ValueError("class2.relaxed belongs to the training that start has already: use a round")
        return self

    @model_validator(mode="after")
    def _class2_begins_where_class1_was(self) -> "TrainConfig":
        begins = self.class2.after_round if self.class2 else None
        if begins is not None and begins > len(self.rounds):
            raise ValueError(f"class2.after_round is {begins}, but class I has {len(self.rounds)} rounds")
        return self

    @model_validator(mode="after")
    def _scans_are_of_profiles(self) -> "TrainConfig":
        rounds = self.rounds + (() if self.class2 is None else self.class2.rounds)
        if any(one.scans for one in rounds) and not self.valence.profiles:
            raise ValueError("rounds have scans, but there is nothing to scan: set valence.profiles")
        return self


def read_config(path: Path) -> TrainConfig:
    """Read and check a training configuration; SettingsError names the first wrong key."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text())
        return TrainConfig.model_validate(values)
    except OSError as error:
        raise SettingsError(f"cannot read the training configuration {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
