"""Settings of training: table [train] of config.toml and the flags of ``python -m train``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from shared.settings import (
    NonNegative,
    NonNegativeInt,
    PathName,
    Positive,
    PositiveInt,
    Scope,
    Seed,
    SharedConfig,
    setting,
)


@dataclass(frozen=True)
class ModelConfig(SharedConfig):
    """Hyperparameters that fix the model's parameters and outputs; saved beside the weights."""

    physnet_features: PositiveInt = setting(64, Scope.MODEL)
    """Features per atom in PhysNet."""

    physnet_iterations: PositiveInt = setting(5, Scope.MODEL)
    """PhysNet modules."""

    physnet_basis: Annotated[int, Field(ge=2)] = setting(64, Scope.MODEL)
    """Radial basis functions in PhysNet."""

    physnet_residual_interaction: NonNegativeInt = setting(1, Scope.MODEL)
    """Residual blocks on the messages of a module (3 in the paper)."""

    physnet_residual_atomic: NonNegativeInt = setting(1, Scope.MODEL)
    """Residual blocks on the features after a module (2 in the paper)."""

    physnet_residual_output: NonNegativeInt = setting(1, Scope.MODEL)
    """Residual blocks in each output block (1 in the paper)."""

    physnet_degree: Annotated[int, Field(ge=0, le=4)] = setting(2, Scope.MODEL, before=0)
    """Highest degree of the directions in PhysNet's messages: angles (0 = distances alone, as published)."""

    physnet_channels: PositiveInt = setting(16, Scope.MODEL)
    """Channels of PhysNet's messages for each degree of direction."""

    zbl: bool = setting(True, Scope.MODEL, before=False)
    """Add the repulsion of nuclei (Ziegler, Biersack & Littmark) within the sum of two atoms' covalent radii."""

    dcmnet_features: PositiveInt = setting(32, Scope.MODEL)
    """Feature channels per atom and spherical-harmonic component in DCMNet."""

    dcmnet_iterations: PositiveInt = setting(2, Scope.MODEL)
    """Message passes in DCMNet."""

    dcmnet_basis: Annotated[int, Field(ge=2)] = setting(32, Scope.MODEL)
    """Radial basis functions in DCMNet."""

    dcmnet_max_degree: Annotated[int, Field(ge=1, le=4)] = setting(2, Scope.MODEL)
    """Highest degree of DCMNet's equivariant features."""

    n_dcm: PositiveInt = setting(3, Scope.MODEL)
    """Distributed charges per atom."""

    share_features: bool = setting(True, Scope.MODEL, before=False)
    """PhysNet's features of an atom enter DCMNet, beside its charge."""

    longest_arm: NonNegative = setting(0.0, Scope.STEP)
    """Longest distance of a distributed charge from its atom, Å (0 = not bounded)."""

    exact_monopoles: bool = setting(True, Scope.STEP)
    """Shift each atom's distributed charges so that they sum exactly to PhysNet's charge; else a penalty holds them."""

    mix_coulomb_energy: bool = setting(False, Scope.STEP)
    """Add the Coulomb energy of the distributed charges, times a learnt factor, to PhysNet's energy."""


