"""The Prefect flow: the same files as the plain command, seen in Prefect."""

import contextlib
import platform
import re
import shutil
import sqlite3
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules

import pytest
from prefect import Flow, Task, flow
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_DEFAULT_SERIALIZER,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.states import Running
from prefect.testing.utilities import prefect_test_harness

import flows
from benchmarks.prefect_events import Counted, count_events
from flows import batch, registry
from flows.batch import locked
from flows.campaign_flow import CHEAP_SHARD, FLOW_NAME, campaign_flow, server_note, shards
from flows.progress import Lines
from flows.reconcile import HOST_LABEL, reconcile
from flows.request import Request, settings_from, store_place
from flows.service import build_service
from flows.service_flow import service_flow
from pipeline.errors import SettingsError, StoreError
from pipeline.settings import Settings
from tests.training_tables import write_training_tables

_SQLITE_PAGE = 4096


@pytest.fixture(scope="module", autouse=True)
def harness():
    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture
def request_for(tmp_path, library, model_folder, fast):
    def make(command, out):
        return Request(
            command=command,
            libraries=(library,),
            out=tmp_path / out,
            store=str(tmp_path / "store"),
            settings=settings_from(fast, {"model": str(model_folder)}),
        )

    return make


def parameters_in(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("ligands/*/*/parameters.json")}


@pytest.mark.parametrize("command", ["assign", "refine"])
def test_the_flow_delivers_what_the_command_delivers(request_for, command):
    """The same request in Prefect and plain: parameters byte-equal, counts as expected; again the same."""
    counts = campaign_flow(request_for(command, "in-prefect"))
    assert counts == {"n_records": 4, "n_ok": 3, "n_failed": 1}
    plain = request_for(command, "plain")
    batch.run(plain, Lines([].append))
    in_prefect = request_for(command, "in-prefect").out
    assert parameters_in(in_prefect) == parameters_in(plain.out)
    assert len(parameters_in(plain.out)) == 3
    for name in ("outcomes.csv", "run.json"):
        assert (in_prefect / name).is_file()
    again = campaign_flow(request_for(command, "in-prefect"))
    assert again == counts


def test_the_flow_shows_progress_and_outcomes_and_carries_no_molecule(request_for):
    """Artifacts: progress at 100 and the outcome table; no task run's parameters hold a structure."""
    campaign_flow(request_for("assign", "out"))
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(limit=200)
        runs = client.read_task_runs(limit=200)
    progress = [a for a in artifacts if a.key == "progress"]
    tables = [a for a in artifacts if a.key == "outcomes"]
    assert max(float(a.data) for a in progress) == 100
    assert any("formaldehyde" in str(table.data) for table in tables)
    assert runs
    assert not any("C=O" in run.model_dump_json() for run in runs)


def test_no_result_is_stored_even_where_prefect_is_told_to(request_for, tmp_path):
    """Prefect set to keep every result as a pickle, results in a folder of its own: nothing gets there."""
    kept = tmp_path / "results"
    wishes = {
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        PREFECT_RESULTS_DEFAULT_SERIALIZER: "pickle",
        PREFECT_LOCAL_STORAGE_PATH: kept,
    }
    with temporary_settings(wishes):
        flow(lambda: 1, name="of others")()
        (of_others,) = kept.rglob("*")
        of_others.unlink()
        campaign_flow(request_for("refine", "out"))
    assert list(kept.rglob("*")) == []


def test_results_would_be_json_and_no_task_remembers_one():
    """Every flow and task of the package, whatever Prefect's settings are: JSON, not kept, not cached."""
    modules = [import_module(f"flows.{found.name}") for found in iter_modules(flows.__path__)]
    ours = {id(thing): thing for module in modules for thing in vars(module).values()}.values()
    found = [thing for thing in ours if isinstance(thing, Flow | Task)]
    assert {campaign_flow, service_flow} < set(found)
    assert {(thing.name, thing.persist_result, thing.result_serializer) for thing in found} == {
        (thing.name, False, "json") for thing in found
    }
    assert all(thing.cache_policy == NO_CACHE for thing in found if isinstance(thing, Task))


@pytest.mark.timeout(900)
def test_prefect_records_as_many_tasks_as_ran(tmp_path, model_folder):
    """100 records in tasks of their own; with 3,000, which takes minutes: benchmarks/prefect_events.py."""
    counted = count_events(tmp_path, 100, str(model_folder))
    assert counted == Counted(n_ran=102, n_recorded=102, n_outcomes=100)


