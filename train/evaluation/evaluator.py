"""Errors of a model on a split, with the predictions that the pictures need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
from tqdm import tqdm

from shared.digests import file_digest
from shared.errors import UserError
from shared.log import log
from shared.schema import NAME_ARRAY
from shared.sealed import write_sealed
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets
from train.data.known_molecules import KnownMolecules, known_molecules, novelty_of_split
from train.data.loader import BatchPlan, Loader
from train.data.missing_targets import count_missing, shown
from train.data.quantities import QUANTITIES, RARE
from train.evaluation.baselines import Baselines, keep_baselines, kept_baselines, spread_alone, with_fitted_charges
from train.evaluation.charge_extents import describe_charges
from train.evaluation.ensemble_errors import describe_ensemble
from train.evaluation.errors_by_molecule import describe_molecules
from train.evaluation.errors_by_region import describe_regions
from train.evaluation.prediction_file import write_predictions
from train.evaluation.results import MoleculeEsp, Targets
from train.evaluation.transfer import (
    Sums,
    describe_fits,
    describe_transfer,
    plan_apart,
    total_metrics,
    transfer_record,
    without_groups,
)
from train.model.members import split_members, stack_members
from train.model.prediction import Deviations, EnsemblePrediction
from train.model.saved_model import TrainedModel, load_weights
from train.run_folder import EVALUATION_FORMAT, RunFolder
from train.step.compiled_steps import Steps

_MOLECULES_DRAWN = 3
_ESP_POINTS_KEPT = 64


def evaluate_split(
    steps: Steps,
    params: jax.Array,
    loader: Loader,
    quiet: bool = False,
    between: Callable[[], None] = lambda: None,
    targets: Targets | None = None,
) -> list[dict[str, float]]:
    """Return every metric on a split, of an ensemble those of each member and, last, those of its mean prediction.

    Args:
        steps: compiled functions.
        params: (P,), of an ensemble (N, P), on the devices of ``steps``.
        loader: of the split.
        quiet: no progress bar.
        between: called after each batch; may raise.
        targets: collects what tables, pictures and files need; all devices must then belong to this process.
    """
    devices = steps.devices
    planned = plan_apart(loader, targets.novelty if targets else None)
    sums: dict[int, Sums] = {kind: Sums(0, steps.zero_evaluated()) for kind in dict(planned)}
    part = devices.own_part(loader.places)

    def prepare(plan: BatchPlan) -> tuple[Batch, Batch]:
        batch = loader.read(plan, part)
        return batch, devices.place_batch(batch, loader.places)

    with tqdm(total=len(loader), desc="evaluate", unit="mol", leave=False, disable=quiet or None) as bar:
        batches = loader.stream([plan for _, plan in planned], prepare)
        for (kind, _), (plan, (batch, placed)) in zip(planned, batches, strict=True):
            added, prediction = steps.evaluate(params, sums[kind].sums, placed)
            sums[kind] = Sums(sums[kind].molecules + len(plan.rows), added)
            if targets is not None:
                _collect(targets, loader, plan, kind, batch, jax.device_get(prediction), steps.members)
            bar.update(len(plan.rows))
            between()
    models = steps.members + (steps.members > 1)
    parts = {
        kind: [Sums(part.molecules, own) for own in split_members(part.sums, models)] for kind, part in sums.items()
    }
    if targets is not None:
        targets.by_novelty = {kind: own[-1] for kind, own in parts.items()}
    return [total_metrics(of_model) for of_model in zip(*parts.values(), strict=True)]


def finish_run(
    folder: RunFolder,
    steps: Steps,
    loader: Loader,
    split: str,
    plots: bool,
    quiet: bool = False,
    trained: Sequence[TrainedModel] | None = None,
    predictions: bool = False,
    fitted_charges: bool = True,
    output: RunFolder | None = None,
    training: Callable[[], Loader | None] = lambda: None,
) -> dict[str, float]:
    """Evaluate a run's best weights, write evaluation-SPLIT.json and the pictures, and print the errors.

    All devices must belong to this process.

    Args:
        folder: of the run; where all is written too, but for ``output``.
        steps: compiled functions.
        loader: of the split.
        split: its name.
        plots: draw the pictures.
        quiet: print nothing.
        trained: other weights than those in best/, of each member.
        predictions: write predictions-SPLIT.h5 too.
        fitted_charges: fit charges to single molecules, to compare with, unless they are kept from before.
        output: another folder to write to.
        training: returns the training split, whose molecules are looked at if the weights do not name them.

    Raises:
        UserError: the weights are missing or damaged, or an error is not finite.
        OSError: a file cannot be written.
    """
    members = trained or [load_weights(best) for best in folder.best_folders(steps.members)]
    vectors = stack_members([steps.parameters.from_host(member.params) for member in members])
    params = steps.devices.place(jax.numpy.asarray(vectors))
    known = _molecules_of(members[0], training)
    targets = Targets(novelty=novelty_of_split(loader, known) if known else None)
    name, folder = folder.path.name, output or folder
    folder.path.mkdir(parents=True, exist_ok=True)
    path = folder.predictions_file(split)
    names = {"run": name, "split": split}
    writing = write_predictions(path, members[0].reference_energies_ev, **names) if predictions else nullcontext()
    with writing as targets.file:
        *of_members, metrics = evaluate_split(steps, params, loader, quiet, targets=targets)
        _require_finite(metrics, split)
    digest = file_digest(path) if predictions else None
    kept = kept_baselines(folder, split)
    if kept is not None and known is not None and not kept.groups:
        kept = None  # of an evaluation that did not know what was trained on
    baselines = kept or spread_alone(loader, members[0].config.n_dcm, targets.novelty)
    ensemble = targets.ensemble_errors.as_record(of_members)
    record = _write_record(folder, split, loader, metrics, ensemble, targets, baselines, digest)
    if fitted_charges and kept is None:
        if not quiet:
            log.info("fitting charges to single molecules, to compare the errors with (--limits off leaves it out)")
        baselines = with_fitted_charges(baselines, loader, seed=0, quiet=quiet, novelty=targets.novelty)
        keep_baselines(folder, split, baselines)
        record = _write_record(folder, split, loader, metrics, ensemble, targets, baselines, digest)
    if plots:
        # Imported here: matplotlib is slow to import and not needed while training.
        from train.evaluation.plots import draw_all

        draw_all(folder, targets, split, metrics, ensemble)
    if not quiet:
        log.info(describe_evaluation(record, baselines))
        if predictions:
            log.info(f"predictions in {folder.predictions_file(split)}")
        log.info(f"errors in {folder.evaluation_file(split)}" + (f", pictures in {folder.plots}" if plots else ""))
    return metrics


def _molecules_of(trained: TrainedModel, training: Callable[[], Loader | None]) -> KnownMolecules | None:
    """Return the molecules that a model was trained on, as far as they are known."""
    if trained.training and trained.training.molecules:
        return trained.training.molecules
    loader = training()
    return known_molecules(loader) if loader else None


def _require_finite(metrics: dict[str, float], split: str) -> None:
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            f"{split}: errors of this model are not finite ({', '.join(wrong)}); look for atoms at the same place "
            "(make check-data)"
        )


def _write_record(
    folder: RunFolder,
    split: str,
    loader: Loader,
    metrics: dict[str, float],
    ensemble: dict[str, Any] | None,
    targets: Targets,
    baselines: Baselines,
    digest: str | None,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "format_version": EVALUATION_FORMAT,
        "split": split,
        "molecules": len(loader),
        "molecules_without": count_missing(loader),
        "metrics": metrics,
        "ensemble": ensemble,
        "baselines": without_groups(baselines),
        "normalised_errors": baselines.normalised_errors(metrics),
        "transfer": transfer_record(targets.by_novelty, baselines),
        "distributed_charges": targets.charge_extents.as_record(),
        **targets.region_errors.as_record(baselines),
        **targets.molecule_errors.as_record(),
        "predictions_digest": digest,
    }
    write_sealed(folder.evaluation_file(split), record)
    return record


def describe_evaluation(record: dict[str, Any], baselines: Baselines) -> str:
    """Return the tables of an evaluation for the console."""
    molecules = ", ".join([f"{record['molecules']:,} molecules", *shown(record["molecules_without"])])
    tables = (
        f"{record['split']} errors of the best weights ({molecules})",
        describe_metrics(record["metrics"], baselines),
        describe_ensemble(record),
        describe_transfer(record),
        describe_charges(record),
        describe_regions(record),
        describe_molecules(record),
    )
    return "\n".join(filter(None, tables))


def describe_metrics(metrics: dict[str, float], baselines: Baselines) -> str:
    """Return a table of errors beside those of fitted charges and the spread of the data, for the console."""
    lines = [f"  {'':<40}{'error':>10} {'':<11}{'fitted charges':>14}{'spread':>10}{'normalised error':>18}"]
    for quantity in QUANTITIES:
        name, factor = quantity.metric, quantity.error_factor
        if name not in metrics and quantity in RARE:
            continue
        if name not in metrics:
            lines.append(f"  {quantity.error_label:<40}{'-':>10} not in the data")
            continue
        line = f"  {quantity.error_label:<40}{metrics[name] * factor:>10.4g} {quantity.error_unit:<11}"
        normalised = baselines.normalised_error(name, metrics[name])
        if normalised is not None:
            fitted = f"{baselines.fitted_error(name):.3g}" if baselines.fitted_error(name) else "-"
            line += f"{fitted:>14}{baselines.spread[name] * factor:>10.4g}{normalised:>18.1%}"
        lines.append(line.rstrip())
    if baselines.molecules_fitted:
        lines.append(
            "  normalised error: (error - fitted) / (spread - fitted); fitted to each of "
            f"{baselines.molecules_fitted} molecules: {baselines.n_dcm} charges per atom (PhysNet: 1)"
        )
        multipoles = [f"{error:.3g} with {what}" for what, error in list(describe_fits(baselines).items())[2:]]
        if multipoles:
            lines.append(f"  multipoles fitted likewise, ESP RMSE: {', '.join(multipoles)}")
    else:
        lines.append("  normalised error: error / spread")
    return "\n".join(lines)


def _collect(
    targets: Targets, loader: Loader, plan: BatchPlan, kind: int, batch: Batch, prediction: Any, members: int
) -> None:
    deviations: Deviations | None = None
    if isinstance(prediction, EnsemblePrediction):
        prediction, deviations = prediction
    bucket = loader.buckets[plan.bucket]
    rows = bucket.take("row", plan.rows)
    names = [bytes(name).decode("utf-8", "replace") for name in bucket.take(NAME_ARRAY, plan.rows)]
    targets.region_errors.add(batch, prediction)
    targets.molecule_errors.add(batch, prediction, rows, names, kind)
    whole_charges = prediction
    if deviations is not None:
        targets.ensemble_errors.add(batch, prediction, deviations)
        # Those of the members, as a simulation with one of them would have them.
        whole_charges = prediction._replace(dcm_charges=members * prediction.dcm_charges)
    targets.charge_extents.add(batch, whole_charges, rows, names)
    if targets.file:
        targets.file.add(batch, prediction, rows, names, kind, deviations)
    known = known_targets(batch)
    atoms = batch.atomic_numbers > 0
    targets.add("energy", batch.energy[known.energy], prediction.energy[known.energy])
    targets.add("forces", batch.forces[known.forces], prediction.forces[known.forces])
    debye = 1.0 / DEBYE_IN_E_ANGSTROM
    dipoles = batch.dipole[known.dipole] * debye
    targets.add("dipole", dipoles, prediction.dipole[known.dipole] * debye)
    targets.add("dipole_dcm", dipoles, prediction.dipole_dcm[known.dipole] * debye)
    targets.add("monopole", prediction.charges[atoms], prediction.dcm_charges.sum(axis=-1)[atoms])
    for i in range(len(plan.rows)):
        kept = batch.esp_mask[i]
        reference = batch.esp[i][kept] * HARTREE_IN_KCAL_PER_MOL
        predicted = prediction.esp[i][kept] * HARTREE_IN_KCAL_PER_MOL
        stride = max(1, len(reference) // _ESP_POINTS_KEPT)
        targets.add("esp", reference[::stride], predicted[::stride])
        if len(targets.molecules) < _MOLECULES_DRAWN and len(reference):
            name = names[i]
            if name in {molecule.name for molecule in targets.molecules} and name:
                continue
            own = atoms[i]
            targets.molecules.append(
                MoleculeEsp(
                    name or f"molecule {len(targets.molecules)}",
                    batch.atomic_numbers[i][own],
                    batch.positions[i][own],
                    batch.grid[i][kept],
                    reference,
                    predicted,
                    prediction.dcm_charges[i][own],
                    prediction.dcm_sites[i][own],
                )
            )
