"""pyscf behind the door: density-fitted restricted HF and DFT. Imported in child processes only.

Where gpu4pyscf is installed and finds a device, the self-consistent field and its gradient run on that.
"""

from importlib.util import find_spec

import basis_set_exchange
import numpy as np
import pyscf
from pyscf import df, dft, gto, lib, scf

from pipeline.errors import QMError
from pipeline.qm.dispersion import correction_hessian, corrections
from pipeline.qm.esp_grid import shell_points
from pipeline.qm.levels import (
    LIBRARY_BASIS_NAMES,
    MAX_FITTED_ATOMIC_NUMBER,
    basis_of,
    is_cartesian,
)
from pipeline.qm.populations import wiberg_bond_orders
from pipeline.qm.result import EngineResult, to_bohr
from pipeline.schema import FloatArray, QMTask
from pipeline.units import ANGSTROM_PER_BOHR

# psi4's choices, so that both engines give one potential energy surface: B3LYP with VWN3 (libxc 402; B3LYP5
# would be VWN5), spherical functions, this auxiliary basis for Coulomb and exchange.
_FUNCTIONALS = {"b3lyp": "b3lypg", "wb97x": "wb97x_v", "b97-3c": "gga_xc_b97_3c"}
"""wB97X-D3BJ is wB97X-V with D3 in the place of VV10, which is switched off"""
_AUXILIARY = "def2-universal-jkfit"
_GRID_LEVEL = 3
_FIRST_GRID_LEVEL = 0
_FIRST_CONVERGED_ENERGY = 1e-6
# Phenol and paracetamol: energy within 1e-9 hartree, gradient within 7e-6 hartree/bohr of tight convergence.
_CONVERGED_ENERGY = 1e-7
"""hartree, change of the last SCF cycle"""
_CONVERGED_ORBITALS = 1e-4
"""hartree, norm of the orbital gradient; the error of the energy is its square, of the forces about itself"""
_MAX_CYCLES = 60
_POINTS_AT_ONCE = 200
"""of the potential; each holds n_functions^2 integrals"""
_MEMORY_SHARE = 0.6
"""of the address space allowed; the rest is libraries and what pyscf does not count"""


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Compute what the driver asks of one geometry; QMError kind scf when no rung of the ladder converges."""
    lib.num_threads(n_cores)
    molecule = _build_molecule(task, int(memory_mb * _MEMORY_SHARE))
    field, rung = _converge(_on_device(_build_field(molecule, task)), task, _LAST.guess_for(task))
    energy, gradient, hessian = float(field.e_tot), None, None
    driver = task.spec.driver
    if driver in ("gradient", "hessian"):
        gradient = np.asarray(_to_host(field.nuc_grad_method().kernel()))
    if driver == "hessian":
        hessian = _hessian(field, molecule.natm)
    for extra in corrections(task):
        energy += extra.energy
        gradient = None if gradient is None else gradient + extra.gradient
    if hessian is not None:
        hessian = hessian + correction_hessian(task)
    density = np.asarray(_to_host(field.make_rdm1()))
    _LAST.keep(task, density)
    return EngineResult(
        energy=energy,
        gradient=gradient,
        coords=molecule.atom_coords(unit="Angstrom"),
        electrons=_electrons(molecule),
        hessian=hessian,
        dipole=scf.hf.dip_moment(molecule, density, unit="AU", verbose=0),
        bond_orders=_bond_orders(molecule, density) if driver == "properties" else None,
        esp=_potential(molecule, density, task) if driver == "esp" else None,
        provenance={"program": _name(field), "version": pyscf.__version__, "scf_rung": rung},
    )


def _electrons(molecule: gto.Mole) -> tuple[int, int]:
    """How many of each spin, those in effective cores counted in."""
    in_cores = sum(molecule.atom_nelec_core(atom) for atom in range(molecule.natm)) // 2
    return int(molecule.nelec[0]) + in_cores, int(molecule.nelec[1]) + in_cores


class _Last:
    """The density of this process' last calculation: the guess for the next step of an optimisation.

    A process runs one job, so a single point never sees another's.
    """

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._density: FloatArray | None = None

    def keep(self, task: QMTask, density: FloatArray) -> None:
        """Remember a converged density."""
        self._of, self._density = self._signature(task), density

    def guess_for(self, task: QMTask) -> FloatArray | None:
        """The last density when it was of the same molecule at the same level."""
        return self._density if self._of == self._signature(task) else None

    @staticmethod
    def _signature(task: QMTask) -> tuple[object, ...]:
        return (*task.atomic_numbers.tolist(), task.total_charge, task.spec.method, task.spec.basis)


_LAST = _Last()


def _on_device(field: scf.hf.SCF) -> scf.hf.SCF:
    """Move the calculation to the GPU where gpu4pyscf is installed and finds one."""
    if find_spec("gpu4pyscf") is None or find_spec("cupy") is None:
        return field
    import cupy

    return field.to_gpu() if cupy.cuda.is_available() else field


def _name(field: scf.hf.SCF) -> str:
    return "gpu4pyscf" if type(field).__module__.startswith("gpu4pyscf") else "pyscf"


def _to_host(array: FloatArray) -> FloatArray:
    """Give an array that may lie on the GPU to numpy."""
    found: FloatArray = array.get() if hasattr(array, "get") else array
    return found


def _hessian(field: scf.hf.SCF, n_atoms: int) -> FloatArray:
    """(3 n_atoms, 3 n_atoms) hartree/bohr^2; pyscf gives (n_atoms, n_atoms, 3, 3)."""
    blocks = np.asarray(_to_host(field.Hessian().kernel()))
    return blocks.transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)


def _bond_orders(molecule: gto.Mole, density: FloatArray) -> FloatArray:
    starts = [int(start) for start in molecule.aoslice_by_atom()[:, 2]]
    return wiberg_bond_orders(density, molecule.intor_symmetric("int1e_ovlp"), starts)


def _potential(molecule: gto.Mole, density: FloatArray, task: QMTask) -> FloatArray:
    """The electrostatic potential on the Merz-Kollman shells: (n_points, 4), bohr and hartree/e."""
    points = shell_points(task.atomic_numbers, task.coords) / ANGSTROM_PER_BOHR
    away = np.linalg.norm(points[:, None] - molecule.atom_coords()[None], axis=2)
    potential = (molecule.atom_charges() / away).sum(axis=1)
    for start in range(0, len(points), _POINTS_AT_ONCE):
        part = slice(start, start + _POINTS_AT_ONCE)
        integrals = molecule.intor("int1e_grids", hermi=1, grids=points[part])
        potential[part] -= np.einsum("pij,ij->p", integrals, density)
    return np.column_stack([points, potential])


def _build_molecule(task: QMTask, memory_mb: int) -> gto.Mole:
    numbers = [int(number) for number in task.atomic_numbers]
    basis, cores = {}, {}
    for number in set(numbers):
        name, symbol = str(basis_of(task.spec, number)), gto.mole._symbol(number)
        library_name = LIBRARY_BASIS_NAMES.get(name, name)
        text = basis_set_exchange.get_basis(library_name, elements=[number], fmt="nwchem", header=False)
        functions, _, core = text.partition("\nECP\n")
        basis[symbol] = gto.basis.parse(functions)
        if core:
            cores[symbol] = gto.basis.parse_ecp(core)
    molecule = gto.Mole(
        atom=list(zip(numbers, to_bohr(task).tolist(), strict=True)),
        unit="Bohr",
        basis=basis,
        ecp=cores,
        charge=task.total_charge,
        spin=0,
        cart=is_cartesian(task.spec.basis),
        verbose=0,
        max_memory=memory_mb,
    )
    return molecule.build(dump_input=False, parse_arg=False)


def _build_field(molecule: gto.Mole, task: QMTask) -> scf.hf.SCF:
    if task.spec.method == "hf":
        field = scf.RHF(molecule)
    else:
        field = dft.RKS(molecule, xc=_FUNCTIONALS[task.spec.method])
        field.nlc = 0
    field = field.density_fit(auxbasis=_auxiliary_basis(molecule))
    field.max_cycle = int(dict(task.spec.keywords).get("maxiter", _MAX_CYCLES))
    return field


def _auxiliary_basis(molecule: gto.Mole) -> dict[str, object]:
    """Fit with psi4's basis; elements that it has none for with all their electrons get one generated."""
    basis: dict[str, object] = {}
    for symbol, shells in molecule._basis.items():
        number = gto.charge(symbol)
        if number <= MAX_FITTED_ATOMIC_NUMBER or symbol in molecule._ecp:
            basis[symbol] = _AUXILIARY
        else:
            atom = gto.M(atom=symbol, basis={symbol: shells}, spin=number % 2, verbose=0)
            basis[symbol] = df.autoaux(atom)[symbol]
    return basis


