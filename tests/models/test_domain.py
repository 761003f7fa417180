"""The domain: disagreement of networks in kcal/mol, environments in any atom order, and the flag."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.alternation import count_blurred_double_bonds
from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import NetworkConfig
from models.domain import Domain, charge_sign, environments, read_domain, spread_of
from models.evaluation.uncertainty import error_against_uncertainty
from models.features import build_graph
from models.network import ValenceEnsemble, ValenceNetwork, mean_parameters
from models.predict import Predictor, build_batch, load_predictor
from models.readouts import CLASS1_NAMES, PROPER_K_SCALE
from models.weights import Model, load_model_folder, save_model
from pipeline.errors import SettingsError
from pipeline.ligand import to_rdkit
from pipeline.topology import build_topology

SAME = torch.zeros((1, 3), dtype=torch.float64)
"""charges of one member: no spread"""


def ensemble(n: int, form="class1") -> ValenceEnsemble:
    torch.manual_seed(4)
    networks = [ValenceNetwork(16, 2, form=form) for _ in range(n)]
    return ValenceEnsemble(networks).double().requires_grad_(False)


def members_of(smiles, build_ligand, n=3):
    ligand = build_ligand(smiles)
    batch, indices = build_batch([(ligand, build_topology(ligand))])
    return ensemble(n).each(batch, indices)


def spread_about(smiles, build_ligand, members, charges=SAME):
    ligand = build_ligand(smiles)
    return spread_of(members, charges, ligand, build_topology(ligand))


def test_a_single_network_agrees_with_itself(build_ligand):
    """One member: no spread in any row, and the mean is that member."""
    (member,) = members_of("CC(=O)NC", build_ligand, n=1)
    spread = spread_about("CC(=O)NC", build_ligand, [member])
    assert spread.total == 0
    assert not spread.bond.any()
    mean = mean_parameters([member])
    for name in CLASS1_NAMES:
        torch.testing.assert_close(getattr(mean, name), getattr(member, name), rtol=1e-14, atol=0)


def test_the_mean_is_the_mean_energy_up_to_a_constant(build_ligand):
    """Of every bond, angle and dihedral series at several values: the members' mean energy minus the mean
    model's does not depend on the coordinate (rounding only)."""
    members = members_of("CC(=O)NC", build_ligand)
    mean = mean_parameters(members)
    x = torch.linspace(0.8, 2.4, 7).double()

    def spring(p, k, rest):
        return getattr(p, k)[:, None] / 2 * (x - getattr(p, rest)[:, None]) ** 2

    for k, rest in (("bond_k", "bond_length"), ("angle_k", "angle_theta")):
        difference = torch.stack([spring(m, k, rest) for m in members]).mean(0) - spring(mean, k, rest)
        assert (difference - difference[:, :1]).abs().max() < 1e-9
    series = torch.stack([m.proper_k for m in members]).mean(0)
    torch.testing.assert_close(series, mean.proper_k)


def test_spread_of_a_series_is_its_standard_deviation_over_a_turn(build_ligand):
    """Two members whose first proper differs by 2 d in one k_n: d / sqrt(2) kcal/mol by hand."""
    (member,) = members_of("CC", build_ligand, n=1)
    shifted = member.proper_k.clone()
    shifted[0, 2] += 0.6
    other = dataclasses.replace(member, proper_k=shifted)
    spread = spread_about("CC", build_ligand, [member, other])
    assert spread.proper[0] == pytest.approx(0.3 / math.sqrt(2))
    assert spread.total == pytest.approx(0.3 / math.sqrt(2))


def test_disagreement_adds_up_about_a_bond(build_ligand):
    """Ethane's nine dihedrals turn together: nine times d apart, not three; with one rotor sqrt(2) more."""
    (member,) = members_of("CC", build_ligand, n=1)
    other = dataclasses.replace(member, proper_k=member.proper_k + torch.eye(6)[2] * 0.6)
    assert spread_about("CC", build_ligand, [member, other]).total == pytest.approx(9 * 0.3 / math.sqrt(2))
    (member,) = members_of("CCCC", build_ligand, n=1)
    other = dataclasses.replace(member, proper_k=member.proper_k + torch.eye(6)[2] * 0.6)
    three_bonds = 9 * 0.3 / math.sqrt(2) * math.sqrt(3)
    found = spread_about("CCCC", build_ligand, [member, other]).total
    assert found == pytest.approx(three_bonds * math.sqrt(2))


