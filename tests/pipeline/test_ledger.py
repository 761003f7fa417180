"""The ledger: what is written stays, what no longer holds goes, and both in full or not at all."""

import contextlib
import sqlite3

import numpy as np
import pytest

from pipeline.database import Place, check_address
from pipeline.errors import OutputFolderError, SettingsError, StoreError
from pipeline.ledger import Ledger
from pipeline.ledger_values import Fit, Prediction, Prepared, prediction_from, to_json
from pipeline.library import Record
from pipeline.outcome import Outcome, failure_from_exception
from pipeline.schema import Confidence, CrossTerms, Ligand, MMParameters


class Clock:
    """UTC seconds that a test sets."""

    def __init__(self):
        self.time = 1e9

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(place, clock):
    with contextlib.closing(Ledger(place, now=clock)) as ledger:
        yield ledger


@pytest.fixture
def other(place, clock, ledger):
    """The same ledger, opened by another worker."""
    with contextlib.closing(Ledger(place, now=clock)) as other:
        yield other


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


def test_a_record_is_leased_to_one_worker_at_a_time(ledger, other):
    """What one has leased the other does not get; what it releases, or lets run out, it does."""
    ledger.take_in([(f"x-{n}", make_record(n)) for n in (1, 2, 3)])
    lease, mine = ledger.leases.take([1, 2], "first", 100.0)
    assert mine == [1, 2]
    assert other.leases.take([1, 2, 3], "second", 100.0)[1] == [3]
    assert other.leases.running() == [(1, "first"), (2, "first"), (3, "second")]
    ledger.leases.release(lease)
    assert other.leases.take([1], "second", 100.0)[1] == [1]


def test_a_lease_that_ran_out_is_lost_and_its_owner_settles_nothing(ledger, other, clock):
    """A worker silent beyond its lease: another takes it over, and only that one's outcome is kept."""
    ledger.take_in([("x", make_record(1))])
    late, _ = ledger.leases.take([1], "slow", 100.0)
    clock.time += 101.0
    lease, mine = other.leases.take([1], "quick", 100.0)
    assert mine == [1]
    assert not ledger.settle(make_outcome(1, "x", status="failed", stage="qm"), lease=late)
    assert other.settle(make_outcome(1, "x"), lease=lease)
    assert not ledger.settle(make_outcome(1, "x", status="failed", stage="qm"), lease=late)
    assert [outcome.status for outcome in ledger.outcomes()] == ["ok"]
    assert ledger.leases.running() == []


def test_who_is_at_work_keeps_its_lease(ledger, other, clock):
    """Ten times half the lease's length, kept each time: nobody else gets the record."""
    ledger.take_in([("x", make_record(1))])
    lease, _ = ledger.leases.take([1], "busy", 100.0)
    for _ in range(10):
        clock.time += 50.0
        ledger.leases.keep(lease)
        assert other.leases.take([1], "greedy", 100.0)[1] == []


def test_a_worker_started_again_takes_over_its_own_leases(ledger, other):
    """The same owner need not wait for the lease of its killed self, whose token is worth nothing then."""
    ledger.take_in([("x", make_record(1))])
    old, _ = ledger.leases.take([1], "shard 1", 1e6)
    new, mine = other.leases.take([1], "shard 1", 1e6)
    assert mine == [1]
    assert not ledger.settle(make_outcome(1, "x"), lease=old)
    assert other.settle(make_outcome(1, "x"), lease=new)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_settles_no_record_twice(ledger, other, clock, jump):
    """An hour back or on: a record may be computed twice, but only the last lease settles it, once."""
    ledger.take_in([("x", make_record(1))])
    first, _ = ledger.leases.take([1], "first", 100.0)
    clock.time += jump
    second, mine = other.leases.take([1], "second", 100.0)
    settled = [ledger.settle(make_outcome(1, "x"), lease=first)]
    settled.append(bool(mine) and other.settle(make_outcome(1, "x"), lease=second))
    assert sorted(settled) == [False, True]
    assert ledger.n_outcomes() == 1


