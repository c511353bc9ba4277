"""Molecules that teach most: disagreement of an ensemble, and farthest points, both checked by brute force."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from ase.build import molecule

from preprocess.reference.config import parse
from preprocess.reference.molecules import collect
from preprocess.reference.selection import selected_geometries
from shared.errors import UserError
from train import select_molecules
from train.inference.calculator import JointCalculator
from train.inference.selection import choose_diverse, distance_features, most_disputed

pytestmark = pytest.mark.filterwarnings("ignore::train.inference.unlike_training.UnlikeTrainingWarning")


def test_the_chosen_are_disputed_and_far_from_each_other() -> None:
    rng = np.random.default_rng(0)
    scores, features = rng.uniform(size=40), rng.normal(size=(40, 3))
    pool = sorted(range(40), key=lambda row: -scores[row])[:15]
    assert most_disputed(scores, 5).tolist() == pool
    chosen = [pool[place] for place in choose_diverse(features[pool], 5)]
    assert chosen[0] == pool[0]
    assert set(chosen) <= set(pool)
    for count in range(1, 5):
        nearest = {row: min(np.linalg.norm(features[row] - features[one]) for one in chosen[:count]) for row in pool}
        assert chosen[count] == max(nearest, key=lambda row: nearest[row])
    # Copies come last, and each once.
    copies = np.repeat(features[:2], 3, axis=0)
    assert sorted(choose_diverse(copies, 6).tolist()) == list(range(6))
    assert len({row // 3 for row in choose_diverse(copies, 2).tolist()}) == 2


def test_features_are_those_of_the_shape_alone() -> None:
    rng = np.random.default_rng(1)
    atoms = molecule("CH3OH")
    turned, order = atoms.copy(), rng.permutation(6)
    turned.rotate(50, "y")
    turned.translate(3.0)
    stretched = atoms.copy()
    stretched.set_distance(0, 1, 1.6, fix=0)
    frames = [atoms, turned[order], stretched, molecule("H2O")]
    features = distance_features([one.numbers for one in frames], [one.positions for one in frames])
    np.testing.assert_allclose(features[1], features[0], atol=1e-12)
    distances = np.linalg.norm(features - features[0], axis=1)
    assert 0.05 < distances[2] < distances[3]
    # All distances lie within the histogram: of six atoms, 15 pairs.
    assert features[0].sum() == pytest.approx(15 / 6, abs=0.02)


def candidates(folder: Path) -> list[ase.Atoms]:
    frames = [molecule("H2O") for _ in range(6)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.02 * (seed + 1), seed=seed)
        atoms.info = {"name": f"w{seed}", "charge": 1, "multiplicity": 2} if seed == 4 else {"name": f"w{seed}"}
    collided = molecule("H2O")
    collided.positions[1] = collided.positions[0] + [0.3, 0.0, 0.0]
    ase.io.write(folder / "pool.xyz", [*frames, molecule("PH3"), collided], format="extxyz")
    return frames


def test_the_program_writes_what_reference_data_reads(
    ensemble: Path,
    run_folder: Path,
    ensemble_calculator: JointCalculator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = candidates(tmp_path)
    flags = ["--candidates", str(tmp_path / "pool.xyz"), "--output", str(tmp_path / "out" / "chosen.xyz"), "--select"]
    with pytest.raises(UserError, match=r"one model, which cannot disagree; .*--members"):
        select_molecules.main([*flags, "2", "--run", str(run_folder)])
    with pytest.raises(UserError, match=r"--select 7: the files hold 6 molecules"):
        select_molecules.main([*flags, "7", "--run", str(ensemble)])
    assert not (tmp_path / "out").exists()
    select_molecules.main([*flags, "3", "--run", str(ensemble)])
    printed = capsys.readouterr().out
    assert "note: 1 molecules have elements that the model was not trained on; left out" in printed
    assert "note: 1 molecules have atoms closer than 0.4 Å; left out" in printed
    predictions = ensemble_calculator.predictor.predict(frames)
    deviations = [one.deviations.forces for one in predictions if one.deviations is not None]
    scores = [float(np.sqrt((one**2).sum(axis=1)).max()) for one in deviations]
    read: list[Any] = ase.io.read(tmp_path / "out" / "chosen.xyz", index=":")
    assert read[0].info["name"] == f"w{int(np.argmax(scores))}"
    for atoms in read:
        row = int(atoms.info["name"][1:])
        assert atoms.info["forces_std"] == pytest.approx(scores[row], rel=1e-3)
        assert atoms.info["source"].endswith(f"pool.xyz, frame {row}")
    for found, atoms in zip(collect((), [str(tmp_path / "out" / "chosen.xyz")]), read, strict=True):
        charged = atoms.info["name"] == "w4"
        assert (found.name, found.charge, found.multiplicity) == (atoms.info["name"], int(charged), 1 + charged)


def test_reference_data_keeps_what_was_chosen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--candidates and --select: needed too"):
        parse(["--from-run", "runs/a"])
    commands: list[list[str]] = []
    answers = iter([(0, b"first"), (0, b"first"), (2, b""), (0, b"second")])

    def run(command: list[str], **_: Any) -> Any:
        code, content = next(answers)
        commands.append(command)
        Path(command[command.index("--output") + 1]).write_bytes(content)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", run)
    flags = ["--from-run", "a", "b", "--candidates", "c.xyz", "--select", "3", "--output", str(tmp_path / "o")]
    config = parse(flags)
    path = selected_geometries(config)
    assert selected_geometries(config) == path
    assert commands[0][2:9] == ["train.select_molecules", "--run", "a", "b", "--candidates", "c.xyz", "--select"]
    with pytest.raises(SystemExit, match="2"):
        selected_geometries(config)
    with pytest.raises(UserError, match=r"holds other geometries than are chosen now"):
        selected_geometries(config)
    assert path.read_bytes() == b"first"
    assert [one.name for one in path.parent.iterdir()] == ["selected.xyz"]
