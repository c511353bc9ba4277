"""Models with random weights in runs' folders, as a training leaves them: no training is needed to use one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import support
from train import evaluate
from train.data.dataset import open_cache
from train.inference.calculator import JointCalculator
from train.inference.predictor import Predictor
from train.model.saved_model import save_weights

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


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it, its weights random, on CO2 and ten other molecules; evaluated on the test split."""
    folder = tmp_path_factory.mktemp("evaluated")
    support.run_preprocess(support.write_splits(folder / "input"), folder / "cache", max_buckets=1)
    cache = open_cache(folder / "cache", 6.0, 10.0)
    config = support.small_config(
        cache_dir=str(folder / "cache"), physnet_iterations=1, dcmnet_iterations=1, dcmnet_max_degree=1
    )
    support.save_random_run(folder / "run", config, cache)
    with support.quick_fits():
        evaluate.main(["--run", str(folder / "run"), "--split", "test"])
    return folder / "run"
