"""The fixed parts of a run (settings, data, compiled functions), and its first state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from shared.data_record import describe_data
from shared.elements import symbol
from shared.errors import UserError
from shared.locks import Lock
from shared.log import log
from shared.schema import Split
from shared.settings import Scope, as_flags, names_in
from train import run_folder
from train.config import ModelConfig, TrainConfig
from train.data.dataset import Cache
from train.data.esp_mask import EspSelection
from train.data.loader import BatchPlan, Loader
from train.data.missing_targets import check_esp, check_quadrupoles, describe_missing
from train.data.training_facts import TrainingFacts, training_facts
from train.inference.folder import best_folder
from train.model.members import split_members, stack_members
from train.model.prediction import Params
from train.model.saved_model import TrainedModel, load_weights, member_folders
from train.run.blocks import Blocks, ResidentBlocks, open_blocks
from train.run.checkpoint import require_utf8
from train.run.initial_charges import element_charges
from train.run.initial_displacements import scale_displacements
from train.run.interruption import Interruption
from train.run.run_data import open_data
from train.run.tracking import require_trackers
from train.run_folder import RunFolder
from train.step.compiled_steps import Steps
from train.step.devices import Devices, all_devices
from train.step.optimizer import TrainState


@dataclass(frozen=True)
class Session:
    """Settings, data and compiled functions of a run; the opener of the session releases the lock."""

    config: TrainConfig
    cache: Cache
    note: str  # on the choice of the data, or empty
    folder: RunFolder
    steps: Steps
    blocks: Blocks
    valid: Loader
    interruption: Interruption
    lock: Lock

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.steps.devices.is_first

    def plans(self, epoch: int) -> list[BatchPlan]:
        """Return the batches of an epoch, in order."""
        config = self.config
        return self.loader.plan(config.seed if config.shuffle_seed < 0 else config.shuffle_seed, epoch)

    @property
    def loader(self) -> Loader:
        """Batches of the training split."""
        return self.blocks.loader

    @cached_property
    def facts(self) -> TrainingFacts:
        """What the training split holds; the molecules also of the run whose weights it began with."""
        facts = training_facts(self.loader)
        if not self.config.init_from:
            return facts
        try:
            earlier = load_weights(_initial_folders(self.config)[0]).training
        except UserError:  # gone since then
            earlier = None
        if facts.molecules is None or earlier is None or earlier.molecules is None:
            return replace(facts, molecules=None)
        return replace(facts, molecules=facts.molecules.joined(earlier.molecules))

    def log(self, text: str) -> None:
        """Log a text, in the first process only."""
        if self.is_first:
            log.info(text)


def open_session(config: TrainConfig, interruption: Interruption) -> Session:
    """Open the data and the run's folder.

    Raises:
        UserError: no such preprocessed data, or a folder that holds another run.
    """
    folder = RunFolder(Path(config.runs_dir) / config.name)
    for path in (config.runs_dir, config.cache_dir):
        require_utf8(Path(os.path.abspath(path)))
    config = run_folder.as_begun(folder, config)
    run_folder.check_settings(folder, config)
    cache, note = open_data(config)
    devices = all_devices()
    loader, valid = (split_loader(cache, split, config, devices) for split in _TRAINED_SPLITS)
    _check_before(config)
    check_esp(loader, valid, config)
    check_quadrupoles(loader, config)
    run_folder.prepare_run(config, cache, write=False)
    lock = run_folder.lock(folder, devices.is_first)
    try:
        run_folder.prepare_run(config, cache, write=devices.is_first)
        steps = Steps(config, loader.batches_per_epoch, devices)
        blocks = open_blocks(config, steps, loader)
    except UserError:
        # In a notebook, nothing else would release it.
        lock.release()
        raise
    return Session(config, cache, note, folder, steps, blocks, valid, interruption, lock)


def describe_session(session: Session) -> Iterator[str]:
    """Yield the lines that describe a run before it begins: its data, devices, folder, and notes on them."""
    config, loader, devices = session.config, session.loader, session.steps.devices
    yield f"train: data: {describe_data(session.cache.record)}"
    if session.note:
        yield f"note: {session.note}"
    where = "on the device" if isinstance(session.blocks, ResidentBlocks) else "streamed"
    yield (
        f"train: {len(loader):,} molecules, {len(loader.buckets)} bucket(s), {where}; "
        f"{devices.count} {devices.platform} device(s); run {session.folder.path}"
    )
    if config.members > 1:
        last = config.seed + config.members - 1
        yield f"train: an ensemble of {config.members} members, seeds {config.seed} to {last}"
    yield from describe_missing(loader, session.valid)
    for difference in run_folder.other_versions(config.from_run) if config.from_run else []:
        yield f"note: not as in {config.from_run}: {difference}; results may differ"


def _check_before(config: TrainConfig) -> None:
    """Check, before the run has a folder that would remain, what would end it at its start.

    Raises:
        UserError: wandb is asked for and missing, the weights of --init-from do not fit, or no target has a weight.
    """
    require_trackers(config)
    weights = ("energy", "forces", "dipole", "quadrupole", "esp", "point_charge_esp")
    if not any(getattr(config, f"{name}_weight") for name in weights):
        flags = ", ".join(f"--{name.replace('_', '-')}-weight" for name in weights)
        raise UserError(f"{flags} are all 0: nothing would be learnt from the data")
    if config.init_from and not RunFolder(Path(config.runs_dir) / config.name).config_file.exists():
        for folder in _initial_folders(config):
            check_same_model(config, load_weights(folder).config, config.init_from)


def split_loader(cache: Cache, split: Split, config: TrainConfig, devices: Devices) -> Loader:
    """Return the batches of one split, in arrays that divide among the devices.

    Raises:
        UserError: the split was not preprocessed.
    """
    if not cache.has_split(split):
        raise UserError(f"{cache.frames_folder}: no {split} split; preprocess with --{split}-efd and --{split}-esp")
    selection = EspSelection(config.esp_radius_factor, config.esp_min_distance, config.esp_max_value)
    return Loader(cache.load_split(split), config.batch_size, selection, devices.count)


def prepare_evaluation(session: Session) -> list[Future[Any]]:
    """Begin to compile the evaluation of every bucket of the validation split."""
    steps, loader = session.steps, session.valid
    part = steps.devices.own_part(loader.places)
    buckets = [index for index, bucket in enumerate(loader.buckets) if len(bucket)]
    batches = (loader.read(BatchPlan(index, np.arange(1)), part) for index in buckets)
    return [steps.prepare_evaluate(steps.devices.place_batch(batch, loader.places)) for batch in batches]


def first_state(session: Session) -> TrainState:
    """Return a new state: drawn from the seed and fitted to the data, or with the weights of ``--init-from``.

    Raises:
        UserError: its weights cannot be read.
    """
    config, steps = session.config, session.steps
    state = steps.create_state(config.seed)
    members = [steps.parameters.to_host(vector) for vector in split_members(state.params, config.members)]
    members = _from_run(session, members) if config.init_from else _fitted_to_data(session, members)
    vector = jnp.asarray(stack_members([steps.parameters.from_host(params) for params in members]))
    # Two arrays: a step gives the memory of each of them back.
    return state._replace(params=steps.devices.place(vector), ema_params=steps.devices.place(vector.copy()))


def _fitted_to_data(session: Session, members: list[Params]) -> list[Params]:
    """Set charges fitted to the dipoles or ESPs, and displacements of one length."""
    loader = session.loader
    charges = element_charges(loader)
    fitted = []
    for params in members:
        shift = np.array(params["physnet"]["params"]["shift"])
        shift[:, 1] = charges
        network = {**params["physnet"]["params"], "shift": shift}
        params = {**params, "physnet": {**params["physnet"], "params": network}}
        fitted.append(scale_displacements(params, session.steps, charges, loader))
    return fitted


def _from_run(session: Session, members: list[Params]) -> list[Params]:
    folders = _initial_folders(session.config)
    trained = [load_weights(folder) for folder in folders]
    references = session.cache.reference_energies_ev
    known = set(trained[0].reference_energies_ev)
    session.log(f"weights of {', '.join(map(str, folders))}")
    for atomic_number in sorted(set(references) - known):
        session.log(f"note: {symbol(atomic_number)} was not in that training; its weights are as drawn there")
    return [{**params, **with_references(one, references).params} for params, one in zip(members, trained, strict=True)]


def _initial_folders(config: TrainConfig) -> list[Path]:
    """Return the folder of the weights that each member begins with, of the run or its member that is named.

    Raises:
        UserError: that is an ensemble, of another size than this one.
    """
    flag, best = f"--init-from {config.init_from}", best_folder(config.init_from)
    folders = member_folders(best)
    if len(folders) == config.members:
        return folders
    if len(folders) == 1:
        raise UserError(
            f"{flag}: a single model, with which all {config.members} members (--members) would be the same; name an "
            "ensemble of as many, or train each by itself, with another --shuffle-seed"
        )
    if config.members == 1:
        raise UserError(
            f"{flag}: an ensemble of {len(folders)}; name one of its members, as --init-from {folders[0]}, or continue "
            f"all of them (--members {len(folders)})"
        )
    raise UserError(f"{flag}: an ensemble of {len(folders)}, but this one is of {config.members} (--members)")


def check_same_model(config: ModelConfig, other: ModelConfig, run: str) -> None:
    """Check that the weights of another run fit this model.

    Raises:
        UserError: they cannot; names the settings that differ.
    """
    names = names_in(ModelConfig, Scope.MODEL)
    if other.mix_coulomb_energy and not config.mix_coulomb_energy:
        names.append("mix_coulomb_energy")
    changed = [name for name in names if getattr(config, name) != getattr(other, name)]
    if changed:
        flags = " ".join(as_flags({name: getattr(other, name) for name in changed}))
        raise UserError(f"--init-from {run}: its model has other settings than this one; take over {flags}")


def fit_to_data(trained: TrainedModel, cache: Cache, run: Path) -> TrainedModel:
    """Return the model with the same total energies, relative to the reference energies of other data.

    Raises:
        UserError: the data hold elements that the model was not trained on.
    """
    references = cache.reference_energies_ev
    unknown = sorted(set(references) - set(trained.reference_energies_ev))
    if unknown:
        names = ", ".join(symbol(z) for z in unknown)
        known = ", ".join(symbol(z) for z in sorted(trained.reference_energies_ev))
        raise UserError(f"{cache.frames_folder}: holds {names}, but {run} was trained on {known}; evaluate other data")
    return with_references(trained, references)


def with_references(trained: TrainedModel, references: dict[int, float]) -> TrainedModel:
    """Return the model with the same total energies: each element's shift takes up the change of its reference."""
    physnet = trained.params["physnet"]["params"]
    shift = np.array(physnet["shift"])
    for atomic_number, energy in references.items():
        if atomic_number in trained.reference_energies_ev:
            shift[atomic_number, 0] += trained.reference_energies_ev[atomic_number] - energy
    params = {**trained.params, "physnet": {"params": {**physnet, "shift": shift}}}
    return replace(trained, params=params, reference_energies_ev={**trained.reference_energies_ev, **references})


_TRAINED_SPLITS: tuple[Split, Split] = ("train", "valid")
