"""The total charge of ASE's molecules, and spins, which the models do not know."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import ase
import numpy as np

from shared.errors import UserError

NAMES = ("REF_charge", "charge", "total_charge", "Q", "Charge", "Total_charge", "totalcharge", "net_charge")
"""Names of the total charge, in files and in ``atoms.info``."""

INITIAL_CHARGE_DECIMALS = 6
"""Decimals of the sum of initial charges: a neutral molecule's add up to zero only to the digits that were written."""


def total_charge_of(molecule: ase.Atoms) -> float:
    """Return the total charge in e: that of ``info`` (``charge``, ``total_charge`` ...), else of the initial charges.

    Raises:
        UserError: it is not one finite number, or two names have different ones.
    """
    stated = {name: parse_charge(name, molecule.info[name]) for name in NAMES if _is_stated(molecule.info, name)}
    if len(set(stated.values())) > 1:
        shown = ", ".join(f"{name} = {value:g}" for name, value in stated.items())
        raise UserError(f"total charges that differ ({shown}); keep one of them in atoms.info")
    if stated:
        return next(iter(stated.values()))
    if not molecule.has("initial_charges"):
        return 0.0
    return parse_charge("the sum of the initial charges", molecule.get_initial_charges().sum().round(8))


def _is_stated(info: Mapping[str, Any], name: str) -> bool:
    # Q may be a quadrupole, or the charges of all atoms.
    return name in info and (name != "Q" or np.size(info[name]) == 1)


def parse_charge(name: str, value: Any) -> float:
    """Return a total charge in e.

    Raises:
        UserError: it is not one finite number.
    """
    plain = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    try:
        if isinstance(plain, bool | np.bool_) or not isinstance(plain, numbers.Real | str):
            raise ValueError
        number = float(plain)
    except ValueError:
        raise UserError(f"{name} = {value!r} is not a total charge: give one number, in e") from None
    if not np.isfinite(number):
        raise UserError(f"{name} = {number} is not finite: give the total charge in e")
    return number


def describe_spin(molecule: ase.Atoms) -> str:
    """Return what a molecule states of unpaired electrons (``multiplicity=3``), or an empty text."""
    for name, value in molecule.info.items():
        closed = {"spin": "0", "uhf": "0", "multiplicity": "1", "spin_multiplicity": "1", "mult": "1"}.get(name.lower())
        if closed is not None and str(value).removesuffix(".0") != closed:
            return f"{name} = {value}"
    if molecule.has("initial_magmoms") and np.any(molecule.get_initial_magnetic_moments()):
        return "initial magnetic moments"
    return ""
