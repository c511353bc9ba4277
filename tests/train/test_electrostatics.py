"""Coulomb's law, dipoles, cutoffs and the radial basis against plain numpy in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ase
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import support
from train.model.electrostatics import (
    centers_of_mass,
    damped_coulomb_energy,
    damped_inverse_distance,
    dipole,
    distributed_coulomb_energy,
    electrostatic_potential,
    polynomial_cutoff,
    quadrupole,
)
from train.model.joint import build_model, clean
from train.model.physnet import radial_basis

K_E = 14.399645  # eV·Å, typed from the literature


@pytest.fixture(autouse=True, scope="module")
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def test_potential_of_a_unit_charge_one_bohr_away_is_one_hartree() -> None:
    charge, site = jnp.ones((1, 1)), jnp.zeros((1, 1, 3))
    grid = jnp.asarray([[[ase.units.Bohr, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    np.testing.assert_allclose(electrostatic_potential(charge, site, grid)[0], [1.0, 0.529177], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_potential_is_the_direct_sum(dtype: str) -> None:
    rng = np.random.default_rng(0)
    charges, sites = rng.normal(size=(2, 5)), rng.normal(size=(2, 5, 3))
    grid = 5.0 + rng.normal(size=(2, 7, 3))
    expected = np.zeros((2, 7))
    for b, g, k in np.ndindex(2, 7, 5):
        expected[b, g] += charges[b, k] / (np.linalg.norm(grid[b, g] - sites[b, k]) / ase.units.Bohr)
    result = jax.jit(electrostatic_potential)(*(jnp.asarray(x, dtype) for x in (charges, sites, grid)))
    np.testing.assert_allclose(result, expected, rtol=1e-4 if dtype == "float32" else 1e-12)


def test_potential_and_gradient_on_top_of_a_charge_are_finite() -> None:
    def potential(sites: jax.Array) -> jax.Array:
        return electrostatic_potential(jnp.ones((1, 1)), sites, jnp.zeros((1, 1, 3))).sum()

    value, gradient = jax.jit(jax.value_and_grad(potential))(jnp.zeros((1, 1, 3)))
    assert value > 100.0
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_derivative_of_the_potential_is_that_of_the_direct_sum(dtype: str) -> None:
    """In charges, sites and grid points, of molecules near the origin and 300 Å from it; and twice in the sites."""
    rng = np.random.default_rng(4)
    far = np.asarray([0.0, 300.0, 0.0])[:, None, None]
    sites = rng.normal(size=(3, 5, 3)) + far
    grid = 4.0 * rng.normal(size=(3, 11, 3)) + far
    charges, cotangent = rng.normal(size=(3, 5)), jnp.asarray(rng.normal(size=(3, 11)))

    def direct(charges: jax.Array, sites: jax.Array, grid: jax.Array) -> jax.Array:
        distances = jnp.linalg.norm(grid[:, :, None] - sites[:, None], axis=-1)
        return ase.units.Bohr * (charges[:, None] / distances).sum(axis=-1)

    def weighted(potential: Any) -> Any:
        return lambda *arguments: (cotangent * potential(*arguments)).sum()

    # The same numbers for both: what float32 makes of the coordinates is not the derivative's error.
    given = [np.asarray(x, dtype) for x in (charges, sites, grid)]
    expected = jax.jit(jax.grad(weighted(direct), argnums=(0, 1, 2)))(*(jnp.asarray(x, "float64") for x in given))
    found = jax.jit(jax.grad(weighted(electrostatic_potential), argnums=(0, 1, 2)))(*map(jnp.asarray, given))
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, two, rtol=1e-9 if dtype == "float64" else 2e-3, atol=1e-4 * np.abs(two).max())
    if dtype == "float64":
        q, s, g = map(jnp.asarray, given)
        curvature, plain = (
            jax.jit(jax.jacrev(jax.grad(weighted(f), argnums=1), argnums=1))(q, s, g)
            for f in (electrostatic_potential, direct)
        )
        np.testing.assert_allclose(curvature, plain, rtol=1e-7, atol=1e-9)


def test_dipole_of_a_neutral_molecule_does_not_depend_on_the_origin() -> None:
    rng = np.random.default_rng(1)
    charges, sites = rng.normal(size=(1, 4)), rng.normal(size=(1, 4, 3))
    charges -= charges.mean()
    first = dipole(jnp.asarray(charges), jnp.asarray(sites), jnp.zeros((1, 3)))
    second = dipole(jnp.asarray(charges), jnp.asarray(sites), jnp.full((1, 3), 9.0))
    np.testing.assert_allclose(first, (charges[0, :, None] * sites[0]).sum(axis=0)[None], rtol=1e-12)
    np.testing.assert_allclose(second, first, atol=1e-12)


def test_quadrupole_of_charges_along_a_line() -> None:
    """-q, 2q, -q at -a, 0, a along a direction u, as in CO2: Θ = -q a² (3 u uᵀ - 1), without charge and dipole."""
    q, a, u = 0.4, 1.16, np.array([1.0, 2.0, -2.0]) / 3.0
    charges, sites = jnp.asarray([[-q, 2 * q, -q]]), jnp.asarray([[-a * u, 0 * u, a * u]])
    expected = -q * a**2 * (3 * np.outer(u, u) - np.eye(3))
    for origin in (np.zeros(3), np.array([3.0, -5.0, 7.0])):
        found = quadrupole(charges, sites, jnp.asarray(origin)[None])[0]
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_quadrupole_is_what_the_potential_far_away_has() -> None:
    """V(r) = q/r + μ·n/r² + nᵀ Θ n/r³ + O(r⁻⁴), in e/Å: from the potential itself at two opposite points."""
    rng = np.random.default_rng(6)
    charges, sites = rng.normal(size=(1, 5)), rng.normal(size=(1, 5, 3))
    origin = np.array([[0.3, -0.2, 0.1]])
    tensor = np.asarray(quadrupole(jnp.asarray(charges), jnp.asarray(sites), jnp.asarray(origin)))[0]
    r, directions = 1e4, rng.normal(size=(6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for n in directions:
        distances = np.linalg.norm(origin + r * np.array([[[1.0]], [[-1.0]]]) * n - sites, axis=-1)
        # Exact to rounding: what charge and dipole leave, in each summand, before they are added up.
        arms = sites[0] - origin
        even = sum(
            charge * (0.5 * (1 / near + 1 / far) - 1 / r)
            for charge, near, far in zip(charges[0], distances[0], distances[1], strict=True)
        )
        assert n @ tensor @ n == pytest.approx(even * r**3, rel=1e-3, abs=1e-3 * np.abs(arms).max())


def test_both_moments_of_an_ion_are_about_the_centre_of_mass() -> None:
    rng = np.random.default_rng(2)
    molecules = [[8, 1], [7, 1, 1, 1, 1]]
    batch = support.random_batch(rng, molecules, atoms=6, total_charge=[-1.0, 1.0])
    batch = batch._replace(positions=batch.positions + 4.0)  # padding too: it must not count
    centers = np.stack(
        [
            ase.Atoms(numbers, positions=positions[: len(numbers)]).get_center_of_mass()
            for numbers, positions in zip(molecules, batch.positions, strict=True)
        ]
    )
    np.testing.assert_allclose(centers_of_mass(jnp.asarray(batch.positions), batch.atomic_numbers), centers, rtol=1e-12)
    config = support.small_config()
    model, params = build_model(config), support.initial_weights(config)
    prediction = jax.device_get(jax.jit(lambda p, b: model.apply(p, clean(b)))(params, batch))
    for i, numbers in enumerate(molecules):
        n = len(numbers)
        arms = batch.positions[i, :n] - centers[i]
        expected = (prediction.charges[i, :n, None] * arms).sum(axis=0)
        np.testing.assert_allclose(prediction.dipole[i], expected, rtol=1e-6, atol=1e-6)
        tensor = sum(q * second_moment(arm) for q, arm in zip(prediction.charges[i, :n], arms, strict=True))
        np.testing.assert_allclose(prediction.quadrupole[i], tensor, rtol=1e-6, atol=1e-6)
        arms = prediction.dcm_sites[i, :n] - centers[i]
        expected = (prediction.dcm_charges[i, :n, :, None] * arms).sum(axis=(0, 1))
        np.testing.assert_allclose(prediction.dipole_dcm[i], expected, rtol=1e-6, atol=1e-6)
        pairs = zip(prediction.dcm_charges[i, :n].ravel(), arms.reshape(-1, 3), strict=True)
        tensor = sum(q * second_moment(arm) for q, arm in pairs)
        np.testing.assert_allclose(prediction.quadrupole_dcm[i], tensor, rtol=1e-6, atol=1e-6)


def second_moment(arm: np.ndarray) -> np.ndarray:
    """Quadrupole of a unit charge, component by component."""
    return np.array([[1.5 * arm[x] * arm[y] - 0.5 * (x == y) * (arm @ arm) for y in range(3)] for x in range(3)])


def test_polynomial_cutoff_ends_smoothly() -> None:
    @jax.jit
    def phi(r: jax.Array) -> jax.Array:
        return polynomial_cutoff(r, 6.0)

    assert phi(jnp.asarray(0.0)) == 1.0
    np.testing.assert_allclose(phi(jnp.asarray(3.0)), 0.5, rtol=1e-12)
    r = jnp.asarray(6.0 - 1e-7)
    for function in (phi, jax.jit(jax.grad(phi)), jax.jit(jax.grad(jax.grad(phi)))):
        assert abs(function(r)) < 1e-6
        assert function(jnp.asarray(6.5)) == 0.0
    distances = np.linspace(0.0, 6.0, 50)
    assert (np.diff(phi(jnp.asarray(distances))) <= 0.0).all()


def test_damped_kernel_is_coulombs_law_beyond_half_the_cutoff() -> None:
    far = np.linspace(3.0, 12.0, 20)
    kernel = jax.jit(lambda r: damped_inverse_distance(r, 6.0))
    np.testing.assert_allclose(kernel(far), 1.0 / far, rtol=1e-12)
    near = np.asarray(kernel(np.array([1e-4, 0.3, 1.0])))
    assert (near < 1.0 / np.array([1e-4, 0.3, 1.0])).all()
    np.testing.assert_allclose(near[0], 1.0, rtol=1e-3)  # 1/√(r² + 1) at 0


def damped(r: float, cutoff: float) -> float:
    x = min(2.0 * r / cutoff, 1.0)
    switch = 1.0 - 6.0 * x**5 + 15.0 * x**4 - 10.0 * x**3
    return switch / math.sqrt(r * r + 1.0) + (1.0 - switch) / r


def test_damped_coulomb_energy_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(3)
    counts, cutoff = [4, 2, 1, 0], 3.0
    charges, positions = rng.normal(size=(4, 5)), 1.5 * rng.normal(size=(4, 5, 3))
    mask = np.arange(5) < np.array(counts)[:, None]
    expected = np.zeros(4)
    for b, n in enumerate(counts):
        for i in range(n):
            for j in range(i):
                r = np.linalg.norm(positions[b, i] - positions[b, j])
                expected[b] += K_E * charges[b, i] * charges[b, j] * damped(r, cutoff)
    result = jax.jit(damped_coulomb_energy, static_argnums=3)(charges, positions, mask, cutoff)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_distributed_coulomb_energy_leaves_out_charges_of_the_same_atom() -> None:
    rng = np.random.default_rng(4)
    counts = [4, 1, 2]
    charges, sites = rng.normal(size=(3, 4, 3)), 2.0 * rng.normal(size=(3, 4, 3, 3))
    mask = np.arange(4) < np.array(counts)[:, None]
    expected = np.zeros(3)
    for b, n in enumerate(counts):
        for i in range(n):
            for j in range(i):
                for k, m in np.ndindex(3, 3):
                    r = np.linalg.norm(sites[b, i, k] - sites[b, j, m])
                    expected[b] += K_E * charges[b, i, k] * charges[b, j, m] / r
    result = jax.jit(distributed_coulomb_energy)(charges, sites, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_radial_basis_is_the_published_one() -> None:
    cutoff, num = 6.0, 5
    distances = np.array([0.4, 1.1, 2.0, 5.9, 6.0, 8.0])
    expected = np.zeros((len(distances), num))
    start = math.exp(-cutoff)
    for p, r in enumerate(distances):
        x = min(r / cutoff, 1.0)
        phi = 1.0 - 6.0 * x**5 + 15.0 * x**4 - 10.0 * x**3
        for k in range(num):
            center = start + k * (1.0 - start) / (num - 1)
            expected[p, k] = phi * math.exp(-((2.0 / num * (1.0 - start)) ** -2) * (math.exp(-r) - center) ** 2)
    found = jax.jit(radial_basis, static_argnums=(1, 2))(distances, num, cutoff)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("n_dcm", [1, 3])
def test_x_y_z_of_different_charges_do_not_mix(n_dcm: int) -> None:
    """Every single charge of a molecule in a plane has a displacement in that plane, and turns with the molecule.

    Mixed components of different charges would leave the plane: z of each displacement vanishes by symmetry.
    """
    rng = np.random.default_rng(5)
    batch = support.random_batch(rng, [[6, 8, 1, 7]])
    flat = batch.positions * [1.0, 1.0, 0.0]
    config = support.small_config(physnet_iterations=1, dcmnet_iterations=1, n_dcm=n_dcm)
    model = build_model(config)
    params = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.3 * rng.normal(size=x.shape)), support.initial_weights(config, 1)
    )
    sites_of = jax.jit(lambda positions: model.apply(params, clean(batch._replace(positions=positions))).dcm_sites)
    offsets = np.asarray(sites_of(flat))[0] - flat[0][:, None]
    assert np.linalg.norm(offsets, axis=-1).min() > 1e-6
    np.testing.assert_allclose(offsets[..., 2], 0.0, atol=1e-12)
    # x → y → z → x is a rotation: the same numbers, moved one place within each charge.
    turned = np.roll(flat, 1, axis=-1)
    np.testing.assert_allclose(
        np.asarray(sites_of(turned))[0] - turned[0][:, None], np.roll(offsets, 1, axis=-1), atol=1e-10
    )
