"""Options and config files become settings; what is wrong with them is said."""

from pathlib import Path

import pytest

from flows.progress import Lines
from flows.request import (
    Request,
    chosen_store,
    default_store,
    parse_duration,
    settings_from,
    split_formats,
    store_place,
)
from flows.service import read_service
from pipeline.database import Place
from pipeline.errors import SettingsError


def test_options_win_over_the_config_and_the_config_over_defaults(tmp_path):
    """spec from the command line, n_points from the file, displacement as built in."""
    path = tmp_path / "settings.toml"
    path.write_text("[qm]\nspec = 'openff-default'\nn_points = 9\n")
    qm = settings_from(path, {"qm.spec": "fast", "qm.budget_seconds": None}).qm
    assert (qm.spec, qm.n_points, qm.displacement) == ("fast", 9, 0.04)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("jobs = -1", "jobs"),
        ("[qm]\nn_point = 5", r"^settings: qm.n_point: unknown key; did you mean n_points\?$"),
        ("exprot = {}", r"^settings: exprot: unknown key; did you mean export\?$"),
        ("colour = 'red'", "^settings: colour: unknown key$"),
        ("qm = 3", "qm: a table is expected"),
        ("ligand = 3", "ligand: a table is expected"),
        ("a = [", "TOML"),
        ("[ligand]\nmax_atoms = true", "max_atoms: must be a valid integer, not True"),
        ("[qm]\nn_points = '5'", "n_points: .*, not '5'"),
        ("[conformers]\nseconds = inf", "conformers.seconds"),
        (
            "[export]\nformats = ['pdf']",
            "^settings: export.formats: must be 'offxml', .* or 'lammps', not 'pdf'$",
        ),
        ("[qm]\ndrive_spacing = 7", "^settings: qm.drive_spacing: does not divide 360$"),
        ("form = 'class2'\n[export]\nformats = ['amber']", "^settings: form class2: amber has no .* to us$"),
    ],
)
def test_a_wrong_config_names_its_key(tmp_path, text, cause):
    """The message holds the dotted name of the first wrong key, and what was given for it."""
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=cause):
        settings_from(path, {"qm.spec": "fast"})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["./tell.sh", "./me"], ("{folder}/tell.sh", "./me")),
        (["/bin/tell"], ("/bin/tell",)),
        (["tell"], ("tell",)),
        ([], ()),
    ],
)
def test_the_notification_program_stands_beside_the_config(tmp_path, monkeypatch, command, expected):
    """A path is taken from the file's folder, as the service's paths are; a bare name is left."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.toml").write_text(
        f"[service]\ninbox = 'in'\nout = 'out'\n[notify]\ncommand = {command}"
    )
    (tmp_path / "some" / "b.toml").write_text(f"[notify]\ncommand = {command}")
    monkeypatch.chdir(tmp_path)
    read = (read_service(Path("some/a.toml")).settings, settings_from(Path("some/b.toml"), {}))
    expected = tuple(word.format(folder=tmp_path / "some") for word in expected)
    assert [settings.notify.command for settings in read] == [expected, expected]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2 d", 172800), ("45", 45), (None, None)],
)
def test_durations(text, seconds):
    """Units by hand: 1.5 h = 5400 s, 2 d = 172800 s; a bare number is seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5 parsecs", "1e3"])
def test_what_is_no_duration_is_refused(text):
    """The message quotes the text."""
    with pytest.raises(SettingsError, match="duration"):
        parse_duration(text)


def test_formats_are_split_once_each_in_order():
    """Blanks and repetitions fall away."""
    assert split_formats(" amber,offxml,,amber ") == ("amber", "offxml")
    assert split_formats(None) is None


def test_formats_that_name_none_are_refused():
    """An empty list is a mistake, not a wish for no files."""
    for text in ("", " , "):
        with pytest.raises(SettingsError, match="names no format"):
            split_formats(text)


def test_the_store_follows_the_desktop_convention(monkeypatch, tmp_path):
    """XDG_DATA_HOME when it is an absolute path, else ~/.local/share (XDG base directory specification)."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "/data/mine")
    assert default_store() == Path("/data/mine/parmflow")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_store() == tmp_path / ".local/share/parmflow"


def test_a_store_is_a_folder_or_an_address(tmp_path):
    """A folder counts from the base, an address is checked; each names one place."""
    folder = chosen_store("store", tmp_path)
    assert folder == str(tmp_path / "store")
    assert store_place(folder) == Place.of_file(tmp_path / "store" / "qm.sqlite")
    place = store_place(chosen_store("postgresql://dbhost/parmflow", tmp_path))
    assert (place.url, place.schema) == ("postgresql+psycopg://dbhost/parmflow", "qm_store")


def test_a_request_survives_json(tmp_path):
    """What Prefect carries and the ledger keeps comes back equal."""
    request = Request(
        command="refine",
        libraries=(tmp_path / "a.smi",),
        out=tmp_path / "out",
        store=str(tmp_path),
        settings=settings_from(None, {"qm.spec": "fast", "export.formats": ("amber",)}),
    )
    assert Request.model_validate_json(request.model_dump_json()) == request


def test_plain_lines_come_at_every_tenth():
    """25 pieces: one opening line and ten more, the last at 25; a stage without a beginning says nothing."""
    said = []
    lines = Lines(said.append, clock=lambda: 0.0)
    lines.begin("qm", 25)
    for _ in range(25):
        lines.advance("qm")
    assert said[0] == "qm: 25 to do"
    assert len(said) == 11
    assert said[-1] == "qm: 25 of 25, 0 s"
    lines.begin("deliver", 0)
    lines.advance("never begun")
    assert len(said) == 11
