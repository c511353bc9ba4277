"""Groups of molecules that the rules judge: the evidence of one pair of files, or of several small ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocess.checks.evidence import CheckedFile, Evidence, Finding, Severity
from preprocess.checks.measure_esp import POLAR, POLAR_AS_GIVEN
from shared.input.unit_choice import InputUnits

FEWEST = 8
"""Least number of molecules (or pairs of frames) for a statement about a whole file."""
FEWEST_ALL_AGREE = 2
"""Least number where all of them agree, and clearly."""
_SMALL_FILE = 16
EXAMPLES = 10


@dataclass(frozen=True)
class MoleculeGroup:
    """Molecules that are judged together."""

    evidence: Evidence
    molecules: np.ndarray  # of MOLECULE
    pairs: np.ndarray  # of PAIR

    def find(
        self,
        check: str,
        severity: Severity,
        bad: np.ndarray,
        what: str,
        remedy: str,
        among: np.ndarray | None = None,
        of_esp: bool = False,
    ) -> Finding:
        """Return a finding about the molecules ``bad`` (a mask).

        Its confidence is their share ``among`` others (without them: 1).
        """
        share = int(bad.sum()) / int(among.sum()) if among is not None else 1.0
        files = [(file.efd, file.esp)[of_esp] if file.divided else _in_split(file, of_esp) for file in self._files()]
        names = list(dict.fromkeys(files))
        where = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        return Finding(
            check=check,
            severity=severity,
            confidence=round(share, 3),
            what=f"{where}: {what}",
            remedy=remedy,
            rows=examples(self.evidence, self.molecules[bad], of_esp),
        )

    def polar(self) -> np.ndarray:
        """Return the mask of the molecules whose dipole is large enough to compare and whose total charge is right."""
        m = self.molecules
        # Relative to the charges, for an ESP in another unit makes errors of its sum as large as its unit is small.
        right_charge = np.abs(m["fitted_charge"] - m["charge"]) < 0.4 * np.maximum(m["largest_charge"], 1.0)
        # An ESP in a unit that is too large makes the fitted dipole small: then the given one decides.
        large = (m["fitted_dipole"] > POLAR) | (np.isfinite(m["fitted_dipole"]) & (m["dipole"] > POLAR))
        return np.asarray(large & (m["dipole"] > POLAR_AS_GIVEN) & right_charge)

    @property
    def file(self) -> CheckedFile:
        """Return the first of the files; the others are read in the same way."""
        return self._files()[0]

    @property
    def units(self) -> InputUnits:
        """Return the units that the files are read with."""
        return self.file.units

    def _files(self) -> list[CheckedFile]:
        return [self.evidence.files[index] for index in np.unique(self.molecules["file"])]


def _in_split(file: CheckedFile, of_esp: bool) -> str:
    return f"{file.split} ({file.esp if of_esp else file.efd})"


def examples(evidence: Evidence, molecules: np.ndarray, of_esp: bool = False) -> tuple[tuple[str, str, int], ...]:
    """Return split, file and row of the first few molecules."""
    files = [evidence.files[index] for index in molecules["file"][:EXAMPLES]]
    rows = molecules["row"][:EXAMPLES]
    return tuple((file[0], file[2 if of_esp else 1], int(row)) for file, row in zip(files, rows, strict=True))


def molecule_groups(evidence: Evidence) -> Iterator[MoleculeGroup]:
    """Yield a group for each pair of files; pairs with few molecules are joined with those that are read alike."""
    file = evidence.molecules["file"]
    counts = np.bincount(file, minlength=len(evidence.files))
    whole: dict[object, list[int]] = {}
    for index in np.flatnonzero(counts > 0):
        one = evidence.files[index]
        # A file whose rows are in several splits is one file.
        whole.setdefault(one._replace(split="train") if one.divided else int(index), []).append(int(index))
    large = [members for members in whole.values() if counts[members].sum() >= _SMALL_FILE]
    alike: dict[object, list[int]] = {}
    for members in whole.values():
        if counts[members].sum() < _SMALL_FILE:
            one = evidence.files[members[0]]
            split = "train" if one.divided else one.split
            alike.setdefault(one._replace(split=split, efd="", esp=""), []).extend(members)
    for members in [*large, *alike.values()]:
        chosen, near = np.isin(file, members), np.isin(evidence.pairs["file"], members)
        yield MoleculeGroup(evidence, evidence.molecules[chosen], evidence.pairs[near])


def median(values: np.ndarray) -> float:
    """Return the median of the finite values; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
