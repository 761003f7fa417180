"""Geometries of a ligand: ETKDG embedding, MMFF94 relaxation, pruning, an energy window."""

from collections.abc import Callable

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign

from pipeline.errors import ChildError, ConformerError
from pipeline.ligand import to_rdkit
from pipeline.process.child import Isolate, Limits, run_in_child
from pipeline.resonance import bare_graph
from pipeline.schema import Conformers, FloatArray, Ligand
from pipeline.settings import ConformerSettings
from pipeline.stereo import has_stereo_of

_RELAX_STEPS = 2000
_MAX_SYMMETRY_MAPS = 200
"""Matches of a molecule onto itself tried in an RMSD; a truncated list prunes less, never wrongly."""
_N_ATTEMPTS = 5
"""Geometries tried before all are asked for: an impossible molecule is then given up in seconds."""
_MAX_SEED = 2**31 - 1


def generate_conformers(
    ligand: Ligand, settings: ConformerSettings, *, seed: int, isolate: Isolate = run_in_child
) -> Conformers:
    """Make low-energy conformers, lowest first, in a child process that cannot hang or take the batch down.

    Raises ConformerError when no geometry with the ligand's stereo can be made, ChildError when the child
    exceeds `settings.seconds` or `settings.memory_mb`, or crashes. The same seed gives the same conformers.
    """
    limits = Limits(wall_seconds=settings.seconds, memory_mb=settings.memory_mb)
    try:
        return isolate(embed_conformers, ligand, settings, seed, limits=limits)
    except ChildError as error:
        if error.kind != "time":
            raise
        message = (
            f"{ligand.name}: no conformers within {settings.seconds:g} s; raise conformers.seconds, or lower "
            f"conformers.n_embed, now {settings.n_embed}"
        )
        raise ChildError(message, kind="time") from error


def embed_conformers(ligand: Ligand, settings: ConformerSettings, seed: int) -> Conformers:
    """Do the work of `generate_conformers` in this process.

    ETKDGv3 (Wang et al., J. Chem. Inf. Model. 2020, 60, 2044), MMFF94 or, where it has no type, UFF. A
    conformer is dropped when its stereo is not the ligand's, when it lies above the energy window, or within
    `prune_rms` (heavy atoms and hydrogens on N, O, P, S; symmetry counted) of one with lower energy.
    """
    block = rdBase.BlockLogs()
    try:
        mol = to_rdkit(ligand)
        _embed(mol, ligand, settings, seed)
        energies = _relax(mol, ligand)
    finally:
        del block
    coords = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    usable = [
        i
        for i in np.argsort(energies, kind="stable")
        if np.isfinite(energies[i]) and np.isfinite(coords[i]).all() and has_stereo_of(mol, coords[i])
    ]
    if not usable:
        raise ConformerError(f"{ligand.name}: no geometry keeps the stereo that the ligand states; check it")
    inside = [int(i) for i in usable if energies[i] - energies[usable[0]] <= settings.energy_window]
    return Conformers(coords=coords[_prune(mol, inside, settings.prune_rms)])


def displaced_copies(conformers: Conformers, n: int, *, sigma: float, seed: int) -> Conformers:
    """Shake conformers to sample their stiffness: `n` copies, taken in turn, each coordinate + N(0, sigma).

    `sigma` in angstrom. The same seed gives the same copies.
    """
    generator = np.random.default_rng(seed)
    originals = conformers.coords[np.arange(n) % conformers.n_confs]
    return Conformers(coords=originals + generator.normal(scale=sigma, size=originals.shape))


def _embed(mol: Chem.Mol, ligand: Ligand, settings: ConformerSettings, seed: int) -> None:
    """Add up to `n_embed` raw geometries to the molecule."""
    options = rdDistGeom.ETKDGv3()
    options.randomSeed = seed % _MAX_SEED
    options.numThreads = 1
    for random_start in (False, True):
        options.useRandomCoords = random_start
        for n in sorted({min(_N_ATTEMPTS, settings.n_embed), settings.n_embed}):
            rdDistGeom.EmbedMultipleConfs(mol, n, options)
            if mol.GetNumConformers() == 0:  # its answer may be [] or [-1]
                break
        else:
            return
    raise ConformerError(
        f"{ligand.name}: no three-dimensional geometry could be embedded; check rings and stereo, or give a "
        "3-D record"
    )


def _relax(mol: Chem.Mol, ligand: Ligand) -> FloatArray:
    """Minimise every conformer in place; energies (n_confs,) in kcal/mol, infinite where it broke down."""
    optimise: Callable[..., list[tuple[int, float]]]
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        optimise = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        optimise = rdForceFieldHelpers.UFFOptimizeMoleculeConfs
    else:
        raise ConformerError(f"{ligand.name}: neither MMFF94 nor UFF has a type for every atom")
    results = optimise(mol, numThreads=1, maxIters=_RELAX_STEPS)
    return np.array([energy if flag >= 0 else np.inf for flag, energy in results])


def prune_conformers(ligand: Ligand, conformers: Conformers, prune_rms: float) -> Conformers:
    """Keep each conformer, in their order, that is farther than `prune_rms` angstrom from all kept before."""
    mol = to_rdkit(ligand)
    for coords in conformers.coords:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.array(coords))
        mol.AddConformer(conformer, assignId=True)
    return Conformers(coords=conformers.coords[_prune(mol, list(range(conformers.n_confs)), prune_rms)])


def _prune(mol: Chem.Mol, idxs: list[int], prune_rms: float) -> list[int]:
    """Keep each conformer, in the order given, that is farther than `prune_rms` from all kept before."""
    skeleton, ids = _skeleton(mol)
    matches = skeleton.GetSubstructMatches(skeleton, uniquify=False, maxMatches=_MAX_SYMMETRY_MAPS)
    maps = [list(enumerate(match)) for match in matches]
    kept: list[int] = []
    for i in idxs:
        if all(rdMolAlign.GetBestRMS(skeleton, skeleton, ids[i], ids[k], maps) > prune_rms for k in kept):
            kept.append(i)
    return kept


def _skeleton(mol: Chem.Mol) -> tuple[Chem.Mol, list[int]]:
    """The atoms that an RMSD counts, all bonds alike so that resonance forms are symmetric; conformer ids."""
    editable = Chem.RWMol(bare_graph(mol))
    on_carbon = [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if atom.GetAtomicNum() == 1 and any(n.GetAtomicNum() == 6 for n in atom.GetNeighbors())
    ]
    for idx in sorted(on_carbon, reverse=True):
        editable.RemoveAtom(idx)
    skeleton = editable.GetMol()
    return skeleton, [conformer.GetId() for conformer in skeleton.GetConformers()]
