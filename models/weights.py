"""DOOR to the weights: safetensors, a JSON manifest with hashes, a model card; never a pickle.

weights/<name>/<version>/: manifest.json, MODEL_CARD.md, charges.safetensors, valence.safetensors,
class2.safetensors, domain.json
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import NetworkConfig
from models.domain import Domain, read_domain
from models.features import ELEMENTS, N_ATOM_FEATURES, N_EDGE_FEATURES
from models.gnn import GraphEncoder
from models.network import ValenceEnsemble, ValenceNetwork
from pipeline.errors import SettingsError
from pipeline.schema import CONVENTIONS_VERSION
from pipeline.settings import Form

SHIPPED = Path(__file__).parent / "weights"
DEFAULT = "sixth"
DOMAIN_FILE = "domain.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Ensembles of charge networks and of valence networks that belong together."""

    name: str
    version: str
    sha256: str
    """of the manifest, which holds the hashes of the weights"""
    charges: ChargeEnsemble
    valence: ValenceEnsemble
    sizes: dict[str, NetworkConfig]
    class2: ValenceEnsemble | None = None
    """the same force field in the class II form, of the valence networks' size; None: there is none"""
    domain: Domain | None = None
    """what training saw; None where nobody looked"""

    @property
    def ensembles(self) -> tuple[ValenceEnsemble, ...]:
        """The networks of each form that there is."""
        return (self.valence,) if self.class2 is None else (self.valence, self.class2)

    @property
    def encoders(self) -> list[GraphEncoder]:
        """Those of all networks."""
        modules = [module for network in (self.charges, *self.ensembles) for module in network.modules()]
        return [module for module in modules if isinstance(module, GraphEncoder)]

    @property
    def n_layers(self) -> int:
        """Layers of the deepest network: how many bonds away an atom is still seen."""
        return max(len(encoder.layers) for encoder in self.encoders)

    @property
    def reads_pi(self) -> bool:
        """Whether any network reads pi electrons."""
        return any(encoder.reads_pi for encoder in self.encoders)

    def valence_of(self, form: Form) -> ValenceEnsemble:
        """The networks of a form; SettingsError when the model has none."""
        if form == "class1":
            return self.valence
        if self.class2 is None:
            raise SettingsError(f"model {self.name}/{self.version} has no form {form}; leave --form out")
        return self.class2


def save_model(model: Model, folder: Path) -> Model:
    """Write both networks and the manifest; return the model with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    networks: dict[str, nn.Module] = {"charges": model.charges, "valence": model.valence}
    if model.class2 is not None:
        networks["class2"] = model.class2
    for part, network in networks.items():
        path = folder / f"{part}.safetensors"
        save_file({n: t.contiguous().float() for n, t in network.state_dict().items()}, path)
        path.chmod(0o644)
        hashes[path.name] = _sha256(path)
    if model.domain is not None:
        (folder / DOMAIN_FILE).write_text(model.domain.to_json())
        hashes[DOMAIN_FILE] = _sha256(folder / DOMAIN_FILE)
    manifest = {
        "name": model.name,
        "version": model.version,
        "conventions": CONVENTIONS_VERSION,
        "elements": list(ELEMENTS),
        "n_atom_features": N_ATOM_FEATURES,
        "n_edge_features": N_EDGE_FEATURES,
        "n_charge_members": model.charges.n_members,
        "n_members": model.valence.n_members,
        "n_class2_members": 0 if model.class2 is None else model.class2.n_members,
        "class2_has_pairs": model.class2 is not None and model.class2.has_pairs,
        "networks": {part: size.model_dump() for part, size in model.sizes.items()},
        "sha256": hashes,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return load_model_folder(folder)


def load_model(name: str) -> Model:
    """Load shipped weights by `name` or `name/version`, or a folder; `default` is the recommended one.

    Raises SettingsError when there are none of that name, or when a file's hash is not the manifest's.
    """
    wanted = DEFAULT if name == "default" else name
    for folder in (SHIPPED / wanted, Path(wanted)):
        if (folder / "manifest.json").is_file():
            return load_model_folder(folder)
        versions = sorted(path.parent for path in folder.glob("*/manifest.json"))
        if versions:
            return load_model_folder(max(versions, key=_version_key))
    known = sorted({path.parent.parent.name for path in SHIPPED.glob("*/*/manifest.json")})
    missing = f"{name}: no manifest.json of a model here" if Path(name).is_dir() else f"no model {name!r}"
    raise SettingsError(f"{missing}; shipped: {', '.join(known) or 'none'}, or give a model's folder")


def load_model_folder(folder: Path, *, with_domain: bool = True) -> Model:
    """Load and check one version's folder, with or without what is recorded of its domain."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        sizes = {part: NetworkConfig(**size) for part, size in manifest["networks"].items()}
        _check_conventions(manifest, folder)
        charges = ChargeEnsemble(
            [
                ChargeNetwork(sizes["charges"].width, sizes["charges"].n_layers, pi=sizes["charges"].pi)
                for _ in range(manifest["n_charge_members"])
            ]
        )
        valence = _ensemble(sizes["valence"], manifest["n_members"], "class1")
        networks: dict[str, nn.Module] = {"charges": charges, "valence": valence}
        class2 = None
        if manifest["n_class2_members"]:
            has_pairs = manifest.get("class2_has_pairs", False)
            class2 = _ensemble(sizes["valence"], manifest["n_class2_members"], "class2", pairs=has_pairs)
            networks["class2"] = class2
        for part, network in networks.items():
            _load_checked(network, folder / f"{part}.safetensors", manifest["sha256"])
            network.double().eval()
        domain = None
        if with_domain and DOMAIN_FILE in manifest["sha256"]:
            _check_hash(folder / DOMAIN_FILE, manifest["sha256"])
            domain = read_domain(folder / DOMAIN_FILE)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise SettingsError(f"model {folder}: cannot be read: {error}") from error
    return Model(
        name=manifest["name"],
        version=manifest["version"],
        sha256=_sha256(path),
        charges=charges,
        valence=valence,
        sizes=sizes,
        class2=class2,
        domain=domain,
    )


def _ensemble(size: NetworkConfig, n_members: int, form: Form, *, pairs: bool = False) -> ValenceEnsemble:
    return ValenceEnsemble(
        [
            ValenceNetwork(size.width, size.n_layers, form=form, pi=size.pi, pairs=pairs)
            for _ in range(n_members)
        ]
    )


def _check_conventions(manifest: dict[str, object], folder: Path) -> None:
    ours = {
        "conventions": CONVENTIONS_VERSION,
        "elements": list(ELEMENTS),
        "n_atom_features": N_ATOM_FEATURES,
        "n_edge_features": N_EDGE_FEATURES,
    }
    for name, value in ours.items():
        if manifest[name] != value:
            raise SettingsError(
                f"model {folder} was made with {name} {manifest[name]}, this parmflow has {value}: "
                "use the parmflow that made it, or train again"
            )


def _check_hash(path: Path, hashes: dict[str, str]) -> None:
    if _sha256(path) != hashes[path.name]:
        raise SettingsError(f"{path}: hash differs from the manifest's: the file is damaged or was exchanged")


def _load_checked(network: nn.Module, path: Path, hashes: dict[str, str]) -> None:
    _check_hash(path, hashes)
    network.load_state_dict(load_file(path))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())
