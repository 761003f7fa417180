"""Our Sage 2.2.1 against the published ddE of the same records, and the speed of the minimiser.

ddE_i = (E_MM,i - E_MM,0) - (E_QM,i - E_QM,0), 0 the lowest QM conformer (models.evaluation.relaxed). Two
things keep the published figures and ours apart, and neither is the reader of the force field (measured with
AM1 charges of every conformer, and with OpenMM's minimiser): AM1-BCC charges depend on the conformer that
they are made from (ours: the QM minimum), and the published run stops OpenMM's minimiser at its default
tolerance, at which a quarter of the heavy-atom RMSD is still to come.

    PARMFLOW_DATA=... ROWS=60 MODELS="sixth" python -m benchmarks minima_relaxed
"""

import os
import time
from pathlib import Path

import numpy as np

from benchmarks.tables import DATA, HOW
from models.dataset import QMExample, read_qm_examples
from models.evaluation.baselines import read_charge_table, smirnoff_parametrise
from models.evaluation.goals import CHARGES, DEV, PUBLISHED, SAGE, SAGE_NAME
from models.evaluation.points import spread_over_sources
from models.evaluation.published import read_published
from models.evaluation.relaxed import (
    RelaxedScores,
    class1_relaxer,
    evaluate_relaxed,
    relaxed_in_common,
    restrict_relaxed,
    summarise_relaxed,
)
from models.evaluation.scoring import Parametrise
from models.predict import load_predictor


def main() -> None:
    data = DATA
    if not (data / "qm" / "dev.parquet").is_file():
        print(f"{Path(__file__).stem}: skipped, {HOW}")
        return
    n_rows = int(os.environ.get("ROWS", "60"))
    sage = smirnoff_parametrise(data / SAGE, read_charge_table(data / CHARGES))
    methods = {SAGE_NAME: sage} | {
        name: load_predictor(name).predict for name in os.environ.get("MODELS", "").split()
    }
    minima = [example for example in read_qm_examples(data / DEV)[0] if example.kind == "minima"]
    examples = spread_over_sources(minima, n_rows)
    scores = relaxed_in_common([_timed(examples, method, name) for name, method in methods.items()])
    rows = {row.row for row in scores[0].rows}
    published = [
        restrict_relaxed(method, rows) for method in read_published(data / PUBLISHED, data / DEV, examples)
    ]
    for method in (*scores, *published):
        s = summarise_relaxed(method)
        energies = f"median {s.median_dde:5.2f} mean {s.mean_dde:5.2f} signed {s.signed_dde:5.2f}"
        print(
            f"{s.method:<24} |ddE| {energies}"
            f"   RMSD median {s.median_rmsd:.3f}   TFD median {s.median_tfd:.4f}"
            f"   {s.n_confs} conformers, {s.n_not_converged} not converged"
        )
    if published:
        ours = next(method for method in scores if method.method == SAGE_NAME)
        _print_agreement(ours, published[0])


def _timed(examples: list[QMExample], parametrise: Parametrise, name: str) -> RelaxedScores:
    start = time.perf_counter()
    scores = evaluate_relaxed(examples, class1_relaxer(parametrise), name)
    seconds = time.perf_counter() - start
    n_confs = sum(len(row.dde) for row in scores.rows)
    print(f"{name}: {n_confs} conformers in {seconds:.1f} s, {n_confs / seconds:.0f} per second")
    return scores


def _print_agreement(ours: RelaxedScores, theirs: RelaxedScores) -> None:
    pairs = zip(ours.rows, theirs.rows, strict=True)
    difference = np.concatenate([(a.dde - b.dde)[~a.is_reference] for a, b in pairs])
    size = np.abs(difference[np.isfinite(difference)])
    print(
        f"ddE, ours against published: median difference {np.median(size):.2f}, "
        f"{np.mean(size < 0.1):.0%} within 0.1, {np.mean(size < 0.5):.0%} within 0.5 kcal/mol"
    )


if __name__ == "__main__":
    main()