def test_environments_follow_the_atoms(build_ligand):
    """Another atom order permutes the words; another resonance form changes none."""
    straight = environments(build_graph(build_ligand("CC(=O)[O-]")))
    order = np.random.default_rng(0).permutation(len(straight))
    shuffled = environments(build_graph(build_ligand("CC(=O)[O-]", order)))
    assert shuffled == [straight[i] for i in order]
    one, other = (environments(build_graph(build_ligand(s))) for s in ("C[N+](=O)[O-]", "CN(=O)=O"))
    assert sorted(one) == sorted(other)


def test_an_unknown_environment_is_flagged_and_named(build_ligand):
    """Trained on alcohols, a thiol's sulfur and its neighbours are unknown; an alcohol is inside."""
    graphs = [build_graph(build_ligand(s)) for s in ("CCO", "CCO", "CCCO")]
    domain = Domain.of_training(graphs, disagreement_limit=1.0, charge_limit=0.1)
    no_spread = spread_about("CCO", build_ligand, members_of("CCO", build_ligand, n=1))
    inside = domain.assess(build_graph(build_ligand("CCO")), no_spread)
    assert inside.doubts == ""
    outside = domain.assess(build_graph(build_ligand("CCS")), no_spread)
    assert outside.unseen[:2] == (1, 2)
    assert "atoms 2, 3" in outside.doubts


SEATS = ("CC(=O)[O-]", "CCC(=O)[O-]", "CC[NH3+]", "C[NH3+]", "CC(N)=[NH2+]", "CCC(N)=[NH2+]", "C1CC=C[O+]=C1")
"""acids and amidinium twice, and a charge that training saw once"""
NEUTRAL = ("CC=O", "CCC=O", "CC(=O)O", "CCC(=O)O", "CC(=O)N", "CCC(=O)N", "C1CC=COC1", "CCC=COC")


@pytest.mark.parametrize(
    ("smiles", "sign", "is_seated"),
    [
        ("CCCC(=O)[O-]", -1, True),
        ("C[NH2+]CC(=O)[O-]", -1, True),
        ("[O-]C=CC", -1, False),
        ("CCCC(N)=[NH2+]", 1, True),
        ("C1CC=C[O+]=C1", 1, False),
        ("CCC[NH3+]", 0, True),
        ("CC(=O)NC", 0, True),
    ],
)
def test_a_charge_without_a_known_seat_is_flagged(build_ligand, smiles, sign, is_seated):
    """Carboxylate and amidinium seat a charge, an ammonium needs no seat; an enolate and an oxonium that one
    training molecule had have none; the drawn resonance form does not matter.
    """
    graphs = [build_graph(build_ligand(s)) for s in (*SEATS, *NEUTRAL)]
    domain = Domain.of_training(graphs, disagreement_limit=1.0, charge_limit=0.1)
    graph = build_graph(build_ligand(smiles))
    assert charge_sign(graph) == sign
    no_spread = spread_about(smiles, build_ligand, members_of(smiles, build_ligand, n=1))
    doubt = domain.assess(graph, no_spread).charge_doubt
    assert ("no surroundings that seat a" not in doubt) == is_seated


def test_a_domain_of_older_rules_says_how_it_is_renewed(tmp_path):
    """Its limit was one of another scalar: not taken for ours."""
    path = tmp_path / "domain.json"
    path.write_text('{"environments": ["6.4.3()"], "torsion_limit": 1.0, "charge_limit": 0.1}')
    with pytest.raises(SettingsError, match="recompute_domain"):
        read_domain(path)


def test_disagreement_beyond_the_usual_is_flagged(build_ligand):
    """The same ligand inside at a generous limit and outside at a tight one, with both numbers said."""
    graph = build_graph(build_ligand("CC(=O)NC"))
    spread = spread_about("CC(=O)NC", build_ligand, members_of("CC(=O)NC", build_ligand))
    assert spread.total > 0
    usual = Domain.of_training([graph, graph], disagreement_limit=2 * spread.total, charge_limit=0.1)
    assert usual.assess(graph, spread).doubt == ""
    tight = dataclasses.replace(usual, disagreement_limit=spread.total / 2).assess(graph, spread)
    assert f"{spread.total:.2f}" in tight.doubt


