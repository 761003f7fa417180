"""A database server that goes away: waited for, and told in a sentence where it stays away."""

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.database import Place
from pipeline.errors import ParmflowError, SettingsError, StoreError
from pipeline.ledger import Ledger
from pipeline.ledger_values import Prepared
from pipeline.library import Record
from pipeline.outcome import Outcome
from pipeline.qm.batch import Batch
from pipeline.schema import Ligand, QMRecord
from pipeline.store import QMStore
from tests.postgres_server import PostgresServer
from tests.scripted_engine import SETTINGS, Scripted, make_task


def test_a_restart_of_the_server_costs_no_calculation(own_postgres: PostgresServer) -> None:
    """The server is stopped while calculations run, and comes back while they end: each is kept, none is
    made twice.
    """
    tasks = [make_task(f"task {n}", n) for n in range(6)]
    engine = Scripted({task.ligand_key: ["sleep 0.5"] for task in tasks})
    restarts = []

    def restart(*_: object) -> None:
        if not restarts:
            restarts.append("now")
            own_postgres.restart(after=2.0)

    with QMStore(Place(url=own_postgres.url, schema="qm")) as store:
        with Batch(store, SETTINGS, jobs=2, start=engine) as batch:
            endings = batch.run(tasks, restart)
        assert all(isinstance(ending, QMRecord) for ending in endings.values())
        assert len(store) == len(tasks)
        assert [attempt.kind for attempt in store.attempts()] == ["ok"] * len(tasks)
        assert set(engine.tries.values()) == {1}


