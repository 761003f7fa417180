"""Draw a ligand with its driven bonds and, beside it, the fragments on which they are driven."""

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Geometry import Point2D

from pipeline.fragments.cut import CAP, Fragment
from pipeline.ligand import to_rdkit
from pipeline.schema import Ligand

Colour = tuple[float, float, float]

_PANEL_WIDTH, _PANEL_HEIGHT = 300, 260
"""pixels"""
_COLUMNS = 4
_COLOURS = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.80, 0.47, 0.65),
    (0.84, 0.37, 0.00),
    (0.00, 0.45, 0.70),
)
"""of Okabe and Ito: told apart by the colour-blind"""
_CAP_COLOUR = (0.88, 0.88, 0.88)


def draw_fragments_svg(ligand: Ligand, fragments: Sequence[Fragment]) -> bytes:
    """Draw a ligand and the fragments of its bonds, as an SVG file; caps that are methyls stand in grey."""
    drawer = rdMolDraw2D.MolDraw2DSVG(*_canvas(len(fragments)), _PANEL_WIDTH, _PANEL_HEIGHT)
    _draw(drawer, ligand, fragments)
    return str(drawer.GetDrawingText()).encode()


def draw_fragments_png(ligand: Ligand, fragments: Sequence[Fragment]) -> bytes:
    """Draw the same as a PNG file."""
    drawer = rdMolDraw2D.MolDraw2DCairo(*_canvas(len(fragments)), _PANEL_WIDTH, _PANEL_HEIGHT)
    _draw(drawer, ligand, fragments)
    return bytes(drawer.GetDrawingText())


def _canvas(n_fragments: int) -> tuple[int, int]:
    n_panels = n_fragments + 1
    n_rows = -(-n_panels // _COLUMNS)
    return _PANEL_WIDTH * min(n_panels, _COLUMNS), _PANEL_HEIGHT * n_rows


def _draw(drawer: rdMolDraw2D.MolDraw2D, ligand: Ligand, fragments: Sequence[Fragment]) -> None:
    parent, parent_places = _flatten(to_rdkit(ligand), {})
    colours = [_COLOURS[number % len(_COLOURS)] for number in range(len(fragments))]
    driven: dict[int, Colour] = {}
    for number, (fragment, colour) in enumerate(zip(fragments, colours, strict=True), start=1):
        for dihedral in fragment.dihedrals:
            first, second = (parent_places[int(fragment.parent_atoms[idx])] for idx in dihedral[1:3])
            bond = parent.GetBondBetweenAtoms(first, second)
            bond.SetProp("bondNote", str(number))
            driven[bond.GetIdx()] = colour
    mols, legends = [parent], [f"{ligand.name}: {parent.GetNumHeavyAtoms()} heavy atoms"]
    atoms: list[dict[int, Colour]] = [{}]
    bonds = [driven]
    for number, (fragment, colour) in enumerate(zip(fragments, colours, strict=True), start=1):
        mol, places = _flatten(to_rdkit(fragment.ligand), _parent_layout(fragment, parent, parent_places))
        ends = [[places[int(idx)] for idx in dihedral[1:3]] for dihedral in fragment.dihedrals]
        mols.append(mol)
        legends.append(f"{number}: {mol.GetNumHeavyAtoms()} heavy atoms")
        bonds.append({mol.GetBondBetweenAtoms(*pair).GetIdx(): colour for pair in ends})
        atoms.append({p: _CAP_COLOUR for idx, p in places.items() if fragment.parent_atoms[idx] == CAP})
    drawer.drawOptions().legendFontSize = 18
    drawer.drawOptions().annotationFontScale = 1.0
    drawer.drawOptions().setBondNoteColour((0.0, 0.0, 0.0))
    drawer.drawOptions().highlightBondWidthMultiplier = 14
    drawer.DrawMolecules(
        mols,
        legends=legends,
        highlightAtoms=[list(panel) for panel in atoms],
        highlightBonds=[list(panel) for panel in bonds],
        highlightAtomColors=atoms,
        highlightBondColors=bonds,
    )
    drawer.FinishDrawing()


def _flatten(mol: Chem.Mol, layout: dict[int, Point2D]) -> tuple[Chem.Mol, dict[int, int]]:
    """Lay a molecule out without plain hydrogens; also where each of its atoms went."""
    for atom in mol.GetAtoms():
        atom.SetIntProp("parmflow_place", atom.GetIdx())
    flat = Chem.RemoveHs(mol)
    places = {atom.GetIntProp("parmflow_place"): atom.GetIdx() for atom in flat.GetAtoms()}
    anchors = {places[idx]: point for idx, point in layout.items() if idx in places}
    rdDepictor.Compute2DCoords(flat, coordMap=anchors)
    return rdMolDraw2D.PrepareMolForDrawing(flat, addChiralHs=False), places


def _parent_layout(fragment: Fragment, parent: Chem.Mol, places: dict[int, int]) -> dict[int, Point2D]:
    """Where the ligand's picture has the atoms of a fragment, so that the fragment lies as they do."""
    conformer = parent.GetConformer()
    layout = {}
    for idx, origin in enumerate(fragment.parent_atoms):
        if int(origin) in places:
            point = conformer.GetAtomPosition(places[int(origin)])
            layout[idx] = Point2D(point.x, point.y)
    return layout