def test_changed_conditions_drop_what_a_stage_and_those_after_it_made(ledger):
    """From `conformers` on: a failure to standardise stays, the delivered and the failed in QM go."""
    ledger.take_in([(id_, make_record(n)) for n, id_ in enumerate("abc", start=1)])
    ledger.settle(make_outcome(1, "a", status="failed", stage="standardise"))
    ledger.settle(make_outcome(2, "b", status="failed", stage="qm"))
    ledger.settle(make_outcome(3, "c"))
    ledger.keep_geometries("k", np.zeros((2, 3, 3)))
    assert ledger.forget_from({"deliver"}) == (1, ["ligands/00/c"])
    assert ledger.geometries("k") is not None
    assert ledger.forget_from({"conformers", "fine-tune"}) == (1, [])
    assert ledger.geometries("k") is None
    assert ledger.numbers(status="failed") == [1]


def test_history_tells_every_attempt(ledger):
    """A crash, a retry by its class and a success: two attempts in order, the second's seconds count."""
    ledger.take_in([("a", make_record(1))])
    ledger.history.note("a", "qm", 5.0, "crash", "killed by SIGSEGV\0")
    ledger.settle(make_outcome(1, "a", status="failed", stage="qm"))
    assert ledger.failures_by_class() == [("qm", "crash", 1, 0)]
    assert ledger.forget_failures(kinds=["scf"]) == 0
    assert ledger.forget_failures(kinds=["crash"]) == 1
    ledger.history.note("a", "qm", 7.0)
    steps = ledger.history.of("a")
    assert [(step.attempt, step.seconds, step.kind) for step in steps] == [(1, 5.0, "crash"), (2, 7.0, "")]
    assert ledger.history.seconds("a") == 7.0


def test_what_is_computed_anew_is_another_attempt(ledger):
    """Delivered, failed early and on its way when conditions change from `qm` on, then tuned anew: the
    seconds of each are those since its stage was dropped.
    """
    ledger.take_in([(id_, make_record(n)) for n, id_ in enumerate("abc", start=1)])
    for id_, stages in {"a": ("standardise", "qm", "deliver"), "b": ("standardise",), "c": ("qm",)}.items():
        for stage in stages:
            ledger.history.note(id_, stage, 4.0)
    ledger.settle(make_outcome(1, "a"))
    ledger.settle(make_outcome(2, "b", status="failed", stage="standardise"))
    ledger.forget_from({"qm"})
    for id_ in "ac":
        ledger.history.note(id_, "qm", 1.0)
    assert [ledger.history.seconds(id_) for id_ in "abc"] == [1.0, 4.0, 1.0]
    ledger.settle(make_outcome(1, "a"))
    ledger.forget_deliveries()
    ledger.history.note("a", "deliver", 2.0)
    assert ledger.history.seconds("a") == 2.0
    assert [step.attempt for step in ledger.history.of("a")] == [1, 1, 1, 2, 3]


def test_a_step_that_is_noted_twice_is_one(ledger):
    """As after an answer that got lost: the same stage, time and clock is the same step, another is not."""
    for seconds in (0.5, 0.5, 0.75):
        ledger.history.note("a", "predict", seconds)
    assert [step.seconds for step in ledger.history.of("a")] == [0.5, 0.75]


def test_many_outcomes_come_page_by_page_in_order(ledger):
    """1,203 records, more than two pages: each once, in order, also when chosen by status."""
    ledger.take_in((f"x-{n}", make_record(n)) for n in range(1, 1204))
    lease, mine = ledger.leases.take(range(1, 1204), "me", 100.0)
    for n in mine:
        status = "ok" if n % 3 else "failed"
        ledger.settle(make_outcome(n, f"x-{n}", status=status, stage="" if n % 3 else "qm"), lease=lease)
    assert [outcome.record for outcome in ledger.outcomes()] == list(range(1, 1204))
    assert [outcome.record for outcome in ledger.outcomes(status="failed")] == list(range(3, 1204, 3))
    assert ledger.outcome("x-3").kind == "crash"


