"""Models with random weights in runs' folders, as a training leaves them: no training is needed to use one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import support
from train import evaluate
from train.data.dataset import open_cache
from train.data.training_facts import Distances, TrainingFacts
from train.inference.calculator import JointCalculator
from train.inference.predictor import Predictor
from train.model.saved_model import load_weights, save_weights

FACTS = TrainingFacts(
    total_charges=(0.0,),
    fewest_atoms=3,
    most_atoms=4,
    most_fragments=1,
    distances={
        (1, 1): Distances(1.4, None),
        (1, 8): Distances(0.9, (0.9, 1.1)),
        (1, 6): Distances(1.0, (1.0, 1.2)),
        (6, 8): Distances(1.1, (1.1, 1.3)),
        (8, 8): Distances(2.1, None),
    },
    neighbors={1: (1, 1), 6: (3, 4), 8: (1, 2)},
    dipole_errors=(0.3, 0.1),
)
"""Of a training on molecules such as water."""

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
def ensemble(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of an ensemble of two: that model, and one with weights a little off and other reference energies."""
    folder = tmp_path_factory.mktemp("ensemble")
    trained = replace(load_weights(run_folder / "best"), training=FACTS)
    rng = np.random.default_rng(1)
    weights = jax.tree.map(lambda x: (x + 0.03 * rng.normal(size=x.shape)).astype(x.dtype), trained.params)
    references = {number: energy + 0.1 * number for number, energy in REFERENCES.items()}
    save_weights(folder / "best" / "member-0", trained)
    save_weights(folder / "best" / "member-1", replace(trained, params=weights, reference_energies_ev=references))
    return folder


@pytest.fixture(scope="session")
def ensemble_calculator(ensemble: Path) -> JointCalculator:
    """In float64, padded."""
    return JointCalculator(ensemble)


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
