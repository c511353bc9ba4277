"""The start of JAX in a program: it sets what changes numbers, and a mistake in the environment is one line."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from shared.errors import UserError
from train.config import TrainConfig
from train.step import devices, program_cache, start
from train.step.devices import start_devices
from train.step.start import require_devices, start_jax


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """JAX's settings, restored at the end."""
    monkeypatch.setattr(program_cache, "keep_compilations", lambda: None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    before = dict(jax.config.values)
    yield before
    for name, value in before.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)


def test_numbers_do_not_depend_on_the_environment(
    settings: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    start_jax()
    assert capsys.readouterr().out == ""
    assert {name: jax.config.values[name] for name in start._NUMBERS} == start._NUMBERS
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_prng_impl", "rbg")
    start_jax()
    assert {name: jax.config.values[name] for name in start._NUMBERS} == start._NUMBERS
    (line,) = capsys.readouterr().out.splitlines()
    assert "JAX_DEFAULT_PRNG_IMPL, JAX_ENABLE_X64" in line


def test_a_platform_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "nosuch")
    with pytest.raises(UserError, match=r"^JAX_PLATFORMS=nosuch: "):
        require_devices()
    monkeypatch.setenv("JAX_PLATFORMS", "nosuch,cpu")
    require_devices()


def test_a_variable_that_jax_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "maybe")
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    for reason in ("invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'", "flag jax_enable_x64"):
        assert "has JAX_ENABLE_X64=maybe, which" in start._about_variables(reason)
    assert "JAX_ENABLE_X64=maybe, JAX_LOG_COMPILES=1" in start._about_variables("no number")


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (0, None)])
def test_the_flag_wins_over_the_environment(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, asked: int, expected: int | None
) -> None:
    """Of the number of devices; without the flag the environment holds."""
    changed: dict[str, object] = {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_foo=1")
    monkeypatch.setattr(devices.jax.config, "update", changed.__setitem__)
    start_devices(TrainConfig(host_devices=asked))
    assert changed.get("jax_num_cpu_devices") == expected
    flags = devices.os.environ["XLA_FLAGS"]
    assert ("device_count" in flags) == (asked == 0)
    assert "--xla_foo=1" in flags
