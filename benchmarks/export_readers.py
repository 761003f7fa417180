"""Do the delivered files of real ligands give the same energies in every reader, and how fast?"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import DATA
from models.predict import load_predictor
from pipeline.deliver import CHECK_FILE, deliver, missing_programs
from pipeline.errors import ChildError, LigandError
from pipeline.export.offxml import write_offxml
from pipeline.library import read_library
from pipeline.ligand import standardise
from pipeline.process.child import Limits
from pipeline.process.crew import Crew
from pipeline.readback.energies import TERMS
from pipeline.schema import Parametrized
from pipeline.settings import ExportSettings, LigandRules
from pipeline.smirnoff import label, read_smirnoff
from pipeline.topology import build_topology
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

N_PROCESSES = 2
LABELLED_ATOMS = 60
LIMITS = Limits(wall_seconds=300.0, memory_mb=4096)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What became of one ligand."""

    name: str
    n_atoms: int
    seconds: float
    checks: tuple[dict[str, Any], ...]
    """as in check.json"""
    failure: str


def main() -> None:
    """Print file x reader x largest difference per term, failures, ligands per second and a label time."""
    libraries = sorted((DATA / "libraries").glob("*.sdf"))
    if not libraries:
        print("exports: skipped, no data (set PARMFLOW_DATA)")
        return
    ligands = list(parametrize(libraries))
    everything = ExportSettings()
    start = time.perf_counter()
    delivered = deliver_all(ligands, everything)
    seconds = time.perf_counter() - start
    print_table(delivered)
    n_atoms = sum(one.n_atoms for one in delivered) / len(delivered)
    busy = sum(one.seconds for one in delivered) / len(delivered)
    print(
        f"writing and in-process checks: {len(delivered) / seconds:.1f} ligands per second in {N_PROCESSES} "
        f"processes ({n_atoms:.0f} atoms and {busy:.2f} s on average; start of the processes included, "
        "prediction not)",
        flush=True,
    )
    print_label_time(ligands)
    engines = ExportSettings(formats=("gromacs", "lammps"), check="all")
    missing = missing_programs(engines)
    if missing:
        print(f"external programs: skipped, {' and '.join(missing)} not installed")
        return
    print_table(deliver_all(ligands, engines))


def parametrize(libraries: list[Path]) -> Iterator[Parametrized]:
    """Give every ligand the shipped network's parameters, at its own geometry."""
    torch.set_num_threads(1)
    predictor = load_predictor("default")
    for number, record in enumerate(read_library(libraries)):
        ligand, conformers, _ = standardise(record, LigandRules())
        topology = build_topology(ligand)
        yield Parametrized(
            id=f"ligand-{number:010x}",
            ligand=ligand,
            topology=topology,
            parameters=predictor.predict(ligand, topology),
            coords=None if conformers is None else conformers.coords[0],
        )


def deliver_all(ligands: list[Parametrized], export: ExportSettings) -> list[Delivered]:
    """Deliver every ligand into a temporary folder, by worker processes as `parmflow assign` does."""
    with Crew() as crew, ThreadPoolExecutor(N_PROCESSES) as pool:
        return list(pool.map(partial(deliver_one, crew, export), ligands))


def deliver_one(crew: Crew, export: ExportSettings, parametrized: Parametrized) -> Delivered:
    """Deliver one ligand and read its check.json; a refusal is a result too."""
    checks: Iterable[dict[str, Any]] = ()
    failure = ""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / parametrized.id
        try:
            crew.run(deliver, parametrized, folder, export.formats, export.check, limits=LIMITS)
            checks = json.loads((folder / CHECK_FILE).read_text())["checks"]
        except (LigandError, ChildError) as error:
            failure = str(error)
    return Delivered(
        name=parametrized.ligand.name,
        n_atoms=parametrized.topology.n_atoms,
        seconds=time.perf_counter() - start,
        checks=tuple(checks),
        failure=failure,
    )


def print_table(delivered: list[Delivered]) -> None:
    """Print the largest differences in kJ/mol, of the forces in kJ/mol/nm, and who was refused why."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in delivered:
        for check in one.checks:
            rows[check["file"], check["reader"]].append(check)
    print(f"{'file':<22}{'reader':<30}{'n':>4}" + "".join(f"{term:>10}" for term in (*TERMS, "force")))
    for (file, reader), checks in rows.items():
        values = [_largest(checks, term) for term in TERMS] if "reports" in checks[0] else []
        if values:
            values.append(max(check["largest_force_difference"] for check in checks) * ANGSTROM_PER_NM)
            text = "".join(f"{value * KJ_PER_KCAL:10.1e}" for value in values)
        else:
            text = f"  {checks[0]['compared']}: {max(check['largest_difference'] for check in checks):.1e}"
        print(f"{file:<22}{reader:<30}{len(checks):4d}{text}")
    refused = [one for one in delivered if one.failure]
    print(f"{len(delivered)} ligands, {len(refused)} refused")
    for one in refused:
        print(f"  {one.name}: {one.failure}")


def print_label_time(ligands: list[Parametrized]) -> None:
    """Print how long our SMIRNOFF reader takes to load the OFFXML of a ligand of 60 atoms and to label it."""
    one = min(ligands, key=lambda ligand: abs(ligand.topology.n_atoms - LABELLED_ATOMS))
    text = write_offxml(one)
    start = time.perf_counter()
    label(read_smirnoff(text), one.ligand, one.topology)
    seconds = time.perf_counter() - start
    print(f"OFFXML of {one.topology.n_atoms} atoms read and labelled in {seconds:.2f} s", flush=True)


def _largest(checks: list[dict[str, Any]], term: str) -> float:
    return float(max(check["largest_difference"][term] for check in checks))


if __name__ == "__main__":
    main()
