"""``python -m train.report``: what the page says is what the files hold, it loads nothing, and a browser shows it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest

from shared.elements import VAN_DER_WAALS_RADII
from shared.errors import UserError
from shared.units import HARTREE_IN_KCAL_PER_MOL
from tests.use import browser
from train.data.dataset import open_cache
from train.data.quantities import QUANTITIES, RARE
from train.report import __main__ as report
from train.report import prediction_reader, shown_molecules, target_samples
from train.report.prediction_reader import Predictions
from train.report.shown_molecules import potential
from train.report.surface import REACH_ANGSTROM, interpolate, molecular_surface
from train.run_folder import RunFolder

HOSTILE = "<script>document.title='taken'</script> & \"x\" $y$ </script>"


@pytest.fixture(scope="module")
def reported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the evaluated run with learning curves, whose worst molecule has a hostile name; reported."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(run, folder)
    metrics = json.loads((folder / "evaluation-test.json").read_text())["metrics"]
    lines = [
        {"epoch": n, "train": metrics, "valid": metrics, "seconds": 2.0, "samples_per_second": 10.0} for n in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation = json.loads((folder / "evaluation-test.json").read_text())
    worst = evaluation["worst"]["esp_rmse_kcal_per_mol_e"][0]
    with h5py.File(folder / "predictions-test.h5", "r+") as file:
        file["name"][int(np.flatnonzero(file["row"][:] == worst["row"])[0])] = HOSTILE
    worst["name"] = HOSTILE
    evaluation["by_type"][HOSTILE] = evaluation["by_type"].pop(next(iter(evaluation["by_type"])))
    # Altered on purpose: without the checksums.
    del evaluation["content_checksum"], evaluation["predictions_digest"]
    (folder / "evaluation-test.json").write_text(json.dumps(evaluation))
    report.main(["--run", str(folder), "--split", "test"])
    return folder


@pytest.fixture(scope="module")
def page(reported: Path) -> str:
    """The page's text."""
    return (reported / "report-test.html").read_text()


