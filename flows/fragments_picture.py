"""DOOR: one picture per ligand, with the bonds to drive and the fragments that stand for it."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.fragments.cut import build_fragments
from pipeline.names import record_id
from pipeline.schema import Ligand
from pipeline.settings import FragmentSettings


def write_fragment_pictures(
    folder: Path, ligands: Sequence[Ligand], settings: FragmentSettings
) -> list[Path]:
    """Write an SVG file per ligand into a folder, made if need be; returns the paths in the same order.

    Raises ImportError where X11's libraries are missing, with which RDKit draws.
    """
    from pipeline.fragments.picture import draw_fragments_svg  # all else runs without these libraries

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for occurrence, ligand in enumerate(ligands):
        path = folder / f"{record_id(ligand.name, ligand.mapped_smiles, occurrence)}.svg"
        path.write_bytes(draw_fragments_svg(ligand, build_fragments(ligand, settings)))
        paths.append(path)
    return paths
