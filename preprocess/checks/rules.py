"""From evidence to findings: every rule on every file, alike findings of several files joined, errors first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocess.checks.evidence import Evidence, Finding
from preprocess.checks.molecule_groups import EXAMPLES, MoleculeGroup, molecule_groups
from preprocess.checks.rules_esp import judge_esp
from preprocess.checks.rules_geometry import close_atoms, positions_unit, repeated_geometries
from preprocess.checks.rules_targets import energy_shift, judge_energies_and_forces

_OF_ENERGY = ("energy-unit", "energy-normalised", "energy-per-atom", "energy-rows", "zero-target", "constant-target")


def judge(evidence: Evidence) -> list[Finding]:
    """Return what is wrong with the molecules examined, errors first, then by confidence.

    Statements about a whole file need 8 of its molecules (or pairs of frames); files of which fewer than 16 were
    examined are judged together with the other small ones of their split. Consequences of another finding are left
    out: nothing else is judged while positions have the wrong unit, nor the ESP while the grid does not fit.
    """
    # Values up to float32's largest are accepted and may overflow here.
    with np.errstate(all="ignore"):
        return _judge(evidence)


def _judge(evidence: Evidence) -> list[Finding]:
    found = repeated_geometries(evidence) if len(evidence.molecules) else []
    for group in molecule_groups(evidence):
        found.extend(_judge_group(group))
    if not any(one.check in _OF_ENERGY for one in found):
        found.extend(energy_shift(evidence))
    return sorted(_join(found), key=lambda one: (one.severity != "error", -one.confidence))


def _judge_group(group: MoleculeGroup) -> list[Finding]:
    positions = positions_unit(group)
    if positions:
        return positions + close_atoms(group)
    return close_atoms(group) + judge_esp(group) + judge_energies_and_forces(group)


def _join(findings: Sequence[Finding]) -> list[Finding]:
    """Join the findings with the same check and remedy, in the words of the first file."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        alike.setdefault((one.check, one.severity, one.remedy), []).append(one)
    return [_joined(members) for members in alike.values()]


def _joined(members: list[Finding]) -> Finding:
    first = members[0]
    if len(members) == 1:
        return first
    others = [one.what.split(": ", 1)[0] for one in members[1:]]
    named = "; ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return Finding(
        check=first.check,
        severity=first.severity,
        confidence=round(sum(one.confidence for one in members) / len(members), 3),
        what=f"{first.what} (and so in {named})",
        remedy=first.remedy,
        rows=tuple(row for one in members for row in one.rows)[:EXAMPLES],
    )
