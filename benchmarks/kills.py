"""Kill a campaign at random moments, again and again: it must end as one that nobody disturbed.

    python -m benchmarks.kills --kills 50 --ligands 200

The model is a fake that takes no time, all else is real: reading, standardising, embedding, ledger, files and
their checks. Every round is a forked process that gets SIGKILL after a random number of further records and a
random moment more, so that the kills fall on the whole of the campaign, however fast the machine.
"""

import argparse
import contextlib
import csv
import multiprocessing
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.assign import assign
from pipeline.campaign import Campaign, Silent, begin_work, finish_run
from pipeline.library import read_library
from pipeline.parametrize import StraightLine
from pipeline.rerun import compare_identity, take_in
from pipeline.run_folder import ledger_place, open_ledger
from pipeline.schema import Ligand, MMParameters, Topology
from pipeline.settings import build_settings

_SETTINGS = {"export": {"formats": ["openmm"]}}
_LOOK_SECONDS, _MOMENT_SECONDS = 0.01, 0.05
_TAILS = ("O", "N", "F", "Cl", "C#N", "C=O", "OC", "S")


class FakePredictor:
    """Parameters that depend on elements only."""

    name, version, sha256 = "fake", "1", "0" * 64

    def predict(self, ligand: Ligand, topology: Topology) -> MMParameters:
        """Values in their physical ranges; charges sum to the total."""
        numbers = topology.atomic_numbers
        charge = 0.01 * (numbers - numbers.mean())
        charge[-1] -= charge.sum() - ligand.total_charge
        return MMParameters(
            bond_k=np.full(len(topology.bonds), 600.0),
            bond_length=1.0 + 0.01 * numbers[topology.bonds].sum(axis=1),
            angle_k=np.full(len(topology.angles), 100.0),
            angle_theta=np.full(len(topology.angles), 1.9),
            proper_k=np.full((len(topology.propers), 6), 0.1),
            improper_k=np.full((len(topology.impropers), 2), 0.3),
            charge=charge,
            sigma=np.full(topology.n_atoms, 3.0),
            epsilon=np.full(topology.n_atoms, 0.1),
        )


def call_here(function: Callable[..., Any], /, *args: object, **_limits: object) -> Any:
    """Isolate nothing: the whole process is what gets killed."""
    return function(*args)


def write_library(path: Path, n_ligands: int) -> None:
    """Small chains with different ends; every seventh line a duplicate, every eleventh one broken."""
    lines = []
    for n in range(n_ligands):
        smiles = "C" * (1 + n // len(_TAILS) % 5) + _TAILS[n % len(_TAILS)]
        if n % 11 == 10:
            smiles = "no-smiles"
        lines.append(f"{smiles} {'Lig' if n % 2 else 'lig'}-{n // 2}\n")
    path.write_text("".join(lines))


def run(library: Path, out: Path) -> None:
    """One process' worth of the campaign, up to its end."""
    line = StraightLine(
        predictor=FakePredictor(), settings=build_settings(_SETTINGS), provenance=(), isolate=call_here
    )
    campaign = Campaign(
        folder=out, ledger=open_ledger(out), line=line, watch=Silent(), clock=time.monotonic, jobs=2
    )
    compare_identity(campaign, {"model": "fake"})
    take_in(campaign, read_library([library]))
    assign(campaign, begin_work(campaign))
    finish_run(campaign)
    campaign.ledger.close()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a campaign that was killed often."""

    n_kills: int
    n_records: int
    n_at_kills: tuple[int, ...]
    """records settled at each kill"""
    n_different: int
    """files and table rows that differ from those of an undisturbed campaign"""
    n_repeated: int
    """records delivered more than once"""


def kill_often(folder: Path, *, n_ligands: int, n_kills: int, seed: int) -> Verdict:
    """Run a campaign undisturbed and one with kills, and compare."""
    library, calm, disturbed = folder / "library.smi", folder / "calm", folder / "disturbed"
    write_library(library, n_ligands)
    fork = multiprocessing.get_context("fork")
    whole = fork.Process(target=run, args=(library, calm))
    whole.start()
    whole.join()
    rng, n_at_kills = random.Random(seed), []
    for n_left in range(n_kills, 0, -1):
        process = fork.Process(target=run, args=(library, disturbed))
        process.start()
        _wait_for_a_moment(process, disturbed, rng, (n_ligands - n_settled(disturbed)) // (n_left + 1))
        if process.exitcode is not None:
            break  # it came to its end before the kill
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        n_at_kills.append(n_settled(disturbed))
    last = fork.Process(target=run, args=(library, disturbed))
    last.start()
    last.join()
    if whole.exitcode or last.exitcode:
        raise RuntimeError(f"the first run ended with {whole.exitcode}, the last with {last.exitcode}")
    return Verdict(
        n_kills=len(n_at_kills),
        n_records=n_ligands,
        n_at_kills=tuple(n_at_kills),
        n_different=len(contents(calm).items() ^ contents(disturbed).items()),
        n_repeated=n_delivered_again(disturbed),
    )


def _wait_for_a_moment(process: BaseProcess, out: Path, rng: random.Random, share: int) -> None:
    """Until so many more records are settled, on average, and a moment more; less where it ends before."""
    goal = n_settled(out) + rng.randint(0, 2 * share)
    while process.exitcode is None and n_settled(out) < goal:
        process.join(_LOOK_SECONDS)
    process.join(rng.uniform(0.0, _MOMENT_SECONDS))


def contents(out: Path) -> dict[str, bytes]:
    """Every delivered file, and the table's rows without the seconds."""
    files = {
        str(path.relative_to(out)): path.read_bytes() for path in out.glob("ligands/**/*") if path.is_file()
    }
    with (out / "outcomes.csv").open(newline="") as table:
        rows = {f"row {row['record']}": repr(row | {"seconds": ""}).encode() for row in csv.DictReader(table)}
    return files | rows


def n_settled(out: Path) -> int:
    """Number of records with an outcome."""
    place = ledger_place(out)
    if place is None:
        return 0
    with contextlib.closing(sqlite3.connect(str(place))) as database:
        try:
            return int(database.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0])
        except sqlite3.OperationalError:  # killed before the tables were there
            return 0


def n_delivered_again(out: Path) -> int:
    """Number of records whose files were written more than once."""
    again = "SELECT id FROM steps WHERE stage = 'deliver' GROUP BY id HAVING COUNT(*) > 1"
    with contextlib.closing(sqlite3.connect(str(ledger_place(out)))) as database:
        return len(database.execute(again).fetchall())


def main() -> None:
    """Print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ligands", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="parmflow-kills-") as folder:
        verdict = kill_often(
            Path(folder), n_ligands=options.ligands, n_kills=options.kills, seed=options.seed
        )
    print(f"kills: {verdict.n_kills}; records: {verdict.n_records}; settled at each: {verdict.n_at_kills}")
    print(f"files and rows that differ from the undisturbed campaign: {verdict.n_different}")
    print(f"records delivered more than once: {verdict.n_repeated}")


if __name__ == "__main__":
    main()