@dataclass(frozen=True)
class TrainConfig(ModelConfig):
    """Train PhysNet and DCMNet jointly on preprocessed shards."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = setting("joint", Scope.RUN)
    """Name of the run: its folder below --runs-dir."""

    runs_dir: PathName = setting("runs", Scope.HOST)
    """Folder that holds the runs."""

    frames: Annotated[str, Field(pattern=r"^(frames-[0-9a-f]{16})?$")] = setting("", Scope.HOST)
    """Data to train on, by their folder's name (default: of a run that exists, its own; else the latest)."""

    from_run: str = setting("", Scope.HOST)
    """Repeat this run (runs/NAME): its settings, except for the flags given here, on the same data."""

    init_from: str = setting("", Scope.RUN)
    """Begin with the best weights of this run (runs/NAME), for fine-tuning on other data or with other settings."""

    freeze: Literal["none", "physnet", "dcmnet"] = setting("none", Scope.STEP)
    """Network whose weights stay as they are."""

    epochs: PositiveInt = setting(100, Scope.HOST)
    """Passes over the training split."""

    batch_size: PositiveInt = setting(16, Scope.RUN)
    """Molecules per step."""

    learning_rate: Positive = setting(3e-3, Scope.RUN)
    """Peak learning rate of AMSGrad (PhysNet) and Adam (DCMNet)."""

    schedule: Literal["cosine", "constant"] = setting("cosine", Scope.RUN)
    """Learning rate after the warm-up: down to 1 % along a cosine, or constant."""

    warmup_epochs: NonNegative = setting(1.0, Scope.RUN)
    """Epochs over which the learning rate rises from 1 % to its peak."""

    grad_clip_norm: NonNegative = setting(1.0, Scope.STEP)
    """Largest gradient norm of each network (0 = no clipping)."""

    largest_loss: Positive = setting(1e20, Scope.HOST)
    """A batch with a larger loss, or one that is not a number, ends the run; lower it if gradients are not clipped."""

    best_by: Literal["errors", "loss"] = setting("errors", Scope.HOST)
    """What makes an epoch the best: the geometric mean of the validation errors, or the validation loss."""

    early_stopping: NonNegativeInt = setting(0, Scope.HOST)
    """End after this many epochs without a better one (0 = never)."""

    checkpoint_minutes: NonNegative = setting(1.0, Scope.HOST)
    """Save the full state after this many minutes, inside an epoch too."""

    checkpoint_epochs: NonNegativeInt = setting(0, Scope.HOST)
    """Also save it whenever this many epochs are done (0 = by time only, and at the end of the run)."""

    keep_checkpoints: PositiveInt = setting(3, Scope.HOST)
    """How many of the latest checkpoints are kept."""

    ema_decay: Annotated[float, Field(ge=0, lt=1)] = setting(0.999, Scope.STEP)
    """Decay of the running average of the weights that is evaluated and saved as best (0 = the weights themselves)."""

    weight_decay: NonNegative = setting(0.0, Scope.STEP)
    """Share by which matrices of weights shrink in a step, over the learning rate (decoupled, as in AdamW; 0 = not)."""

    energy_weight: NonNegative = setting(10.0, Scope.STEP)
    """Weight of the energy loss, 1/eV²."""

    forces_weight: NonNegative = setting(50.0, Scope.STEP)
    """Weight of the force loss, Å²/eV²."""

    dipole_weight: NonNegative = setting(500.0, Scope.STEP)
    """Weight of the dipole loss, 1/(e·Å)²."""

    esp_weight: NonNegative = setting(100000.0, Scope.STEP)
    """Weight of the ESP loss, (e/Hartree)²."""

    mono_weight: NonNegative = setting(1.0, Scope.STEP)
    """Weight of the difference between PhysNet's charge and the sum of the distributed charges, 1/e²."""

    charge_sum_weight: NonNegative = setting(10.0, Scope.STEP, before=0.0)
    """Weight of the difference between the total charge and the sum of PhysNet's charges before it is corrected, 1/e.

    Without it, molecules far apart exchange charge.
    """

    quadrupole_weight: NonNegative = setting(0.0, Scope.STEP, before=0.0)
    """Weight of the quadrupole loss, 1/(e·Å²)² (0 = quadrupoles are not fitted)."""

    charge_weight: NonNegative = setting(0.0, Scope.STEP, before=0.0)
    """Weight of the mean square of the distributed charges, 1/e² (0 = they may be of any size)."""

    point_charge_esp_weight: NonNegative = setting(0.0, Scope.STEP, before=0.0)
    """Weight of the ESP loss of PhysNet's own charges, (e/Hartree)² (0 = it is not computed)."""

    dipole_source: Literal["physnet", "dcmnet", "both"] = setting("physnet", Scope.STEP)
    """Charges whose dipole and quadrupole enter the loss; both: each with the whole weight."""

    esp_min_distance: NonNegative = setting(0.0, Scope.RUN)
    """Leave out grid points closer than this to any atom, Å (0 = keep all)."""

    esp_max_value: NonNegative = setting(0.0, Scope.RUN)
    """Leave out grid points with a larger absolute ESP, Hartree/e (0 = keep all)."""

    esp_radius_factor: NonNegative = setting(1.0, Scope.RUN)
    """Leave out grid points within this multiple of an atom's van der Waals radius (0 = keep all)."""

    data_placement: Literal["auto", "device", "stream"] = setting("auto", Scope.HOST)
    """Training data on the device, or streamed from the shards; auto: on the device if they fit."""

    chunk_size: NonNegativeInt = setting(0, Scope.PROGRAM)
    """Molecules that a device handles at once, adding up gradients (0 = all; on a processor, what its cache holds)."""

    matmul_precision: Literal["float32", "tf32", "bfloat16"] = setting("float32", Scope.STEP)
    """Precision of matrix products, where the device has others; a processor always computes in float32."""

    host_devices: NonNegativeInt = setting(0, Scope.HOST)
    """Devices that the processor is divided into (0 = one per core, with at least 8 molecules of a batch each)."""

    distributed: bool = setting(False, Scope.HOST)
    """Train together with the other processes that srun (Slurm) or mpirun (Open MPI) started."""

    coordinator: Annotated[str, Field(pattern=r"^(\S+:\d+)?$")] = setting("", Scope.HOST)
    """HOST:PORT of process 0, where no launcher connects the processes."""

    processes: PositiveInt = setting(1, Scope.HOST)
    """Number of processes, with --coordinator."""

    process_id: NonNegativeInt = setting(0, Scope.HOST)
    """This process, from 0, with --coordinator."""

    seed: Seed = setting(0, Scope.RUN)
    """Seed of the initial weights and of the shuffle."""

    shuffle_seed: Annotated[int, Field(ge=-1, lt=2**32)] = setting(-1, Scope.RUN, before=-1)
    """Seed of the shuffle, if it is not --seed (-1 = it is)."""

    members: PositiveInt = setting(1, Scope.STEP, before=1)
    """Models that are trained together on the same batches, from the seeds --seed, --seed + 1, and so on."""

    plot_results: bool = setting(True, Scope.HOST)
    """Draw scatter plots and ESP pictures at the end."""

    limits: Literal["on", "off"] = setting("on", Scope.HOST)
    """Fit charges to single molecules after training, as the limit that errors are compared with (off: do not)."""

    tensorboard: bool = setting(True, Scope.HOST)
    """Write runs/NAME/tensorboard, where tensorboardX is installed."""

    wandb: str = setting("", Scope.HOST)
    """Weights & Biases project to log to (needs wandb)."""

    plot_freq: NonNegativeInt = setting(0, Scope.HOST)
    """Also draw them whenever this many epochs are done (0 = only at the end)."""