def embedded(page: str, name: str) -> Any:
    """JSON that stands in the page."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def test_molecules_are_those_of_the_file_of_predictions(reported: Path, page: str) -> None:
    shown = embedded(page, "molecules")
    evaluation = json.loads((reported / "evaluation-test.json").read_text())
    worst = evaluation["worst"]["esp_rmse_kcal_per_mol_e"]
    assert len(shown) == shown_molecules.SHOWN
    assert shown[0]["name"] == HOSTILE
    assert shown[0]["rmse"] == pytest.approx(worst[0]["esp_rmse_kcal_per_mol_e"], rel=1e-3)
    with h5py.File(reported / "predictions-test.h5") as file:
        rows = file["row"][:].tolist()
        points, atoms = np.cumsum(file["n_points"][:]), np.cumsum(file["n_atoms"][:])
        for molecule in shown:
            i = rows.index(molecule["row"])
            own = slice(points[i] - file["n_points"][i], points[i])
            for name, dataset in (("reference", "esp_reference"), ("predicted", "esp")):
                expected = file[dataset][own] * HARTREE_IN_KCAL_PER_MOL
                np.testing.assert_allclose(molecule["grid"][name], expected, rtol=1e-4, atol=1e-6)
            grid = np.stack([molecule["grid"][axis] for axis in "xyz"], axis=1)
            np.testing.assert_allclose(grid, file["grid"][own], atol=6e-4)
            mine = slice(atoms[i] - file["n_atoms"][i], atoms[i])
            np.testing.assert_allclose(
                molecule["sites"]["charge"], file["dcm_charges"][mine].ravel(), rtol=1e-4, atol=1e-7
            )
            sites = np.stack([molecule["sites"][axis] for axis in "xyz"], axis=1)
            np.testing.assert_allclose(sites, file["dcm_sites"][mine].reshape(-1, 3), atol=6e-4)
            difference = np.subtract(molecule["grid"]["predicted"], molecule["grid"]["reference"])
            assert molecule["bound_difference"] == pytest.approx(np.abs(difference).max(), rel=1e-3)


def test_errors_and_figures_are_those_of_the_files(reported: Path, page: str) -> None:
    evaluation = json.loads((reported / "evaluation-test.json").read_text())
    table = re.findall(r"<tr><td>([^<]*)</td><td class=\"n\"><b>([^<]*)</b></td>", page)
    values = {label: float(value) for label, value in table}
    # Of what the data do not hold, and most do not, there is no row.
    assert not any(one.error_label.replace("'", "&#39;") in values for one in RARE)
    for one in (quantity for quantity in QUANTITIES if quantity not in RARE):
        label, name = one.error_label.replace("'", "&#39;"), one.metric
        factor = {"meV": 1000.0, "meV/Å": 1000.0}.get(one.error_unit, 1.0)
        assert values[label] == pytest.approx(evaluation["metrics"][name] * factor, rel=6e-3, abs=5e-9)
    figures = embedded(page, "figures")
    forces = next(f for f in figures.values() if "force components" in f["layout"]["title"]["text"] and f["data"][1:])
    with h5py.File(reported / "predictions-test.h5") as file:
        predicted, reference = file["forces"][:].ravel(), file["forces_reference"][:].ravel()
    np.testing.assert_allclose(np.sort(forces["data"][1]["y"]), np.sort(predicted), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sort(forces["data"][1]["x"]), np.sort(reference), rtol=1e-4, atol=1e-6)
    assert forces["layout"]["annotations"][0]["text"] == f"MAE {1000 * np.abs(predicted - reference).mean():.4g} meV/Å"
    histograms = [figure["data"][0]["y"] for name, figure in figures.items() if name.startswith("errors")]
    np.testing.assert_allclose([sum(shares) for shares in histograms], 100.0, rtol=1e-3)
    curves = [figure for name, figure in figures.items() if name.startswith("curves")]
    assert len(curves) == 6
    expected = evaluation["metrics"]["forces_mae_ev_per_angstrom"] * 1000
    assert curves[2]["data"][1]["y"] == pytest.approx([expected] * 3, rel=1e-4)
    for figure in figures.values():
        assert figure["layout"]["xaxis"]["title"]["text"]


def test_new_molecules_and_charges_are_those_of_the_evaluation(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    """None are new; then five, with charges outside of their atoms; then it is not known."""
    assert "None: all 10 molecules were trained on" in Elements(page).text
    assert "van der Waals sphere" not in page.split('<p class="note">The surface is')[0].split('id="charges"')[1]
    shutil.copytree(reported, tmp_path / "run")
    path = tmp_path / "run" / "evaluation-test.json"
    evaluation = json.loads(path.read_text())
    seen = evaluation["transfer"]["trained_on"]
    halved = {name: value / 2 for name, value in seen["metrics"].items()}
    new = {"molecules": 5, "metrics": halved, "baselines": {**seen["baselines"], "molecules_fitted": 7}}
    evaluation["transfer"] |= {"unseen": new, "new_formula": {"molecules": 5, "metrics": halved}}
    for i, entry in enumerate(evaluation["by_type"].values()):
        entry["unseen"] = entry["molecules"] * (i % 2)
    charges = evaluation["distributed_charges"]
    charges |= {"outside_their_atoms": 3, "molecules_outside": 2, "farthest_outside": charges["longest_arm"]}
    path.write_text(json.dumps(evaluation))
    monkeypatch.setattr("train.report.png_pictures.draw_pictures", lambda *_: [])
    report.main(["--run", str(tmp_path / "run")])
    written = (tmp_path / "run" / "report-test.html").read_text()
    section = Elements(written[written.index('<section id="transfer">') : written.index('<section id="plots">')]).text
    for name, factor in (("esp_rmse_kcal_per_mol_e", 1.0), ("forces_mae_ev_per_angstrom", 1000.0)):
        spread = seen["baselines"]["spread"][name] * factor
        for metrics in (seen["metrics"], halved):
            assert re.search(rf"{_shown(metrics[name] * factor)}\s+of {_shown(spread)}", section), (name, section)
    assert "trained on, 10 molecules" in section
    assert "new formula, 5 molecules" in section
    assert "new bonds, " not in section
    assert "7 (never trained on)" in section
    fitted = seen["baselines"]["quadrupoles_esp_rmse_kcal_per_mol_e"]
    assert f"ESP fitted by charge, dipole, quadrupole per atom, RMSEkcal/mol/e{_shown(fitted)}" in section
    for kind, entry in evaluation["by_type"].items():
        assert (f"{kind[:10]} ({entry['molecules']})" in section) == bool(entry["unseen"]) or kind == HOSTILE
    assert f"{_shown(charges['largest_magnitude_e'])}{charges['largest']['element']}, atom" in section
    assert "3 of " in section
    assert "in 2 molecules, left their own atom's van der Waals sphere" in section

    evaluation["transfer"] = None
    for entry in evaluation["by_type"].values():
        entry["unseen"] = None
    path.write_text(json.dumps(evaluation))
    report.main(["--run", str(tmp_path / "run")])
    assert "Not known: not all data of the training" in (tmp_path / "run" / "report-test.html").read_text()


def _shown(value: float) -> str:
    """Three digits."""
    return np.format_float_positional(value, precision=3, unique=False, fractional=False).rstrip(".")


def test_data_of_the_training_are_named(reported: Path, page: str) -> None:
    cache = open_cache(reported.parents[1] / next(reported.parents[1].glob("evaluated*")).name / "cache", 6.0, 10.0)
    text = Elements(page).text
    for entry, digests in zip(cache.frames_manifest["files"], cache.frames_manifest["inputs"], strict=True):
        assert Path(entry["efd"]).name in text
        assert digests["esp"][:12] in text
    assert "H, C, N, O" in text
    assert str(reported.parent) not in page
    assert json.loads((reported / "run.json").read_text())["begun"] in text


def test_files_are_named_when_the_data_are_gone(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reported, tmp_path / "run")
    settings = tmp_path / "run" / "config.toml"
    settings.write_text(re.sub(r"cache_dir = .*", 'cache_dir = "nowhere"', settings.read_text()))
    monkeypatch.setattr("train.report.png_pictures.draw_pictures", lambda *_: [])
    report.main(["--run", str(tmp_path / "run")])
    text = Elements((tmp_path / "run" / "report-test.html").read_text()).text
    for entry in json.loads((reported / "run.json").read_text())["data"]["files"]:
        assert entry["efd"] in text
    assert "no longer in the cache" in text


def test_the_page_loads_nothing_and_names_are_text(page: str) -> None:
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
        for name in ("src", "href", "data", "action", "srcset"):
            assert str(attributes.get(name, "#")).startswith("#"), (tag, attributes)
    assert sum(tag == "script" for tag, _ in elements.found) == 4
    assert HOSTILE in elements.text
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page
    assert len(page) < 10e6


def test_pictures_are_drawn_and_nothing_half_written_is_left(reported: Path) -> None:
    for name in ("errors-test", "types-test", "esp-surface-test", "scatter-test", "esp-test"):
        assert matplotlib.image.imread(reported / "plots" / f"{name}.png").std() > 0.02
    assert not [path for path in reported.rglob("*") if path.name.endswith(".tmp")]


def test_it_evaluates_where_results_are_missing_or_older_than_the_weights(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reported, tmp_path / "run")
    folder, weights = RunFolder(tmp_path / "run"), tmp_path / "run" / "best" / "weights.safetensors"
    now = weights.stat().st_mtime
    assert report._is_evaluated(folder, "test", folder)
    assert not report._is_evaluated(folder, "valid", folder)
    evaluated = json.loads(folder.evaluation_file("test").read_text())
    older = {key: value for key, value in evaluated.items() if key != "format_version"}
    folder.evaluation_file("test").write_text(json.dumps(older))
    assert not report._is_evaluated(folder, "test", folder)
    folder.evaluation_file("test").write_text("{")  # the report tells that it is damaged
    assert report._is_evaluated(folder, "test", folder)
    folder.evaluation_file("test").write_text(json.dumps(evaluated))
    os.utime(weights, (now + 1000, now + 1000))
    asked: list[object] = []
    monkeypatch.setattr("train.run.evaluate_run.evaluate_run", lambda *arguments, **_: asked.append(arguments))
    monkeypatch.setattr("train.report.png_pictures.draw_pictures", lambda *_: [])
    report.main(["--run", str(tmp_path / "run")])
    assert asked == [(tmp_path / "run", "test")]


def test_mistakes_are_told_in_one_line(reported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: not a run"):
        report.main(["--run", str(tmp_path / "nowhere")])
    shutil.copytree(reported, tmp_path / "run")
    (tmp_path / "run" / "evaluation-test.json").write_text('{"split": ')
    with pytest.raises(UserError, match=r"evaluation-test\.json: damaged; delete it"):
        report.main(["--run", str(tmp_path / "run")])
    shutil.copy(reported / "evaluation-test.json", tmp_path / "run")
    (tmp_path / "run" / "predictions-test.h5").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"predictions-test\.h5: cannot be read .*; delete it"):
        report.main(["--run", str(tmp_path / "run")])


def test_a_sample_is_drawn_and_errors_are_over_everything(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_samples, "SAMPLED", 50)
    monkeypatch.setattr(prediction_reader, "_BLOCK_ROWS", 37)
    with Predictions(reported / "predictions-test.h5") as opened:
        read = {sample.target.predicted: sample for sample in target_samples.read_samples(opened, {1: -15.0}, False)}
        errors = (opened.whole("esp") - opened.whole("esp_reference").astype(float)) * HARTREE_IN_KCAL_PER_MOL
        names = opened.molecules
        energies, points = opened.whole("energy_reference"), opened.whole("n_points")
    assert len(read) == len(target_samples.TARGETS)
    esp = read["esp"]
    assert (esp.entries, len(esp.reference), len(esp.labels)) == (len(errors), 50, 50)
    # As in the table: the mean over a molecule's points, then over molecules; and as the evaluation has it.
    parts = np.split(errors, np.cumsum(points)[:-1])
    assert esp.error == pytest.approx(np.sqrt(np.mean([np.square(part).mean() for part in parts])), rel=1e-6)
    table = json.loads((reported / "evaluation-test.json").read_text(encoding="utf-8"))["metrics"]
    for sample in read.values():
        quantity = sample.target.quantity
        assert sample.error == pytest.approx(table[quantity.metric], rel=1e-4, abs=1e-6), quantity.key
        shown = f"{quantity.error} {sample.error * quantity.error_factor:.4g} {quantity.error_unit}"
        assert sample.described == shown
    assert np.isin(np.round(esp.errors, 6), np.round(errors, 6)).all()
    hydrogens = [int("".join(re.findall(r"H(\d*)", formula)) or "H" in formula) for formula in names.formulas]
    np.testing.assert_allclose(read["energy"].reference, energies + 15.0 * np.array(hydrogens), rtol=1e-9)
    assert read["energy"].labels == [names.label(i) for i in range(10)]


def test_references_that_are_missing_are_not_drawn(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry that is drawn is one of the molecule that its label names, across blocks."""
    monkeypatch.setattr(target_samples, "SAMPLED", 30)
    monkeypatch.setattr(prediction_reader, "_BLOCK_ROWS", 7)
    path = Path(shutil.copy(reported / "predictions-test.h5", tmp_path))
    with h5py.File(path, "r+") as file:
        owner = np.repeat(np.arange(10), file["n_atoms"][:])
        for i in (0, 4):
            file["forces_reference"][owner == i] = np.nan
        file["energy_reference"][2:5] = np.nan
        file["dipole_reference"][:] = np.nan
        forces, energies = file["forces_reference"][:].astype(float), file["energy_reference"][:]
        errors = np.abs(file["forces"][:] - forces)
    with Predictions(path) as opened:
        read = {sample.target.predicted: sample for sample in target_samples.read_samples(opened, {}, False)}
        labels = [opened.molecules.label(i) for i in range(10)]
    assert not {"dipole", "dipole_dcm"} & set(read)
    assert read["forces"].entries == int((~np.isnan(forces)).sum())
    assert read["forces"].error == pytest.approx(np.nanmean(errors), rel=1e-6)
    assert len(read["forces"].reference) == 30
    for value, label in zip(read["forces"].reference, read["forces"].labels, strict=True):
        assert value in forces[owner == labels.index(label)]
    known = [i for i in range(10) if i not in (2, 3, 4)]
    assert read["energy"].labels == [labels[i] for i in known]
    np.testing.assert_allclose(read["energy"].reference, energies[known])


