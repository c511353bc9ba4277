"""The level of theory, and the check, before anything is computed, that PySCF can compute molecules at it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocess.reference.extras import installed_version
from preprocess.reference.molecules import Molecule
from shared.elements import symbol
from shared.errors import UserError

_WITH_DISPERSION = re.compile(r"[-_](d|d[234].*|3c)$|^cf22d$")
"""Names of functionals with a correction that another library would have to compute."""


@dataclass(frozen=True)
class Level:
    """A level of theory: method, basis set and the thresholds of the SCF."""

    method: str = "hf"
    """``hf`` or a density functional, in lower case."""
    basis: str = "6-31g*"
    conv_tol: float = 1e-9
    """Convergence of the SCF energy, Hartree."""
    max_cycles: int = 100
    xc_grid_level: int = 3
    memory_mib: int = 2000
    density_fit: bool = False
    """Whether the electrons' repulsion is expanded in PySCF's default fitting basis (resolution of the identity)."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return all that the results depend on, as JSON; ``density_fit``, which is newer than the rest, only if on."""
        left_out = {"memory_mib"} if self.density_fit else {"memory_mib", "density_fit"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def pyscf_version() -> str:
    """Return the version of PySCF that is installed.

    Raises:
        UserError: PySCF is not installed.
    """
    return installed_version("PySCF", "reference data are computed by", make="reference-data", extra="reference")


def require_computable(level: Level, molecules: Sequence[Molecule]) -> None:
    """Check that the method and the basis are known, for all elements that occur.

    Raises:
        UserError: they are not.
    """
    _check_method(level.method)
    for number in sorted({int(number) for molecule in molecules for number in molecule.atomic_numbers}):
        _check_basis(level.basis, symbol(number))
        if level.density_fit:
            _check_fitting_basis(level, symbol(number))


def core_potentials(basis: str, symbols: Iterable[str]) -> dict[str, Any]:
    """Return the effective core potentials of a basis set, for the elements that have one."""
    from pyscf import gto

    found = {}
    for element in set(symbols):
        with without_advice():
            try:
                potential = gto.basis.load_ecp(basis, element)
            except (RuntimeError, KeyError, FileNotFoundError):  # the basis comes without any
                continue
        if potential:
            found[element] = potential
    return found


def _check_method(method: str) -> None:
    from pyscf import dft

    if method == "hf":
        return
    if _WITH_DISPERSION.search(method):
        raise UserError(f"--method {method}: dispersion corrections are not computed; name the functional without")
    try:
        _, terms = dft.libxc.parse_xc(method)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"--method {method}: neither hf nor a density functional that PySCF knows (pbe0, b3lyp, wb97x-v, ...)"
        ) from error
    if not terms or re.fullmatch(r"[\d.,+*\s-]*", method):
        raise UserError(f"--method {method!r}: no density functional; hf, pbe0, b3lyp, ...")


def _check_basis(basis: str, element: str) -> None:
    from pyscf import gto

    if Path(basis).is_file():
        raise UserError(f"--basis {basis}: is a file; only PySCF's own basis sets are known by their names alone")
    if basis.startswith("gth"):
        raise UserError(
            f"--basis {basis}: is for pseudopotentials; take one for all electrons, such as 6-31g* or def2-svp"
        )
    with without_advice():
        try:
            functions = gto.basis.load(basis, element)
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"--basis {basis}: PySCF has none of this name for {element}; 6-31g*, def2-svp (all elements to Rn) or "
                "cc-pvtz, for instance"
            ) from error
    if not functions:
        raise UserError(f"--basis {basis}: holds nothing for {element}")


def _check_fitting_basis(level: Level, element: str) -> None:
    from pyscf import gto
    from pyscf.df.addons import predefined_auxbasis

    atom = gto.M(atom=element, basis=level.basis, ecp=core_potentials(level.basis, [element]), spin=None, verbose=0)
    fitting_basis = predefined_auxbasis(atom, level.basis, level.method)
    if fitting_basis is None:  # made from the orbitals' basis
        return
    with without_advice():
        try:
            gto.basis.load(fitting_basis, element)
        except (RuntimeError, KeyError) as error:
            raise UserError(
                f"--density-fit: PySCF fits {level.basis} by {fitting_basis}, which has no functions for {element}; "
                "take another --basis (def2-svp: all elements to Rn), or leave --density-fit out"
            ) from error


class without_advice(warnings.catch_warnings):
    """Suppress PySCF's advice to install a library of more basis sets."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message=".* may be available in basis-set-exchange", category=UserWarning)
