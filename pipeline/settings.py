"""Settings of a run: frozen, checked at birth, unknown keys are errors. Nothing here reads a file."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.errors import QMError, SettingsError
from pipeline.qm.levels import spec_by_name

CheckDepth = Literal["in-process", "all"]
"""all: GROMACS' and LAMMPS' own programs weigh their files too"""

Form = Literal["class1", "class2"]
"""class2: anharmonic and coupled, see `pipeline.schema.CrossTerms`"""

CLASS2_FORMATS = ("openmm", "lammps")
"""formats that hold what class II adds"""

PAIR_FORMATS = ("openmm",)
"""of these, formats that hold factors of nonbonded pairs too"""
PAIR_TERM = "sigma, epsilon and Coulomb factor of a pair of atoms"
"""what the others of these lack: LAMMPS' bond style `special` scales both Lennard-Jones terms alike, and not
beside long-range Coulomb"""

CLASS2_LACKS = {
    "offxml": "cubic bond",
    "offxml-constrained": "cubic bond",
    "amber": "cubic bond",
    "gromacs": "quartic bond",
}
"""the first term of class II that each of the other formats lacks"""

SERVER_PROGRAM = "psi4"
NOT_ON_SERVERS = ("pyscf", "tblite")
"""programs that we drive ourselves and QCEngine, which computes for a server, does not"""

SUPPORTED_ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")


class _Settings(BaseModel):
    # Strict: `max_atoms = true` is a slip of the pen, not one atom.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LigandRules(_Settings):
    """What is accepted as a ligand."""

    max_atoms: int = Field(default=250, ge=1, le=1000)
    unspecified_stereo: Literal["reject", "accept"] = "reject"
    strip_salts: bool = False
    """leave out the counter-ions of a salt instead of refusing it, see `pipeline.salts`"""
    elements: tuple[str, ...] = Field(default=SUPPORTED_ELEMENTS, strict=False)


class ConformerSettings(_Settings):
    """ETKDG embedding, MMFF94 relaxation, pruning."""

    n_embed: int = Field(default=50, ge=1, le=2000)
    prune_rms: float = Field(default=0.5, gt=0)
    """angstrom, heavy atoms"""
    energy_window: float = Field(default=12.0, gt=0)
    """kcal/mol above the lowest, MMFF94 (UFF where MMFF94 has no type)"""
    seconds: float = Field(default=60.0, gt=0)
    """wall-clock limit of the child process, per ligand"""
    memory_mb: int = Field(default=4096, ge=256)


SpecName = str
"""openff-default: B3LYP-D3BJ/DZVP; fast: GFN2-xTB; quality: wB97X-D3BJ/def2-TZVPD; composite: B97-3c; or in
words, e.g. hf/def2-svp, b3lyp-d3bj/def2-tzvp, gfn1-xtb, am1, aimnet2: what `parmflow doctor` lists"""


class ServerSettings(_Settings):
    """A QCFractal server that computes the single points of the references; everything else is made here."""

    address: str = ""
    """http(s)://host[:port]; empty: everything is computed here"""
    tag: str = "*"
    """compute tag: whose workers take our calculations"""
    look_seconds: float = Field(default=30.0, gt=0)
    """between two looks for results"""
    patience_seconds: float = Field(default=600.0, ge=0)
    """for how long a server that does not answer is waited for"""

    @field_validator("address")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc or parts.query:
            raise PydanticCustomError("credentials", "")  # whose words do not repeat the value
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("is no address; write https://host or http://host:port")
        return value.rstrip("/")


