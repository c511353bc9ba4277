"""Spectra against ASE's own Vibrations and Infrared, and against motions whose spectrum is known."""

from __future__ import annotations

import csv
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.vibrations import Infrared

from shared.errors import UserError
from train import spectra
from train.inference.calculator import JointCalculator
from train.inference.infrared import (
    Modes,
    broadened,
    harmonic_modes,
    infrared_from_dynamics,
    optimise,
    spectrum_of_dipoles,
)
from train.inference.molecule_input import read_molecule


@pytest.fixture(scope="module")
def bent(calculator: JointCalculator) -> ase.Atoms:
    """At a minimum of the random surface, which for most molecules is linear, flat or none at all."""
    atoms = molecule("CH4")
    atoms.calc = calculator
    optimise(atoms, 1e-5)
    return atoms


@pytest.fixture(scope="module")
def modes(bent: ase.Atoms, calculator: JointCalculator) -> Modes:
    """Of that minimum."""
    return harmonic_modes(calculator.predictor.derivatives(bent), bent)


def test_modes_and_intensities_are_those_of_ase(bent: ase.Atoms, modes: Modes, tmp_path: Path) -> None:
    infrared = Infrared(bent, name=str(tmp_path / "infrared"), delta=1e-3)
    infrared.run()
    assert bent.get_moments_of_inertia()[0] > 0.1
    # ASE keeps translations and rotations, which are the six smallest.
    np.testing.assert_allclose(modes.wavenumbers, np.real(infrared.get_frequencies())[6:], rtol=1e-3)
    # ASE's own constant for (D/Å)²/u in km/mol.
    np.testing.assert_allclose(modes.intensities, 42.255 * infrared.intensities[6:], rtol=1e-2, atol=1e-2)


def test_a_linear_molecule_has_one_mode_more_and_a_dark_stretch(calculator: JointCalculator) -> None:
    """By symmetry, whatever the weights: the symmetric stretch of a linear OCO moves no dipole."""
    atoms = molecule("CO2")
    found = harmonic_modes(calculator.predictor.derivatives(atoms), atoms)
    assert found.displacements.shape == (4, 3, 3)
    oxygens = found.displacements[:, 1:] @ np.array([0.0, 0.0, 1.0])
    symmetric = np.abs(oxygens[:, 0] - oxygens[:, 1]) > 0.1
    assert symmetric.sum() == 1
    for intensities in (found.intensities, found.intensities_dcm):
        assert intensities[symmetric][0] < 1e-10 * intensities.max()


def test_a_band_has_the_area_of_its_intensity(modes: Modes) -> None:
    far = Modes(np.array([1000.0, 2000.0]), modes.displacements[:2], np.array([3.0, 5.0]), np.array([1.0, 0.0]))
    spectrum = broadened(far, 5.0)
    area = np.trapezoid(spectrum.absorption, spectrum.wavenumbers)
    assert area == pytest.approx(8.0, rel=0.02)
    assert np.trapezoid(spectrum.absorption_dcm, spectrum.wavenumbers) == pytest.approx(1.0, rel=0.02)
    upper = spectrum.wavenumbers > 1500.0
    above = spectrum.wavenumbers[upper & (spectrum.absorption > spectrum.absorption.max() / 2)]
    assert np.ptp(above) == pytest.approx(5.0, abs=1.1)
    assert above.mean() == pytest.approx(2000.0, abs=1.0)


def test_oscillating_dipoles_show_at_their_wavenumbers() -> None:
    """Intensity of a classical oscillation ∝ (amplitude × frequency)²."""
    time = np.arange(40_000) * 0.5  # fs
    per_fs = 2.99792458e-5  # of one 1/cm
    dipoles = np.zeros((len(time), 2, 3))
    dipoles[:, 0, 0] = np.cos(2 * np.pi * 1500.0 * per_fs * time)
    dipoles[:, 0, 1] = 0.5 * np.cos(2 * np.pi * 3000.0 * per_fs * time) + 7.0
    dipoles[:, 1] = 0.5 * dipoles[:, 0]
    spectrum = spectrum_of_dipoles(dipoles, 0.5)

    def peak(low: float, high: float) -> tuple[float, float]:
        inside = (spectrum.wavenumbers > low) & (spectrum.wavenumbers < high)
        area = np.trapezoid(spectrum.absorption[inside], spectrum.wavenumbers[inside])
        return float(spectrum.wavenumbers[inside][spectrum.absorption[inside].argmax()]), float(area)

    (first, first_area), (second, second_area) = peak(1000, 2000), peak(2500, 3500)
    assert first == pytest.approx(1500.0, abs=10.0)
    assert second == pytest.approx(3000.0, abs=10.0)
    # 0.5² · 2², less what the difference quotient loses at 3000 1/cm.
    assert second_area / first_area == pytest.approx(1.0, rel=0.05)
    np.testing.assert_allclose(spectrum.absorption_dcm, 0.25 * spectrum.absorption, rtol=1e-9)


def test_slow_dynamics_have_their_bands_at_the_harmonic_wavenumbers(bent: ase.Atoms, modes: Modes) -> None:
    """At 1 K nothing is anharmonic; the resolution is some 1/(300 fs) = 110 1/cm."""
    spectrum = infrared_from_dynamics(bent, 1.0, 0.5, 1.0, seed=0)
    strongest = spectrum.wavenumbers[spectrum.absorption.argmax()]
    assert np.abs(modes.wavenumbers - strongest).min() < 110.0


def test_the_program_writes_its_files(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--fmax", "1e-3", "--md-ps", "0.2", "--temperature", "1"]
    spectra.main(["--run", str(run_folder), "--molecule", "H2O", *settings])
    folder = run_folder / "spectra" / "H2O"
    names = {"geometry.xyz", "modes.csv", "spectrum.csv", "spectrum-dynamics.csv", "spectrum.png"}
    assert {path.name for path in folder.iterdir()} == names
    with (folder / "modes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    moments = ase.io.read(folder / "geometry.xyz").get_moments_of_inertia()
    # The random model's water may end as good as linear.
    assert len(rows) == (3 if np.sqrt(moments[0] / moments[2]) > 1e-3 else 4)
    printed = capsys.readouterr().out
    assert all(f"{float(row['wavenumber_per_cm']):.1f}" in printed for row in rows)
    assert ase.io.read(folder / "geometry.xyz").get_chemical_formula() == "H2O"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--molecule", "unobtainium"], "ASE does not know it"),
        (["--geometry", "nothing.xyz"], "nothing.xyz: no such file"),
        ([], "give one of the two"),
        (["--molecule", "H2O", "--width", "0"], "width"),
        (["--molecule", "H2O", "--charge", "nan"], "charge"),
        (["--molecule", "H2O", "--md-ps", "0.5", "--timestep", "2000"], "at least 16 steps"),
        (["--molecule", "HCl"], "not trained on Cl"),
    ],
)
def test_mistakes_are_told(run_folder: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spectra.main(["--run", str(run_folder), *flags])


def test_a_file_s_charge_is_the_molecule_s(tmp_path: Path) -> None:
    ion = ase.Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], info={"charge": -1})
    ion.write(tmp_path / "ion.xyz", format="extxyz")
    assert read_molecule("", str(tmp_path / "ion.xyz")).info["charge"] == -1.0


def test_a_file_that_is_no_molecule(tmp_path: Path) -> None:
    (tmp_path / "notes.xyz").write_text("a\nb\n")
    with pytest.raises(UserError, match="cannot read it"):
        read_molecule("", str(tmp_path / "notes.xyz"))
