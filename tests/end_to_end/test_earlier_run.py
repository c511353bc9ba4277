"""A run that an earlier version began, with its cache, goes on and predicts as it did there.

tests/golden/run holds two epochs of a small model, and the metrics of a third, as commit 9fee400 wrote them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.digests import file_digest
from shared.errors import UserError
from shared.settings import FIXED, names_in, parse_settings
from train.__main__ import _settings_of_run
from train.config import TrainConfig
from train.data.quantities import CHARGE_SUM
from train.model.saved_model import SETTINGS, load_weights
from train.run import loop
from train.run.evaluate_run import evaluate_run
from train.run_folder import RunFolder, as_begun, check_settings, load_config
from train.step.parameter_vector import ParameterVector
from train.step.train_step import parameter_vector

GOLDEN = Path(__file__).parents[1] / "golden" / "run"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    return RunFolder(Path("runs/golden"))


def test_it_goes_on(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    # The evaluation at the end is the other test's.
    monkeypatch.setattr(loop, "_finish", lambda *_, **__: None)
    best = file_digest(folder.best / "weights.safetensors")
    loop.train(replace(load_config(folder), epochs=3, plot_results=False, tensorboard=False))
    found, expected = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (folder.metrics_file, GOLDEN / "continued-metrics.jsonl")
    )
    assert [record["epoch"] for record in found] == [1, 2, 3]
    assert found[:2] == expected[:2]
    for split in ("train", "valid"):
        names = sorted(expected[2][split])
        # The error of the charges' sums is newer; their weight in the loss is 0, as in that version.
        assert sorted(found[2][split]) == sorted([*names, CHARGE_SUM.metric])
        # Another processor rounds in another way.
        values = [[record[2][split][name] for name in names] for record in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6)
    assert file_digest(folder.best / "weights.safetensors") != best
    assert "charge_sum_weight" not in folder.config_file.read_text(encoding="utf-8")
    facts = load_weights(folder.best).training
    assert facts is not None
    assert facts.total_charges == (0.0,)
    assert facts.dipole_errors == pytest.approx((0.399, 1.562), rel=0.01)


def test_a_setting_that_is_newer_than_the_run_is_what_the_run_was_trained_with(folder: RunFolder) -> None:
    assert load_config(folder).charge_sum_weight == 0.0
    # The command that began it continues it; one that asks for the term is refused.
    usual = replace(load_config(folder), charge_sum_weight=TrainConfig().charge_sum_weight)
    assert as_begun(folder, usual) == load_config(folder)
    check_settings(folder, as_begun(folder, usual))
    with pytest.raises(
        UserError, match=r"charge_sum_weight 0.0 → 3.0\); go on with its own \(--charge-sum-weight 0.0\)"
    ):
        check_settings(folder, as_begun(folder, replace(usual, charge_sum_weight=3.0)))


def test_its_weights_alone_are_those_of_the_model_that_it_had(folder: RunFolder) -> None:
    """What predictions are made with, and what a copy of best/ is: angles and repulsion are newer."""
    trained = load_weights(folder.best)
    had = load_config(folder)
    assert {name: getattr(trained.config, name) for name in SETTINGS} == {name: getattr(had, name) for name in SETTINGS}
    assert (trained.config.physnet_degree, trained.config.zbl) == (0, False)
    assert ParameterVector.of_tree(trained.params).shapes == parameter_vector(had).shapes


def test_it_is_repeated_with_the_settings_that_it_had(folder: RunFolder) -> None:
    """As the command line has it: booleans that are newer too."""
    repeated = parse_settings(TrainConfig, "train", _settings_of_run(["--from-run", str(folder.path)]))
    names = names_in(TrainConfig, *FIXED)
    had = load_config(folder)
    changed = {name for name in names if getattr(repeated, name) != getattr(had, name)}
    assert changed == {"name"}
    assert repeated.charge_sum_weight == 0.0
    assert not repeated.share_features


def test_its_weights_have_the_errors_that_they_had(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads(folder.evaluation_file("valid").read_text(encoding="utf-8"))
    evaluate_run(folder.path, "valid", plots=False, predictions=False, fitted_charges=False)
    after = json.loads(folder.evaluation_file("valid").read_text(encoding="utf-8"))
    assert after["metrics"].pop(CHARGE_SUM.metric) > 0.1
    assert after["metrics"] == pytest.approx(before["metrics"], rel=1e-4, abs=1e-6)
    assert after["baselines"]["spread"] == pytest.approx(before["limits"]["spread"], rel=1e-5)
    assert "valid errors of the best weights (6 molecules)" in capsys.readouterr().out