class QMSettings(_Settings):
    """The reference calculations of `refine`."""

    server: ServerSettings = ServerSettings()
    program: str = Field(default="auto", validate_default=True)
    """of `spec`; auto: for DFT pyscf, always installed and on two cores faster than psi4, and psi4 with a
    server. One that QCEngine alone knows, e.g. nwchem, takes methods in its own words."""
    spec: SpecName = Field(default="openff-default", validate_default=True)
    """level of the references"""
    optimise_spec: SpecName | None = None
    """a cheaper level at which the conformers are optimised first: the plan of two levels"""
    torsion_drives: bool = False
    """also drive the torsions of the ligands' fragments, and tune on those"""
    drive_spec: SpecName = "fast"
    """level of the drives' optimisations; their single points are at `spec`"""
    drive_spacing: int = Field(default=15, ge=5, le=90)
    """degree between the points of a drive; a divisor of 360"""
    n_points: int = Field(default=5, ge=3, le=500)
    """geometries per ligand: conformers first, then displaced copies of them"""
    sampling: Literal["cartesian", "normal-modes", "dynamics"] = "cartesian"
    """how the copies are displaced: every coordinate alike, or as the shipped force field moves at 500 K"""
    displacement: float = Field(default=0.04, gt=0, le=0.2)
    """angstrom, standard deviation of each coordinate of `cartesian` copies"""
    seconds_per_job: float = Field(default=3600.0, gt=0)
    memory_mb: int = Field(default=4096, ge=256)
    budget_seconds: float | None = Field(default=None, gt=0)
    over_budget: Literal["refuse", "stop"] = "refuse"
    """refuse: begin no QM that is estimated to cost more; stop: begin, and go on another time. Either way,
    what is cut off waits until the command is repeated."""

    @field_validator("program")
    @classmethod
    def _is_on_servers(cls, value: str, info: ValidationInfo) -> str:
        server = info.data.get("server")
        if server is None or not server.address:
            return value
        if value in NOT_ON_SERVERS:
            raise ValueError(f"is no program of QCEngine, so no server has it; take {SERVER_PROGRAM}")
        return SERVER_PROGRAM if value == "auto" else value

    @field_validator("spec", "optimise_spec", "drive_spec")
    @classmethod
    def _is_a_level(cls, value: str | None, info: ValidationInfo) -> str | None:
        program = info.data.get("program", "auto") if info.field_name == "spec" else "auto"
        try:
            if value is not None and spec_by_name(value, program).driver != "gradient":
                raise ValueError("is for RESP charges only")
        except QMError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("drive_spacing")
    @classmethod
    def _comes_around(cls, value: int) -> int:
        if 360 % value:
            raise ValueError("does not divide 360")
        return value


class FragmentSettings(_Settings):
    """Which bonds of a ligand are driven, and from which size on fragments of it."""

    whole_heavy_atoms: int = Field(default=12, ge=0)
    """a ligand of up to so many heavy atoms is its own fragment"""
    drive_amides: bool = False
    """also bonds that are half double: amide and amidine C-N, ester C-O"""
    drive_symmetric_tops: bool = False
    """also methyl, trifluoromethyl, t-butyl, ammonium, sulfonate"""
    drive_hydrogen_tops: bool = False
    """also hydroxyl, thiol and amino tops, whose other atoms are all hydrogens"""


class FineTuneSettings(_Settings):
    """Pulling the shipped readouts towards the ligands' own QM."""

    steps: int = Field(default=150, ge=0)
    learning_rate: float = Field(default=3e-4, gt=0)
    pull: float = Field(default=1.0, ge=0)
    """L2 pull of the weights to the shipped ones"""
    holdout_fraction: float = Field(default=0.3, gt=0, lt=1)
    seed: int = 7


