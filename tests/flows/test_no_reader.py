"""Commands whose output nobody reads any more, as with `| head -1`."""

import os
import signal
import subprocess

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.request import STORE_FILE
from pipeline.store import QMStore


@pytest.fixture
def run_folder(tmp_path, library, model_folder):
    """A finished run."""
    arguments = ("assign", library, "--out", tmp_path / "out", "--model", model_folder, "--formats", "amber")
    CliRunner().invoke(app, [str(argument) for argument in arguments])
    return tmp_path / "out"


@pytest.fixture
def end_unread(command_line):
    """Run a command whose stdout, and stderr where asked, is a pipe that was closed at its other end."""

    def run(*arguments, stderr=subprocess.PIPE):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            return subprocess.run(
                command_line(*arguments),
                stdout=writer,
                stderr=writer if stderr == subprocess.STDOUT else stderr,
                stdin=subprocess.DEVNULL,
                timeout=300,
            )
        finally:
            os.close(writer)

    return run


@pytest.mark.parametrize("options", [(), ("--json",), ("--record", "1")])
def test_show_ends_without_a_word(run_folder, end_unread, options):
    """The table, the document and one record: ended by SIGPIPE as other Unix tools, nothing on stderr."""
    ended = end_unread("show", run_folder, *options)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("command", [("doctor",), ("store", "stats"), ("store", "export")])
def test_other_commands_end_so_too(tmp_path, end_unread, command):
    """What prints outside a run: the same end; the export is written."""
    with QMStore(tmp_path / STORE_FILE):
        pass
    file = tmp_path / "all.jsonl"
    arguments = (file,) if command[-1] == "export" else ()
    ended = end_unread(*command, *arguments, "--store", tmp_path)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")
    assert file.is_file() == bool(arguments)


def test_a_refusal_that_nobody_reads_is_no_traceback(tmp_path, end_unread):
    """With `2>&1 | head` the sentence of a mistake has no reader either."""
    ended = end_unread("show", tmp_path, stderr=subprocess.STDOUT)
    assert ended.returncode == -signal.SIGPIPE
