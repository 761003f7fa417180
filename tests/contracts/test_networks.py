"""What every network must hold: symmetries, exact charge, one answer per molecule."""

import dataclasses

import numpy as np
import openmm
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import NetworkConfig
from models.network import ValenceEnsemble, ValenceNetwork
from models.predict import Predictor, build_batch, load_predictor
from models.readouts import CLASS1_NAMES
from models.weights import Model
from pipeline.export.openmm_system import build_system
from pipeline.ligand import to_rdkit
from pipeline.schema import PAIR_FACTORS, Ligand, MMParameters, Topology
from pipeline.topology import build_topology, linear_centres
from pipeline.units import ANGSTROM_PER_NM

MOLECULES = (
    "CC(=O)[O-]",
    "CC(N)=[NH2+]",
    "C[N+](=O)[O-]",
    "NC(=[NH2+])c1ccccc1",
    "CC#N",
    "C1CC1C(F)(F)F",
    "O=S(=O)(N)c1ccc(Cl)cc1",
    "C[NH3+]",
    "OP(=O)([O-])OC",
    "Brc1cccc(I)c1",
)
RESONANCE_PAIRS = (
    ("[O-:2][C:1](=[O:3])[CH3:4]", "[O:2]=[C:1]([O-:3])[CH3:4]"),
    ("[NH2+:2]=[C:1]([NH2:3])[CH3:4]", "[NH2:2][C:1](=[NH2+:3])[CH3:4]"),
    ("[O-:2][N+:1](=[O:3])[CH3:4]", "[O:2]=[N+:1]([O-:3])[CH3:4]"),
    (
        "[NH2+:2]=[C:1]([NH2:3])[c:4]1[cH:5][cH:6][cH:7][cH:8][cH:9]1",
        "[NH2:2][C:1](=[NH2+:3])[c:4]1[cH:5][cH:6][cH:7][cH:8][cH:9]1",
    ),
)
ROUNDING = 1e-9
"""float64 networks of a few hundred operations: sums in another order differ by far less"""


def random_model() -> Model:
    """Untrained weights: a symmetry must hold for any weights, not only for the shipped ones."""
    torch.manual_seed(3)
    sizes = {"charges": NetworkConfig(width=32, n_layers=3), "valence": NetworkConfig(width=32, n_layers=3)}
    return Model(
        name="random",
        version="0",
        sha256="",
        charges=ChargeEnsemble([ChargeNetwork(32, 3), ChargeNetwork(32, 3)]).double().requires_grad_(False),
        valence=ValenceEnsemble([ValenceNetwork(32, 3).double().requires_grad_(False)]),
        sizes=sizes,
    )


