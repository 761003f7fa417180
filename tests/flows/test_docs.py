"""What README and docs/ tell people to type is what the command takes."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from flows.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_commands():
    """The lines of the shell blocks that call `parmflow`, also those after "or:" in a comment."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            yield from re.findall(r"(?:^|or: )parmflow (.*)", block, re.MULTILINE)


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_that_is_shown_can_be_given(line):
    """Its options and arguments are taken as they stand; nothing is run."""
    command, words = get_command(app), shlex.split(line, comments=True)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    with command.make_context(command.name, words) as context:
        assert context.args == []


def test_every_command_is_shown():
    """Each command of `parmflow --help` stands in README or docs/ as one types it."""
    pages = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in get_command(app).commands if f"parmflow {name}" not in pages] == []


def test_every_test_that_is_named_is_there():
    """docs/hazards.md: no hazard without a test, and each one that is named is a test of this suite."""
    rows = re.findall(r"^\| (?!hazard|-)(.*) \|$", (ROOT / "docs" / "hazards.md").read_text(), re.MULTILINE)
    named = [re.findall(r"`(test_\w+)`", row.split("|")[-1]) for row in rows]
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert all(named)
    assert {name for row in named for name in row} - there == set()


def test_paths_that_are_named_are_there():
    """The targets of the links of README and docs/ that lead into the repository."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
