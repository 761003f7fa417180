"""Other programs: their output, their refusal, and an end to everything they started."""

import os
import time
from pathlib import Path

import pytest

from pipeline.errors import ChildError, VerificationError
from pipeline.process.program import is_installed, refusal_is_a_difference, run_program


def test_output_and_answers(tmp_path):
    """Standard input goes in; both output streams come back; the folder is the working folder."""
    output = run_program(["sh", "-c", "cat; echo error >&2; pwd"], tmp_path, seconds=10, answers="in\n")
    assert output.splitlines() == ["in", "error", str(tmp_path)]


def test_a_refusal_quotes_the_end_of_the_output(tmp_path):
    """A status other than zero is no crash: trying again does not help."""
    with pytest.raises(ChildError, match=r"status 3.*(?s:.*)no such atom") as caught:
        run_program(["sh", "-c", "echo no such atom; exit 3"], tmp_path, seconds=10)
    assert (caught.value.kind, caught.value.retryable) == ("status", False)


def test_a_signal_is_a_crash(tmp_path):
    """A program that dies by a signal is named with it, and may be tried again."""
    with pytest.raises(ChildError, match="SIGSEGV") as caught:
        run_program(["sh", "-c", "kill -SEGV $$"], tmp_path, seconds=10)
    assert (caught.value.kind, caught.value.retryable) == ("crash", True)


def test_a_missing_program_says_so(tmp_path):
    """Not a crash, not a difference."""
    assert not is_installed("no-such-program")
    with pytest.raises(ChildError, match="not installed") as caught:
        run_program(["no-such-program"], tmp_path, seconds=10)
    assert caught.value.kind == "missing"


@pytest.mark.parametrize(("mode", "reason"), [(0o644, "Permission denied"), (0o755, "Exec format error")])
def test_what_cannot_be_executed_is_as_good_as_missing(tmp_path, mode, reason):
    """A script without the right to run, and one without its first line: one sentence."""
    script = tmp_path / "tell"
    script.write_text("echo hello\n")
    script.chmod(mode)
    with pytest.raises(ChildError, match=f"tell cannot be run: {reason}") as caught:
        run_program([str(script)], tmp_path, seconds=10)
    assert (caught.value.kind, caught.value.retryable) == ("missing", False)


def _is_alive(pid: int) -> bool:
    """Running; a zombie that nobody has collected yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_time_limit_ends_the_whole_group(tmp_path):
    """What the program started in the background is gone too."""
    script = "sleep 60 & echo $! > pid; wait"
    with pytest.raises(ChildError, match=r"limit of 0\.5 s") as caught:
        run_program(["sh", "-c", script], tmp_path, seconds=0.5)
    assert caught.value.kind == "time"
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _is_alive(pid):
            break
        time.sleep(0.05)
    assert not _is_alive(pid)


def test_the_callers_environment_is_left_alone(tmp_path):
    """The program sees one thread; our own environment does not change."""
    before = dict(os.environ)
    output = run_program(["sh", "-c", "echo $OMP_NUM_THREADS"], tmp_path, seconds=10)
    assert output.strip() == "1"
    assert dict(os.environ) == before


def test_only_a_refusal_counts_against_the_file(tmp_path):
    """A program that says no about a file is a failed proof; one that is missing is not."""
    with pytest.raises(VerificationError, match=r"ligand\.top: sh ended with status 1"):  # noqa: SIM117
        with refusal_is_a_difference("ligand.top"):
            run_program(["sh", "-c", "exit 1"], tmp_path, seconds=10)
    with pytest.raises(ChildError, match="not installed"):  # noqa: SIM117
        with refusal_is_a_difference("ligand.top"):
            run_program(["no-such-program"], tmp_path, seconds=10)
