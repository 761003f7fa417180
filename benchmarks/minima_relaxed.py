"""Conformer energies after MM minimisation from the QM minima of dev: ddE, the OpenFF benchmark's measure.

ddE_i = (E_MM,i - E_MM,0) - (E_QM,i - E_QM,0), 0 the lowest QM conformer, MM geometries relaxed by OpenMM.
Sage 2.2.1 through our reader is printed beside the published ddE of the same records. The two should differ
by the charges (ours: AM1-BCC at the QM minimum) and by conformers that fall into another minimum, so rigid
molecules without internal hydrogen bonds also measure the reader.

    PARMFLOW_DATA=... python benchmarks/minima_relaxed.py [N_ROWS [MODEL]]
"""

import os
import sys
from pathlib import Path

import numpy as np
import openmm
import pandas as pd

from models.baselines import read_charge_table, smirnoff_parametrise
from models.dataset import QMExample, read_qm_examples
from models.predict import load_predictor
from models.scoring import Parametrise
from pipeline.errors import LigandError
from pipeline.export.openmm_system import build_system
from pipeline.schema import FloatArray
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

FORCE_TOLERANCE = 1.0
"""kJ/mol/nm, root mean square force at which OpenMM stops"""


def main() -> None:
    data = Path(os.environ["PARMFLOW_DATA"])
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    charges = read_charge_table(data / "charges" / "am1bcc.parquet")
    offxml = data / "forcefields" / "openff_unconstrained-2.2.1.offxml"
    methods: dict[str, Parametrise] = {"Sage 2.2.1": smirnoff_parametrise(offxml, charges)}
    for name in sys.argv[2:]:
        methods[name] = load_predictor(name).predict
    published = pd.read_parquet(data / "benchmarks" / "industry_dev_baselines.parquet")
    published_by_record = dict(zip(published["record_id"], published["openff-2.2.1_dde"], strict=True))
    examples, records = read_minima(data / "qm" / "dev.parquet", n_rows)
    ours: dict[str, list[float]] = {name: [] for name in methods}
    theirs: list[float] = []
    n_done = 0
    for example, record_ids in zip(examples, records, strict=True):
        try:
            values = {name: relaxed_dde(example, method) for name, method in methods.items()}
        except LigandError as error:
            print(f"left out: {error}")
            continue
        n_done += 1
        reference = [published_by_record[record] for record in record_ids]
        keep = np.isfinite(reference) & (np.arange(len(reference)) != np.argmin(example.energy))
        theirs += list(np.array(reference)[keep])
        for name, dde in values.items():
            ours[name] += list(dde[keep])
    print(f"{n_done} molecules, {len(theirs)} conformers; ddE in kcal/mol")
    for name, values_of in {**ours, "published 2.2.1": theirs}.items():
        size = np.abs(values_of)
        print(f"{name:<18} RMS {np.sqrt(np.mean(size**2)):6.2f}   median |ddE| {np.median(size):5.2f}")
    difference = np.abs(np.array(ours["Sage 2.2.1"]) - theirs)
    within = np.mean(difference < 0.5)
    print(f"our Sage against published: median {np.median(difference):.3f}, {within:.0%} within 0.5")


def read_minima(path: Path, n_rows: int) -> tuple[list[QMExample], list[list[int]]]:
    """Read evenly spread rows of QM minima and the record of every conformer."""
    table = pd.read_parquet(path)
    minima = table[(table["kind"] == "minima") & (table["n_confs"] >= 3)]
    step = max(1, len(minima) // n_rows)
    chosen = minima.iloc[::step].head(n_rows)
    temporary = Path(os.environ.get("OUT", "runs")) / "minima-subset.parquet"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    chosen.to_parquet(temporary)
    examples, _ = read_qm_examples(temporary)
    records = dict(zip(chosen["mapped_smiles"], chosen["record_ids"], strict=True))
    return examples, [list(records[example.ligand.mapped_smiles]) for example in examples]


def relaxed_dde(example: QMExample, parametrise: Parametrise) -> FloatArray:
    """Minimise every conformer and compare the energies with QM's, (n_confs,), kcal/mol."""
    system = build_system(example.topology, parametrise(example.ligand, example.topology))
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, {"Threads": "1"})
    energy = []
    for coords in example.coords.astype(np.float64):
        context.setPositions(coords / ANGSTROM_PER_NM)
        openmm.LocalEnergyMinimizer.minimize(context, FORCE_TOLERANCE)
        energy.append(context.getState(getEnergy=True).getPotentialEnergy()._value / KJ_PER_KCAL)
    lowest = int(np.argmin(example.energy))
    mm, qm = np.array(energy), example.energy
    return np.asarray((mm - mm[lowest]) - (qm - qm[lowest]))


if __name__ == "__main__":
    main()