def test_the_worst_molecule_and_typical_ones_are_chosen() -> None:
    errors = np.array([3.0, 1.0, np.nan, 2.0, 9.0, 5.0, 4.0])
    assert list(shown_molecules._choose(errors, ["CO2"] * 7))[:3] == [4, 6, 1]
    assert 2 not in shown_molecules._choose(errors, list("abcdefg"))
    many = shown_molecules._choose(np.arange(200.0), [str(i // 10) for i in range(200)])
    assert list(many)[:2] == [199, 189]
    assert len(many) == shown_molecules.SHOWN
    assert not shown_molecules._choose(np.array([np.nan]), ["a"])


def test_the_surface_of_an_atom_is_a_closed_sphere() -> None:
    grid = _shells([1.4, 1.6, 1.8], 200) * VAN_DER_WAALS_RADII[8] + [1.0, 2.0, 3.0]
    surface = molecular_surface(np.array([8]), np.array([[1.0, 2.0, 3.0]]), grid)
    assert surface is not None
    radius = 1.4 * VAN_DER_WAALS_RADII[8]
    np.testing.assert_allclose(np.linalg.norm(surface.vertices - [1.0, 2.0, 3.0], axis=1), radius, rtol=1e-6)
    corners = surface.vertices[surface.faces]
    turned = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fx,fx->f", turned, surface.normals[surface.faces[:, 0]]) > 0).all()
    assert np.linalg.norm(turned, axis=1).sum() / 2 == pytest.approx(4 * np.pi * radius**2, rel=0.02)
    edges = np.sort(surface.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_the_surface_is_open_where_nothing_is_known() -> None:
    grid = _shells([2.2], 400)
    grid = grid[grid[:, 2] > 0]
    surface = molecular_surface(np.array([8]), np.zeros((1, 3)), grid)
    assert surface is not None
    gaps = np.linalg.norm(surface.vertices[:, None] - grid[None], axis=-1).min(axis=1)
    assert gaps.max() <= REACH_ANGSTROM
    assert surface.vertices[:, 2].min() > -1.5
    assert molecular_surface(np.array([8]), np.zeros((1, 3)), grid[:5]) is None
    assert molecular_surface(np.array([8]), np.zeros((1, 3)), grid * [1.0, 1.0, 0.0]) is None


def test_interpolation_meets_a_dipole_between_the_points_and_bears_repeated_ones() -> None:
    charges, sites = np.array([0.4, -0.4]), np.array([[0.0, 0.0, 0.6], [0.0, 0.0, -0.6]])
    grid = _shells([2.1, 2.4, 2.7, 3.0], 150)
    exact = potential(charges, sites, grid)
    distance = np.linalg.norm(grid[:, None] - sites[None], axis=-1) * 1.889726  # Bohr
    np.testing.assert_allclose(exact, 627.5095 * (0.4 / distance[:, 0] - 0.4 / distance[:, 1]), rtol=1e-5, atol=1e-9)
    between = _shells([2.15], 300, seed=1)
    found = interpolate(np.concatenate([grid, grid[:20]]), np.concatenate([exact, exact[:20]]), between)
    error = found - potential(charges, sites, between)
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(exact**2))


def _shells(radii: list[float], number: int, seed: int = 0) -> np.ndarray:
    """Points on spheres about the origin."""
    directions = np.random.default_rng(seed).normal(size=(len(radii) * number, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.repeat(radii, number)[:, None]


@pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium here (apt-get install chromium)")
def test_a_browser_shows_the_page_without_a_network(reported: Path) -> None:
    asyncio.run(_look(reported / "report-test.html"))


async def _look(path: Path) -> None:
    shown = embedded(path.read_text(encoding="utf-8"), "molecules")
    async with browser.show(path) as tab:
        await tab.until("document.body !== null && document.body.dataset.drawn === 'yes'")
        assert await tab.evaluate("document.title") == "run: test split"
        assert await tab.evaluate(
            "[...document.querySelectorAll('.figure')].every((f) => f.querySelector('.main-svg'))"
        )
        assert await tab.evaluate("document.querySelectorAll('.view .gl-container canvas').length") >= 2
        await tab.evaluate("document.getElementById('view').scrollIntoView()")
        before = await _pixels(tab)
        assert before.std() > 0.05
        for quantity in ("reference", "predicted", "difference"):
            await tab.evaluate(f"document.querySelector('input[value={quantity}]').click()")
            bound = shown[0]["bound_difference" if quantity == "difference" else "bound"]
            await tab.until(f"{_LEFT}.data[0].marker.cmax === {bound} && {_LEFT}.data[0].marker.cmin === -{bound}")
            colours = await tab.evaluate(f"{_LEFT}.data[0].marker.color")
            grid = {name: np.array(shown[0]["grid"][name]) for name in ("reference", "predicted")}
            expected = grid["predicted"] - grid["reference"] if quantity == "difference" else grid[quantity]
            np.testing.assert_allclose(colours, expected, atol=1e-9)
        await asyncio.sleep(0.5)
        assert np.abs(await _pixels(tab) - before).mean() > 0.001
        await tab.evaluate("document.querySelector('input[value=surface]').click()")
        await tab.until(f"{_LEFT}.data.every((trace) => trace.uid !== 'surface')")
        assert "kcal/mol/e" in await _hover(tab, "view-esp", "grid point")
        assert re.search(r"[+-]\d\.\d{4} e", await _hover(tab, "view-charges", "distributed charge"))
        await _turn(tab)
        await tab.until(f"{_LEFT}.layout.scene.camera.eye.x !== {shown[0]['view']['eye']['x']}")
        await tab.until(f"{_LEFT}.layout.scene.camera.eye.x === {_RIGHT}.layout.scene.camera.eye.x")
        for i, molecule in list(enumerate(shown))[-2:]:
            await tab.evaluate(f"{_CHOICE}.value = '{i}'; {_CHOICE}.dispatchEvent(new Event('change'))")
            await tab.until(f"{_RIGHT}.data.at(-1).x.length === {len(molecule['sites']['x'])}")
        for box in ("surface", "points"):
            await tab.evaluate(f"document.querySelector('input[value={box}]').click()")
        await tab.until(f"{_LEFT}.data.some((trace) => trace.uid === 'surface') && {_LEFT}.data[0].x[0] === null")
        assert await tab.evaluate("document.body.dataset.error") is None
        assert tab.complaints() == []
        assert tab.requests() == []


_LEFT, _RIGHT = (f"document.getElementById('{name}')" for name in ("view-esp", "view-charges"))
_CHOICE = "document.getElementById('molecule')"


async def _pixels(tab: browser.Page) -> np.ndarray:
    """The left view as it stands on the screen, (height, width, channels) in 0-1."""
    left, top, width, height = await _box(tab, "view-esp")
    picture = matplotlib.image.imread(io.BytesIO(await tab.picture()))
    return picture[round(top) : round(top + height), round(left) : round(left + 0.8 * width)]


async def _box(tab: browser.Page, name: str) -> list[float]:
    box = f"document.getElementById('{name}').getBoundingClientRect()"
    return await tab.evaluate(f"((b) => [b.left, b.top, b.width, b.height])({box})")


async def _hover(tab: browser.Page, name: str, kind: str) -> str:
    """What hovering shows, at the first place where there is something of this kind."""
    left, top, width, height = await _box(tab, name)
    places = [(x, y) for y in np.arange(0.3, 0.7, 0.03) for x in np.arange(0.3, 0.7, 0.03)]
    for x, y in sorted(places, key=lambda place: abs(place[0] - 0.5) + abs(place[1] - 0.5)):
        await tab.move(left + width * x, top + height * y)
        await asyncio.sleep(0.06)
        found = await tab.evaluate(f"document.querySelector('#{name} .hovertext')?.textContent ?? ''")
        if kind in found:
            return found
    return ""


async def _turn(tab: browser.Page) -> None:
    left, top, width, height = await _box(tab, "view-esp")
    x, y, held = left + width / 2, top + height / 2, {"button": "left", "buttons": 1}
    await tab.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, clickCount=1, **held)
    for step in range(1, 6):
        await tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 15 * step, y=y + 4 * step, **held)
    await tab.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 75, y=y + 20, clickCount=1, **held)
