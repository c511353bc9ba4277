"""A user's own atomic charges for comparison: mol2, topologies of CHARMM, or CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from shared.errors import UserError

_SUM = 0.05
"""Largest difference in e of the sum from the molecule's charge: files round."""


def read_charges(name: str, atoms: int, total_charge: float) -> np.ndarray:
    """Return the charges (atoms,) in e of a file, in the order of its atoms.

    It is mol2 (its first molecule), CHARMM's rtf, prm or str (``ATOM name type charge``), or CSV whose columns are
    ``atom`` and ``charge``.

    Raises:
        UserError: the file cannot be read, or has charges of another molecule.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
        if "@<TRIPOS>ATOM" in text:
            found = _mol2(text)
        elif any(line.split()[:1] == ["ATOM"] for line in text.upper().splitlines()):
            found = [float(line.split("!")[0].split()[3]) for line in text.splitlines() if _is_atom(line)]
        else:
            found = [float(row["charge"]) for row in csv.DictReader(io.StringIO(text), skipinitialspace=True)]
    except OSError as error:
        raise UserError(f"--compare {name}: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise UserError(
            f"--compare {name}: no charges found; mol2, CHARMM's lines ATOM NAME TYPE CHARGE, and CSV with the columns "
            f"atom,charge are read ({type(error).__name__}: {error})"
        ) from error
    charges = np.array(found)
    if len(charges) != atoms:
        raise UserError(f"--compare {name}: {len(charges)} charges, but the molecule has {atoms} atoms")
    if not np.isfinite(charges).all() or abs(charges.sum() - total_charge) > _SUM:
        raise UserError(
            f"--compare {name}: the charges sum to {charges.sum():g} e, but the molecule's charge is {total_charge:g} "
            "e (--charge)"
        )
    return charges


def _is_atom(line: str) -> bool:
    return line.upper().split()[:1] == ["ATOM"]


def _mol2(text: str) -> list[float]:
    """Return the ninth column of the first block of atoms."""
    block = text.split("@<TRIPOS>ATOM", 1)[1].split("@<TRIPOS>", 1)[0]
    return [float(line.split()[8]) for line in block.splitlines() if line.strip()]
