"""The compiled functions: kept between runs, the same in chunks, the same schedule and vector as the libraries'."""

from __future__ import annotations

import dataclasses
import gc
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import train.step.train_step
from tests import support
from train.config import TrainConfig
from train.data.batch import Batch
from train.data.quantities import ESP_PHYSNET
from train.model.kept_programs import KeptPrograms
from train.step import compiled_steps as compiled
from train.step.compiled_steps import Steps
from train.step.devices import Devices, all_devices
from train.step.metrics import MetricSums, named_metrics, zero_sums
from train.step.optimizer import TrainState, learning_rate, schedule
from train.step.parameter_vector import ParameterVector

MOLECULES = [[8, 6, 8], [1, 8, 1], [6, 1, 1, 1, 1], [7, 7], [6, 8], [1, 1, 8], [9, 1]]


def make(extra: int = 1, **more: Any) -> Batch:
    return support.random_batch(np.random.default_rng(0), MOLECULES, extra_molecules=extra, dtype="float32", **more)


def new_steps(devices: Devices | None = None, **changes: Any) -> Steps:
    config = support.small_config(physnet_iterations=1, dcmnet_iterations=1, dcmnet_max_degree=1, **changes)
    return Steps(config, 10, devices or all_devices())


def two_steps(steps: Steps, batch: Batch) -> tuple[TrainState, dict[str, float]]:
    devices = steps.devices
    state, sums = steps.create_state(0), devices.place(zero_sums())
    for _ in range(2):
        state, sums, _ = steps.train(state, sums, devices.place_batch(batch, len(batch.energy)))
    return jax.device_get(state), named_metrics(sums)


def test_kept_programs_are_not_traced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "kept_programs", lambda digest: KeptPrograms(tmp_path, digest))
    # They are of the steps' own devices, also where another kind is the process's first.
    monkeypatch.setattr(compiled.export, "default_export_platform", lambda: "cuda")
    first = two_steps(new_steps(), make())
    traced: list[str] = []
    build = train.step.train_step.build_functions

    def build_and_tell(*arguments: Any) -> Any:
        traced.append("traced")
        return build(*arguments)

    monkeypatch.setattr(train.step.train_step, "build_functions", build_and_tell)
    second = two_steps(new_steps(seed=5), make())
    assert not traced
    jax.tree.map(np.testing.assert_array_equal, second, first)

    # Other settings are another program; the learning rate is not.
    assert new_steps(forces_weight=3.0)._digest() != new_steps()._digest()
    faster, _ = two_steps(new_steps(learning_rate=1e-2), make())
    assert not traced
    assert np.abs(faster.params - first[0].params).max() > 1e-4

    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    jax.tree.map(np.testing.assert_array_equal, two_steps(new_steps(), make()), first)
    assert traced == ["traced"]


def test_what_changes_a_trace_is_in_the_key() -> None:
    """Settings of JAX, whoever made them, and types: another program under the name of this one would be loaded."""
    digest = new_steps()._digest()
    for setting in (jax.numpy_rank_promotion("raise"), jax.enable_x64(True), jax.default_matmul_precision("bfloat16")):
        with setting:
            assert new_steps()._digest() != digest
    assert new_steps()._digest() == digest
    single, double = (compiled._key("train", [np.zeros(2, dtype)]) for dtype in (np.float32, np.float64))
    assert single != double


def test_no_step_makes_nan_on_purpose() -> None:
    """For users who let JAX stop at NaN."""
    with jax.debug_nans(True):
        _, metrics = two_steps(new_steps(), make())
    assert ESP_PHYSNET.metric not in metrics
    assert np.isfinite(list(metrics.values())).all()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[Steps, list[str]]:
    """Steps that compile at once, and what they did: each traced or called shape, once that has ended."""
    steps, events = new_steps(), []
    monkeypatch.setattr(steps, "_kept", None)
    function = lambda params, batch: (params + batch, params.sum(), zero_sums())  # noqa: E731
    steps.__dict__["_functions"] = {"gradient": function}
    trace, one = steps._trace, steps.dispatches.one

    def trace_and_tell(key: Any, *more: Any) -> Any:
        traced = trace(key, *more)
        events.append(f"traced {key[1][0]}")
        return traced

    def call_and_tell(key: Any, count: int) -> Any:
        events.append(f"called {key[1][0]}")
        return one(key, count)

    monkeypatch.setattr(steps, "_trace", trace_and_tell)
    monkeypatch.setattr(steps.dispatches, "one", call_and_tell)
    return steps, events


