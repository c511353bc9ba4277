"""What less precise matrix products do to a trained model's errors: tf32 and bfloat16, as a GPU's units compute them.

The units round both operands, to 10 or 7 bits of mantissa, and add up in float32. That is done here on any device: the
model is traced, and every matrix product in it, those of the forces' derivative included, gets rounded operands. So the
errors are those of ``--matmul-precision`` where the device has it; the speed is not, for which a GPU is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from jax.extend import core

from train.config import TrainConfig
from train.data.dataset import open_cache
from train.model.joint import build_model, clean
from train.model.saved_model import load_weights
from train.run.session import split_loader
from train.step.devices import all_devices, start_devices
from train.step.losses import count, joint_loss, loss_weights
from train.step.metrics import METRIC_NAMES, add_sums, batch_sums, named_metrics, zero_sums

_CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")
"""Primitives that hold a function, whose equations are looked into."""

MANTISSA_BITS = {"float32": 23, "tf32": 10, "bfloat16": 7}


@dataclass(frozen=True)
class PrecisionConfig:
    """A trained run and its data."""

    run: str = "runs/joint"
    cache_dir: str = "data_cache"
    split: str = "valid"


def rounded_products(function: Callable[..., Any], bits: int) -> Callable[..., Any]:
    """``function`` with both operands of every matrix product rounded to so many bits of mantissa."""

    def evaluate(jaxpr: Any, constants: Any, *arguments: Any) -> list[Any]:
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        for equation in jaxpr.eqns:
            operands = list(map(value, equation.invars))
            if equation.primitive.name == "dot_general":
                operands = [jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits) for x in operands]
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            if isinstance(inner, core.ClosedJaxpr) and equation.primitive.name in _CALLS:
                results = evaluate(inner.jaxpr, inner.consts, *operands)
            else:
                results = equation.primitive.bind(*operands, **equation.params)
                results = results if equation.primitive.multiple_results else [results]
            values.update(zip(equation.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    @functools.wraps(function)
    def rounded(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = evaluate(closed.jaxpr, closed.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rounded


def errors(config: PrecisionConfig, bits: int) -> dict[str, float]:
    """Every metric of the run's best weights on the split."""
    trained = load_weights(Path(config.run) / "best")
    settings = TrainConfig(**{**vars(trained.config), "cache_dir": config.cache_dir})
    devices = all_devices()
    cache = open_cache(Path(config.cache_dir), settings.physnet_cutoff, settings.dcmnet_cutoff)
    loader = split_loader(cache, config.split, settings, devices)  # type: ignore[arg-type]
    model, weights = build_model(settings), loss_weights(settings)
    predict = rounded_products(lambda params, batch: model.apply(params, batch), bits)

    @jax.jit
    def evaluate(params: Any, sums: Any, batch: Any) -> Any:
        batch = clean(batch)
        prediction, counts = predict(params, batch), count(batch)
        losses = joint_loss(prediction, batch, weights, counts)
        return add_sums(sums, batch_sums(prediction, batch, losses, counts, point_charges=True))

    sums = zero_sums()
    for _, batch in loader.stream(loader.plan(), loader.read):
        sums = evaluate(trained.params, sums, batch)
    return named_metrics(sums)


def main() -> None:
    """Print the errors at each precision."""
    config = tyro.cli(PrecisionConfig, description=__doc__)
    start_devices(TrainConfig(host_devices=1))
    results = {name: errors(config, bits) for name, bits in MANTISSA_BITS.items()}
    print(f"{'':<42}" + "".join(f"{name:>12}" for name in results))
    for metric in METRIC_NAMES:
        print(f"{metric:<42}" + "".join(f"{metrics[metric]:>12.5g}" for metrics in results.values()))


if __name__ == "__main__":
    main()
