"""The notification command: told once per event, with the facts, and never in the way."""

import json
import sys

import pytest

from flows.notify import Herald
from pipeline.database import Place
from pipeline.ledger import Ledger
from pipeline.library import Record
from pipeline.outcome import Outcome
from pipeline.settings import NotifySettings
from tests.constant_model import KeepingWatch

KEEP = "import sys; open('told', 'a').write(sys.argv[1] + ' ' + sys.stdin.read() + chr(10))"


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(Place.of_file(tmp_path / "ledger.sqlite"))
    records = [
        Record(number=n, name=f"lig-{n}", source=f"a.smi:{n}", form="smiles", text="C") for n in range(1, 41)
    ]
    ledger.take_in((f"x-{record.number}", record) for record in records)
    yield ledger
    ledger.close()


def settle(ledger, number, status):
    failed = status == "failed"
    outcome = Outcome(
        record=number,
        name=f"lig-{number}",
        id=f"x-{number}",
        folder="" if failed else "f",
        status=status,
        stage="qm" if failed else "",
        kind="scf" if failed else "",
        message="",
        seconds=0.0,
    )
    ledger.settle(outcome)


def told(folder):
    lines = (folder / "told").read_text().splitlines() if (folder / "told").exists() else []
    return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in lines]


def test_completion_is_told_once_with_the_facts(tmp_path, ledger):
    """Two records ok, one failed: the command gets the counts and the class; a second ending is no news."""
    for number, status in ((1, "ok"), (2, "ok"), (3, "failed")):
        settle(ledger, number, status)
    settings = NotifySettings(command=(sys.executable, "-c", KEEP))
    for _ in range(2):
        Herald(KeepingWatch(), ledger, tmp_path, settings).complete()
    ((event, facts),) = told(tmp_path)
    assert event == "completed"
    assert (facts["n_records"], facts["n_ok"], facts["n_failed"]) == (40, 2, 1)
    assert facts["failures"] == [{"stage": "qm", "kind": "scf", "n_records": 1, "n_retryable": 0}]


def test_a_failed_fraction_beyond_the_limit_is_told_in_mid_run(tmp_path, ledger):
    """Half of 40 fail, the limit is 0.3: told once, before the end; with a limit of 0.6 not at all."""
    for limit, events in ((0.6, []), (0.3, ["many-failures"])):
        settings = NotifySettings(command=(sys.executable, "-c", KEEP), failed_fraction=limit)
        herald = Herald(KeepingWatch(), ledger, tmp_path, settings)
        for number in range(1, 41):
            settle(ledger, number, "failed" if number % 2 else "ok")
            herald.advance("assign")
        assert [event for event, _ in told(tmp_path)] == events


def test_a_command_that_fails_is_said_and_stops_nothing(tmp_path, ledger):
    """A program that is not there: one sentence."""
    watch = KeepingWatch()
    Herald(watch, ledger, tmp_path, NotifySettings(command=("no-such-program",))).complete()
    assert len(watch.said) == 1
    assert "no-such-program" in watch.said[0]
