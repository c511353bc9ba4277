"""Quadrupoles against the ESP of known charges: right ones pass, each mistake is found and named."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from preprocess.checks.evidence import CheckInput, Finding
from preprocess.checks.measure import measure
from preprocess.checks.report import describe_findings
from shared.elements import centers_of_mass
from tests.preprocess.spoilt import BOHR, DEBYE, FLAGS, findings, sample, take


def moments(charges: np.ndarray, arms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dipole and traceless quadrupole of charges (k,) at arms (k, 3)."""
    squares = (charges[:, None, None] * arms[:, :, None] * arms[:, None, :]).sum(axis=0)
    return charges @ arms, 1.5 * squares - 0.5 * np.trace(squares) * np.eye(3)


@functools.cache
def given() -> tuple[CheckInput, np.ndarray]:
    """Molecules whose ESP is that of two charges near each atom, some of them ions; and quadrupoles about R's zero."""
    molecules = take(sample("mixed"), slice(None, None, 3))
    rng = np.random.default_rng(2)
    esp, dipole, about_mass, about_zero = np.zeros_like(molecules.esp_values), [], [], []
    total = np.arange(len(esp)) % 3 - 1.0
    for i, n in enumerate(molecules.n_atoms):
        positions = molecules.positions[i, :n]
        sites = np.repeat(positions, 2, axis=0) + 0.15 * rng.normal(size=(2 * n, 3))
        charges = 0.4 * rng.normal(size=2 * n)
        charges += (total[i] - charges.sum()) / len(charges)
        points = molecules.grid[i, : molecules.n_grid[i]]
        distances = np.linalg.norm(points[:, None] - sites, axis=2)
        esp[i, : len(points)] = BOHR * (charges / distances).sum(axis=1)
        center = centers_of_mass(positions[None], molecules.atomic_numbers[i : i + 1, :n])[0]
        for kept, values in zip((dipole, about_mass), moments(charges, sites - center), strict=True):
            kept.append(values)
        about_zero.append(moments(charges, sites)[1])
    made = replace(
        molecules, esp_values=esp, dipole=np.array(dipole), total_charge=total, quadrupole=np.array(about_mass)
    )
    return made, np.array(about_zero)


def judged(molecules: CheckInput, unit: str = "e-angstrom2", origin: str = "mass") -> list[Finding]:
    """What is found of these quadrupoles; their energies and forces are those of other molecules, and are left out."""
    bare = replace(
        molecules,
        file=molecules.file._replace(quadrupole_origin=origin),
        energy=np.full_like(molecules.energy, np.nan),
        forces=np.full_like(molecules.forces, np.nan),
    )
    return findings(bare, flags=replace(FLAGS, quadrupole_unit=unit))


def test_right_quadrupoles_pass_and_are_measured() -> None:
    molecules, _ = given()
    assert judged(molecules) == []
    evidence = measure(molecules)
    assert "its quadrupole is 1.00" in describe_findings([], evidence)
    found = evidence.molecules
    known = found["fitted_quadrupole"] > 0.5
    assert known.sum() >= 30
    ratio = found["quadrupole_product"][known] / found["quadrupole"][known] ** 2
    assert np.percentile(np.abs(ratio - 1.0), 80) < 0.03
    # Nothing is said of data without any.
    assert judged(replace(molecules, quadrupole=None)) == []
    assert "quadrupole" not in describe_findings([], measure(replace(molecules, quadrupole=None)))


Spoil = Callable[[np.ndarray], np.ndarray]
MISTAKES: dict[str, tuple[Spoil, str, str, str]] = {
    "Debye·Å taken for e·Å²": (
        lambda q: q / DEBYE,
        "e-angstrom2",
        "quadrupole-unit",
        "--quadrupole-unit debye-angstrom",
    ),
    "atomic units taken for e·Å²": (lambda q: q / BOHR**2, "e-angstrom2", "quadrupole-unit", "--quadrupole-unit au"),
    "e·Å² taken for Debye·Å": (
        lambda q: q * DEBYE,
        "debye-angstrom",
        "quadrupole-unit",
        "--quadrupole-unit e-angstrom2",
    ),
    "without ½": (lambda q: 2 * q, "e-angstrom2", "quadrupole-convention", "halve it"),
    "a third": (lambda q: q / 1.5, "au", "quadrupole-convention", "multiply it by 1.5"),
    "without ½, in another unit": (
        lambda q: 2 * q / DEBYE,
        "e-angstrom2",
        "quadrupole-convention",
        "halve it in the file, to make it ½ Σ q (3 x xᵀ - |x|² 1), and --quadrupole-unit debye-angstrom",
    ),
    "the opposite sign": (lambda q: -q, "e-angstrom2", "quadrupole-sign", "negate it"),
    "a factor that nothing explains": (lambda q: 1.25 * q, "e-angstrom2", "quadrupole-unit", "--quadrupole-unit"),
    "those of other molecules": (lambda q: np.roll(q, 7, axis=0), "e-angstrom2", "quadrupole-frame", "order"),
    "axes in another order": (lambda q: q[:, [1, 2, 0]][:, :, [1, 2, 0]], "e-angstrom2", "quadrupole-frame", "order"),
}
WARNINGS = ("a factor that nothing explains", "those of other molecules", "axes in another order")


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_found_and_named(case: str) -> None:
    spoil, unit, check, remedy = MISTAKES[case]
    molecules, _ = given()
    (found,) = judged(replace(molecules, quadrupole=spoil(molecules.quadrupole)), unit)
    assert (found.check, found.severity) == (check, "warning" if case in WARNINGS else "error")
    assert remedy in found.remedy
    assert found.confidence > 0.6
    assert found.rows


def test_another_origin_is_found_and_named() -> None:
    """Both ways; where R is centred the two are the same, and nothing is said."""
    molecules, about_zero = given()
    (found,) = judged(replace(molecules, quadrupole=about_zero))
    assert (found.check, found.severity, found.remedy) == ("quadrupole-origin", "error", "--quadrupole-origin zero")
    # Read as if about zero, those about the centre of mass were moved away from it.
    moved = 2.0 * molecules.quadrupole - about_zero
    (found,) = judged(replace(molecules, quadrupole=moved), origin="zero")
    assert (found.check, found.severity, found.remedy) == ("quadrupole-origin", "error", "--quadrupole-origin mass")
