import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from rdkit import Chem

from flows.fragments_picture import write_fragment_pictures
from pipeline.ligand import ligand_from_rdkit
from pipeline.settings import FragmentSettings


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
