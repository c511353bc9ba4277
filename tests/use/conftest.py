"""A model with random weights in a run's best/ folder, as a training leaves it: no training is needed to use one."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from shared.batch import empty_batch
from shared.buckets import BucketShape, EdgeShape, FrameShape
from tests import support
from train.calculator import JointCalculator
from train.joint import build_model
from train.predictor import Predictor
from train.weights import TrainedModel, save_weights

REFERENCES = {1: -15.7, 6: -1029.9, 7: -1480.1, 8: -2036.9}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that holds best/ alone: cutoffs of 3 and 4 Å, weights far from their initial values."""
    config = support.small_config(
        physnet_cutoff=3.0,
        dcmnet_cutoff=4.0,
        physnet_iterations=1,
        dcmnet_iterations=1,
        dcmnet_max_degree=1,
        mix_coulomb_energy=True,
    )
    batch = empty_batch(BucketShape(FrameShape(2, 1), EdgeShape(2, 2)), 1)
    params = jax.jit(build_model(config).init)(jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: (np.asarray(x) + 0.1 * rng.normal(size=x.shape)).astype(np.float32), params)
    folder = tmp_path_factory.mktemp("run")
    save_weights(folder / "best", TrainedModel(config, REFERENCES, noisy))
    return folder


@pytest.fixture(scope="session")
def predictor(run_folder: Path) -> Predictor:
    """In float64, padded."""
    return Predictor(run_folder, "float64")


@pytest.fixture(scope="session")
def calculator(run_folder: Path) -> JointCalculator:
    """In float64, padded."""
    return JointCalculator(run_folder)
