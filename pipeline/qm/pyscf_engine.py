"""pyscf behind the door: density-fitted restricted B3LYP and HF. Imported in child processes only."""

import basis_set_exchange
import pyscf
from pyscf import df, dft, gto, lib, scf

from pipeline.errors import QMError
from pipeline.qm.dispersion import compute_d3bj
from pipeline.qm.levels import LIBRARY_BASIS_NAMES, MAX_FITTED_ATOMIC_NUMBER
from pipeline.qm.result import EngineResult, to_bohr
from pipeline.schema import QMTask

# psi4's choices, so that both engines give one potential energy surface: B3LYP with VWN3 (libxc 402; B3LYP5
# would be VWN5), spherical functions, this auxiliary basis for Coulomb and exchange.
_FUNCTIONALS = {"b3lyp": "b3lypg"}
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
_MEMORY_SHARE = 0.6
"""of the address space allowed; the rest is libraries and what pyscf does not count"""


def compute(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Compute energy and gradient of one geometry; QMError kind scf when no rung of the ladder converges."""
    lib.num_threads(n_cores)
    bohr = to_bohr(task)
    molecule = _build_molecule(task, int(memory_mb * _MEMORY_SHARE))
    field, rung = _converge(_build_field(molecule, task), task)
    energy, gradient = float(field.e_tot), None
    if task.spec.driver == "gradient":
        gradient = field.nuc_grad_method().kernel()
    if task.spec.dispersion:
        extra = compute_d3bj(task.spec.method, task.atomic_numbers, bohr)
        energy += extra.energy
        gradient = None if gradient is None else gradient + extra.gradient
    return EngineResult(
        energy=energy,
        gradient=gradient,
        coords=molecule.atom_coords(unit="Angstrom"),
        provenance={"program": "pyscf", "version": pyscf.__version__, "scf_rung": rung},
    )


def _build_molecule(task: QMTask, memory_mb: int) -> gto.Mole:
    numbers = [int(number) for number in task.atomic_numbers]
    name = LIBRARY_BASIS_NAMES.get(str(task.spec.basis), task.spec.basis)
    basis = {}
    for number in set(numbers):
        text = basis_set_exchange.get_basis(name, elements=[number], fmt="nwchem", header=False)
        basis[gto.mole._symbol(number)] = gto.basis.parse(text)
    molecule = gto.Mole(
        atom=list(zip(numbers, to_bohr(task).tolist(), strict=True)),
        unit="Bohr",
        basis=basis,
        charge=task.total_charge,
        spin=0,
        verbose=0,
        max_memory=memory_mb,
    )
    return molecule.build(dump_input=False, parse_arg=False)


def _build_field(molecule: gto.Mole, task: QMTask) -> scf.hf.SCF:
    if task.spec.method == "hf":
        field = scf.RHF(molecule)
    else:
        field = dft.RKS(molecule, xc=_FUNCTIONALS[task.spec.method])
    field = field.density_fit(auxbasis=_auxiliary_basis(molecule))
    field.max_cycle = int(dict(task.spec.keywords).get("maxiter", _MAX_CYCLES))
    return field


def _auxiliary_basis(molecule: gto.Mole) -> dict[str, object]:
    """Fit with psi4's basis; elements that it lacks get one generated from their orbitals."""
    basis: dict[str, object] = {}
    for symbol, shells in molecule._basis.items():
        number = gto.charge(symbol)
        if number <= MAX_FITTED_ATOMIC_NUMBER:
            basis[symbol] = _AUXILIARY
        else:
            atom = gto.M(atom=symbol, basis={symbol: shells}, spin=number % 2, verbose=0)
            basis[symbol] = df.autoaux(atom)[symbol]
    return basis


def _converge(field: scf.hf.SCF, task: QMTask) -> tuple[scf.hf.SCF, str]:
    """Climb the ladder: DIIS, then damped and level-shifted, then second order, from the last orbitals."""
    guess = None
    if isinstance(field, dft.rks.RKS):
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
        f"{task.ligand_key}: pyscf: SCF not converged in {field.max_cycle} cycles, also with level shift and "
        "second order; check charge and geometry",
        kind="scf",
    )
