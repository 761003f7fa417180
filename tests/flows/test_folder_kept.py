"""What is in an output folder stays there when a run is refused, kept out, or stopped by a full disk."""

import contextlib
import errno
import os
import sqlite3
import tempfile

import pytest
from typer.testing import CliRunner

from flows.batch import held, locked
from flows.cli import app
from pipeline.errors import OutputFolderError, SettingsError
from pipeline.run_folder import STATE_FOLDER


def parmflow(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files_in(folder):
    """Every file but those of the ledger and its lock, with its bytes."""
    paths = (path for path in folder.rglob("*") if path.is_file() and STATE_FOLDER not in path.parts)
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_a_full_scratch_disk_in_a_first_run_stops_it_and_the_same_command_goes_on(
    tmp_path, library, model_folder, monkeypatch
):
    """No room after some jobs: exit 1 with the reason, what is delivered stays, no ligand is to blame."""
    out, make, n_made = tmp_path / "out", tempfile.mkdtemp, 0

    def make_some(*args, **kwargs):
        nonlocal n_made
        n_made += 1
        if n_made > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return make(*args, **kwargs)

    command = ("assign", library, "--out", out, "--model", model_folder, "--jobs", "1")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.process.child.tempfile.mkdtemp", make_some)
        stopped = parmflow(*command)
    assert stopped.exit_code == 1, stopped.output
    assert "No space left on device; free space and run again" in stopped.stderr
    with sqlite3.connect(out / STATE_FOLDER / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT COUNT(*) FROM outcomes WHERE kind = 'lost'").fetchone() == (0,)
        n_before = ledger.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0]
        # Files of a ligand that was not settled yet are written again.
        settled = [row[0] for row in ledger.execute("SELECT folder FROM outcomes WHERE status = 'ok'")]
    files = [out / folder / "parameters.json" for folder in settled]
    delivered = {path: path.stat().st_mtime_ns for path in files}
    assert delivered
    again = parmflow(*command)
    assert again.exit_code == 3, again.output
    assert all(path.stat().st_mtime_ns == written for path, written in delivered.items())
    assert "3 of 4" in again.stdout
    assert f"{n_before} of 4 records are done already" in again.stderr


def test_a_refused_refinement_leaves_the_results_of_before(tmp_path, library, model_folder, fast):
    """`assign`, then `refine` into the same folder with too small a budget: exit 2 and not a file changed.

    How far the way to its cost is gone is shown.
    """
    out = tmp_path / "out"
    assigned = parmflow("assign", library, "--out", out, "--model", model_folder)
    before, shown = files_in(out), parmflow("show", out).stdout
    assert len([path for path in before if path.name == "parameters.json"]) == 3
    result = parmflow(
        *("refine", library, "--out", out, "--model", model_folder, "--store", tmp_path / "store"),
        *("--budget", "0.001s", "--config", fast),
    )
    assert result.exit_code == 2, result.output
    assert "more than the budget" in result.stderr
    assert "standardise (for the cost): 4 of 4" in result.stderr
    assert files_in(out) == before
    assert parmflow("show", out).stdout == shown
    assert parmflow("assign", library, "--out", out, "--model", model_folder).stdout == assigned.stdout


def test_a_run_that_is_kept_out_removes_nothing(tmp_path):
    """Another run makes the folder after we looked for it, and is at work there: it keeps everything."""
    folder = tmp_path / "out"
    with contextlib.ExitStack() as other:

        @contextlib.contextmanager
        def doors():
            (folder / STATE_FOLDER).mkdir(parents=True)
            (folder / "run.json").write_text("{}")
            other.enter_context(locked(folder))
            yield

        with pytest.raises(OutputFolderError, match="another parmflow"), held(folder, doors()):
            pytest.fail("two runs are in one folder")
        assert (folder / "run.json").is_file()


@pytest.mark.parametrize("was_there", [False, True])
def test_a_request_refused_behind_the_doors_leaves_no_new_folder(tmp_path, was_there):
    """A new folder goes with its request; one that was there before stays."""
    folder = tmp_path / "out"
    if was_there:
        folder.mkdir()

    @contextlib.contextmanager
    def doors():
        (folder / STATE_FOLDER).mkdir(parents=True)
        yield

    with pytest.raises(SettingsError), held(folder, doors()):
        raise SettingsError("more than the budget")
    assert folder.exists() == was_there
