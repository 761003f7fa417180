"""The pins say one thing wherever they stand."""

import re
import tomllib
from pathlib import Path

import pytest
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


def test_the_container_is_built_from_the_environment_file():
    """The Dockerfile takes its packages from environment.yml and names no versions of its own."""
    text = (ROOT / "Dockerfile").read_text()
    assert "--file environment.yml" in text
    assert "==" not in text
    assert text.count("FROM ") == 2


def test_required_shape():
    """The top level has the shape that users were promised."""
    for name in ("pipeline", "flows", "models", "data", "tests"):
        assert (ROOT / name).is_dir(), name
    files = "pyproject.toml Dockerfile README.md Makefile CHANGELOG.md LICENSE CITATION.cff environment.yml"
    for name in files.split():
        assert (ROOT / name).is_file(), name
