"""Building of the stages: survey the files, choose buckets, write frames, write edges."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preprocess.config import PreprocessConfig
from preprocess.input.grid_points import PointCounts, total
from preprocess.input.pairs import PairFiles
from preprocess.input.splits import split_table
from preprocess.input.validate import check_elements_known
from preprocess.stages.buckets import choose_buckets
from preprocess.stages.edges import Cutoffs, write_edges
from preprocess.stages.first_pass import Prepared, prepare
from preprocess.stages.frames import write_frames
from preprocess.stages.reference_energies import fit_reference_energies, shift_energies
from preprocess.stages.resumable import Piece, StageBuild, build_stage
from preprocess.stages.summary import bucket_totals, describe
from preprocess.stages.task_runner import TaskRunner, open_task_runner
from preprocess.stages.understood import as_records, describe_understood, understand
from preprocess.stages.up_to_date import Basis, BuildPlan, find_what_to_build, remember_inputs
from shared.digest_cache import DigestCache
from shared.errors import UserError
from shared.log import log
from shared.manifest import SPLIT_TABLE, read_manifest
from shared.schema import SCHEMA_VERSION, SPLITS

if TYPE_CHECKING:
    from preprocess.checks.evidence import Finding


def build(
    files: list[PairFiles], config: PreprocessConfig, build_plan: BuildPlan, digests: DigestCache, started: float
) -> BuildPlan:
    """Build the stages that the plan names, and print a summary.

    Returns:
        the plan as it was carried out: appended molecules that do not fit make all frames anew.

    Raises:
        UserError: bad input.
    """
    cache_dir = Path(config.cache_dir)
    chunk_bytes = config.chunk_mib * 2**20
    findings: list[Finding] = []
    with open_task_runner(config.workers, config.scheduler, chunk_bytes, files, cache_dir) as runner:
        if build_plan.why_frames:
            build_plan, findings = _build_frames(files, config, build_plan, digests, runner)
        folder = build_plan.frames_folder(cache_dir)
        frames = read_manifest(folder)
        assert frames is not None
        if build_plan.why_edges:
            cutoffs = Cutoffs(config.physnet_cutoff, config.dcmnet_cutoff)
            others = [p for p in cache_dir.glob("edges-*") if not config.force]
            with build_stage(build_plan.edges_folder(cache_dir), digests, not config.force, others) as stage:
                write_edges(stage, runner, folder, frames, cutoffs)
        edges = read_manifest(build_plan.edges_folder(cache_dir))
        assert edges is not None
    done = [f"{name} {'built' if why else 'unchanged'}" for name, why in _stages(build_plan)]
    log.info("preprocess: " + ", ".join(done))
    folders = (folder, build_plan.edges_folder(cache_dir))
    log.info(describe(frames, edges, folders, time.perf_counter() - started))
    if findings:
        errors = sum(finding.severity == "error" for finding in findings)
        log.info(
            f"DATA: {errors} errors, {len(findings) - errors} warnings, see above; `make check-data` looks at all of it"
        )
    return build_plan


def _stages(build_plan: BuildPlan) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("frames", build_plan.why_frames), ("edges", build_plan.why_edges)


def _build_frames(
    files: list[PairFiles],
    config: PreprocessConfig,
    build_plan: BuildPlan,
    digests: DigestCache,
    runner: TaskRunner[Any],
) -> tuple[BuildPlan, list[Finding]]:
    cache_dir = Path(config.cache_dir)
    prepared = prepare(files, config, runner)
    basis = build_plan.recipe.basis
    if basis is not None and (why := _misfit(prepared, basis)):
        log.info(f"preprocess: {why}; buckets and reference energies are chosen anew, and all frames made again")
        build_plan, basis = find_what_to_build(files, config, digests, extend=False), None
    if basis is None:
        basis = _fit(prepared, config)
    for file, survey in zip(files, prepared.surveys, strict=True):
        for split, found in survey.splits.items():
            check_elements_known(file.pair, split, found.first_row_with, basis.reference)
    _require_some_esp(prepared)
    findings: list[Finding] = []
    if config.checks != "off":
        from preprocess.stages.check import check_sample  # a change of cutoff does without it

        findings = check_sample(prepared, config)
    others = [path for path in sorted(cache_dir.glob("frames-*")) if not config.force]
    with build_stage(build_plan.frames_folder(cache_dir), digests, not config.force, others) as stage:
        if stage.resumed:
            log.info(f"preprocess: goes on from {stage.resumed} finished pieces of an interrupted run")
        pieces = write_frames(stage, runner, prepared, basis.plan, basis.reference)
        _finish(stage, prepared, build_plan, basis, pieces, findings)
    remember_inputs(files, digests)
    return build_plan, findings


def _require_some_esp(prepared: Prepared) -> None:
    for file, survey in zip(prepared.files, prepared.surveys, strict=True):
        has_points = any(grid > 0 for found in survey.splits.values() for _, grid in found.sizes)
        if file.esp is not None and not has_points:
            raise UserError(
                f"{file.pair.esp_shown}: no frame has an ESP that can be used (n_grid is 0, or all points are padding "
                "or 0, or no frame of the grid is certain); leave the file out to train without"
            )


def _fit(prepared: Prepared, config: PreprocessConfig) -> Basis:
    training = prepared.merged("train")
    plan = choose_buckets(prepared.merged().sizes, training.sizes, config.max_buckets, config.min_bucket_size)
    # Elements whose molecules all lack an energy have nothing to subtract.
    reference = dict.fromkeys(sorted(training.first_row_with), 0.0)
    if training.energies:
        reference |= fit_reference_energies(training.energies)
    return Basis(plan, reference)


def _misfit(prepared: Prepared, basis: Basis) -> str:
    largest = basis.plan.shapes[-1]
    for file, survey in zip(prepared.files, prepared.surveys, strict=True):
        for split, found in survey.splits.items():
            for atoms, grid in found.sizes:
                if atoms > largest.atoms or grid > largest.grid:
                    return (
                        f"{file.pair.efd_shown} holds a molecule of {atoms} atoms and {grid} grid points, more than "
                        f"the largest bucket ({largest.atoms} atoms, {largest.grid} points)"
                    )
            if split == "train" and set(found.first_row_with) - set(basis.reference):
                return f"{file.pair.efd_shown} holds elements that have no reference energy yet"
    return ""


def _finish(
    stage: StageBuild,
    prepared: Prepared,
    build_plan: BuildPlan,
    basis: Basis,
    pieces: list[Piece],
    findings: list[Finding],
) -> None:
    splits = {}
    counted = iter(pieces)
    points = [total(PointCounts(*next(counted).counts[0]) for _ in chunks) for chunks in prepared.chunks]
    of_splits = np.array([piece.counts[1:] for piece in pieces]).sum(axis=0).tolist()
    for split, (without_esp, grid_points) in zip(SPLITS, of_splits, strict=True):
        found = prepared.merged(split)
        if found.samples:
            splits[split] = {
                "samples": found.samples,
                "atoms": found.atoms,
                "grid_points": grid_points,
                "energy_ev": shift_energies(found.energies, basis.reference).summary(),
                "forces_ev_per_angstrom": found.forces.summary(),
                "lacking": {**found.lacking, "esp": without_esp},
            }
    recipe = build_plan.recipe
    understood = understand(prepared, points)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": "frames",
        "digest": build_plan.frames_digest,
        "inputs": recipe.inputs,
        "files": as_records(understood),
        "surveys": prepared.names,
        "converted": sorted({path.name for file in prepared.files for path in file.converted}),
        "settings": recipe.settings,
        "basis": None if recipe.basis is None else recipe.basis.as_json(),
        "units": {name: spec.unit for name, spec in prepared.frame_arrays.items() if spec.unit != "-"},
        **basis.as_json(),
        "bucket_totals": bucket_totals(prepared.merged().sizes, basis.plan),
        "splits": splits,
        "contradictions": sorted({finding.check for finding in findings if finding.severity == "error"}),
    }
    divided = [survey.facts.split for survey in prepared.surveys if survey.facts.split is not None]
    stage.finish(manifest, pieces, {SPLIT_TABLE: split_table(divided)} if divided else None)
    log.info(describe_understood(understood))
