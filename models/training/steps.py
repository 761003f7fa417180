"""The steps of training on QM: the tables, rounds of what the networks meet, the class II form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.config import Round, ScheduleConfig, TrainConfig
from pipeline.settings import Form


@dataclass(frozen=True, kw_only=True)
class Step:
    """One piece of training of every member."""

    name: str
    form: Form
    schedule: ScheduleConfig | None
    """None: nothing is trained, its networks are those gone on from"""
    n_members: int
    max_confs: int
    """conformers drawn per row and epoch"""
    n_visits: int = 0
    """minima that the members' mean visits before"""
    n_relaxed: int = 0
    """molecules all of whose minima the members' mean relaxes before"""
    n_escapes: int = 0
    """molecules of which a minimum left in these relaxations is visited"""
    n_scans: int = 0
    """torsion profiles that the members' mean scans before"""
    visit_share: float = 1.0
    """share of the cheap level's rows that an epoch sees"""
    own_share: float = 1.0
    """share of those among them that were met before this very step"""
    visit_window: float | None = None
    """kcal/mol: points of the cheap level higher above their row's lowest are not seen; None: all are"""
    energy_weight: float = 1.0
    """what errors of energies count in the loss; those of gradients count 1"""
    energy_huber: float | None = None
    """where errors of energies begin to count linearly; None: where all others do"""
    relaxed_weight: float = 1.0
    """what those of relaxed minima count besides"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained on QM, in order: steps of class I, and where they fork, the rest of either form."""

    common: list[Step]
    class1: list[Step]
    class2: list[Step]


def plan_of(config: TrainConfig) -> Plan:
    """The steps that a configuration describes."""
    stage = config.valence
    class1 = _steps_of_form(
        "valence", "class1", stage.schedule, stage.members, config.rounds, stage.max_confs
    )
    if config.class2 is None:
        return Plan(common=class1, class1=[], class2=[])
    n_members = min(config.class2.members, stage.members)
    schedule, rounds = config.class2.schedule, config.class2.rounds
    first, *others = _steps_of_form("class2", "class2", schedule, n_members, rounds, stage.max_confs)
    fork = len(class1) if config.class2.after_round is None else 1 + config.class2.after_round
    return Plan(
        common=class1[:fork],
        class1=class1[fork:],
        class2=[replace(first, n_relaxed=config.class2.relaxed), *others],
    )


def _steps_of_form(
    name: str,
    form: Form,
    schedule: ScheduleConfig | None,
    n_members: int,
    rounds: Sequence[Round],
    max_confs: int,
) -> list[Step]:
    prefix = "round" if form == "class1" else f"{name}-round"
    first = Step(name=name, form=form, schedule=schedule, n_members=n_members, max_confs=max_confs)
    return [first] + [
        Step(
            name=f"{prefix}-{number}",
            form=form,
            schedule=one.schedule,
            n_members=n_members,
            max_confs=one.max_confs or max_confs,
            n_visits=one.visits,
            n_relaxed=one.relaxed,
            n_escapes=one.escapes,
            n_scans=one.scans,
            visit_share=one.visit_share,
            own_share=one.visit_share if one.own_share is None else one.own_share,
            visit_window=one.visit_window,
            energy_weight=one.energy_weight,
            energy_huber=one.energy_huber,
            relaxed_weight=one.relaxed_weight,
        )
        for number, one in enumerate(rounds, start=1)
    ]
