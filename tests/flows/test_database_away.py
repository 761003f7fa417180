"""A run whose ledger is in a PostgreSQL server that is restarted under it."""

import contextlib
import dataclasses

from flows import batch
from flows.progress import Lines
from flows.request import Request, settings_from


class Restarting(Lines):
    """Restarts the server after every record."""

    def __init__(self, server):
        super().__init__([].append)
        self._server = server
        self.n_restarts = 0

    def advance(self, stage):
        super().advance(stage)
        self._server.restart()
        self.n_restarts += 1


def test_a_run_outlives_restarts_of_its_database(tmp_path, library, model_folder, own_postgres):
    """After each of four records the server is away for a moment: files and rows of an undisturbed run."""

    def request_for(out, ledger=""):
        return Request(
            command="assign",
            libraries=(library,),
            out=tmp_path / out,
            store=str(tmp_path / "store"),
            ledger=ledger,
            settings=settings_from(None, {"model": str(model_folder), "export.formats": ("openmm",)}),
        )

    restarted, calm = request_for("restarted", own_postgres.url), request_for("calm")
    watch = Restarting(own_postgres)
    counts = batch.run(restarted, watch)
    assert watch.n_restarts == 4
    assert counts == batch.run(calm, Lines([].append))
    assert outcomes_in(restarted.out) == outcomes_in(calm.out)
    assert parameters_in(restarted.out) == parameters_in(calm.out)


def outcomes_in(folder):
    with contextlib.closing(batch.existing_ledger(folder)) as ledger:
        return [dataclasses.replace(outcome, seconds=0.0) for outcome in ledger.outcomes()]


def parameters_in(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("ligands/*/*/parameters.json")}
