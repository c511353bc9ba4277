"""Fitted charges against numpy's and scipy's optimisers and a known potential; the errors by region against loops."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from scipy.optimize import minimize

from shared.elements import VAN_DER_WAALS_RADII, symbol
from tests import support
from train.data.batch import Batch, map_arrays
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.evaluation import baselines as baselines_module
from train.evaluation import charge_fit
from train.evaluation.baselines import (
    Baselines,
    baselines_from_json,
    compute_baselines,
    spread_alone,
    with_fitted_charges,
)
from train.evaluation.charge_fit import LONGEST_DISPLACEMENT_ANGSTROM, fit_charges
from train.evaluation.errors_by_region import RegionErrors, describe_regions
from train.evaluation.grid_regions import SHELLS
from train.evaluation.multipole_fit import DIPOLES, QUADRUPOLES, fit_multipoles
from train.model.prediction import Prediction

BOHR = 0.529177


@pytest.fixture(scope="module")
def loader(small_cache: Path) -> Loader:
    return Loader(open_cache(small_cache, 6.0, 10.0).load_split("valid"), 4, EspSelection(1.0))


@pytest.fixture
def no_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the fit out: of displaced charges the error is the whole ESP, of those on the atoms twice as much."""

    def errors(batch: Batch, _: int, displaced: bool = True, **__: object) -> np.ndarray:
        return np.where(batch.esp_mask, batch.esp, 0.0) * (1.0 if displaced else 2.0)

    monkeypatch.setattr(baselines_module, "fit_charges", errors)


def mean_squares(errors: np.ndarray, batch: Batch) -> np.ndarray:
    """(B,) over the points that count."""
    return np.array([np.mean(errors[i][batch.esp_mask[i]] ** 2) for i in range(len(errors))])


def nearest(batch: Batch, i: int, g: int) -> tuple[int, int]:
    """Element and shell of one grid point."""
    own = np.flatnonzero(batch.atomic_numbers[i])
    radii = VAN_DER_WAALS_RADII[batch.atomic_numbers[i, own]]
    multiples = np.linalg.norm(batch.grid[i, g] - batch.positions[i, own], axis=1) / radii
    shell = max(k for k in range(6) if multiples.min() >= SHELLS[k])
    return int(batch.atomic_numbers[i, own[multiples.argmin()]]), shell


def constrained_least_squares(batch: Batch, i: int) -> float:
    """Mean square error of atom-centred charges, the sum of which is eliminated by hand."""
    atoms = batch.atomic_numbers[i] > 0
    grid, esp = (array[i][batch.esp_mask[i]].astype(np.float64) for array in (batch.grid, batch.esp))
    columns = BOHR / np.linalg.norm(grid[:, None] - batch.positions[i][atoms].astype(np.float64)[None], axis=-1)
    reduced = columns[:, :-1] - columns[:, -1:]
    target = esp - batch.total_charge[i] * columns[:, -1]
    charges, *_ = np.linalg.lstsq(reduced, target)
    return float(np.mean((reduced @ charges - target) ** 2))


