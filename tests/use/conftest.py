"""A model with random weights in a run's best/ folder, as a training leaves it: no training is needed to use one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import support
from train.calculator import JointCalculator
from train.predictor import Predictor
from train.weights import save_weights

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
    folder = tmp_path_factory.mktemp("run")
    save_weights(folder / "best", support.random_weights(config, REFERENCES))
    return folder


@pytest.fixture(scope="session")
def predictor(run_folder: Path) -> Predictor:
    """In float64, padded."""
    return Predictor(run_folder, "float64")


@pytest.fixture(scope="session")
def calculator(run_folder: Path) -> JointCalculator:
    """In float64, padded."""
    return JointCalculator(run_folder)