def test_an_inbox_takes_every_file_once_and_a_bad_one_stops_none(tmp_path, model_folder, fast):
    """A library, a note and a hidden file: the library is run, the note is a problem, the rest is left.

    The next look takes nothing but a new content: neither the same file again nor its copy. A file that
    cannot be read, and a folder that was emptied of its run, are problems of their own.
    """
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "b.smi").write_text("CO methanol\n")
    (inbox / "a-note.txt").write_text("please run b.smi")
    (inbox / ".b.smi.part").write_text("C")
    settings = settings_from(fast, {"model": str(model_folder), "export.formats": ("openmm",)})
    values = {"inbox": "inbox", "out": "out", "quiet_seconds": 0.0}
    service = build_service(values, settings, tmp_path)
    endings = service_flow(service, "inbox")
    assert endings["b.smi"] == {"n_records": 1, "n_ok": 1, "n_failed": 0}
    assert "unknown form" in endings["a-note.txt"]["problem"]
    (folder,) = (tmp_path / "out").glob("b-smi-*")
    (inbox / "copy.smi").write_text("CO methanol\n")
    (inbox / "b.smi").write_text("CCO ethanol\n")
    again = service_flow(service, "inbox")
    assert set(again) == {"a-note.txt", "b.smi"}
    assert len(list((tmp_path / "out").glob("*smi-*"))) == 2
    assert folder.is_dir()
    shutil.rmtree(folder / ".parmflow")
    (inbox / "a-unreadable.smi").symlink_to("/proc/self/mem")  # for root too
    (inbox / "d.smi").write_text("CC ethane\n")
    last = service_flow(service, "inbox")
    assert set(last) == {"a-note.txt", "a-unreadable.smi", "copy.smi", "d.smi"}
    assert "cannot be read" in last["a-unreadable.smi"]["problem"]
    assert "no parmflow run" in last["copy.smi"]["problem"]
    assert last["d.smi"]["n_ok"] == 1


