"""The ledger: what is written stays, what no longer holds goes, and both in full or not at all."""

import sqlite3

import numpy as np
import pytest

from pipeline.errors import OutputFolderError
from pipeline.ledger import Ledger
from pipeline.ledger_values import Fit, Prepared
from pipeline.library import Record
from pipeline.outcome import Outcome, failure_from_exception
from pipeline.schema import Ligand, MMParameters


@pytest.fixture
def ledger(tmp_path):
    return Ledger.of_file(tmp_path / "ledger.sqlite")


def make_record(number, name="ethanol", text="CCO"):
    return Record(number=number, name=name, source=f"a.smi:{number}", form="smiles", text=text)


def make_outcome(number, id_, *, status="ok", stage=""):
    return Outcome(
        record=number,
        name="ethanol",
        id=id_,
        folder=f"ligands/00/{id_}" if status == "ok" else "",
        status=status,
        stage=stage,
        kind="" if status == "ok" else "crash",
        message="" if status == "ok" else "it crashed",
        seconds=0.5,
    )


def test_a_record_comes_back_as_it_went_in(ledger):
    """A record with a quote, a newline and non-ASCII letters survives the trip unchanged."""
    record = make_record(1, name="α-\"pinene'; DROP TABLE records", text="CC\nO")
    ledger.take_in([("x-1", record)])
    assert ledger.record(1) == ("x-1", record)


def test_outcomes_follow_the_order_of_the_library_not_of_the_work(ledger):
    """Three records settled backwards are listed by record number."""
    ledger.take_in([(f"x-{n}", make_record(n)) for n in (1, 2, 3)])
    for n in (3, 1):
        ledger.settle(make_outcome(n, f"x-{n}"))
    assert [outcome.record for outcome in ledger.outcomes()] == [1, 3]
    assert ledger.numbers(status="undone") == [2]


def test_a_changed_library_keeps_exactly_the_outcomes_of_unchanged_records(ledger):
    """Of two settled records one is replaced and the other moves: its outcome moves with it."""
    ledger.take_in([("a", make_record(1)), ("b", make_record(2))])
    ledger.settle(make_outcome(1, "a"))
    ledger.settle(make_outcome(2, "b"))
    n_new, n_gone, folders = ledger.take_in(
        [("c", make_record(1)), ("b", make_record(2)), ("d", make_record(3))]
    )
    assert (n_new, n_gone, folders) == (2, 1, ["ligands/00/a"])
    assert [(outcome.record, outcome.id) for outcome in ledger.outcomes()] == [(2, "b")]
    assert ledger.numbers(status="undone") == [1, 3]


def test_a_library_that_breaks_off_while_it_is_taken_in_changes_nothing(ledger):
    """An exception in the reader after one record leaves the earlier library whole."""
    ledger.take_in([("a", make_record(1)), ("b", make_record(2))])

    def breaking():
        yield "z", make_record(1)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        ledger.take_in(breaking())
    assert [ledger.record(n)[0] for n in (1, 2)] == ["a", "b"]


def test_values_keep_every_bit(ledger):
    """Coordinates and parameters with 17 significant digits come back bit for bit."""
    numbers = np.array([0.1 + 0.2, 1e-300, -np.pi, 1 / 3])
    ligand = Ligand(name="x", mapped_smiles="[H:1][H:2]", total_charge=0)
    pose = numbers[:3].reshape(1, 3)
    prepared = Prepared(ligand=ligand, canonical=ligand, order=(1, 0), ligand_key="k", pose=pose)
    ledger.keep_prepared("a", prepared)
    back = ledger.prepared("a")
    assert back.order == (1, 0)
    assert back.ligand == ligand
    assert back.pose.tobytes() == pose.tobytes()

    parameters = MMParameters(
        bond_k=numbers,
        bond_length=numbers,
        angle_k=[],
        angle_theta=[],
        proper_k=np.empty((0, 6)),
        improper_k=np.empty((0, 2)),
        charge=numbers,
        sigma=numbers,
        epsilon=numbers,
    )
    fit = Fit(
        parameters=parameters,
        kept="fine-tuned",
        n_qm=5,
        n_qm_failed=0,
        energy_rmse_before=1.0,
        energy_rmse_after=0.5,
        force_rmse_before=9.0,
        force_rmse_after=7.0,
    )
    ledger.replace_fits("digest", {"k": fit})
    assert ledger.fit("k").parameters.bond_k.tobytes() == numbers.tobytes()
    assert ledger.fit("k").parameters.proper_k.shape == (0, 6)
    assert ledger.recall("references") == "digest"


def test_retrying_forgets_what_may_change_and_keeps_the_rest(ledger):
    """Of a crash (retryable) and a refusal (not), only the crash is undone again."""
    ledger.take_in([("a", make_record(1)), ("b", make_record(2))])
    for n, id_, retryable in ((1, "a", True), (2, "b", False)):
        error = OutputFolderError("x", retryable=retryable)
        failure = failure_from_exception(error, ligand="x", stage="qm")
        ledger.settle(make_outcome(n, id_, status="failed", stage="qm"), failure)
    assert ledger.forget_failures() == 1
    assert ledger.numbers(status="undone") == [1]
    assert ledger.numbers(status="failed") == [2]


def test_what_is_tuned_does_not_depend_on_how_far_delivery_got(ledger):
    """Undone, delivered and failed-in-delivery records are tuned on; a record failed in QM is not."""
    ledger.take_in([(id_, make_record(n)) for n, id_ in enumerate("abcd", start=1)])
    ledger.settle(make_outcome(2, "b"))
    ledger.settle(make_outcome(3, "c", status="failed", stage="deliver"))
    ledger.settle(make_outcome(4, "d", status="failed", stage="qm"))
    assert [number for number, _ in ledger.in_tuning()] == [1, 2, 3]
    ledger.forget_deliveries()
    assert ledger.numbers(status="undone") == [1, 2, 3]


def test_seconds_add_up_over_stages(ledger):
    """0.25 + 0.5 s of one record are 0.75 s."""
    ledger.history.note("a", "standardise", 0.25)
    ledger.history.note("a", "deliver", 0.5)
    assert ledger.history.seconds("a") == 0.75


def test_a_file_that_is_no_ledger_is_refused_with_its_name(tmp_path):
    """Bytes that are no SQLite file end as one sentence, not as a database error."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(OutputFolderError, match=r"ledger\.sqlite"):
        Ledger.of_file(path)


def test_a_ledger_of_another_version_is_refused(tmp_path):
    """A version this program does not know is not guessed at."""
    path = tmp_path / "ledger.sqlite"
    Ledger.of_file(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE run SET value = '99' WHERE name = 'ledger version'")
    with pytest.raises(OutputFolderError, match="another version"):
        Ledger.of_file(path)
