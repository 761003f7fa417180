"""`parmflow doctor`: a wrong version, a full disk or a silent scheduler does not pass."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
from typer.testing import CliRunner

from flows import doctor
from flows.cli import app
from flows.doctor import Finding, Report, check_scheduler, check_space, check_versions
from pipeline.qm.door import EngineInfo
from pipeline.settings import ServerSettings


@pytest.mark.parametrize(
    ("requirement", "installed", "state"),
    [
        ("SQLAlchemy<2.1,>=2.0.50", "2.0.58", "ok"),
        ("SQLAlchemy<2.1,>=2.0.50", "2.1.0", "wrong"),
        ("fastapi<0.151,>=0.139", "0.151.2", "wrong"),
        ("torch==2.13.0", "2.13.0+cpu", "ok"),
        ("dgl==1.1.3", None, "wrong"),
    ],
)
def test_versions_are_held_to_the_pins(requirement, installed, state):
    """The bounds known to matter: SQLAlchemy 2.1 silences cron, fastapi 0.151 stops the server."""

    def version_of(name):
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    *_, finding = check_versions([requirement], version_of)
    assert finding.state == state
    if state == "wrong":
        assert requirement.split("=")[0].split("<")[0] in finding.detail


def test_development_requirements_are_not_needed():
    """A requirement of an extra is not asked for."""
    findings = check_versions(["pytest>=8; extra == 'dev'"], {"pytest": "0"}.get)
    assert [finding.name for finding in findings] == ["python"]


def test_a_scheduler_that_is_set_must_answer():
    """Port 9 of loopback answers nobody: wrong. No address: a note, since none is needed."""
    assert check_scheduler("http://127.0.0.1:9/api").state == "wrong"
    assert check_scheduler("ftp://somewhere").state == "wrong"
    assert check_scheduler("").state == "note"


def test_space_is_looked_for_where_the_folder_will_be(tmp_path):
    """A folder not made yet is judged by the nearest one above; one below a file is wrong."""
    assert check_space("store", tmp_path / "a" / "b").state == "ok"
    (tmp_path / "file").write_text("")
    assert check_space("store", tmp_path / "file" / "store").state == "wrong"
    assert not (tmp_path / "a").exists()


def test_one_thing_wrong_makes_the_report_unwell():
    """Notes do not, a wrong finding does."""
    note = Finding(name="a", state="note", detail="")
    wrong = Finding(name="b", state="wrong", detail="")
    assert Report(findings=(note,)).is_well
    assert not Report(findings=(note, wrong)).is_well


def test_the_command_tells_programs_and_people_the_same(monkeypatch):
    """`doctor --json` lists every finding that the text shows, and the engines among them."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    as_text = CliRunner().invoke(app, ["doctor"])
    findings = json.loads(as_json.stdout)["findings"]
    assert as_json.exit_code == as_text.exit_code
    assert len(as_text.stdout.strip().splitlines()) == len(findings)
    assert {"engine pyscf", "engine tblite", "engine psi4", "program gmx_d", "program lmp", "torch"} <= {
        finding["name"] for finding in findings
    }


def test_an_engine_that_could_be_faster_is_a_note(monkeypatch, tmp_path):
    """What the engine's door hints at stands in its line, and is nothing wrong."""
    slow = EngineInfo(name="psi4", version="1.3.2", levels=("hf",), hint="install a fast library")
    fast = EngineInfo(name="mopac", version="22.0", levels=("am1",))
    monkeypatch.setattr(doctor, "available_engines", lambda: (slow, fast))
    report = doctor.examine(str(tmp_path), ServerSettings())
    lines = {finding.name: finding for finding in report.findings}
    assert lines["engine psi4"].state == "note"
    assert lines["engine psi4"].detail == "1.3.2: hf; install a fast library"
    assert (lines["engine mopac"].state, lines["engine mopac"].detail) == ("ok", "22.0: am1")