@pytest.fixture(scope="module", params=["random", "shipped"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    return Predictor(random_model()) if request.param == "random" else load_predictor("default")


def by_atoms(topology: Topology, parameters: MMParameters, relabel: np.ndarray) -> dict:
    """Parameters keyed by relabelled atoms, direction ignored; impropers by centre and set of neighbours."""
    keyed: dict = {("q", int(relabel[i])): row for i, row in enumerate(parameters.charge)}
    for i in range(topology.n_atoms):
        keyed["lj", int(relabel[i])] = (parameters.sigma[i], parameters.epsilon[i])
    for name in ("bond", "angle", "proper"):
        fields = [f.name for f in dataclasses.fields(parameters) if f.name.startswith(name)]
        for row, atoms in enumerate(relabel[getattr(topology, f"{name}s")]):
            key = min(tuple(atoms), tuple(atoms[::-1]))
            keyed[(name, *key)] = np.concatenate([np.atleast_1d(getattr(parameters, f)[row]) for f in fields])
    for row, (a, centre, b, c) in enumerate(relabel[topology.impropers]):
        keyed["improper", centre, tuple(sorted((a, b, c)))] = parameters.improper_k[row]
    return keyed


def assert_same(one: dict, other: dict, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], rtol=0, atol=tolerance, err_msg=str(key))


@pytest.mark.parametrize("smiles", MOLECULES)
def test_atom_order_does_not_matter(predictor, build_ligand, smiles):
    """Shuffling the atoms shuffles the parameters and changes nothing else."""
    ligand = build_ligand(smiles)
    topology = build_topology(ligand)
    order = np.random.default_rng(5).permutation(topology.n_atoms)
    shuffled = build_ligand(smiles, order)
    shuffled_topology = build_topology(shuffled)
    straight = by_atoms(topology, predictor.predict(ligand, topology), np.arange(topology.n_atoms))
    back = by_atoms(shuffled_topology, predictor.predict(shuffled, shuffled_topology), order)
    assert_same(straight, back, ROUNDING)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_reversal_is_bit_equal(smiles, build_ligand):
    """A bond, angle or proper read backwards gets the same parameters to the last bit."""
    ligand = build_ligand(smiles)
    batch, indices = build_batch([(ligand, build_topology(ligand))])
    network = random_model().valence
    flipped = dataclasses.replace(
        indices, bonds=indices.bonds.flip(1), angles=indices.angles.flip(1), propers=indices.propers.flip(1)
    )
    one, other = network(batch, indices), network(batch, flipped)
    for name in CLASS1_NAMES:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_batch_is_single(predictor, build_ligand):
    """What else is in the batch does not change a ligand's parameters."""
    pairs = [(ligand, build_topology(ligand)) for ligand in map(build_ligand, MOLECULES)]
    together = predictor.predict_many(pairs)
    for (ligand, topology), batched in zip(pairs, together, strict=True):
        alone = predictor.predict(ligand, topology)
        for name in (*CLASS1_NAMES, "charge", "sigma", "epsilon"):
            np.testing.assert_allclose(getattr(batched, name), getattr(alone, name), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("one", "other"), RESONANCE_PAIRS)
def test_resonance_forms_agree(predictor, one, other):
    """Two drawings of one molecule get the same parameters, atom by atom."""
    keyed = []
    for smiles in (one, other):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        mol = Chem.RenumberAtoms(mol, _mapped_first(mol))
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        ligand = _ligand(mol)
        topology = build_topology(ligand)
        heavy_only = _heavy_part(topology, predictor.predict(ligand, topology))
        keyed.append(heavy_only)
    assert_same(keyed[0], keyed[1], ROUNDING)


def _mapped_first(mol: Chem.Mol) -> list[int]:
    numbers = [atom.GetAtomMapNum() or 1000 + atom.GetIdx() for atom in mol.GetAtoms()]
    return [int(index) for index in np.argsort(numbers)]


def _ligand(mol: Chem.Mol) -> Ligand:
    return Ligand(name="x", mapped_smiles=Chem.MolToSmiles(mol), total_charge=Chem.GetFormalCharge(mol))


def _heavy_part(topology: Topology, parameters: MMParameters) -> dict:
    """Only what involves no hydrogen: hydrogens carry no map number in the two drawings."""
    heavy = set(np.flatnonzero(topology.atomic_numbers > 1).tolist())
    keyed = by_atoms(topology, parameters, np.arange(topology.n_atoms))
    return {
        key: value
        for key, value in keyed.items()
        if {int(a) for part in key[1:] for a in (part if isinstance(part, tuple) else (part,))} <= heavy
    }


@pytest.mark.parametrize(
    ("smiles", "equivalent"),
    [
        ("CC(=O)[O-]", "[OX1]"),
        ("c1ccccc1", "[#6]"),
        ("CC(F)(F)F", "F"),
        ("CC", "[H]"),
        ("C[N+](=O)[O-]", "[OX1]"),
    ],
)
def test_equivalent_atoms_are_equal(predictor, build_ligand, smiles, equivalent):
    """Atoms that the graph cannot tell apart carry the same charge."""
    ligand = build_ligand(smiles)
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    atoms = [match[0] for match in mol.GetSubstructMatches(Chem.MolFromSmarts(equivalent))]
    charges = predictor.predict(ligand, build_topology(ligand)).charge[atoms]
    assert len(atoms) > 1
    np.testing.assert_allclose(charges, charges[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_charges_sum_exactly(predictor, build_ligand, smiles):
    """The charges sum to the total charge to float64 rounding."""
    ligand = build_ligand(smiles)
    charges = predictor.predict(ligand, build_topology(ligand)).charge
    assert abs(charges.sum() - ligand.total_charge) < 1e-13


def test_parameters_stay_in_the_anchors(predictor, build_ligand):
    """Force constants of bonds and angles are positive, rest values between the anchors, or pi if linear."""
    for smiles in MOLECULES:
        ligand = build_ligand(smiles)
        parameters = predictor.predict(ligand, build_topology(ligand))
        assert (parameters.bond_k > 0).all()
        assert (parameters.angle_k > 0).all()
        assert (parameters.angle_theta > np.pi / 4).all()
        assert (parameters.angle_theta <= np.pi).all()


def test_shipped_weights_give_dimethyl_ether_its_shape(build_ligand):
    """Relaxed with the shipped weights, dimethyl ether has its experimental bond lengths and angle.

    C-O 1.410 angstrom, C-O-C 111.7 degrees (microwave spectroscopy, Blukis, Kasai and Myers 1963); 0.025
    angstrom and 3 degrees are what a harmonic force field fitted to B3LYP can be asked for.
    """
    ligand = build_ligand("COC")
    topology = build_topology(ligand)
    mol = Chem.AddHs(Chem.MolFromSmiles("COC"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    system = build_system(topology, load_predictor("default").predict(ligand, topology))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(mol.GetConformer().GetPositions() / ANGSTROM_PER_NM)
    openmm.LocalEnergyMinimizer.minimize(context, 0.01)
    carbon, oxygen, other = (
        context.getState(positions=True).getPositions(asNumpy=True)._value[:3] * ANGSTROM_PER_NM
    )
    one, two = carbon - oxygen, other - oxygen
    lengths = np.linalg.norm([one, two], axis=1)
    np.testing.assert_allclose(lengths, 1.410, atol=0.025)
    angle = np.degrees(np.arccos(one @ two / lengths.prod()))
    assert angle == pytest.approx(111.7, abs=3.0)


def class2_network() -> ValenceEnsemble:
    """A class II network whose heads are not zero, as they are before training."""
    torch.manual_seed(9)
    network = ValenceNetwork(32, 3, form="class2", pairs=True).double().requires_grad_(False)
    assert network.readouts.class2 is not None
    for weight in network.readouts.class2.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    return ValenceEnsemble([network])


@pytest.mark.parametrize("smiles", MOLECULES)
def test_class2_reversal_swaps_ends(smiles, build_ligand):
    """Read backwards, an angle or a proper keeps its couplings, with those of its two ends exchanged."""
    ligand = build_ligand(smiles)
    batch, indices = build_batch([(ligand, build_topology(ligand))], pairs=True)
    flipped = dataclasses.replace(
        indices,
        pairs=indices.pairs.flip(1),
        angles=indices.angles.flip(1),
        propers=indices.propers.flip(1),
        angle_bonds=indices.angle_bonds.flip(1),
        proper_angles=indices.proper_angles.flip(1),
    )
    network = class2_network()
    one, other = network(batch, indices).cross, network(batch, flipped).cross
    unturned = ("bond_k3", "angle_k3", "angle_k4", "bond_bond", "bond_torsion", "angle_angle_torsion")
    for name in (*unturned, *PAIR_FACTORS):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=ROUNDING)
    for name in ("bond_angle", "angle_torsion"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name).flip(1), rtol=0, atol=ROUNDING)


def test_class2_is_convex_along_single_coordinates(build_ligand):
    """Second derivatives k + 6 k3 d + 12 k4 d^2 of bonds and angles stay positive for any displacement."""
    ligand = build_ligand("CC(=O)Nc1ccc(F)cc1")
    batch, indices = build_batch([(ligand, build_topology(ligand))], pairs=True)
    valence = class2_network()(batch, indices)
    d = torch.linspace(-2.0, 2.0, 401).double()
    angle = valence.angle_k[:, None] + 6 * valence.cross.angle_k3[:, None] * d
    assert (angle + 12 * valence.cross.angle_k4[:, None] * d**2 > 0).all()
    bond = valence.bond_k[:, None] / 2 * d**2
    bond = bond + valence.cross.bond_k3[:, None] * d**3 + valence.cross.bond_k4[:, None] * d**4
    assert (bond >= 0).all()


@pytest.mark.parametrize("smiles", MOLECULES)
def test_class2_pairs_are_lennard_jones_within_bounds(smiles, build_ligand):
    """Whatever the network says, sigma is within 28 % of class I's, epsilon and charge within bounds too."""
    ligand = build_ligand(smiles)
    batch, indices = build_batch([(ligand, build_topology(ligand))], pairs=True)
    network = class2_network()
    for weight in network.readouts.members[0].class2.pair.parameters():
        weight.mul_(30.0)
    cross = network(batch, indices).cross
    assert len(cross.pair_coulomb) == len(indices.pairs)
    sigma = (cross.pair_repulsion / cross.pair_dispersion) ** (1 / 6)
    depth = cross.pair_dispersion**2 / cross.pair_repulsion / indices.pair_scale_vdw
    charge = cross.pair_coulomb / indices.pair_scale_coulomb
    for values, bound in ((sigma, 0.25), (depth, 1.5), (charge, 1.5)):
        assert (values.log().abs() <= bound + 1e-12).all()


def test_class2_starts_from_class1(build_ligand):
    """Before training, the factors of pairs are class I's own, and all couplings are zero."""
    ligand = build_ligand("CC(=O)Nc1ccc(F)cc1")
    batch, indices = build_batch([(ligand, build_topology(ligand))], pairs=True)
    cross = ValenceNetwork(32, 3, form="class2", pairs=True).double()(batch, indices).cross
    assert torch.equal(cross.pair_coulomb, indices.pair_scale_coulomb)
    assert torch.equal(cross.pair_repulsion, indices.pair_scale_vdw)
    assert torch.equal(cross.pair_dispersion, indices.pair_scale_vdw)
    assert not cross.bond_angle.any()
    assert not cross.angle_torsion.any()


@pytest.mark.parametrize("form", ["class1", "class2"])
def test_linear_centres_rest_straight(form, build_ligand):
    """Angles at the sp atoms of an alkyne and an azide rest at pi, and no odd term bends them."""
    ligand = build_ligand("CC#CCN=[N+]=[N-]")
    topology = build_topology(ligand)
    parameters = load_predictor("default", form).predict(ligand, topology)
    is_linear = np.isin(topology.angles[:, 1], list(linear_centres(to_rdkit(ligand))))
    assert is_linear.sum() == 3
    assert (parameters.angle_theta[is_linear] == np.pi).all()
    assert (parameters.angle_theta[~is_linear] < 2.6).all()
    if form == "class2":
        assert not parameters.cross.angle_k3[is_linear].any()
        assert not parameters.cross.bond_angle[is_linear].any()
        assert parameters.cross.angle_k3[~is_linear].all()
