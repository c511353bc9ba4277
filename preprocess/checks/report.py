"""Findings as text, with what was examined and the agreement that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocess.checks.evidence import TOO_FEW_POINTS, Evidence, Finding
from preprocess.checks.rules_target_units import measure_slope


def describe_findings(findings: Sequence[Finding], evidence: Evidence) -> str:
    """Return a block of text for each finding, and a line of what was measured."""
    blocks = [_block(one) for one in findings]
    with np.errstate(all="ignore"):
        return "\n".join([*blocks, _summary(findings, evidence)])


def _block(finding: Finding) -> str:
    lines = [f"{finding.severity} [{finding.check}] {finding.what}", f"  remedy: {finding.remedy}"]
    if finding.rows:
        named = "; ".join(f"{file} {_listed(rows)}" for file, rows in _by_file(finding).items())
        lines.append(f"  confidence {finding.confidence:.0%}; for example {named}")
    return "\n".join(lines)


def _by_file(finding: Finding) -> dict[str, list[int]]:
    files: dict[str, list[int]] = {}
    for _, file, row in finding.rows:
        files.setdefault(file, []).append(row)
    return files


def _listed(rows: list[int]) -> str:
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(str(row) for row in rows)


def _summary(findings: Sequence[Finding], evidence: Evidence) -> str:
    m = evidence.molecules
    errors = sum(one.severity == "error" for one in findings)
    verdict = f"{errors} errors, {len(findings) - errors} warnings" if findings else "nothing wrong found"
    measured = []
    residual = m["residual"]
    residual = residual[residual < TOO_FEW_POINTS]
    if len(residual):
        measured.append(f"multipoles fit the ESP to {np.median(residual):.1%} (median of {len(residual)})")
    polar = (m["fitted_dipole"] > 0.1) & (m["dipole"] > 0)
    if polar.any():
        ratio = m["dipole_product"][polar] / m["dipole"][polar] ** 2
        measured.append(f"its dipole is {np.median(ratio):.3f} times D ({polar.sum()} polar molecules)")
    large = (m["fitted_quadrupole"] > 0) & (m["quadrupole"] > 0)
    if large.any():
        ratio = m["quadrupole_product"][large] / m["quadrupole"][large] ** 2
        measured.append(f"its quadrupole is {np.median(ratio):.3f} times that given ({large.sum()} molecules)")
    charged = m["charge_error"] < 0.05
    if charged.any():
        off = np.abs(m["fitted_charge"] - m["charge"])[charged]
        measured.append(f"its charge is off Q by at most {off.max():.3f} e")
    slope = measure_slope(evidence.pairs)
    if slope:
        measured.append(
            f"the work of F is {slope.value:.3f} times the change of E ({slope.count} pairs of near frames)"
        )
    elif (m["force"] > 0).any():
        measured.append("the unit of F is not checked (too few pairs of near frames of one molecule)")
    # A file whose rows are divided counts once.
    files = {file._replace(split="train") if file.divided else file for file in evidence.files}
    return f"data: {len(m):,} molecules of {len(files)} files checked, {verdict}" + "".join(
        f"; {one}" for one in measured
    )
