"""A run's compiled functions, one program for each bucket shape; traced and compiled programs are kept.

JAX keeps compiled programs, but to find one it must trace the model again, which takes longer than a short training.
So the traced programs are kept as well, serialised by ``jax.export`` (no pickle), under a digest of all that they
depend on: this project's sources, the versions of the libraries, the settings and the devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax
from jax import export

from shared.digests import settings_digest
from shared.job_limits import usable_cores
from shared.settings import COMPILED, names_in
from train.config import TrainConfig
from train.data.batch import Batch
from train.model.kept_programs import compiler_options, kept_programs, program_digest, sources_of, without_collection
from train.model.members import members_shape, stack_members
from train.model.prediction import Deviations, EnsemblePrediction, Prediction
from train.step.devices import Devices
from train.step.dispatches import Dispatches
from train.step.metrics import MetricSums, zero_sums
from train.step.optimizer import TrainState, build_optimizer, new_state, schedule
from train.step.parameter_vector import ParameterVector

Array = jax.Array

_ON_HOST = ("create", "farthest_charges")
"""What runs once or a few times, on the host's processor, and would take longer to be optimized."""


class Steps:
    """The functions of a run, on all its devices together.

    Each is compiled when it is used, or in the background when it is prepared, so that the first batch of a further
    bucket does not have to wait, and a signal can be answered meanwhile.

    Nothing is traced while a step is under way, whatever the caller does: a step waits for all tracing to end, and new
    shapes wait for all steps. For tracing runs operations of its own (e.g. for e3x's coefficients), in XLA's few
    threads, in which the devices of a step wait for each other; each may wait for the other for ever, see
    :func:`train.step.devices.start_devices`. Compiling runs no operations, and goes on beside steps.

    Only one thread may use it.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int, devices: Devices) -> None:
        """Prepare for ``steps_per_epoch`` steps in each epoch, over which the learning rate changes."""
        self.devices = devices
        self._config = config
        self._schedule = devices.place(schedule(config, steps_per_epoch))
        # Several processes must trace the same, and need not share a disk.
        self._kept = kept_programs(self._digest()) if jax.process_count() == 1 else None
        self.dispatches = Dispatches()
        self._traced: dict[tuple[Any, ...], Future[Any]] = {}
        self._executables: dict[tuple[Any, ...], Future[Any]] = {}
        self._tracer = ThreadPoolExecutor(1, thread_name_prefix="trace")
        # On few cores one program after another: XLA divides each among all, and the first step begins before the
        # evaluation is compiled. On two cores, two at once took a sixth longer for eight programs.
        at_once = 2 if usable_cores() > 2 else 1
        self._compiler = ThreadPoolExecutor(at_once, thread_name_prefix="compile")
        # The new state is needed before the first step, and compiled beside it.
        self._creator = ThreadPoolExecutor(1, thread_name_prefix="create")

    def create_state(self, seed: int) -> TrainState:
        """Return a new state, the same for any devices, and placed where it stays so that the step compiles once.

        Each member is that of a seed of its own, from this one on.
        """
        structure = jax.tree.structure(new_state(np.zeros(1, np.float32), self._optimizer))
        states = [
            jax.device_get(self._run("create", _key_data(seed + member), (structure,))[0])
            for member in range(self.members)
        ]
        return self.devices.place(stack_members(states))

    def farthest_charges(self, params: np.ndarray, batch: Batch, charges: np.ndarray) -> Array:
        """Return how far each atom's farthest distributed charge is from it (B, A) in Å, in one model.

        Args:
            params: (P,).
            batch: (B, ...), on the host.
            charges: (MAX_ATOMIC_NUMBER + 1,) in e, the monopoles to take for PhysNet's.
        """
        arguments = params, batch, np.asarray(charges, np.float32)
        return self._run("farthest_charges", arguments, (jax.tree.structure(0),))[0]

    def abstract_state(self) -> TrainState:
        """Shapes and placement of a state, for compiling."""
        params = np.zeros(self.parameters.size, np.float32)
        shapes = jax.eval_shape(lambda: new_state(jax.numpy.asarray(params), self._optimizer))
        first, placed = members_shape(self.members), self.devices.replicated
        abstract: TrainState = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*first, *x.shape), x.dtype, sharding=placed), shapes
        )
        return abstract

    def zero_sums(self) -> MetricSums:
        """Return the metric sums before the first step, of each member."""
        return self.devices.place(zero_sums(members_shape(self.members)))

    def zero_evaluated(self) -> MetricSums:
        """Return the metric sums of :meth:`evaluate` before the first batch: an ensemble has one more, of its mean."""
        return self.devices.place(zero_sums(members_shape(self.members + (self.members > 1))))

    def train(self, state: TrainState, sums: MetricSums, batch: Batch) -> tuple[TrainState, MetricSums, Any]:
        """Take one optimizer step on a batch, as a block of one, see :meth:`train_block`."""
        return self.train_block(state, sums, jax.tree.map(lambda array: array[None], batch), 0, 1)

    def train_block(
        self, state: TrainState, sums: MetricSums, batches: Batch, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        """Take the steps ``first`` to ``last`` (exclusive) of a block, and add to the metric sums.

        Args:
            state: its memory is given back.
            sums: given back.
            batches: (steps, batch size, ...).
            first: of ``batches``.
            last: of ``batches``.

        Returns:
            the new state, the new sums, and the last loss, which may not have arrived yet.
        """
        bounds = np.asarray(first, np.int32), np.asarray(last, np.int32)
        results = tuple(map(jax.tree.structure, (state, sums, 0)))
        arguments = (state, sums, batches, *bounds, self._schedule)
        return self._run("train_block", arguments, results, donated=(state, sums), steps=last - first)

    def train_resident(
        self, state: TrainState, sums: MetricSums, data: Batch, rows: Array, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        """Take the steps ``first`` to ``last`` (exclusive) as :meth:`train_block` does, on data kept on the device.

        Args:
            state: given back.
            sums: given back.
            data: all molecules of a bucket, on every device.
            rows: (steps, batch size) molecules of each step, -1 for none.
            first: of ``rows``.
            last: of ``rows``.
        """
        bounds = np.asarray(first, np.int32), np.asarray(last, np.int32)
        results = tuple(map(jax.tree.structure, (state, sums, 0)))
        arguments = (state, sums, data, rows, *bounds, self._schedule)
        return self._run("train_resident", arguments, results, donated=(state, sums), steps=last - first)

    def prepare_create(self) -> Future[Any]:
        """Begin to compile :meth:`create_state`."""
        return self._executable("create", _key_data(0), ())

    def prepare_train_block(self, batches: Batch) -> Future[Any]:
        """Begin to compile :meth:`train_block` for the shapes and placement of ``batches``."""
        state, sums, bound = self.abstract_state(), self.zero_sums(), np.zeros((), np.int32)
        return self._executable("train_block", (state, sums, batches, bound, bound, self._schedule), (state, sums))

    def prepare_train_resident(self, data: Batch, rows: Array) -> Future[Any]:
        """Begin to compile :meth:`train_resident` for these shapes."""
        state, sums, bound = self.abstract_state(), self.zero_sums(), np.zeros((), np.int32)
        arguments = (state, sums, data, rows, bound, bound, self._schedule)
        return self._executable("train_resident", arguments, donated=(state, sums))

    def prepare_evaluate(self, batch: Batch) -> Future[Any]:
        """Begin to compile :meth:`evaluate` for these shapes."""
        return self._executable("evaluate", (self.abstract_state().params, self.zero_evaluated(), batch), ())

    def traced(self) -> Future[None]:
        """Return the future of tracing all that was prepared; the first step waits for it without answering signals."""
        return self._tracer.submit(lambda: None)

    @property
    def compiling(self) -> bool:
        """Whether anything that was prepared is still being compiled; any thread may ask."""
        return any(not future.done() for future in list(self._executables.values()))

    def compiled(self) -> tuple[int, int]:
        """Return the numbers of compiled and of prepared programs."""
        futures = list(self._executables.values())
        return sum(future.done() for future in futures), len(futures)

    def close(self) -> None:
        """Cancel the compilations that were prepared and have not begun."""
        for key, future in list(self._executables.items()):
            if future.cancel():
                del self._executables[key]
                if key in self._traced:
                    self._traced.pop(key).cancel()

    def gradient(self, params: Array, batch: Batch) -> tuple[Array, Array, MetricSums]:
        """Return the gradient of one model's loss (P,), the loss, and the metric sums of a batch, for a diagnosis."""
        results = (jax.tree.structure(0), jax.tree.structure(0), jax.tree.structure(zero_sums()))
        return self._run("gradient", (params, batch), results)

    def evaluate(
        self, params: Array, sums: MetricSums, batch: Batch
    ) -> tuple[MetricSums, Prediction | EnsemblePrediction]:
        """Predict a batch, and add its errors to the metric sums.

        An ensemble's last sums are those of its mean prediction.
        """
        predicted: Any = _named(Prediction)
        if self.members > 1:
            predicted = EnsemblePrediction(predicted, _named(Deviations))
        results = jax.tree.structure(sums), jax.tree.structure(predicted)
        return self._run("evaluate", (params, sums, batch), results)

    def compilations(self) -> tuple[int, int]:
        """Return how many training steps, and how many evaluations, were compiled."""
        names = [name for name, *_ in self._executables]
        return names.count("train_block") + names.count("train_resident"), names.count("evaluate")

    @property
    def members(self) -> int:
        """Number of models that are trained together."""
        return self._config.members

    @cached_property
    def parameters(self) -> ParameterVector:
        """Layout of the parameters in the vector."""
        kept = self._kept.load("parameters") if self._kept else None
        if kept is not None:
            return ParameterVector.of(json.loads(kept))
        from train.step.train_step import parameter_vector  # slow: imports and traces the model

        made = parameter_vector(self._config)
        if self._kept:
            self._kept.save("parameters", json.dumps(made.shapes).encode())
        return made

    @cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return build_optimizer(self._config, self.parameters.networks)

    @cached_property
    def _functions(self) -> dict[str, Callable[..., Any]]:
        from train.step.train_step import build_functions  # slow: imports the model

        return build_functions(self._config, self.devices, self.parameters)

    def _run(
        self, name: str, arguments: tuple[Any, ...], results: tuple[Any, ...], donated: Any = (), steps: int = 1
    ) -> Any:
        """Call a function, compiled for these shapes; its first arguments are ``donated``, ``results`` their trees."""
        key = self._begin(name, arguments, donated)
        executable = self._executables[key].result()
        wait(self._traced.values())
        self._traced.clear()
        with self.dispatches.one(key, steps) as dispatch:
            outputs = executable(*jax.tree.leaves(arguments))
            # The last one, a loss or a prediction, is never donated.
            dispatch.output = outputs[-1]
        return jax.tree.unflatten(jax.tree_util.treedef_tuple(results), outputs)

    def _executable(self, name: str, arguments: tuple[Any, ...], donated: Any) -> Future[Any]:
        return self._executables[self._begin(name, arguments, donated)]

    def _begin(self, name: str, arguments: tuple[Any, ...], donated: Any) -> tuple[Any, ...]:
        """Begin to trace and to compile, unless that has been done; returns the program's key."""
        leaves, tree = jax.tree.flatten(arguments)
        key = _key(name, leaves)
        if key not in self._executables:
            self.dispatches.wait()
            shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)) for x in leaves]
            count = len(jax.tree.leaves(donated))
            self._traced[key] = self._tracer.submit(self._trace, key, shapes, tree, count)
            compiler = self._creator if name in _ON_HOST else self._compiler
            self._executables[key] = compiler.submit(self._compile, name, self._traced[key])
        return key

    def _trace(self, key: tuple[Any, ...], shapes: list[Any], tree: Any, donated: int) -> Any:
        """Load the kept program or trace it; it maps flat lists of arrays to flat lists."""
        where = jax.default_device(jax.local_devices(backend="cpu")[0]) if key[0] in _ON_HOST else nullcontext()
        with where, without_collection():
            return self._lower(key, shapes, tree, donated)

    def _compile(self, name: str, traced: Future[Any]) -> Any:
        options = {"xla_backend_optimization_level": 0} if name in _ON_HOST else compiler_options(self.devices.platform)
        return traced.result().compile(compiler_options=options)

    def _lower(self, key: tuple[Any, ...], shapes: list[Any], tree: Any, donated: int) -> Any:
        name = key[0]

        def flat(*leaves: Any) -> list[Any]:
            return jax.tree.leaves(self._functions[name](*jax.tree.unflatten(tree, leaves)))

        function: Callable[..., Any] = flat
        if self._kept:
            # Not the process's: a program of the processor may be used beside a GPU.
            own = name in _ON_HOST or self.devices.platform == "cpu"
            platform = "cpu" if own else export.default_export_platform()
            entry = settings_digest({"key": list(map(str, key))})
            function = self._kept.traced(entry, flat, shapes, platform)
        jitted: Any = jax.jit(function, donate_argnums=tuple(range(donated)))
        return jitted.lower(*shapes)

    def _digest(self) -> str:
        compiled = names_in(TrainConfig, *COMPILED)
        settings = {name: getattr(self._config, name) for name in compiled}
        devices = [self.devices.platform, self.devices.count]
        # By the import contracts a traced function reaches no other room.
        return program_digest({**settings, "devices": devices}, sources_of("data", "model", "step"))


def _key(name: str, leaves: list[Any]) -> tuple[Any, ...]:
    """Return what a program depends on. Asked at each dispatch: the types' names would take as long as all the rest."""
    return (name, *(leaf.shape for leaf in leaves), *(leaf.dtype for leaf in leaves))


def _key_data(seed: int) -> tuple[Any]:
    return (np.asarray(jax.random.key_data(jax.random.key(seed))),)


def _named(fields: Any) -> Any:
    """Return a NamedTuple of arrays, with their names in their places."""
    return fields(*fields._fields)
