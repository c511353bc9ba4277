"""The observer in ASE's own hands: dynamics and an optimizer stop where it says, and what they did before is kept."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import ExternalForce
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from preprocess.reference.molecules import collect
from shared.errors import UserError
from tests.use.conftest import FACTS
from train.inference.calculator import JointCalculator, OutsideDomain, Watch
from train.inference.predictor import Predictor
from train.model.saved_model import load_weights, save_weights

pytestmark = pytest.mark.filterwarnings("ignore::train.inference.unlike_training.UnlikeTrainingWarning")


@pytest.fixture
def atoms(ensemble_calculator: JointCalculator) -> ase.Atoms:
    """Water whose hydrogens fly apart: within some steps of 0.5 fs a bond is longer than any in training."""
    atoms = molecule("H2O")
    atoms.calc = ensemble_calculator
    atoms.set_velocities(0.25 * (atoms.positions - atoms.positions[0]))
    return atoms


def dynamics(kind: str, atoms: ase.Atoms, **files: Any) -> Any:
    if kind == "BFGS":
        # Two atoms are pulled apart, whatever this surface is.
        atoms.set_constraint(ExternalForce(0, 1, 20.0))
        return BFGS(atoms, logfile=None, maxstep=0.02, **files)
    if kind == "Langevin":
        rng = np.random.default_rng(0)
        return Langevin(
            atoms, 0.5 * units.fs, temperature_K=300.0, friction=0.001 / units.fs, fixcm=False, rng=rng, **files
        )
    return VelocityVerlet(atoms, 0.5 * units.fs, **files)


@pytest.mark.parametrize("kind", ["Langevin", "VelocityVerlet", "BFGS"])
def test_every_kind_of_dynamics_stops_outside(kind: str, atoms: ase.Atoms, tmp_path: Path) -> None:
    run = dynamics(kind, atoms, trajectory=str(tmp_path / "run.traj"))
    run.attach(Watch(atoms, np.inf, np.inf, frame=tmp_path / "new" / "outside.xyz"))
    with pytest.raises(OutsideDomain, match=r"stopped, .*outside\.xyz$") as stopped:
        run.run(steps=200)
    run.close()
    reasons = stopped.value.reasons
    assert reasons == tuple(atoms.calc.results["outside"])
    assert 0 < run.nsteps < 200
    # All steps, the last one where it stopped, and only that one is outside.
    with Trajectory(str(tmp_path / "run.traj")) as trajectory:
        assert len(trajectory) == run.nsteps + 1
        np.testing.assert_array_equal(trajectory[-1].positions, atoms.positions)
        assert trajectory[-1].get_potential_energy() == atoms.get_potential_energy()
        assert atoms.calc.predictor._check(trajectory[-2], "") == ()
    (frame,) = ase.io.read(tmp_path / "new" / "outside.xyz", index=":")
    assert frame.info["reason"] == "; ".join(reasons)
    np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-8)


def test_the_frame_can_be_labelled(atoms: ase.Atoms, tmp_path: Path) -> None:
    atoms.info |= {"total_charge": 1, "multiplicity": 2, "name": "water\ncation", "REF_energy": 0.0}
    watch = Watch(atoms, np.inf, np.inf, frame=tmp_path / "outside.xyz")
    with pytest.raises(OutsideDomain, match="total charge"):
        watch()
    before = (tmp_path / "outside.xyz").read_text()
    with pytest.raises(OutsideDomain):
        watch()
    assert (tmp_path / "outside.xyz").read_text() == before  # the same geometry once
    atoms.positions[1] += 0.1
    with pytest.raises(OutsideDomain):
        watch()
    first, second = ase.io.read(tmp_path / "outside.xyz", index=":")
    assert (first.info["charge"], first.info["multiplicity"]) == (1, 2)
    assert "REF_energy" not in first.info
    results = atoms.calc.results
    assert second.get_potential_energy() == pytest.approx(results["energy"], abs=1e-7)
    np.testing.assert_allclose(second.get_forces(), results["forces"], atol=1e-7)
    assert second.info["energy_std"] == pytest.approx(results["energy_std"], abs=1e-7)
    np.testing.assert_allclose(second.arrays["forces_std"], results["forces_std"], atol=1e-7)
    read = collect([], [str(tmp_path / "outside.xyz")])
    assert [(one.charge, one.multiplicity) for one in read] == [(1, 2)] * 2


def test_deviations_beyond_their_bounds_stop(atoms: ase.Atoms) -> None:
    atoms.get_potential_energy()
    energy = atoms.calc.results["energy_std"]
    forces = np.sqrt((atoms.calc.results["forces_std"] ** 2).sum(axis=1))
    largest = int(forces.argmax())
    Watch(atoms, 1.01 * energy, 1.01 * forces.max())()
    with pytest.raises(OutsideDomain, match="energies deviate by") as stopped:
        Watch(atoms, 0.99 * energy, 1.01 * forces.max())()
    assert len(stopped.value.reasons) == 1
    with pytest.raises(
        OutsideDomain, match=f"forces on atom {largest}, {atoms.symbols[largest]}, deviate by"
    ) as stopped:
        Watch(atoms, 1.01 * energy, 0.99 * forces.max())()
    assert pickle.loads(pickle.dumps(stopped.value)).reasons == stopped.value.reasons  # noqa: S301 (its own)
    # The domain alone, or not at all.
    atoms.set_distance(0, 1, 1.5)
    atoms.get_potential_energy()
    assert atoms.calc.results["outside"]
    Watch(atoms, np.inf, np.inf, strict=False)()
    with pytest.raises(OutsideDomain):
        Watch(atoms, np.inf, np.inf)()


def test_bounds_are_by_default_five_times_the_validation_errors(
    ensemble: Path, atoms: ase.Atoms, tmp_path: Path
) -> None:
    shutil.copytree(ensemble, tmp_path / "run")
    atoms.calc = JointCalculator(tmp_path / "run")
    with pytest.raises(UserError, match=r"no evaluation-valid\.json .*give energy_std, forces_std"):
        Watch(atoms, energy_std=0.1)
    metrics = {"energy_mae_ev": 0.02, "forces_mae_ev_per_angstrom": 0.1}
    (tmp_path / "run" / "evaluation-valid.json").write_text(json.dumps({"metrics": metrics}))
    watch = Watch(atoms)
    assert (watch.energy_std, watch.forces_std) == pytest.approx((0.1, 0.5))
    watch = Watch(atoms, forces_std=0.2)
    assert (watch.energy_std, watch.forces_std) == pytest.approx((0.1, 0.2))


def test_what_cannot_be_watched(
    atoms: ase.Atoms, calculator: JointCalculator, run_folder: Path, tmp_path: Path
) -> None:
    atoms.calc = EMT()
    with pytest.raises(UserError, match=r"atoms\.calc has to be JointCalculator"):
        Watch(atoms)
    atoms.calc = calculator
    with pytest.raises(UserError, match="of an older version"):
        Watch(atoms)
    save_weights(tmp_path, replace(load_weights(run_folder / "best"), training=FACTS))
    atoms.calc = JointCalculator(tmp_path)
    for bounds in ({"energy_std": 0.1}, {"strict": False}):
        with pytest.raises(UserError, match="a single model, without deviations"):
            Watch(atoms, **bounds)
    strict = atoms.copy()
    strict.calc = JointCalculator(tmp_path, strict=True)
    with pytest.raises(UserError, match=r"strict=True would end before a frame is written"):
        Watch(strict)
    atoms.set_distance(0, 1, 1.5)
    with pytest.raises(OutsideDomain, match="with 0 bonded neighbours"):
        Watch(atoms)()
    assert isinstance(atoms.calc.predictor, Predictor)
