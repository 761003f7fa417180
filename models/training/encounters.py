"""What the networks meet between two steps of training, as rows for the next.

    visits    minima of the tables and what is met around them, from the cheap level    kept from then on
    escapes   minima that the relaxations left, and the way out                         kept from then on
    relaxed   where the minima of whole molecules end, with the QM energies             of the one step
    scans     where conformers end that are held along a profile, with its energies     of the one step

Everything is written in parts, so that a killed training goes on with what it had.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from models.charges import ChargeEnsemble
from models.config import TrainConfig
from models.dataset import examples_of, profiles_of, read_profile_rows
from models.loss import TrainingRow
from models.network import ValenceEnsemble
from models.predict import Predictor
from models.training.dev_score import predictor_of
from models.training.optimise import Report
from models.training.rows import Labeller, prepare_rows
from models.training.scans import SOURCE as SCAN_SOURCE
from models.training.scans import relax_scans
from models.training.side_by_side import side_by_side
from models.training.steps import Step
from models.training.visits import (
    LEFT_SOURCE,
    ON_THE_WAY_OUT,
    RELAXED_SOURCE,
    SOURCE,
    CheapLevel,
    relax_minima,
    visit,
)

MET_TOGETHER = 50
"""molecules in one part, relaxed in one batch"""

MakeRows = Callable[[pd.DataFrame, int], Iterable[dict[str, Any]]]
"""some rows of a table, and the number of the first -> rows of what is met"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Met:
    """Rows from before one step."""

    to_keep: list[TrainingRow]
    """for this and all later steps"""
    of_step: list[TrainingRow]
    """for this step alone: they tell of the networks as they were"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encounters:
    """What is met, and where it is kept."""

    config: TrainConfig
    charges: ChargeEnsemble
    data: Path
    folder: Path
    cheap: CheapLevel | None
    prior: Labeller
    report: Report

    def before(self, step: Step, ensemble: ValenceEnsemble, *, is_done: bool) -> Met:
        """What the mean of these networks meets before a step.

        `is_done`: all members have trained it, and the step's own rows are not asked for any more.
        """
        predictor, seed = predictor_of(self.charges, ensemble), _seed_of(step, self.config)
        to_keep: list[TrainingRow] = []
        of_step: list[TrainingRow] = []
        if step.n_visits and self.cheap is not None:
            to_keep += self._rows(self._visited(step, predictor, self.cheap, seed), SOURCE)
        if step.n_relaxed:
            parts = self._relaxed(step, predictor, seed)
            of_step += [] if is_done else self._rows(parts, RELAXED_SOURCE)
        if step.n_scans:
            parts = self._scanned(step, predictor, seed)
            of_step += [] if is_done else self._rows(parts, SCAN_SOURCE)
        if step.n_escapes and self.cheap is not None:
            to_keep += self._rows(self._escaped(step, predictor, self.cheap, seed), SOURCE)
        return Met(to_keep=to_keep, of_step=of_step)

    def _visited(self, step: Step, predictor: Predictor, cheap: CheapLevel, seed: int) -> list[Path]:
        chosen = _choose(self._minima(), step.n_visits, seed)

        def rows_of(part: pd.DataFrame, start: int) -> Iterable[dict[str, Any]]:
            return visit(examples_of(part)[0], predictor, cheap, seed=seed + start)

        return self._parts(self.folder / f"{step.name}-visits" / "visited.parquet", chosen, rows_of)

    def _relaxed(self, step: Step, predictor: Predictor, seed: int) -> list[Path]:
        minima = self._minima()
        several = minima[minima["n_confs"] > 1]

        def rows_of(part: pd.DataFrame, _: int) -> Iterable[dict[str, Any]]:
            return relax_minima(examples_of(part)[0], predictor)

        return self._parts(self._relaxed_table(step), _choose(several, step.n_relaxed, seed), rows_of)

    def _escaped(self, step: Step, predictor: Predictor, cheap: CheapLevel, seed: int) -> list[Path]:
        table = self._relaxed_table(step)
        parts = sorted(table.parent.glob(f"*/{table.name}"), key=lambda path: int(path.parent.name))
        found = pd.concat([pd.read_parquet(part) for part in parts])
        chosen = _choose(found[found["source"] == LEFT_SOURCE], step.n_escapes, seed)

        def rows_of(part: pd.DataFrame, start: int) -> Iterable[dict[str, Any]]:
            return visit(examples_of(part)[0], predictor, cheap, seed=seed + start, stops=ON_THE_WAY_OUT)

        return self._parts(self.folder / f"{step.name}-escapes" / "visited.parquet", chosen, rows_of)

    def _scanned(self, step: Step, predictor: Predictor, seed: int) -> list[Path]:
        chosen = _choose(self._profiles(), step.n_scans, seed)

        def rows_of(part: pd.DataFrame, start: int) -> Iterable[dict[str, Any]]:
            return relax_scans(profiles_of(part)[0], predictor, seed=seed + start)

        parts = self._parts(self.folder / f"{step.name}-scans" / "scanned.parquet", chosen, rows_of)
        n_scans = sum(_n_rows(part) for part in parts)
        self.report(
            f"{len(chosen)} torsion profiles: {n_scans} scanned; the others cannot be read or turned, or are "
            "too far off"
        )
        return parts

    def _relaxed_table(self, step: Step) -> Path:
        return self.folder / f"{step.name}-relaxed" / "relaxed.parquet"

    def _parts(self, table: Path, chosen: pd.DataFrame, rows_of: MakeRows) -> list[Path]:
        """Make the table from the chosen rows, a part at a time; parts made before stay as they are."""
        starts = range(0, len(chosen), MET_TOGETHER)
        folders = [table.parent / str(start) for start in starts]

        def make_part(part: int) -> Path:
            path, start = folders[part] / table.name, starts[part]
            if not path.exists():
                rows = rows_of(chosen.iloc[start : start + MET_TOGETHER], start)
                pd.DataFrame(list(rows)).to_parquet(path.with_suffix(".new"))
                path.with_suffix(".new").replace(path)
            return path

        return side_by_side(make_part, folders, self.config.valence.processes)

    def _rows(self, parts: Sequence[Path], source: str) -> list[TrainingRow]:
        of_source = self.config.valence.model_copy(update={"sources": {source: 0}})
        parts = [part for part in parts if _n_rows(part)]
        return prepare_rows(parts, self.charges, of_source, self.prior, self.report) if parts else []

    def _minima(self) -> pd.DataFrame:
        rows = pd.concat([pd.read_parquet(self.data / table) for table in self.config.valence.tables])
        return rows[rows["kind"] == "minima"]

    def _profiles(self) -> pd.DataFrame:
        """Profiles of molecules that are not driven in the tables, where the geometries are known."""
        stage, columns = self.config.valence, ["kind", "key"]
        rows = pd.concat([pd.read_parquet(self.data / table, columns=columns) for table in stage.tables])
        driven = set(rows.loc[rows["kind"] == "torsiondrive", "key"])
        return read_profile_rows([self.data / table for table in stage.profiles], driven)


def _n_rows(part: Path) -> int:
    return int(pq.read_metadata(part).num_rows)


def _choose(rows: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    return rows.sample(n=min(n, len(rows)), random_state=seed)


def _seed_of(step: Step, config: TrainConfig) -> int:
    return int(np.random.default_rng([config.seed, *step.name.encode()]).integers(2**31))