def _converge(field: scf.hf.SCF, task: QMTask, guess: FloatArray | None) -> tuple[scf.hf.SCF, str]:
    """Climb the ladder: DIIS, from another guess, damped and level-shifted, of second order."""
    if guess is None and hasattr(field, "grids"):
        # Nine tenths of a cycle is the grid's: cycles on a coarse grid first save 40 % of the time.
        field.grids.level, field.conv_tol = _FIRST_GRID_LEVEL, _FIRST_CONVERGED_ENERGY
        field.kernel()
        guess = field.make_rdm1()
        field.grids.reset()
        field.grids.level = _GRID_LEVEL
    field.conv_tol, field.conv_tol_grad = _CONVERGED_ENERGY, _CONVERGED_ORBITALS
    field.conv_check = False  # no cycle after the last
    field.kernel(dm0=guess)
    if field.converged:
        return field, "default"
    field.kernel(dm0=field.get_init_guess(key="huckel"))
    if field.converged:
        return field, "guess"
    field.level_shift, field.damp, field.conv_check = 0.3, 0.4, True  # the last cycle is without the shift
    field.kernel(dm0=field.make_rdm1())
    if field.converged:
        return field, "level-shift"
    field.level_shift, field.damp = 0.0, 0.0
    orbitals, occupation = field.mo_coeff, field.mo_occ
    second = field.newton()
    second.kernel(orbitals, occupation)
    if second.converged:
        return second, "second-order"
    raise QMError(
        f"{task.ligand_key}: pyscf: SCF not converged in {field.max_cycle} cycles, also with another guess, "
        "level shift and second order; check charge and geometry",
        kind="scf",
    )