CHAINS = {
    "heptaene": ("C[C@H](O)/C=C/C=C/C=C/C=C/C=C/C=C/C=C/[C@@H](C)O", True),
    "docosaundecaene": ("C=C/C=C/C=C/C=C/C=C/C=C/C=C/C=C/C=C/C=C/C=C", True),
    "butadiene": ("C=CC=C", False),
    "sorbic acid": ("C/C=C/C=C/C(=O)O", False),
    "stilbene": ("c1ccccc1/C=C/c1ccccc1", False),
    "methyl cinnamate": ("COC(=O)/C=C/c1ccccc1", False),
    "acrylamide": ("C=CC(=O)NC", False),
    "vinylogous amide": ("CN(C)/C=C/C(C)=O", False),
    "push-pull stilbene": ("CN(C)c1ccc(/C=C/c2ccc([N+](=O)[O-])cc2)cc1", False),
    "pentamethine cyanine": ("CN(C)/C=C/C=C/C=[N+](C)C", False),
}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor("default")


@pytest.mark.parametrize("name", CHAINS)
def test_chains_too_long_for_the_networks_are_flagged(predictor, build_ligand, name):
    """Networks of four layers cannot tell the bonds amid seven or eleven double bonds; short chains are not
    flagged, nor a cyanine, whose bonds are equal in truth.
    """
    smiles, is_blurred = CHAINS[name]
    ligand = build_ligand(smiles)
    doubt = predictor.predict(ligand, build_topology(ligand)).confidence.doubt
    assert ("about as long as the single bonds" in doubt) == is_blurred


@pytest.mark.parametrize(
    ("smiles", "n_blurred"),
    [("C=CC=C", 2), ("C=CC(C)=C", 2), ("C=Cc1ccccc1", 0), ("CN(C)C=CC=[N+](C)C", 0), ("C1=CCCC=C1", 0)],
)
def test_equal_lengths_blur_the_double_bonds_that_no_form_moves(build_ligand, smiles, n_blurred):
    """All bonds 1.4 angstrom: by hand, C=C-C=C outside rings, but in a cyanine. Single
    bonds longer by twice the least alternation blur none.
    """
    ligand = build_ligand(smiles)
    topology, mol = build_topology(ligand), to_rdkit(ligand)
    equal = np.full(len(topology.bonds), 1.4)
    assert count_blurred_double_bonds(ligand, topology, equal) == n_blurred
    is_single = [
        mol.GetBondBetweenAtoms(*row).GetBondTypeAsDouble() == 1.0 for row in topology.bonds.tolist()
    ]
    assert count_blurred_double_bonds(ligand, topology, equal + np.multiply(is_single, 0.1)) == 0


def test_disagreement_about_charges_is_flagged(build_ligand):
    """Two members 0.2 e apart on one of three atoms: 0.1 e there, 0.1 / sqrt(3) for the ligand by hand."""
    graph = build_graph(build_ligand("CC(=O)NC"))
    apart = torch.tensor([[0.5, -0.2, -0.3], [0.3, -0.2, -0.3]], dtype=torch.float64)
    spread = spread_about("CC(=O)NC", build_ligand, members_of("CC(=O)NC", build_ligand, n=1), apart)
    np.testing.assert_allclose(spread.charge, [0.1, 0.0, 0.0], atol=1e-15)
    assert spread.total_charge == pytest.approx(0.1 / math.sqrt(3))
    usual = Domain.of_training([graph, graph], disagreement_limit=1.0, charge_limit=0.06)
    assert usual.assess(graph, spread).doubt == ""
    assert "0.058 e" in dataclasses.replace(usual, charge_limit=0.05).assess(graph, spread).charge_doubt


def shipped(tmp_path, build_ligand) -> Model:
    size = NetworkConfig(width=16, n_layers=2)
    graphs = [build_graph(build_ligand("CCO"))] * 2
    model = Model(
        name="m",
        version="1",
        sha256="",
        charges=ChargeEnsemble([ChargeNetwork(16, 2), ChargeNetwork(16, 2)]),
        valence=ensemble(2),
        sizes={"charges": size, "valence": size},
        domain=Domain.of_training(graphs, disagreement_limit=0.5, charge_limit=0.1),
    )
    return save_model(model, tmp_path)


def test_the_domain_travels_with_the_weights(tmp_path, build_ligand):
    """Saved and loaded: the same environments and limit; a changed byte is refused."""
    loaded = shipped(tmp_path, build_ligand)
    assert loaded.domain == load_model_folder(tmp_path).domain
    ligand = build_ligand("CCS")
    confidence = Predictor(loaded).predict(ligand, build_topology(ligand)).confidence
    assert confidence is not None
    assert "not in the training" in confidence.doubts
    path = tmp_path / "domain.json"
    path.write_text(path.read_text().replace("0.5", "5.0"))
    with pytest.raises(SettingsError, match=r"domain\.json: hash"):
        load_model_folder(tmp_path)