def test_a_server_that_stays_away_is_a_sentence(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing end as StoreErrors that may be repeated; once it is back, the open store works."""
    monkeypatch.setattr("pipeline.database.BUSY_SECONDS", 0.5)
    with QMStore(Place(url=own_postgres.url, schema="qm")) as store:
        own_postgres.stop()
        for use in (lambda: store.get("k"), lambda: store.claim("k", "elsewhere 1 1.0"), lambda: len(store)):
            with pytest.raises(StoreError, match="does not answer") as caught:
                use()
            assert (caught.value.kind, caught.value.retryable) == ("lost", True)
        own_postgres.start()
        assert store.get("k") is None


# ---- the ledger ----

WATER = Ligand(name="water", mapped_smiles="[H:1][O:2][H:3]", total_charge=0)
WRITES = {
    "a fact about the run": lambda ledger: ledger.remember("name", "value"),
    "a standardised record": lambda ledger: ledger.keep_prepared(
        "a", Prepared(ligand=WATER, canonical=WATER, order=(0, 1, 2), ligand_key="k", pose=None)
    ),
    "geometries": lambda ledger: ledger.keep_geometries("k", np.zeros((1, 3, 3))),
    "a step": lambda ledger: ledger.history.note("a", "standardise", 0.5),
    "a lease": lambda ledger: ledger.leases.take([1], "me", 60.0),
    "an outcome": lambda ledger: ledger.settle(OUTCOME),
    "leases given up": lambda ledger: ledger.leases.release_all(),
}
OUTCOME = Outcome(
    record=1, name="water", id="a", folder="f", status="ok", stage="", kind="", message="", seconds=0.5
)


@pytest.fixture
def its_place(own_postgres: PostgresServer) -> Place:
    """Where the ledger is."""
    return Place(url=own_postgres.url, schema=f"ledger_{uuid.uuid4().hex[:16]}")


@pytest.fixture
def ledger(its_place: Place) -> Iterator[Ledger]:
    """A ledger of one record."""
    with contextlib.closing(Ledger(its_place)) as ledger:
        ledger.take_in([("a", Record(number=1, name="water", source="w.smi:1", form="smiles", text="O"))])
        yield ledger


def test_every_write_of_a_ledger_waits_for_the_server(own_postgres: PostgresServer, ledger: Ledger) -> None:
    """The server is away before each kind of write and back a moment later: all is there, once."""
    for write in WRITES.values():
        own_postgres.restart()
        write(ledger)
    assert ledger.recall("name") == "value"
    prepared = ledger.prepared("a")
    assert prepared is not None
    assert prepared.ligand == WATER
    assert ledger.geometries("k") is not None
    assert [step.stage for step in ledger.history.of("a")] == ["standardise"]
    assert ledger.outcome("a") == OUTCOME
    assert ledger.leases.running() == []


def test_a_transaction_that_is_cut_off_is_done_again_from_its_start(
    own_postgres: PostgresServer, ledger: Ledger
) -> None:
    """A restart between its two writes: begun twice, and each write is there once."""
    begun = []

    def both() -> None:
        begun.append(len(begun))
        ledger.history.note("a", "deliver", float(begun[-1]))
        if begun == [0]:
            own_postgres.restart()
        ledger.settle(OUTCOME)

    ledger.together(both)
    assert begun == [0, 1]
    assert [step.seconds for step in ledger.history.of("a")] == [1.0]
    assert ledger.outcome("a") == OUTCOME


def test_a_transaction_that_is_cut_off_at_its_end_is_told(
    own_postgres: PostgresServer, ledger: Ledger
) -> None:
    """Nobody knows whether it is done: it is not begun again, and whoever repeats the command will see."""
    begun = []

    def last() -> None:
        begun.append("now")
        ledger.settle(OUTCOME)
        own_postgres.restart()

    with pytest.raises(StoreError, match="does not answer"):
        ledger.together(last)
    assert begun == ["now"]
    assert ledger.outcome("a") is None


# ---- opening ----

OPENINGS: dict[str, Callable[[Place], Any]] = {"store": QMStore, "ledger": Ledger}


@pytest.fixture(params=OPENINGS.values(), ids=OPENINGS.keys())
def open_one(request: pytest.FixtureRequest) -> Callable[[Place], Any]:
    """Open a store or a ledger."""
    opening: Callable[[Place], Any] = request.param
    return opening


def test_an_opening_waits_for_the_server(
    own_postgres: PostgresServer, its_place: Place, open_one: Callable[[Place], Any]
) -> None:
    """The server is away before a new one is opened, and again before it is opened for the second time."""
    for _ in range(2):
        own_postgres.restart()
        with contextlib.closing(open_one(its_place)) as opened:
            assert opened is not None


def test_an_opening_that_waited_in_vain_is_a_sentence(
    own_postgres: PostgresServer,
    its_place: Place,
    open_one: Callable[[Place], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one of every write, for a server that stays away and for names that nobody resolves now."""
    monkeypatch.setattr("pipeline.database.BUSY_SECONDS", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", resolver(socket.EAI_AGAIN))
    for url in (its_place.url.rpartition(":")[0] + ":9/x", "postgresql+psycopg://nowhere.invalid/x"):
        with pytest.raises(ParmflowError, match=r"does not answer \(.*\); repeat when it does$"):
            open_one(Place(url=url, schema="s"))


def test_a_host_of_no_such_name_is_told_at_once(
    open_one: Callable[[Place], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip of the pen in the address is not waited for."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver(socket.EAI_NONAME))
    monkeypatch.setattr("pipeline.database.time.sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(SettingsError, match=r"no such host \(.*nowhere.*\); check the host in the address$"):
        open_one(Place(url="postgresql+psycopg://nowhere.invalid/x", schema="s"))


def resolver(code: int) -> Callable[..., Any]:
    """A name server that answers so, numbers excepted; what glibc says of it is said here too."""
    said = {socket.EAI_AGAIN: "Temporary failure in name resolution"}
    said[socket.EAI_NONAME] = "Name or service not known"
    resolve = socket.getaddrinfo

    def answer(host: str, *others: Any, **named: Any) -> Any:
        if host == "nowhere.invalid":
            raise socket.gaierror(code, said[code])
        return resolve(host, *others, **named)

    return answer


REFUSALS = {
    "wrong password": (lambda url: url, "guess", "password in ~/.pgpass"),
    "no password": (lambda url: url, None, "password into ~/.pgpass"),
    "unknown database": (lambda url: url.replace("/postgres", "/nosuch"), "right", "createdb"),
    "unknown user": (lambda url: url.replace("guarded@", "nobody@"), None, "check the user"),
}


@pytest.fixture(scope="module")
def guarded(own_postgres: PostgresServer) -> str:
    """Address of a database for a user who needs the password `right`."""
    return own_postgres.ask_for_password("guarded", "right")


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_told_at_once_and_says_what_to_change(
    own_postgres: PostgresServer,
    guarded: str,
    case: str,
    open_one: Callable[[Place], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A server that answers is not waited for, and no password is in the sentence."""
    own_postgres.wait_until_back()
    change, password, advice = REFUSALS[case]
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    if password:
        monkeypatch.setenv("PGPASSWORD", password)
    monkeypatch.setattr("pipeline.database.time.sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(SettingsError, match="refuses us") as caught:
        open_one(Place(url=change(guarded), schema="s"))
    message = str(caught.value)
    assert advice in message
    assert "\n" not in message
    assert "guess" not in message
    assert "right" not in message


def test_the_right_password_opens(
    own_postgres: PostgresServer,
    guarded: str,
    open_one: Callable[[Place], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the refusals above asked for is enough."""
    own_postgres.wait_until_back()
    monkeypatch.setenv("PGPASSWORD", "right")
    with contextlib.closing(open_one(Place(url=guarded, schema="s"))) as opened:
        assert opened is not None
