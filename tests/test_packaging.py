"""The pins say one thing wherever they stand."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from shutil import which

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def locked() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {_normal(name): version for name, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_tested_set_satisfies_every_requirement(requirement):
    """constraints.txt has a version for each dependency, inside pyproject's bounds."""
    assert requirement.specifier.contains(locked()[_normal(requirement.name)])


@pytest.mark.parametrize("file", ["environment.yml", "Makefile"])
def test_exact_versions_elsewhere_are_those_of_the_tested_set(file):
    """Every `name==version` in environment.yml and the Makefile is the one of constraints.txt."""
    pins = re.findall(r"([A-Za-z][\w.-]*)==([\w.]+)", (ROOT / file).read_text())
    assert pins
    assert dict(pins) == {name: locked()[_normal(name)] for name, _ in pins}


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages by name, in order; each a list of instructions and what follows them."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            lines = found[name or "last"] = list(found.get(base, []))
        elif word:
            lines.append((word, rest.strip()))
    return found


def default_stage() -> list[tuple[str, str]]:
    """What `docker build .` makes: the last stage, with the stages that it goes on from."""
    return list(stages().values())[-1]


def told(lines: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for this, rest in lines if this == word]


def dry_run(words: list[str]) -> str:
    """The commands that make would run."""
    command = ["make", "--dry-run", "--always-make", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_container_has_the_tested_set():
    """What is copied into the image was installed by the Makefile, from constraints.txt, as a copy."""
    (copied,) = [rest for rest in told(default_stage(), "COPY") if rest.startswith("--from")]
    stage, folder, target = copied.removeprefix("--from=").split()
    (run,) = [run for run in told(stages()[stage], "RUN") if "make packages" in run]
    installs = [
        shlex.split(line)
        for line in dry_run(shlex.split(run[run.rindex("make ") :])[1:]).splitlines()
        if "pip install" in line
    ]
    assert folder == target
    assert all(words[0] == f"{folder}/bin/python" for words in installs)
    assert f"torch=={locked()['torch']}" in installs[0]
    assert installs[1][installs[1].index("--constraint") + 1] == "constraints.txt"
    assert "--editable" not in installs[1]
    assert re.fullmatch(r"\.\[(?!.*dev).*\]", installs[1][-1])
    assert f"PATH={folder}/bin:" in " ".join(told(default_stage(), "ENV"))


def test_the_container_has_the_programs_of_make_env():
    """Its optional programs are those of `make env`, but for PostgreSQL's server: tests use it."""
    (run,) = [run for run in told(default_stage(), "RUN") if "system-packages" in run]
    programs = re.search(r"system-packages --must ([\w -]+)", run)[1].split()
    ours = next(line for line in dry_run(["system"]).splitlines() if "system-packages" in line).split()[1:]
    assert sorted([*programs, "postgresql"]) == sorted(ours)


def test_the_container_names_no_versions_of_its_own():
    """The Dockerfile pins nothing but Debian's and Python's series: the versions stand in constraints.txt."""
    lines = [line for stage in stages().values() for line in stage]
    assert lines
    assert [rest for word, rest in lines if word != "ARG" and re.search(r"[=<>~]=|[\w-]=\d+\.", rest)] == []


def test_the_container_runs_as_nobody_special():
    """It ends as a user without rights, whose first word is our command."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    lines = default_stage()
    assert told(lines, "USER")[-1] not in {"root", "0", "0:0"}
    assert any(f"useradd {told(lines, 'USER')[-1]}" in run for run in told(lines, "RUN"))
    assert json.loads(told(lines, "ENTRYPOINT")[-1])[-1] in scripts


@pytest.mark.parametrize(
    ("name", "unit"), [("prefect", "prefect-server.service"), ("parmflow", "parmflow.service")]
)
def test_the_service_in_containers_is_that_of_the_systemd_units(name, unit):
    """Each container runs the command of its unit, in the same environment."""
    service = yaml.safe_load((ROOT / "docs" / "compose.yaml").read_text())["services"][name]
    text = (ROOT / "docs" / unit).read_text()
    start = re.search(r"^ExecStart=.*/(\S+) (.*)$", text, re.MULTILINE)
    entrypoint = service.get("entrypoint") or json.loads(told(default_stage(), "ENTRYPOINT")[-1])
    assert [entrypoint[-1], *service["command"]] == [start[1], *start[2].split()]
    assert service["environment"] == dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))


def test_an_optional_program_may_be_missing_unless_it_must_be_there(tmp_path):
    """`make env` goes on without psi4 and says so; the container's build ends there."""
    for name in ("bash", "id"):
        (tmp_path / name).symlink_to(which(name))
    for words, code in ((["nothing"], 0), (["--must", "nothing"], 1), (["--must", "bash"], 0)):
        command = [ROOT / ".ci" / "system-packages", *words]
        ended = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
        assert ended.returncode == code, words
        assert ("not found: nothing" in ended.stdout) == ("nothing" in words)


def test_what_is_not_python_is_installed_too():
    """Every table, configuration and weight in the packages matches the globs of package-data."""
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    there, installed = set(), set()
    for package in ("pipeline", "models", "flows"):
        files = (path for path in (ROOT / package).rglob("*") if path.is_file())
        there |= {path for path in files if path.suffix not in {".py", ".pyc"}}
        installed |= {path for glob in globs.get(package, []) for path in (ROOT / package).glob(glob)}
    assert there
    assert there - installed == set()


def test_required_shape():
    """The top level has the shape that users were promised."""
    for name in ("pipeline", "flows", "models", "data", "tests"):
        assert (ROOT / name).is_dir(), name
    files = "pyproject.toml Dockerfile README.md Makefile CHANGELOG.md LICENSE CITATION.cff environment.yml"
    for name in files.split():
        assert (ROOT / name).is_file(), name