def test_both_forms_ask_the_networks_of_both(tmp_path, build_ligand):
    """Ethane, every proper's k_3 constant per network: by hand from all five numbers, whichever form is
    predicted, the same flag; rows are those of the form alone. The form's own networks are within the limit.
    """
    model = shipped(tmp_path, build_ligand)
    ks = {"class1": (0.1, 0.2, 0.3), "class2": (0.6, 0.7)}
    forms = {form: ensemble(len(k), form) for form, k in ks.items()}
    for form, networks in forms.items():
        for readouts, k in zip(networks.readouts.members, ks[form], strict=True):
            for tensor in readouts.proper.head[-1].parameters():
                tensor.zero_()
            readouts.proper.head[-1].bias[2] = k / PROPER_K_SCALE
    domain = dataclasses.replace(model.domain, disagreement_limit=1.0)
    both = dataclasses.replace(model, valence=forms["class1"], class2=forms["class2"], domain=domain)
    ethane = build_ligand("CC")

    def total(*k):
        return 9 * np.std(k) / math.sqrt(2)

    for form, k in ks.items():
        confidence = Predictor(both, form).predict(ethane, build_topology(ethane)).confidence
        assert confidence.uncertainty == pytest.approx(total(*ks["class1"], *ks["class2"]))
        np.testing.assert_allclose(confidence.proper, np.std(k) / math.sqrt(2))
        assert total(*k) < confidence.limit < confidence.uncertainty
        assert "summed over torsions" in confidence.doubt


def test_a_file_that_is_no_domain_is_one_sentence(tmp_path):
    """A list where a table is expected."""
    path = tmp_path / "domain.json"
    path.write_text("[]")
    with pytest.raises(SettingsError, match="not a domain file"):
        read_domain(path)


class Row:
    def __init__(self, number, error):
        self.row, self.dde = number, np.array([0.0, error, -error])
        self.is_reference = np.array([True, False, False])


class Scored:
    def __init__(self, errors):
        self.rows = [Row(number, error) for number, error in enumerate(errors)]


def test_errors_in_the_order_of_the_uncertainty_have_rank_correlation_one(tmp_path, build_ligand):
    """Errors made equal to the uncertainties: rho 1, fifths rise, a picture; reversed: rho -1."""
    predictor = Predictor(shipped(tmp_path, build_ligand))
    ligands = [build_ligand(s) for s in ("CC", "CCO", "CCCO", "CC(=O)NC", "CCOCC", "c1ccccc1C")]
    examples = [type("E", (), {"ligand": ligand, "topology": build_topology(ligand)}) for ligand in ligands]
    sure = [predictor.predict(e.ligand, e.topology).confidence.uncertainty for e in examples]
    summary = error_against_uncertainty(predictor, examples, Scored(sure), tmp_path / "u.png")
    assert summary.rank_correlation == pytest.approx(1.0)
    assert list(summary.group_error) == sorted(summary.group_error)
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")
    reverse = [-value for value in sure]
    reversed_ = error_against_uncertainty(
        predictor, examples, Scored([max(sure) + r for r in reverse]), tmp_path / "v.png"
    )
    assert reversed_.rank_correlation == pytest.approx(-1.0)


def test_errors_are_told_by_the_kind_of_doubt(tmp_path):
    """Two beyond the limit, one of them with strange atoms too; one strange only; three inside: the means."""
    said = [(3.0, "disagree"), (2.5, "disagree; surroundings"), (1.0, "surroundings"), *[(0.5, "")] * 3]
    confidences = [SimpleNamespace(uncertainty=u, limit=2.0, doubts=doubts) for u, doubts in said]
    predictor = SimpleNamespace(predict=lambda number, _: SimpleNamespace(confidence=confidences[number]))
    examples = [SimpleNamespace(ligand=number, topology=None) for number in range(len(said))]
    errors = [4.0, 2.0, 1.5, 1.0, 0.5, 0.3]
    summary = error_against_uncertainty(predictor, examples, Scored(errors), tmp_path / "u.png")
    assert (summary.n_disputed, summary.error_disputed) == (2, pytest.approx(3.0))
    assert (summary.n_strange, summary.error_strange) == (1, pytest.approx(1.5))
    assert summary.error_inside == pytest.approx(0.6)