def test_a_broken_ledger_fails_the_job_after_the_other_libraries(tmp_path, model_folder, fast):
    """The first library's ledger is overwritten: the second is run, and the job names the ledger."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.smi").write_text("CO methanol\n")
    settings = settings_from(fast, {"model": str(model_folder), "export.formats": ("openmm",)})
    values = {"inbox": "inbox", "out": "out", "quiet_seconds": 0.0}
    service = build_service(values, settings, tmp_path)
    assert set(service_flow(service, "inbox")) == {"a.smi"}
    (folder,) = (tmp_path / "out").glob("a-smi-*")
    ledger = folder / ".parmflow" / "ledger.sqlite"
    with ledger.open("r+b") as file:
        file.seek(_SQLITE_PAGE)
        file.write(b"\xff" * (ledger.stat().st_size - _SQLITE_PAGE))
    (tmp_path / "inbox" / "b.smi").write_text("CC ethane\n")
    with pytest.raises(StoreError, match=re.escape(str(ledger))):
        service_flow(service, "inbox")
    (folder,) = (tmp_path / "out").glob("b-smi-*")
    assert (folder / "outcomes.csv").is_file()


def test_refinement_and_verification_run_as_jobs_of_the_service(tmp_path, model_folder, fast):
    """refine delivers, fills the store and is not done twice; verify reads every result; a damaged one fails
    its run.
    """
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "b.smi").write_text("CO methanol\n")
    settings = settings_from(fast, {"model": str(model_folder), "export.formats": ("openmm",)})
    values = {
        "inbox": "inbox",
        "out": "out",
        "store": "store",
        "quiet_seconds": 0.0,
        "refine": {"budget": "1h"},
        "verify": {},
    }
    service = build_service(values, settings, tmp_path)
    assert service_flow(service, "refine") == {"b.smi": {"n_records": 1, "n_ok": 1, "n_failed": 0}}
    assert service_flow(service, "refine") == {}
    n_results = service_flow(service, "verify")["n_results"]
    assert n_results > 0
    with contextlib.closing(sqlite3.connect(store_place(service.qm_store).path)) as store, store:
        store.execute("DROP TRIGGER results_stay")
        store.execute(
            "UPDATE results SET energy = energy + 1 WHERE number = (SELECT MIN(number) FROM results)"
        )
    with pytest.raises(StoreError, match=f"1 of {n_results} results are damaged"):
        service_flow(service, "verify")


def test_retraining_runs_as_a_job_of_the_service(tmp_path, build_ligand):
    """Trained for a few steps and scored beside the shipped model: kept, and promoted if it has less error.

    The second run trains nothing anew and gives the same verdict on the same model.
    """
    write_training_tables(tmp_path, build_ligand)
    (tmp_path / "inbox").mkdir()
    job = {"config": "tiny.toml", "data": "data", "evaluation": "data/qm/dev.parquet"}
    service = build_service({"inbox": "inbox", "out": "out", "retrain": job}, Settings(), tmp_path)
    verdict = service_flow(service, "retrain")
    assert verdict["promoted"] == (verdict["error"] < verdict["error_in_use"])
    assert registry.names(service.registry_folder) == [verdict["name"]]
    promoted = service.registry_folder / verdict["name"] if verdict["promoted"] else None
    assert registry.current(service.registry_folder) == promoted
    again = service_flow(service, "retrain")
    assert (again["name"], again["error"]) == (verdict["name"], verdict["error"])


def test_orphans_get_the_state_they_ended_in_and_a_live_run_is_left(request_for, monkeypatch):
    """RUNNING flow runs: the folder of one is not there, that of one is done, of one emptied, of one locked;
    one's lock may not be read, one is on another machine, one nobody knows where.
    """
    monkeypatch.setattr("flows.reconcile.YOUNG_SECONDS", 0.0)
    names = ("dead", "done", "emptied", "alive", "hidden", "elsewhere", "nowhere")
    requests = {name: request_for("assign", name) for name in names}
    for name in ("alive", "hidden"):
        (requests[name].out / ".parmflow").mkdir(parents=True)
    hidden = requests["hidden"].out / ".parmflow" / "lock"
    hidden.symlink_to(hidden)  # not to be opened, as another user's, by root either
    batch.run(requests["done"], Lines([].append))
    requests["emptied"].out.mkdir()
    (requests["emptied"].out / "outcomes.csv").touch()
    hosts = dict.fromkeys(names, platform.node()) | {"elsewhere": "node2"}
    with get_client(sync_client=True) as client:
        runs = {
            name: client.create_flow_run(
                campaign_flow, parameters={"request": request.model_dump(mode="json")}, state=Running()
            )
            for name, request in requests.items()
        }
        for name, run in runs.items():
            if name != "nowhere":
                client.update_flow_run_labels(run.id, {HOST_LABEL: hosts[name]})
        with locked(requests["alive"].out):
            told = sorted(sentence.split(":")[0] for sentence in reconcile([FLOW_NAME]))
        states = {name: client.read_flow_run(run.id).state for name, run in runs.items()}
    assert told == sorted(runs[name].name for name in ("dead", "done", "emptied"))
    assert {name: state.type.value for name, state in states.items()} == {
        "dead": "CRASHED",
        "done": "COMPLETED",
        "emptied": "CRASHED",
        **dict.fromkeys(("alive", "hidden", "elsewhere", "nowhere"), "RUNNING"),
    }
    assert "3 of 4" in states["done"].message
    assert "no parmflow run" in states["emptied"].message


@pytest.mark.parametrize("optimise_spec", [None, "fast"])
def test_a_budget_that_is_too_small_is_a_sentence_without_traceback(
    request_for, capfd, caplog, optimise_spec
):
    """A millisecond for ten calculations, or for the optimisations before them: the plain command's error,
    the same words, no traceback logged.
    """
    request = request_for("refine", "out")
    qm = request.settings.qm.model_copy(update={"budget_seconds": 0.001, "optimise_spec": optimise_spec})
    request = request.model_copy(update={"settings": request.settings.model_copy(update={"qm": qm})})
    with pytest.raises(SettingsError) as plain:
        batch.run(request.model_copy(update={"out": request.out.with_name("plain")}), Lines([].append))
    with pytest.raises(SettingsError) as in_prefect:
        campaign_flow(request)
    assert str(in_prefect.value) == str(plain.value)
    assert not request.out.exists()
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out + caplog.text
    assert [record for record in caplog.records if record.exc_info] == []


def test_without_a_server_the_note_says_how_to_keep_one():
    """With a server set there is nothing to say; without one, both ways to have one are named."""
    assert server_note() == ""
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        note = server_note()
    assert "prefect server start" in note
    assert "PREFECT_API_URL" in note


def test_shards_lose_nothing_and_keep_the_order():
    """Seven items by three: 3 + 3 + 1, joined again the same."""
    assert shards(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert shards([], 3) == []


def test_a_large_library_is_cut_into_few_tasks():
    """A million records: 400 tasks per phase, four phases stay below 2,000; all records once, in order."""
    cut = shards(range(1_000_000), CHEAP_SHARD)
    assert 4 * len(cut) < 2000
    assert list(chain.from_iterable(cut)) == list(range(1_000_000))
