"""Settings of training: table [train] of config.toml and the flags of ``python -m train``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from shared.settings import NonNegative, NonNegativeInt, Positive, PositiveInt, Seed, SharedConfig


@dataclass(frozen=True)
class ModelConfig(SharedConfig):
    """Hyperparameters that fix the model's parameters and outputs; saved beside the weights."""

    physnet_features: PositiveInt = 64
    """Features per atom in PhysNet."""

    physnet_iterations: PositiveInt = 5
    """PhysNet modules."""

    physnet_basis: Annotated[int, Field(ge=2)] = 64
    """Radial basis functions in PhysNet."""

    physnet_residual_interaction: NonNegativeInt = 1
    """Residual blocks on the messages of a module (3 in the paper)."""

    physnet_residual_atomic: NonNegativeInt = 1
    """Residual blocks on the features after a module (2 in the paper)."""

    physnet_residual_output: NonNegativeInt = 1
    """Residual blocks in each output block (1 in the paper)."""

    dcmnet_features: PositiveInt = 32
    """Feature channels per atom and spherical-harmonic component in DCMNet."""

    dcmnet_iterations: PositiveInt = 2
    """Message passes in DCMNet."""

    dcmnet_basis: Annotated[int, Field(ge=2)] = 32
    """Radial basis functions in DCMNet."""

    dcmnet_max_degree: Annotated[int, Field(ge=1, le=4)] = 2
    """Highest degree of DCMNet's equivariant features."""

    n_dcm: PositiveInt = 3
    """Distributed charges per atom."""

    exact_monopoles: bool = True
    """Shift each atom's distributed charges so that they sum exactly to PhysNet's charge; else a penalty holds them."""

    mix_coulomb_energy: bool = False
    """Add the Coulomb energy of the distributed charges, times a learnt factor, to PhysNet's energy."""


@dataclass(frozen=True)
class TrainConfig(ModelConfig):
    """Train PhysNet and DCMNet jointly on preprocessed shards."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "joint"
    """Name of the run: its folder below --runs-dir."""

    runs_dir: str = "runs"
    """Folder that holds the runs."""

    frames: Annotated[str, Field(pattern=r"^(frames-[0-9a-f]{16})?$")] = ""
    """Data to train on, by their folder's name (default: of a run that exists, its own; else the latest)."""

    from_run: str = ""
    """Repeat this run (runs/NAME): its settings, except for the flags given here, on the same data."""

    init_from: str = ""
    """Begin with the best weights of this run (runs/NAME), for fine-tuning on other data or with other settings."""

    freeze: Literal["none", "physnet", "dcmnet"] = "none"
    """Network whose weights stay as they are."""

    epochs: PositiveInt = 100
    """Passes over the training split."""

    batch_size: PositiveInt = 16
    """Molecules per step."""

    learning_rate: Positive = 3e-3
    """Peak learning rate of AMSGrad (PhysNet) and Adam (DCMNet)."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: down to 1 % along a cosine, or constant."""

    warmup_epochs: NonNegative = 1.0
    """Epochs over which the learning rate rises from 1 % to its peak."""

    grad_clip_norm: NonNegative = 1.0
    """Largest gradient norm of each network (0 = no clipping)."""

    largest_loss: Positive = 1e20
    """A batch with a larger loss, or one that is not a number, ends the run; lower it if gradients are not clipped."""

    best_by: Literal["errors", "loss"] = "errors"
    """What makes an epoch the best: the geometric mean of the validation errors, or the validation loss."""

    early_stopping: NonNegativeInt = 0
    """End after so many epochs without a better one (0 = never)."""

    checkpoint_minutes: NonNegative = 1.0
    """Save the full state after so many minutes, inside an epoch too."""

    checkpoint_epochs: NonNegativeInt = 0
    """Also save it at the end of every so many epochs (0 = by time only, and at the end of the run)."""

    keep_checkpoints: PositiveInt = 3
    """How many of the latest checkpoints are kept."""

    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running average of the weights that is evaluated and saved as best (0 = the weights themselves)."""

    energy_weight: NonNegative = 1.0
    """Weight of the energy loss, 1/eV²."""

    forces_weight: NonNegative = 50.0
    """Weight of the force loss, Å²/eV²."""

    dipole_weight: NonNegative = 25.0
    """Weight of the dipole loss, 1/(e·Å)²."""

    esp_weight: NonNegative = 10000.0
    """Weight of the ESP loss, (e/Hartree)²."""

    mono_weight: NonNegative = 1.0
    """Weight of the difference between PhysNet's charge and the sum of the distributed charges, 1/e²."""

    dipole_source: Literal["physnet", "dcmnet"] = "physnet"
    """Charges whose dipole enters the loss."""

    esp_min_distance: NonNegative = 0.0
    """Leave out grid points closer than this to any atom, Å (0 = keep all)."""

    esp_max_value: NonNegative = 0.0
    """Leave out grid points with a larger absolute ESP, Hartree/e (0 = keep all)."""

    esp_radius_factor: NonNegative = 1.0
    """Leave out grid points within this multiple of an atom's van der Waals radius (0 = keep all)."""

    data_placement: Literal["auto", "device", "stream"] = "auto"
    """Training data on the device, or streamed from the shards; auto: on the device if they fit."""

    chunk_size: NonNegativeInt = 0
    """Molecules that a device handles at once, adding up gradients (0 = all; on a processor, what its cache holds)."""

    matmul_precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of matrix products, where the device has others; a processor always computes in float32."""

    host_devices: NonNegativeInt = 0
    """Devices that the processor is divided into (0 = one per core, with at least 8 molecules of a batch each)."""

    distributed: bool = False
    """Train together with the other processes that srun (Slurm) or mpirun (Open MPI) started."""

    coordinator: Annotated[str, Field(pattern=r"^(\S+:\d+)?$")] = ""
    """HOST:PORT of process 0, where no launcher tells the processes of each other."""

    processes: PositiveInt = 1
    """Number of processes, with --coordinator."""

    process_id: NonNegativeInt = 0
    """This process, from 0, with --coordinator."""

    seed: Seed = 0
    """Seed of the initial weights and of the shuffle."""

    plot_results: bool = True
    """Draw scatter plots and ESP pictures at the end."""

    tensorboard: bool = True
    """Write runs/NAME/tensorboard, where tensorboardX is installed."""

    wandb: str = ""
    """Weights & Biases project to log to (needs wandb)."""

    plot_freq: NonNegativeInt = 0
    """Also draw them every so many epochs (0 = only at the end)."""