def test_atom_centred_charges_are_least_squares(loader: Loader) -> None:
    _, batch = next(iter(loader.stream(loader.plan(), loader.read)))
    batch = batch._replace(total_charge=np.linspace(-1.0, 1.0, len(batch.energy)).astype(np.float32))
    errors = fit_charges(batch, 1, displaced=False)
    assert not errors[~batch.esp_mask].any()
    found = mean_squares(errors, batch)
    expected = [constrained_least_squares(batch, i) for i in range(len(found))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_potential_of_displaced_charges_is_found_again() -> None:
    """Two charges per atom within the bound made the potential: nothing is left of it."""
    rng = np.random.default_rng(3)
    batch = support.random_batch(rng, [[8, 6, 8], [1, 8, 1]], atoms=4, grid=150, padded_grid=160, poison=np.nan)
    esp = np.array(batch.esp)
    for i in range(2):
        sites = batch.positions[i][:3, None] + rng.uniform(-0.08, 0.08, size=(3, 2, 3))
        charges = rng.normal(size=(3, 2))
        charges -= charges.mean()
        distances = np.linalg.norm(batch.grid[i][:150, None, None] - sites[None], axis=-1)
        esp[i, :150] = BOHR * (charges / distances).sum(axis=(1, 2))
    batch = batch._replace(esp=esp)
    spread = np.nanmean(esp**2, axis=1)
    assert (mean_squares(fit_charges(batch, 1, displaced=False), batch) > 1e-4 * spread).all()
    assert (mean_squares(fit_charges(batch, 2), batch) < 1e-6 * spread).all()


def test_molecules_are_fitted_alike_in_any_company(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for one or two molecules at a time: their errors are those of a fit of all, and each is counted once."""
    _, batch = next(iter(loader.stream(loader.plan(), loader.read)))
    batch = map_arrays(lambda array: array[:3], batch)
    together = fit_charges(batch, 1, displaced=False)
    counted: list[int] = []
    monkeypatch.setattr(charge_fit, "_BYTES_AT_ONCE", 2 * 8 * 6 * batch.esp.shape[1] * batch.atomic_numbers.shape[1])
    apart = fit_charges(batch, 1, displaced=False, done=counted.append)
    np.testing.assert_allclose(apart, together, atol=1e-12)
    assert counted == [2, 1]


def test_work_of_fits_is_bounded(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer molecules of the same order are fitted; none if a single one is too much; the spread stays."""
    sizes = [bucket.shape.frame for bucket in loader.buckets for _ in range(len(bucket))]
    work = [charge_fit.fit_work(size.grid, 2 * size.atoms) for size in sizes]
    order = np.random.default_rng(1).permutation(len(sizes))
    for count in (0, 3):
        monkeypatch.setattr(baselines_module, "_LARGEST_WORK", 1.01 * sum(work[i] for i in order[:count]))
        sample = list(baselines_module._sample(loader, 6, 1, 2, None))
        assert sum(len(part.batch.energy) for part in sample) == count
    monkeypatch.setattr(baselines_module, "_LARGEST_WORK", 0.0)
    none = compute_baselines(loader, 2, seed=1)
    assert (none.molecules_fitted, none.distributed_esp_rmse_kcal_per_mol_e) == (0, None)
    assert none.normalised_error("energy_mae_ev", none.spread["energy_mae_ev"]) == pytest.approx(1.0)


def test_sites_are_as_good_as_scipy_s(loader: Loader) -> None:
    """One charge per atom of a real molecule, its displacements optimised by L-BFGS-B on finite differences."""
    _, batch = next(iter(loader.stream(loader.plan(), loader.read)))
    batch = map_arrays(lambda array: array[:1], batch)
    atoms = batch.atomic_numbers[0] > 0
    positions = batch.positions[0][atoms].astype(np.float64)
    grid, esp = (array[0][batch.esp_mask[0]].astype(np.float64) for array in (batch.grid, batch.esp))

    def error(flat: np.ndarray) -> float:
        free = flat.reshape(-1, 3)
        length = np.sqrt((free**2).sum(axis=1, keepdims=True) + 1e-12)
        sites = positions + LONGEST_DISPLACEMENT_ANGSTROM * np.tanh(length) / length * free
        columns = BOHR / np.linalg.norm(grid[:, None] - sites[None], axis=-1)
        reduced = columns[:, :-1] - columns[:, -1:]
        charges, *_ = np.linalg.lstsq(reduced, esp)
        return float(np.mean((reduced @ charges - esp) ** 2)) * 1e6

    best = min(
        minimize(error, np.random.default_rng(seed).normal(size=positions.size) * 0.5, method="L-BFGS-B").fun
        for seed in range(3)
    )
    (found,) = mean_squares(fit_charges(batch, 1), batch) * 1e6
    assert found == pytest.approx(best, rel=0.05)


def test_baselines_of_a_split(loader: Loader) -> None:
    baselines = compute_baselines(loader, 2, seed=1, sample=6)
    assert baselines.molecules_fitted == 6
    spread = baselines.spread["esp_rmse_kcal_per_mol_e"]
    assert baselines.distributed_esp_rmse_kcal_per_mol_e < baselines.atom_centred_esp_rmse_kcal_per_mol_e < spread
    energies = np.concatenate([b.energy[b.molecule_mask] for _, b in loader.stream(loader.plan(), loader.read)])
    assert baselines.spread["energy_mae_ev"] == pytest.approx(np.abs(energies - energies.mean()).mean(), rel=1e-5)
    assert baselines.normalised_error("energy_mae_ev", baselines.spread["energy_mae_ev"]) == pytest.approx(1.0)
    fitted = baselines.distributed_esp_rmse_kcal_per_mol_e
    assert baselines.normalised_error("esp_rmse_kcal_per_mol_e", fitted) == 0.0
    assert baselines.normalised_error("esp_rmse_kcal_per_mol_e", (fitted + spread) / 2) == pytest.approx(0.5)
    assert baselines.normalised_error("monopole_mae_e", 1.0) is None


@pytest.mark.usefixtures("no_charges")
def test_molecules_that_were_never_trained_on_have_half_of_the_fits(loader: Loader) -> None:
    """Each group's baselines are those of its molecules; the whole split's count each group as it is in the split."""
    sizes = [len(bucket) for bucket in loader.buckets]
    novelty = [np.zeros(size, np.int8) for size in sizes]
    novelty[0][:2], novelty[1][-1] = 1, 2
    alone = spread_alone(loader, 1, novelty)
    fitted = with_fitted_charges(alone, loader, seed=1, sample=5, novelty=novelty)
    seen, unseen = fitted.groups["trained_on"], fitted.groups["unseen"]
    assert sorted((seen.molecules_fitted, unseen.molecules_fitted)) == [2, 3]
    for name in ("atom_centred", "distributed", "dipoles", "quadrupoles"):
        whole, first, second = (getattr(one, f"{name}_esp_rmse_kcal_per_mol_e") for one in (fitted, seen, unseen))
        assert whole == pytest.approx(np.sqrt(((sum(sizes) - 3) * first**2 + 3 * second**2) / sum(sizes)), rel=1e-6)
    energies, forces, esp = [], [], []
    for index, own in enumerate(novelty):
        for i in np.flatnonzero(own):
            batch = loader.read_rows(index, np.array([i]), 1)
            energies.append(batch.energy[0])
            forces += np.abs(batch.forces[0][batch.atomic_numbers[0] > 0]).ravel().tolist()
            esp.append(np.mean(batch.esp[0][batch.esp_mask[0]].astype(float) ** 2))
    assert unseen.spread["energy_mae_ev"] == pytest.approx(np.abs(energies - np.mean(energies)).mean(), rel=1e-5)
    assert unseen.spread["forces_mae_ev_per_angstrom"] == pytest.approx(np.mean(forces), rel=1e-5)
    assert unseen.spread["esp_rmse_kcal_per_mol_e"] == pytest.approx(np.sqrt(np.mean(esp)) * 627.5095, rel=1e-5)
    assert alone.spread == pytest.approx(spread_alone(loader, 1).spread, rel=1e-6)
    every = with_fitted_charges(alone, loader, seed=1, sample=100, novelty=novelty)
    for one in (every, *every.groups.values()):
        assert one.distributed_esp_rmse_kcal_per_mol_e == pytest.approx(one.spread["esp_rmse_kcal_per_mol_e"], rel=1e-6)
    ungrouped = compute_baselines(loader, 1, seed=1, sample=100)
    assert every.esp_by_element == pytest.approx(ungrouped.esp_by_element, rel=1e-6)
    assert baselines_from_json(json.loads(json.dumps(asdict(every)))) == every
    none_new = [0 * own for own in novelty]
    same = with_fitted_charges(spread_alone(loader, 1, none_new), loader, seed=1, sample=3, novelty=none_new)
    assert set(same.groups) == {"trained_on"}
    assert same.groups["trained_on"].distributed_esp_rmse_kcal_per_mol_e == pytest.approx(
        compute_baselines(loader, 1, seed=1, sample=3).distributed_esp_rmse_kcal_per_mol_e
    )


def test_multipoles_are_found_again(loader: Loader) -> None:
    """Nearby charges made the potential: those of a dipole, or of a quadrupole, at each atom."""
    rng = np.random.default_rng(5)
    batch = support.random_batch(rng, [[8, 6, 8], [1, 8, 1]], atoms=4, grid=150, padded_grid=160, poison=np.nan)
    near = rng.normal(size=(2, 150, 3))
    near *= rng.uniform(3.5, 4.5, size=(2, 150, 1)) / np.linalg.norm(near, axis=-1, keepdims=True)
    batch.grid[:, :150] = batch.positions[:, :3].mean(axis=1)[:, None] + near
    step = 0.01
    arms = {DIPOLES: (np.array([0.5, -0.5]), np.array([1.0, -1.0])), QUADRUPOLES: (np.arange(-1, 2), [1, -2, 1])}
    for order, (places, weights) in arms.items():
        esp = np.array(batch.esp)
        for i, total in enumerate((0.0, -1.0)):
            positions, points = batch.positions[i][:3], batch.grid[i][:150]
            own = rng.normal(size=3)
            own += (total - own.sum()) / 3
            esp[i, :150] = BOHR * (own / np.linalg.norm(points[:, None] - positions, axis=-1)).sum(axis=1)
            for atom in positions:
                axis = rng.normal(size=3)
                for place, weight in zip(places, weights, strict=True):
                    distance = np.linalg.norm(points - atom - step * place * axis, axis=1)
                    esp[i, :150] += BOHR * weight * 0.1 / step**order / distance
        made = batch._replace(esp=esp, total_charge=np.array([0.0, -1.0]))
        spread = np.nanmean(esp**2, axis=1)
        assert (mean_squares(fit_multipoles(made, QUADRUPOLES), made) < 1e-7 * spread).all()
        found = mean_squares(fit_multipoles(made, DIPOLES), made)
        assert (found < 1e-7 * spread).all() if order == DIPOLES else (found > 1e-4 * spread).all()
        assert (mean_squares(fit_charges(made, 1, displaced=False), made) > 1e-4 * spread).all()
        # Another total charge cannot be fitted, though the charges alone could.
        other = made._replace(total_charge=np.array([1.0, 0.0]))
        assert (mean_squares(fit_multipoles(other, QUADRUPOLES), other) > 1e-5 * spread).all()


@pytest.mark.parametrize("order", [DIPOLES, QUADRUPOLES])
def test_multipoles_are_fitted_on_any_grid(order: int) -> None:
    """In the plane of the atoms, where dipoles across it have no potential; and with a point at a nucleus."""
    rng = np.random.default_rng(3)
    batch = support.random_batch(rng, [[8, 6, 8], [1, 8, 1]], grid=150)
    batch.positions[0, :, 2], batch.grid[0, :, 2] = 0.0, 0.0
    batch.grid[1, 0] = batch.positions[1, 0]
    away = np.linalg.norm(batch.grid[:, :, None].astype(float) - batch.positions[:, None], axis=-1)
    charges = rng.normal(size=(2, 3))
    esp = np.einsum("ba,bga->bg", charges, 1.0 / np.maximum(away / BOHR, 0.5))
    made = batch._replace(esp=esp, total_charge=charges.sum(axis=1))
    assert (mean_squares(fit_multipoles(made, order), made) < 1e-7 * (esp**2).mean(axis=1)).all()


def test_a_grid_with_few_points_has_no_multipoles() -> None:
    batch = support.random_batch(np.random.default_rng(2), [[8, 6, 8], [1, 8]], grid=50)
    errors = fit_multipoles(batch, QUADRUPOLES)
    assert np.isnan(errors[0]).all()
    assert np.isfinite(errors[1]).all()
    assert baselines_module._rmse(np.array([1.0, np.nan]), np.ones(2)) is None


@pytest.mark.usefixtures("no_charges")
def test_baselines_by_element_and_shell(loader: Loader) -> None:
    """Of all molecules: each point counted once, by brute force."""
    baselines = compute_baselines(loader, 1, seed=1, sample=100)
    elements: dict[int, list[float]] = {}
    shells: dict[int, list[float]] = {}
    for plan in loader.plan():
        batch = loader.read_rows(plan.bucket, plan.rows, len(plan.rows))
        squares_of = (batch.esp.astype(float) * 627.5095) ** 2
        for i, g in zip(*np.nonzero(batch.esp_mask), strict=True):
            z, k = nearest(batch, i, g)
            elements.setdefault(z, []).append(squares_of[i, g])
            shells.setdefault(k, []).append(squares_of[i, g])
    assert {symbol(z) for z in elements} == set(baselines.esp_by_element)
    for z, squares in elements.items():
        assert baselines.esp_by_element[symbol(z)] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)
    assert len(shells) == len(baselines.esp_by_shell)
    for name, k in zip(baselines.esp_by_shell, sorted(shells), strict=True):
        assert name.startswith(f"{SHELLS[k]:g} -")
        assert baselines.esp_by_shell[name] == pytest.approx(np.sqrt(np.mean(shells[k])), rel=1e-6)


class Lacking(Loader):
    """Some molecules of the split have no energy, no forces, no dipole or no ESP; by their rows in the input."""

    lacking: Mapping[str, Sequence[int]] = MappingProxyType(
        {"energy": (0, 7), "forces": (1, 2, 8), "dipole": (0, 1, 2, 3), "esp": (2, 6, 9)}
    )

    def _read_places(self, index: int, rows: np.ndarray, to: np.ndarray, places: int) -> Batch:
        batch = super()._read_places(index, rows, to, places)
        own = self.buckets[index].take("row", rows)
        for name, lacking in self.lacking.items():
            if name == "esp":
                batch.esp_mask[to[np.isin(own, lacking)]] = False
            else:
                getattr(batch, name)[to[np.isin(own, lacking)]] = np.nan
        return batch


@pytest.mark.usefixtures("no_charges")
def test_baselines_where_targets_are_missing(loader: Loader) -> None:
    """The spreads are those of the rest; what nothing has, has none."""
    lacking = Lacking(loader.buckets, 4, EspSelection(1.0))
    baselines = compute_baselines(lacking, 1, seed=1, sample=100)
    assert baselines.molecules_fitted == 7
    energies, forces, dipoles = [], [], []
    for bucket in loader.buckets:
        for i, row in enumerate(bucket.column("row").tolist()):
            real = bucket.column("atomic_numbers")[i] > 0
            energies += [] if row in (0, 7) else [bucket.column("energy")[i]]
            forces += [] if row in (1, 2, 8) else np.abs(bucket.column("forces")[i][real]).ravel().tolist()
            dipoles += [] if row < 4 else np.abs(bucket.column("dipole")[i]).tolist()
    assert baselines.spread["energy_mae_ev"] == pytest.approx(np.abs(energies - np.mean(energies)).mean(), rel=1e-5)
    assert baselines.spread["forces_mae_ev_per_angstrom"] == pytest.approx(np.mean(forces), rel=1e-5)
    assert baselines.spread["dipole_mae_debye"] == pytest.approx(np.mean(dipoles) / 0.20819434, rel=1e-5)

    lacking.lacking = {"energy": range(10), "esp": range(10)}
    baselines = compute_baselines(lacking, 1, seed=1)
    assert set(baselines.spread) == {"forces_mae_ev_per_angstrom", "dipole_mae_debye", "dipole_dcm_mae_debye"}
    assert (baselines.molecules_fitted, baselines.distributed_esp_rmse_kcal_per_mol_e) == (0, None)
    assert baselines.normalised_error("esp_rmse_kcal_per_mol_e", 1.0) is None
    assert baselines.normalised_error("energy_mae_ev", 1.0) is None


@pytest.mark.usefixtures("no_charges")
def test_a_sample_may_leave_out_a_bucket(loader: Loader) -> None:
    assert compute_baselines(loader, 1, seed=1, sample=1).molecules_fitted == 1


def prediction_with(batch: Batch, rng: np.random.Generator) -> Prediction:
    shape = batch.atomic_numbers.shape
    return Prediction(
        energy=batch.energy,
        forces=batch.forces + rng.normal(size=batch.forces.shape),
        charges=rng.normal(size=shape),
        charge_excess=rng.normal(size=shape[0]),
        dcm_charges=rng.normal(size=(*shape, 2)),
        dcm_sites=np.zeros((*shape, 2, 3)),
        dipole=batch.dipole,
        dipole_dcm=batch.dipole,
        quadrupole=batch.quadrupole,
        quadrupole_dcm=batch.quadrupole,
        esp=batch.esp + 0.001 * rng.normal(size=batch.esp.shape),
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Loader, Lacking])
def test_errors_by_region_are_brute_force_over_atoms_and_points(loader: Loader, kind: type[Loader]) -> None:
    loader = kind(loader.buckets, 4, EspSelection(1.0))
    rng, by_region = np.random.default_rng(0), RegionErrors()
    forces: dict[int, list[float]] = {}
    around: dict[int, list[float]] = {}
    shells: dict[int, list[float]] = {}
    spreads: dict[int, list[float]] = {}
    for _, batch in loader.stream(loader.plan(), loader.read):
        prediction = prediction_with(batch, rng)
        by_region.add(batch, prediction)
        for i in np.flatnonzero(batch.molecule_mask):
            own = np.flatnonzero(batch.atomic_numbers[i])
            for a in own[~np.isnan(batch.forces[i, own]).any(axis=1)]:
                error = np.abs(prediction.forces[i, a] - batch.forces[i, a]).mean()
                forces.setdefault(int(batch.atomic_numbers[i, a]), []).append(error)
            for g in np.flatnonzero(batch.esp_mask[i]):
                z, k = nearest(batch, i, g)
                square = (627.5095 * float(prediction.esp[i, g] - batch.esp[i, g])) ** 2
                around.setdefault(z, []).append(square)
                shells.setdefault(k, []).append(square)
                spreads.setdefault(k, []).append((627.5095 * float(batch.esp[i, g])) ** 2)
    baselines = Baselines({}, 0.0, 0.0, 2, 1, {"O": 0.25}, {"1.4 - 1.6": 0.125})
    record = by_region.as_record(baselines)
    assert len(record["by_element"]) == len(forces) > 3
    for (z, errors), entry in zip(sorted(forces.items()), record["by_element"].values(), strict=True):
        assert entry["atoms"] == len(errors) if kind is Loader else entry["atoms"] >= len(errors)
        assert entry["forces_mae_ev_per_angstrom"] == pytest.approx(np.mean(errors), rel=1e-5)
        assert entry["esp_rmse_kcal_per_mol_e"] == pytest.approx(np.sqrt(np.mean(around[z])), rel=1e-5)
    assert [entry["from_radii"] for entry in record["by_distance_shell"]] == [SHELLS[k] for k in sorted(shells)]
    for k, entry in zip(sorted(shells), record["by_distance_shell"], strict=True):
        assert entry["esp_points"] == len(shells[k])
        rmse, spread = np.sqrt(np.mean(shells[k])), np.sqrt(np.mean(spreads[k]))
        assert entry["esp_rmse_kcal_per_mol_e"] == pytest.approx(rmse, rel=1e-5)
        assert entry["esp_spread_kcal_per_mol_e"] == pytest.approx(spread, rel=1e-5)
        expected = (rmse - 0.125) / (spread - 0.125) if k == 2 else None
        assert entry["esp_normalised_error"] == (expected if expected is None else pytest.approx(expected, rel=1e-4))
    assert {name for name, entry in record["by_element"].items() if entry["esp_fitted_charges_kcal_per_mol_e"]} == {"O"}
    assert describe_regions(record).count("\n") == 2 + len(forces) + len(shells)
