import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import pytest
from rdkit import Chem

from flows.batch import draw_fragments
from flows.fragments_picture import write_fragment_pictures
from pipeline.campaign import Campaign
from pipeline.ligand import ligand_from_rdkit
from pipeline.settings import FragmentSettings, Settings


def test_every_ligand_gets_its_own_picture(tmp_path: Path) -> None:
    """Two ligands of one name and structure still make two files, in order, each a whole SVG document."""
    ligand = ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles("CCCCc1ccccc1-c1ccccc1")), "../twin/α")
    paths = write_fragment_pictures(tmp_path / "pictures", [ligand, ligand], FragmentSettings())
    assert sorted(paths) == sorted((tmp_path / "pictures").iterdir())
    assert len(set(paths)) == 2
    for path in paths:
        assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")


def test_the_command_needs_no_library_to_draw_with() -> None:
    """A server without X11's libraries, where importing RDKit's drawing fails, still has all commands."""
    without = "import sys; sys.modules['rdkit.Chem.Draw'] = None; import flows.cli"
    assert subprocess.run([sys.executable, "-c", without], check=False).returncode == 0


def test_without_a_library_to_draw_with_evaluate_says_what_to_install(tmp_path: Path) -> None:
    """One sentence and exit code 2, before the hours of an evaluation."""
    without = "import sys; sys.modules['rdkit.Chem.Draw'] = None; from flows.cli import app; app()"
    command = [
        sys.executable,
        "-c",
        without,
        "evaluate",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("install libxrender1 and libxext6")
    assert not (tmp_path / "o").exists()


def test_without_a_library_to_draw_with_a_run_ends_well_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters are there; only the pictures of the fragments are not."""
    monkeypatch.setitem(sys.modules, "pipeline.fragments.picture", None)
    said: list[str] = []
    campaign = SimpleNamespace(folder=tmp_path, watch=SimpleNamespace(say=said.append))
    draw_fragments(cast(Campaign, campaign), [], Settings())
    (sentence,) = said
    assert sentence.startswith("No pictures of the fragments: ")
    assert sentence.endswith("install libxrender1 and libxext6.")
