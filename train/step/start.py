"""The start of JAX in a program: its settings, its caches and its devices, and what is wrong with them in one line."""

from __future__ import annotations

import os

from shared.errors import UserError
from shared.log import log

_NUMBERS = {
    "jax_allow_f16_reductions": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_disable_jit": False,
    "jax_enable_custom_prng": False,
    "jax_enable_x64": False,
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_random_seed_offset": 0,
    "jax_softmax_custom_jvp": False,
    "jax_threefry_partitionable": True,
}
"""JAX's settings that change numbers; precision is a setting of this project."""

_STOPS = {
    "jax_enable_checks": False,
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_no_execution": False,
    "jax_no_tracing": False,
    "jax_transfer_guard": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_use_shardy_partitioner": True,
}
"""Those with which e3x, exported programs or the copies of data between host and device would stop."""


def start_jax(find_devices: bool = True) -> None:
    """Import JAX, with the settings that this project's numbers are of, and keep what it compiles.

    Args:
        find_devices: now, for a program of one process; a training first joins the others.

    Raises:
        UserError: a variable of the environment that JAX refuses, or a platform that it does not find.
    """
    try:
        import jax
    except ValueError as error:  # its settings are read and checked here
        raise UserError(_about_variables(str(error))) from error
    from train.step.program_cache import keep_compilations

    aside = []
    for name, value in (_NUMBERS | _STOPS).items():
        if jax.config.values[name] != value:
            aside.append(name.upper())
            jax.config.update(name, value)
    if aside:
        log.info(f"note: without effect here, since numbers would change or programs stop: {', '.join(aside)}")
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        # After those that were asked for: new weights are drawn on it.
        jax.config.update("jax_platforms", f"{platforms},cpu")
    keep_compilations()
    if find_devices:
        require_devices()


def require_devices() -> None:
    """Start JAX's devices.

    Raises:
        UserError: those that JAX_PLATFORMS names, or any, cannot be had.
    """
    import jax

    named = os.environ.get("JAX_PLATFORMS", "")
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError, ValueError) as error:
        if not named:
            raise
        reason = str(error).splitlines()[0] if str(error) else "not installed"
        raise UserError(f"JAX_PLATFORMS={named}: JAX finds no such device ({reason})") from error
    if named and found == "cpu" and "cpu" not in named.split(","):
        raise UserError(f"JAX_PLATFORMS={named}: JAX finds no such device, only the processor (JAX_PLATFORMS=cpu)")


def _about_variables(reason: str) -> str:
    """Return one line on the variable that JAX refuses: the one in its own message, or all of JAX's."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    named = [name for name in variables if name in reason.upper()] or list(variables)
    shown = ", ".join(f"{name}={variables[name]}" for name in named)
    return f"the environment has {shown}, which JAX refuses: {reason}"