def test_a_ligand_is_found_by_its_name_or_id(ledger):
    """Names with a quote, a percent sign and an underscore are found as they are, and nothing else is."""
    names = ['50% "off"', '50x "off"', "a_b", "acb"]
    ledger.take_in([(f"x-{n}", make_record(n, name=name)) for n, name in enumerate(names, start=1)])
    assert [ledger.find(name) for name in names] == [[1], [2], [3], [4]]
    assert ledger.find("x-2") == [2]
    assert ledger.find("x") == []


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "#1", "ü&x=1"])
def test_a_folder_may_have_any_name(tmp_path, name):
    """Characters that mean something in an address: written, and read back read-only, in that very folder."""
    path = tmp_path / name / "ledger.sqlite"
    path.parent.mkdir()
    with contextlib.closing(Ledger.of_file(path)) as ledger:
        ledger.remember("x", "y")
    assert path.is_file()
    with contextlib.closing(Ledger(Place.of_file(path), read_only=True)) as reader:
        assert reader.recall("x") == "y"


def test_a_ledger_that_is_read_only_can_be_read_and_not_written(place, clock, ledger):
    """What is there is seen; a write is refused by the database itself."""
    ledger.take_in([("a", make_record(1))])
    with contextlib.closing(Ledger(place, now=clock, read_only=True)) as reader:
        assert reader.n_records() == 1
        with pytest.raises(StoreError, match="read"):
            reader.remember("x", "y")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("mysql://host/db", "PostgreSQL"),
        ("postgresql://me:secret@host/db", "pgpass"),
        ("postgresql://host/db?password=secret", "pgpass"),
        ("postgresql://me:secret@host:port/db", "address"),
        ("postgresql:/me:secret@host/db?password=secret", "address"),
        ("nonsense", "address"),
    ],
)
def test_an_address_that_cannot_serve_is_refused_in_a_sentence(address, reason):
    """Another kind of database, a password in the open, no address at all; the password is not repeated."""
    with pytest.raises(SettingsError, match=reason) as caught:
        check_address(address)
    assert "secret" not in str(caught.value)


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


def test_a_prediction_comes_back_with_its_class2_terms_and_its_confidence():
    """Two-atom parameters with every optional value: the same numbers to the last bit."""
    cross = CrossTerms(
        bond_k3=[-500.0 / 3],
        bond_k4=[0.1],
        angle_k3=[],
        angle_k4=[],
        bond_bond=[],
        bond_angle=[],
        bond_torsion=[],
        angle_torsion=np.zeros((0, 2, 3)),
        angle_angle_torsion=[],
    )
    rows = {"bond": [0.7], "angle": [], "proper": [], "improper": [], "charge": [0.01]}
    sure = Confidence(uncertainty=0.1, limit=1 / 3, unseen=(1,), doubt="odd", **rows)
    parameters = MMParameters(
        bond_k=[700.0],
        bond_length=[1.1],
        angle_k=[],
        angle_theta=[],
        proper_k=[],
        improper_k=[],
        charge=[0.1, -0.1],
        sigma=[3.0, 3.0],
        epsilon=[0.1, 0.1],
        cross=cross,
        confidence=sure,
    )
    back = prediction_from(to_json(Prediction(parameters=parameters, coords=None))).parameters
    assert back.cross.bond_k3.tolist() == cross.bond_k3.tolist()
    assert back.confidence.limit == sure.limit
    assert back.confidence.doubts == sure.doubts == "surroundings of atoms 2 were not in the training; odd"
    assert back.confidence.bond.tolist() == [0.7]