class ExportSettings(_Settings):
    """What is written for a ligand."""

    formats: tuple[Literal["offxml", "amber", "openmm", "gromacs", "lammps"], ...] = Field(
        default=("offxml", "amber", "openmm", "gromacs", "lammps"), strict=False
    )
    check: CheckDepth = "in-process"
    constraints: bool = False
    """whether ligand.offxml and library.offxml constrain the bonds to hydrogen"""
    library_offxml_limit: int = Field(default=500, ge=0)
    """no library.offxml for more ligands than this"""

    @property
    def delivered(self) -> tuple[str, ...]:
        """The formats by the words of `pipeline.deliver`, where constrained OFFXML is another format."""
        swap = {"offxml": "offxml-constrained"} if self.constraints else {}
        return tuple(swap.get(name, name) for name in self.formats)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The formats, where they were chosen: not all that there are."""
        return () if self.formats == type(self)().formats else self.formats


class NotifySettings(_Settings):
    """Whom to tell about a run; see `flows.notify`."""

    command: tuple[str, ...] = Field(default=(), strict=False)
    """program (a path: from the settings file's folder) and arguments; run with the event as its last one and
    the facts as JSON on its input"""
    failed_fraction: float | None = Field(default=None, ge=0, le=1)
    """tell also, once, when more than this fraction of the records settled so far has failed"""


class Settings(_Settings):
    """Everything that decides a run's results; stamped into run.json."""

    ligand: LigandRules = LigandRules()
    conformers: ConformerSettings = ConformerSettings()
    qm: QMSettings = QMSettings()
    fragments: FragmentSettings = FragmentSettings()
    fine_tune: FineTuneSettings = FineTuneSettings()
    export: ExportSettings = ExportSettings()
    notify: NotifySettings = NotifySettings()
    model: str = "default"
    """name of the shipped weights, or `name/version`"""
    form: Form = "class1"
    charges: Literal["model", "input", "resp"] = "model"
    """those of the model, those that each SDF record brings (`assign` only), or RESP charges fitted to
    potentials of the ligand at HF/6-31G* (`refine` only)"""
    jobs: int = Field(default=0, ge=0)
    """worker processes; 0: one per core"""

    @model_validator(mode="after")
    def _class2_has_few_formats(self) -> Self:
        """Refuse a choice of formats that have no class II terms; of all formats those are left out."""
        refused = [name for name in self.export.chosen if name not in CLASS2_FORMATS]
        if self.form == "class2" and refused:
            raise ValueError(
                f"form class2: {'; '.join(f'{name} has no {CLASS2_LACKS[name]} term' for name in refused)}; "
                f"ask for {', '.join(CLASS2_FORMATS)} or leave the formats to us"
            )
        return self

    def check_pairs(self, *, has_pairs: bool) -> None:
        """Refuse a choice of formats that cannot hold terms of pairs of atoms, if the model gives such."""
        refused = [name for name in self.export.chosen if name not in PAIR_FORMATS]
        if has_pairs and refused:
            raise SettingsError(
                f"form {self.form} of this model: {', '.join(refused)} has no {PAIR_TERM}; "
                f"ask for {', '.join(PAIR_FORMATS)} or leave the formats to us"
            )


_IN_WORDS = {
    "model_type": "a table is expected",
    "credentials": "a user name or password does not belong in an address, which is kept with the results; "
    "set QCPORTAL_USERNAME and QCPORTAL_PASSWORD",
}
"""pydantic's kinds of error whose own words say nothing to a chemist"""


def build_settings(values: dict[str, Any]) -> Settings:
    """Check a nested table of settings, e.g. read from TOML; raise SettingsError naming the first wrong."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [part for part in first["loc"] if isinstance(part, str)]  # without the places in lists
        where = f"settings: {'.'.join(keys)}" if keys else "settings"
        raise SettingsError(f"{where}: {_what_is_wrong(first, keys)}") from error


def _what_is_wrong(error: ErrorDetails, keys: Sequence[str]) -> str:
    if error["type"] == "value_error":  # words of our own, which say all
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        return f"unknown key{_meant(keys)}"
    in_our_words = _IN_WORDS.get(error["type"])
    return in_our_words or f"{error['msg'].replace('Input should', 'must', 1)}, not {error['input']!r:.80}"


def _meant(keys: Sequence[str]) -> str:
    """The known key that an unknown one resembles, as the end of a sentence."""
    table: Any = Settings
    for key in keys[:-1]:
        table = table.model_fields[key].annotation
    return "".join(f"; did you mean {name}?" for name in get_close_matches(keys[-1], table.model_fields, 1))
