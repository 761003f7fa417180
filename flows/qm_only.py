"""`parmflow qm`: the QM half of refine, for people who want the references and no force field."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.batch import open_bench, open_campaign, records_of
from flows.request import Request
from pipeline.campaign import Watch
from pipeline.outcome import Outcome
from pipeline.references import all_tasks, find_records
from pipeline.refine import compute, molecules, plan
from pipeline.rerun import take_in


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What the store now holds for a library."""

    store: str
    level: str
    n_records: int
    n_molecules: int
    """distinct ones whose results are in the store"""
    n_tasks: int
    n_results: int
    failed: tuple[Outcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)

    def to_text(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.n_results} of {self.n_tasks} results at {self.level} for {self.n_molecules} molecules"
            f" ({self.n_records} records) are in {self.store}."
        ]
        lines += [f"  record {o.record} {o.name!a} failed: {o.kind}: {o.message}" for o in self.failed]
        return "\n".join(lines)


def fill_store(request: Request, watch: Watch) -> Filled:
    """Compute what `refine` would for these libraries; what is in the store already is not computed again.

    The state of such a run is the store itself, so its own folder is thrown away; `request.out` is not used.
    """
    records = records_of(request.libraries)
    with tempfile.TemporaryDirectory(prefix="parmflow-qm-") as folder:
        passing = request.model_copy(update={"out": Path(folder)})
        with open_bench(passing) as bench, open_campaign(passing, watch) as campaign:
            take_in(campaign, records)
            plan(campaign, bench)
            compute(campaign, bench)
            kept = molecules(campaign)
            tasks = [all_tasks(campaign, bench, molecule) for molecule in kept]
            return Filled(
                store=request.store,
                level=bench.qm.spec.level,
                n_records=campaign.ledger.n_records(),
                n_molecules=len(kept),
                n_tasks=sum(map(len, tasks)),
                n_results=sum(len(find_records(bench, some)) for some in tasks),
                failed=tuple(campaign.ledger.outcomes(status="failed")),
            )