def test_a_step_waits_for_all_that_is_traced(tiny: tuple[Steps, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    steps, events = tiny
    begun, may_end, trace = threading.Event(), threading.Event(), steps._trace

    def trace_slowly(key: Any, *more: Any) -> Any:
        if key[1][0] == 3:
            begun.set()
            assert may_end.wait(60.0)
        return trace(key, *more)

    monkeypatch.setattr(steps, "_trace", trace_slowly)
    two, three = np.ones(2, np.float32), np.ones(3, np.float32)
    steps._executable("gradient", (two, two), ())
    steps._executable("gradient", (three, three), ())
    assert begun.wait(60.0)
    threading.Timer(0.5, may_end.set).start()
    gradient, *_ = steps.gradient(two, two)
    assert events == ["traced 2", "traced 3", "called 2"]
    np.testing.assert_array_equal(gradient, 2.0)
    steps.traced().result(60.0)
    steps.gradient(three, three)
    assert events[3:] == ["called 3"]


def test_nothing_is_collected_while_tracing_and_again_afterwards(
    tiny: tuple[Steps, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, _ = tiny
    seen, function = [], steps.__dict__["_functions"]["gradient"]

    def look(*arguments: Any) -> Any:
        seen.append(gc.isenabled())
        return function(*arguments)

    monkeypatch.setitem(steps.__dict__["_functions"], "gradient", look)
    gc.enable()
    try:
        steps.gradient(np.ones(2, np.float32), np.ones(2, np.float32))
        assert (seen, gc.isenabled()) == ([False], True)
    finally:
        gc.disable()  # as all of the session


def test_new_shapes_wait_for_all_steps(tiny: tuple[Steps, list[str]]) -> None:
    steps, events = tiny

    class Output:
        """Of a step that goes on until somebody waits for it."""

        def is_ready(self) -> bool:
            return "ended" in events

        def block_until_ready(self) -> None:
            events.append("ended")

    with steps.dispatches.one(("train", (1,)), 1) as dispatch:
        dispatch.output = Output()
    steps.gradient(np.ones(2, np.float32), np.ones(2, np.float32))
    assert events == ["called 1", "ended", "traced 2", "called 2"]


def test_only_tracing_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And compiling compiles, also where the traced program was kept."""
    monkeypatch.setattr(compiled, "kept_programs", lambda digest: KeptPrograms(tmp_path, digest))
    seen: list[tuple[str, str]] = []

    def note(event: str, *_: Any, **__: Any) -> None:
        seen.append((event.rsplit("/", 1)[-1], threading.current_thread().name.split("_")[0]))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for _ in range(2):
            steps = new_steps()
            placed = steps.devices.place_batch(make(), len(make().energy))
            steps.prepare_evaluate(placed).result()
            assert ("backend_compile_duration", "compile") in seen
            assert ("jaxpr_trace_duration", "trace") in seen
            assert {event for event, thread in seen if thread == "compile"}.isdisjoint(
                {"jaxpr_trace_duration", "jaxpr_to_mlir_module_duration"}
            )
            seen.clear()
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_no_kept_program_is_a_pickle(tmp_path: Path) -> None:
    kept = KeptPrograms(tmp_path, "digest")
    kept.save("name", b"content")
    assert kept.load("name") == b"content"
    assert KeptPrograms(tmp_path, "other").load("name") is None
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    assert kept.load("name") is None


def test_kept_programs_are_bounded(tmp_path: Path) -> None:
    KeptPrograms(tmp_path, "digest").save("0", b"x")
    kept = KeptPrograms(tmp_path, "digest", largest=3 * next(tmp_path.iterdir()).stat().st_size)
    for i in range(1, 6):
        kept.save(str(i), b"x")
    assert len(list(tmp_path.iterdir())) == 3
    assert kept.load("5") == b"x"


def test_chunks_change_only_the_rounding() -> None:
    """Seven molecules and an empty place: the last chunk is padded. No chunk has as many of a target as another."""
    batch = make(quadrupoles=True)
    arrays = {name: np.array(getattr(batch, name)) for name in ("energy", "forces", "dipole", "quadrupole", "esp_mask")}
    for name, rows in {"energy": [0, 1, 2], "forces": [4], "dipole": [1, 2, 6], "quadrupole": [0, 1, 3, 6]}.items():
        arrays[name][rows] = np.nan
    arrays["esp_mask"][[0, 3, 4, 5]] = False
    batch = batch._replace(**arrays)
    terms = {"quadrupole_weight": 1.0, "point_charge_esp_weight": 100.0, "dipole_source": "both"}
    whole_state, whole = two_steps(new_steps(**terms), batch)
    state, metrics = two_steps(new_steps(**terms, chunk_size=3), batch)
    # The monopoles are exact: their error is rounding, in e.
    assert metrics == pytest.approx(whole, rel=1e-5, abs=1e-8)
    moments, whole_moments = (optax.tree.get(s.opt_state, "nu") for s in (state, whole_state))
    np.testing.assert_allclose(moments, whole_moments, rtol=2e-4, atol=1e-7 * whole_moments.max())


def test_resident_steps_are_the_same_steps() -> None:
    steps, batch = new_steps(), make(extra=0)
    devices = steps.devices
    orders = np.asarray([[4, 2, 6, -1], [0, 3, 1, 5], [-1, -1, -1, -1]], np.int32)
    state, sums = steps.create_state(0), devices.place(zero_sums())
    data, rows = devices.place(batch), devices.place_rows(orders)
    state, sums, loss = steps.train_resident(state, sums, data, rows, 0, 1)
    state, sums, loss = steps.train_resident(state, sums, data, rows, 1, 2)
    one_by_one, expected_sums = steps.create_state(0), devices.place(zero_sums())
    for order in orders[:2]:
        chosen = jax.tree.map(lambda array, order=order: array[order], batch)._replace(molecule_mask=order >= 0)
        one_by_one, expected_sums, expected = steps.train(one_by_one, expected_sums, devices.place_batch(chosen, 4))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert named_metrics(sums) == pytest.approx(named_metrics(expected_sums), rel=1e-6, abs=1e-8)
    assert int(state.step) == 2
    np.testing.assert_allclose(state.params, one_by_one.params, atol=1e-6)
    assert steps.compilations() == (2, 0)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_schedule_is_that_of_optax(kind: Any) -> None:
    config = dataclasses.replace(TrainConfig(), epochs=7, warmup_epochs=1.5, learning_rate=2e-3, schedule=kind)
    ours = schedule(config, steps_per_epoch=11)
    warmup, total = round(1.5 * 11), 77
    rising = optax.linear_schedule(2e-5, 2e-3, warmup)
    falling = optax.cosine_decay_schedule(2e-3, total - warmup, 0.01)
    optaxs = optax.join_schedules([rising, falling if kind == "cosine" else optax.constant_schedule(2e-3)], [warmup])
    for step in (0, 1, warmup - 1, warmup, warmup + 1, 50, total - 1, total, total + 5):
        assert float(learning_rate(ours, np.int32(step))) == pytest.approx(float(optaxs(step)), rel=1e-5), step


def test_vector_of_the_parameters_is_that_of_jax() -> None:
    params = support.initial_weights(support.small_config(mix_coulomb_energy=True))
    vector = ParameterVector.of_tree(params)
    expected, _ = ravel_pytree(params)
    np.testing.assert_array_equal(vector.join(params), expected)
    np.testing.assert_array_equal(vector.from_host(params), expected)
    for but in ("none", "dcmnet"):
        matrices = jax.tree.map_with_path(
            lambda path, array, but=but: np.full(array.shape, path[-1].key == "kernel" and path[0].key != but, float),
            params,
        )
        np.testing.assert_array_equal(vector.matrices(but), ravel_pytree(matrices)[0])
    for tree in (vector.split(expected), vector.to_host(expected)):
        jax.tree.map(np.testing.assert_array_equal, tree, params)
    assert ("physnet/params/embedding/embedding", params["physnet"]["params"]["embedding"]["embedding"].shape) in (
        vector.shapes
    )
    assert vector.size == expected.size


def take(steps: Steps, state: TrainState, sums: MetricSums, batch: Batch) -> tuple[TrainState, MetricSums, float]:
    state, sums, loss = steps.train(state, sums, steps.devices.place_batch(batch, len(batch.energy)))
    return state, sums, float(loss)


@pytest.mark.parametrize("cause", ["not a number", "too large"])
def test_a_step_that_diverges_is_not_taken_and_none_after_it(cause: str) -> None:
    steps, good = new_steps(largest_loss=1e5), make()
    third = np.arange(len(good.energy)) == 2
    # Of energies, forces and dipoles, NaN says that they are not known.
    charge = np.where(third & (cause == "not a number"), np.nan, good.total_charge)
    energy = np.where(third & (cause == "too large"), 1e6, good.energy)
    bad = good._replace(total_charge=charge.astype(np.float32), energy=energy.astype(np.float32))
    state, sums, loss = take(steps, steps.create_state(0), steps.devices.place(zero_sums()), good)
    assert np.isfinite(loss)
    before = jax.device_get(state)
    for batch in (bad, good, good):
        state, sums, loss = take(steps, state, sums, batch)
        assert np.isnan(loss)
    assert int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
    assert np.isnan(named_metrics(sums)["loss"])
    # With new sums, as after a restart, training goes on.
    state, _, loss = take(steps, state, steps.devices.place(zero_sums()), good)
    assert (int(state.step), np.isfinite(loss)) == (2, True)


def test_gradient_for_a_diagnosis_is_that_of_the_step() -> None:
    """The optimizer's first moment after one step is a tenth of it, each network's clipped."""
    steps, batch = new_steps(), make()
    state = steps.create_state(0)
    placed = steps.devices.place_batch(batch, len(batch.energy))
    gradient, loss, _ = steps.gradient(state.params, placed)
    gradient, loss = np.array(gradient), float(loss)
    state, _, stepped = steps.train(state, steps.devices.place(zero_sums()), placed)
    assert loss == pytest.approx(float(stepped), rel=1e-6)
    moment = np.asarray(optax.tree.get(state.opt_state, "mu"))
    for place in steps.parameters.networks.values():
        gradient[place] *= min(1.0, TrainConfig().grad_clip_norm / np.linalg.norm(gradient[place]))
    np.testing.assert_allclose(moment, 0.1 * gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("frozen", ["physnet", "dcmnet"])
def test_frozen_network_stays_and_the_other_learns(frozen: Any) -> None:
    steps, batch = new_steps(freeze=frozen, weight_decay=0.1), make()
    first = jax.device_get(steps.create_state(0))
    state, sums = steps.create_state(0), steps.devices.place(zero_sums())
    for _ in range(3):
        state, sums, _ = take(steps, state, sums, batch)
    for before, after in ((first.params, state.params), (first.ema_params, state.ema_params)):
        old, new = (steps.parameters.to_host(vector) for vector in (before, after))
        for network in ("physnet", "dcmnet"):
            pairs = zip(jax.tree.leaves(old[network]), jax.tree.leaves(new[network]), strict=True)
            assert any(not np.array_equal(a, b) for a, b in pairs) == (network != frozen)


@pytest.mark.slow
def test_members_at_once_take_the_steps_of_members_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: the whole step and its evaluation, over a batch in chunks and as a whole."""
    batch = make()

    def results(chunk_size: int) -> Any:
        steps = new_steps(members=2, chunk_size=chunk_size)
        monkeypatch.setattr(steps, "_kept", None)
        placed = steps.devices.place_batch(batch, len(batch.energy))
        state, sums = steps.create_state(0), steps.zero_sums()
        for _ in range(2):
            state, sums, loss = steps.train(state, sums, placed)
        return jax.device_get(
            (state.params, sums.forces, loss, steps.evaluate(state.params, steps.zero_evaluated(), placed))
        )

    in_turn = results(3)
    monkeypatch.setattr(Devices, "platform", "gpu")
    at_once = results(0)
    for (path, found), expected in zip(jax.tree.leaves_with_path(at_once), jax.tree.leaves(in_turn), strict=True):
        # Exact monopoles differ by rounding alone: of charges of the order of 1 e.
        scale = max(np.abs(expected).max(), 0.1)
        np.testing.assert_allclose(found, expected, atol=1e-5 * scale, err_msg=str(path))
