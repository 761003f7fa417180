"""The command: every record a row, every mistake one sentence, every stop a state to go on from."""

import csv
import fcntl
import json
import os
import signal
import sqlite3
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from flows.request import chosen_store
from models.weights import load_model_folder, save_model


def parmflow(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(folder):
    with (folder / "outcomes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def parameters_in(folder):
    """Delivered parameters by ligand folder, as bytes."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("ligands/*/*/parameters.json")}


def test_it_tells_its_version():
    """The one of the project's own file."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    result = parmflow("--version")
    assert (result.exit_code, result.stdout) == (0, f"parmflow {project['version']}\n")


def test_assign_delivers_the_good_and_tables_all(tmp_path, library, model_folder):
    """Four records, one broken: exit 3, four rows in order, three folders with every format."""
    out = tmp_path / "out"
    result = parmflow("assign", library, "--out", out, "--model", model_folder)
    assert result.exit_code == 3, result.output
    rows = rows_of(out)
    assert [(row["record"], row["status"]) for row in rows] == [
        ("1", "ok"),
        ("2", "ok"),
        ("3", "failed"),
        ("4", "ok"),
    ]
    for row in rows:
        if row["folder"]:
            names = {path.name for path in (out / row["folder"]).iterdir()}
            assert {
                "ligand.sdf",
                "ligand.offxml",
                "ligand.prmtop",
                "openmm_system.xml",
                "check.json",
            } <= names
    run = json.loads((out / "run.json").read_text())
    assert run["model"]["name"] == "tiny"
    assert run["n_records"] == 4
    assert "3 of 4" in result.stdout


def test_all_well_is_exit_zero_and_json_is_one_document(tmp_path, model_folder):
    """One good ligand with --json: exit 0, stdout parses, only the asked-for format is written."""
    library = tmp_path / "one.smi"
    library.write_text("CO methanol\n")
    out = tmp_path / "out"
    result = parmflow(
        "assign", library, "--out", out, "--model", model_folder, "--formats", "amber", "--json"
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["n_records"], answer["n_ok"], answer["n_failed"]) == (1, 1, 0)
    names = {path.name for path in (out / answer["outcomes"][0]["folder"]).iterdir()}
    assert "ligand.prmtop" in names
    assert "ligand.offxml" not in names


def test_refine_tunes_on_its_own_qm_and_does_it_once(tmp_path, library, model_folder, fast):
    """GFN2-xTB refinement of two molecules: cost said first, fits tabled; a second run computes no QM."""
    out, store = tmp_path / "out", tmp_path / "store"
    command = ("refine", library, "--out", out, "--model", model_folder, "--store", store, "--config", fast)
    first = parmflow(*command)
    assert first.exit_code == 3, first.output
    cost, qm = first.stderr.index("10 calculations, estimated at"), first.stderr.index("qm: 10 to do")
    assert cost < qm
    with (out / "fits.csv").open(newline="") as file:
        fits = list(csv.DictReader(file))
    assert [fit["name"] for fit in fits] == ["methanol", "formaldehyde", "methanol-again"]
    for fit in fits:
        if fit["kept"] == "shipped":
            assert fit["energy_rmse_before"] == fit["energy_rmse_after"]
    before, tables = parameters_in(out), (out / "outcomes.csv").read_bytes()
    second = parmflow(*command)
    assert "qm:" not in second.stderr
    assert (parameters_in(out), (out / "outcomes.csv").read_bytes()) == (before, tables)
    elsewhere = parmflow("refine", library, "--out", tmp_path / "b", *command[4:])
    assert "nothing to compute" in elsewhere.stderr
    again = parameters_in(tmp_path / "b")
    assert {name: json.loads(text)["bonds"] for name, text in again.items()} == {
        name: json.loads(text)["bonds"] for name, text in before.items()
    }


def test_qm_fills_the_store_that_refine_then_finds_full(tmp_path, library, model_folder, where):
    """`parmflow qm` and then `refine`: the same ten results, computed once, in a folder or in PostgreSQL."""
    config = tmp_path / "settings.toml"
    config.write_text(f"model = {str(model_folder)!r}\n[qm]\nspec = 'fast'\n")
    filled = parmflow("qm", library, "--store", where, "--config", config, "--json")
    assert filled.exit_code == 3, filled.output
    answer = json.loads(filled.stdout)
    assert (answer["n_molecules"], answer["n_tasks"], answer["n_results"]) == (2, 10, 10)
    refined = parmflow("refine", library, "--out", tmp_path / "out", "--store", where, "--config", config)
    assert "nothing to compute" in refined.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["store"] == chosen_store(where)


def test_qm_spends_nothing_on_what_refine_would_refuse(tmp_path, library, model_folder, fast):
    """A model that predicts no number: `qm` fails the same records as `refine`, and neither computes QM."""
    model = load_model_folder(model_folder)
    for weight in model.valence.parameters():
        torch.nn.init.constant_(weight, float("nan"))
    save_model(model, tmp_path / "broken")
    config = tmp_path / "settings.toml"
    config.write_text(f"model = {str(tmp_path / 'broken')!r}\n[qm]\nspec = 'fast'\n")
    endings = []
    for command in (("qm",), ("refine", "--out", tmp_path / "out")):
        result = parmflow(*command, library, "--store", tmp_path / "store", "--config", config, "--json")
        assert result.exit_code == 3, result.output
        answer = json.loads(result.stdout)
        failed = answer["failed"] if command[0] == "qm" else answer["outcomes"]
        endings.append([(row["record"], row["kind"], row["message"]) for row in failed])
    assert endings[0] == endings[1]
    assert [kind for _, kind, _ in endings[0]] == ["parameters", "parameters", "unreadable", "parameters"]
    with sqlite3.connect(tmp_path / "store" / "qm.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM attempts").fetchone() == (0,)


@pytest.mark.parametrize("moment", ["qm: 3 of 10", "deliver: 1 of 3"])
def test_killed_and_started_again_ends_as_if_never_killed(
    tmp_path, library, model_folder, fast, moment, command_line, start
):
    """kill -9 during QM or delivery: the same command ends byte-equal to a run that nobody killed."""
    store, whole_store = tmp_path / "store", tmp_path / "whole-store"
    common = ("--model", model_folder, "--config", fast)
    out = tmp_path / "out"
    command = ("refine", library, "--out", out, "--store", store, *common)
    with start(command_line(*command), tmp_path / "log") as running:
        running.wait_until_it_says(moment)
        os.killpg(running.process.pid, signal.SIGKILL)
    assert not (out / "outcomes.csv").exists()
    unfinished = parmflow("show", out)
    assert unfinished.exit_code == 0
    resumed = parmflow(*command)
    assert resumed.exit_code == 3, resumed.output
    whole = tmp_path / "whole"
    parmflow("refine", library, "--out", whole, "--store", whole_store, *common)
    assert parameters_in(out) == parameters_in(whole)
    assert [row["status"] for row in rows_of(out)] == ["ok", "ok", "failed", "ok"]
    assert not list(out.glob("**/*.tmp"))
    with sqlite3.connect(store / "qm.sqlite") as database:
        counts = database.execute(
            "SELECT COUNT(*) FROM attempts WHERE kind = 'ok' GROUP BY task_key HAVING COUNT(*) > 1"
        ).fetchall()
    assert counts == []


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    tmp_path, library, model_folder, fast, command_line, start
):
    """SIGINT in the middle of the QM: exit 130 and a sentence; then the run ends with one row per record."""
    places = ("--out", tmp_path / "out", "--store", tmp_path)
    command = ("refine", library, *places, "--model", model_folder, "--config", fast)
    with start(command_line(*command), tmp_path / "log") as running:
        running.wait_until_it_says("qm: 1 of 10")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(300) == 130
    said = running.stderr.read_text()
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert parmflow(*command).exit_code == 3
    assert len(rows_of(tmp_path / "out")) == 4


def test_names_cannot_inject_paths_formulas_or_markup(tmp_path, model_folder):
    """A name that is a path, a formula, markup or a control sequence does no harm anywhere."""
    names = ["../../etc/passwd", "=cmd|' /C calc'!A0", "[bold]x[/bold]", "\x1b[2Jwiped"]
    library = tmp_path / "names.smi"
    library.write_text("".join(f"C {name}\n" for name in names))
    out = tmp_path / "out"
    result = parmflow("assign", library, "--out", out, "--model", model_folder)
    assert result.exit_code == 0, result.output
    rows = rows_of(out)
    assert [row["name"].removeprefix("'") for row in rows] == names
    assert not rows[1]["name"].startswith("=")
    for row in rows:
        assert (out / row["folder"]).resolve().is_relative_to(out.resolve())
    assert "[bold]" in result.stdout
    assert "\x1b[2J" not in result.stdout
    assert "\x1b[2J" not in parmflow("show", out, "--record", "4").stdout


def usage_cases(tmp_path, model_folder):
    good = tmp_path / "good.smi"
    good.write_text("C methane\n")
    (tmp_path / "empty.smi").write_text("")
    (tmp_path / "unknown.toml").write_text("[qm]\nprogramme = 'psi4'\n")
    (tmp_path / "broken.toml").write_text("[qm\n")
    (tmp_path / "mismatch.toml").write_text("[qm]\nprogram = 'tblite'\n")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    model_config = tmp_path / "model.toml"
    model_config.write_text(f"model = {str(model_folder)!r}\n[qm]\nspec = 'fast'\n")
    out = tmp_path / "out"
    return {
        "missing library": (("assign", tmp_path / "none.smi", "--out", out), "no such file"),
        "missing library, in Prefect": (
            ("assign", tmp_path / "none.smi", "--out", out, "--prefect"),
            "no such file",
        ),
        "folder with other things, in Prefect": (
            ("assign", good, "--out", tmp_path / "thesis", "--prefect"),
            "not empty",
        ),
        "unknown form": (("assign", tmp_path / "file", "--out", out), "unknown form"),
        "folder for a library": (
            ("assign", tmp_path / "thesis", "--out", out),
            "give the library files in it",
        ),
        "folder without model": (
            ("assign", good, "--out", out, "--model", tmp_path / "thesis"),
            "no manifest.json",
        ),
        "empty library": (("assign", tmp_path / "empty.smi", "--out", out), "no record"),
        "unknown key": (("assign", good, "--out", out, "--config", tmp_path / "unknown.toml"), "programme"),
        "broken config": (("assign", good, "--out", out, "--config", tmp_path / "broken.toml"), "TOML"),
        "missing config": (("assign", good, "--out", out, "--config", tmp_path / "x.toml"), "x.toml"),
        "unknown format": (("assign", good, "--out", out, "--formats", "pdf"), "formats"),
        "unknown check": (("assign", good, "--out", out, "--check", "some"), "export.check"),
        "unknown spec": (("refine", good, "--out", out, "--spec", "ccsdt"), "qm.spec"),
        "program without level": (
            ("refine", good, "--out", out, "--config", tmp_path / "mismatch.toml"),
            "tblite",
        ),
        "bad budget": (("refine", good, "--out", out, "--budget", "soon"), "duration"),
        "unknown model": (("assign", good, "--out", out, "--model", "no-such-model"), "no-such-model"),
        "folder below a file": (("assign", good, "--out", tmp_path / "file" / "out"), "cannot be written"),
        "store that is a file": (("refine", good, "--out", out, "--store", tmp_path / "file"), "--store"),
        "store below a file": (("refine", good, "--out", out, "--store", tmp_path / "file" / "s"), "--store"),
        "store of qm that is a file": (
            ("qm", good, "--store", tmp_path / "file", "--config", model_config),
            "--store",
        ),
        "folder of refine below a file": (
            ("refine", good, "--out", tmp_path / "file" / "x"),
            "cannot be written",
        ),
        "folder with other things": (("assign", good, "--out", tmp_path / "thesis"), "not empty"),
        "two schedulers": (("assign", good, "--out", out, "--dask", "tcp://h:1", "--prefect"), "one of them"),
        "service with options of an inbox": (
            ("serve", "--config", model_config, "--store", tmp_path / "s", "--cron", "* * * * *"),
            "--cron, --store: only with INBOX",
        ),
        "show nothing": (("show", out), "no parmflow run"),
        "retry nothing": (("retry", out), "no parmflow run"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing library",
        "missing library, in Prefect",
        "folder with other things, in Prefect",
        "unknown form",
        "folder for a library",
        "folder without model",
        "empty library",
        "unknown check",
        "unknown key",
        "broken config",
        "missing config",
        "unknown format",
        "unknown spec",
        "program without level",
        "bad budget",
        "unknown model",
        "folder below a file",
        "store that is a file",
        "store below a file",
        "store of qm that is a file",
        "folder of refine below a file",
        "folder with other things",
        "two schedulers",
        "service with options of an inbox",
        "show nothing",
        "retry nothing",
    ],
)
def test_a_mistake_is_one_sentence_exit_two_and_no_folder(tmp_path, model_folder, case):
    """Each mistake names its cause on one line of stderr and leaves the disk as it was."""
    arguments, cause = usage_cases(tmp_path, model_folder)[case]
    if arguments[0] in ("assign", "refine") and "--model" not in arguments:
        arguments = (*arguments, "--model", model_folder)
    if arguments[0] == "refine" and "--store" not in arguments:
        arguments = (*arguments, "--store", tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    result = parmflow(*arguments)
    assert result.exit_code == 2, result.output
    assert cause in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [(), ("assign",), ("store", "import")])
def test_the_short_option_helps_too(command):
    """`-h` is what many type first."""
    asked = parmflow(*command, "-h")
    assert asked.exit_code == 0
    assert asked.stdout == parmflow(*command, "--help").stdout


def test_a_budget_below_the_estimate_begins_no_qm(tmp_path, library, model_folder, fast):
    """Ten calculations cannot be done in a millisecond: exit 2 with both figures, the store stays empty."""
    result = parmflow(
        *("refine", library, "--out", tmp_path / "out", "--model", model_folder),
        *("--store", tmp_path / "store", "--budget", "0.001s", "--config", fast),
    )
    assert result.exit_code == 2, result.output
    assert "more than the budget" in result.stderr
    assert not (tmp_path / "out").exists()
    with sqlite3.connect(tmp_path / "store" / "qm.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM results").fetchone() == (0,)


def test_another_run_in_the_same_folder_is_kept_out(tmp_path, library, model_folder):
    """While one run holds the folder's lock a second ends at once with a sentence."""
    out = tmp_path / "out"
    parmflow("assign", library, "--out", out, "--model", model_folder)
    with (out / ".parmflow" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = parmflow("assign", library, "--out", out, "--model", model_folder)
    assert result.exit_code == 2
    assert "another parmflow" in result.stderr


def test_other_settings_in_the_same_folder_are_named_and_computed_anew(tmp_path, library, model_folder):
    """A config that accepts fewer atoms: the difference is said, the ligand too large is now a failure."""
    out = tmp_path / "out"
    parmflow("assign", library, "--out", out, "--model", model_folder)
    config = tmp_path / "small.toml"
    config.write_text("[ligand]\nmax_atoms = 4\n")
    result = parmflow("assign", library, "--out", out, "--model", model_folder, "--config", config)
    assert "settings.ligand.max_atoms (250 -> 4)" in result.stderr
    assert [row["status"] for row in rows_of(out)] == ["failed", "ok", "failed", "failed"]
    assert len(parameters_in(out)) == 1


def test_a_ligand_out_of_time_can_be_retried(tmp_path, model_folder):
    """A limit of a millisecond on conformers: the row says `time`, and `retry` tries that record again."""
    library = tmp_path / "one.smi"
    library.write_text("CO methanol\nbad bad\n")
    config = tmp_path / "hasty.toml"
    config.write_text("[conformers]\nseconds = 0.001\n")
    out = tmp_path / "out"
    parmflow("assign", library, "--out", out, "--model", model_folder, "--config", config)
    row, _ = rows_of(out)
    assert (row["status"], row["stage"], row["kind"]) == ("failed", "conformers", "time")
    shown = parmflow("show", out, "--ligand", "methanol").stdout
    assert "status:   failed" in shown
    assert "conformers" in shown
    (in_full,) = json.loads(parmflow("show", out, "--record", "1", "--json").stdout)["records"]
    assert (in_full["name"], in_full["kind"], in_full["text"]) == ("methanol", "time", "CO")
    assert [(step["stage"], step["kind"]) for step in in_full["steps"]][-1] == ("conformers", "time")
    assert parmflow("show", out, "--ligand", "nobody").exit_code == 2
    again = parmflow("retry", out)
    assert again.exit_code == 3, again.output
    assert "1 failed records are tried again" in again.stderr
    assert "assign: 1 to do" in again.stderr
    assert [row["kind"] for row in rows_of(out)] == ["time", "unreadable"]
