"""What an evaluation collects of all molecules: right, and no larger for more of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests import support
from train.data import known_molecules
from train.evaluation import errors_by_molecule, results
from train.evaluation.errors_by_molecule import WORST, MoleculeErrors
from train.evaluation.results import Targets
from train.model.prediction import Prediction


def test_pairs_that_are_drawn_are_some_of_all_with_equal_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_MOST_PAIRS", 1000)
    monkeypatch.setattr(results, "_MOST_PARTS", 7)
    values, targets = np.arange(40_000.0), Targets()
    for i, part in enumerate(np.split(values, 1000)):
        targets.add("energy", part.reshape(-1, 4), -part.reshape(-1, 4))
        targets.add("energy", part[:0], part[:0])
        if i == 20:  # few enough: all of them, as they came
            np.testing.assert_array_equal(targets.arrays("energy")[0], values[:840])
        assert sum(kept.shape[1] for kept in targets._pairs["energy"]._parts) < 1400
    reference, predicted = targets.arrays("energy")
    np.testing.assert_array_equal(predicted, -reference)
    assert len(set(reference)) == len(reference) == 1000
    # Of each quarter of the values, and of each place among four: within four deviations of a binomial distribution.
    for kinds in (reference // 10_000, reference % 4):
        assert np.abs(np.bincount(kinds.astype(int), minlength=4) - 250).max() < 4 * np.sqrt(250 * 0.75)
    for size in (40_000, 100_000):  # large batches
        targets.add("forces", np.zeros(size), np.zeros(size))
        assert sum(kept.shape[1] for kept in targets._pairs["forces"]._parts) <= 1000
    targets.add("dipole", np.zeros((0, 3)), np.zeros((0, 3)))
    assert [len(array) for array in targets.arrays("dipole")] == [0, 0]


def collect(names: list[str]) -> tuple[MoleculeErrors, np.ndarray]:
    """Errors of as many molecules of two formulas in batches of 7, and the errors of their ESP, kcal/mol/e."""
    rng, collected, esp = np.random.default_rng(1), MoleculeErrors(), []
    for first in range(0, len(names), 7):
        own = names[first : first + 7]
        kinds = [[8, 6, 8] if (first + i) % 3 else [1, 9] for i in range(len(own))]
        batch = support.random_batch(rng, kinds, extra_molecules=2, dtype="float64")
        off = rng.normal(size=batch.esp.shape)
        fields = {name: np.asarray(getattr(batch, name)) for name in ("energy", "forces", "dipole")}
        prediction = Prediction(
            **dict.fromkeys(Prediction._fields)
            | fields
            | {"dipole_dcm": fields["dipole"], "esp": np.asarray(batch.esp) + off}
        )
        collected.add(batch, prediction, np.arange(first, first + len(own)), own, novelty=first // 7 % 3)
        points = np.asarray(batch.esp_mask)
        esp += [np.sqrt(np.mean(off[i][points[i]] ** 2)) * 627.5094740631 for i in range(len(own))]
    return collected, np.array(esp)


def test_the_worst_molecules_and_means_are_those_of_all() -> None:
    names = [f"molecule {i % 5}" for i in range(60)]
    collected, esp = collect(names)
    record = collected.as_record()
    worst = record["worst"]["esp_rmse_kcal_per_mol_e"]
    assert [entry["row"] for entry in worst] == np.argsort(-esp)[:WORST].tolist()
    assert [entry["name"] for entry in worst] == [names[entry["row"]] for entry in worst]
    assert sorted(record["by_type"]) == sorted(set(names))
    for i in range(5):
        entry = record["by_type"][f"molecule {i}"]
        assert entry["molecules"] == 12
        assert entry["esp_rmse_kcal_per_mol_e"] == pytest.approx(np.sqrt(np.mean(esp[i::5] ** 2)), rel=1e-6)
        assert entry["energy_mae_ev"] == 0.0
        assert entry["unseen"] == sum(row // 7 % 3 > 0 for row in range(i, 60, 5))


@pytest.mark.parametrize("names", [[f"molecule {i % 30}" for i in range(60)], ["a", ""] * 30], ids=["many", "empty"])
def test_names_that_are_too_many_name_no_types(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    for module in (errors_by_molecule, known_molecules):
        monkeypatch.setattr(module, "MOST_NAMED_TYPES", 20)
    collected, esp = collect(names)
    assert not collected._by_name
    by_type = collected.as_record()["by_type"]
    assert {kind: entry["molecules"] for kind, entry in by_type.items()} == {"CO2": 40, "HF": 20}
    assert by_type["HF"]["esp_rmse_kcal_per_mol_e"] == pytest.approx(np.sqrt(np.mean(esp[::3] ** 2)), rel=1e-6)
    assert errors_by_molecule.molecule_types(names, ["CO2"] * 60) == ["CO2"] * 60
