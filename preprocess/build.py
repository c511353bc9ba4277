"""From files and a decision to complete stages: survey, choose buckets, write frames, write edges."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocess.config import PreprocessConfig
from preprocess.decide import Basis, Decision, FramesRecipe, decide, remember_inputs, survey_names
from preprocess.edge_stage import Cutoffs, write_edges
from preprocess.engine import Engine, open_engine
from preprocess.frames import write_frames
from preprocess.load import Chunk, InputUnits, PairFiles, split_into_chunks
from preprocess.npz import Checksum
from preprocess.plan import choose_buckets
from preprocess.report import bucket_totals, describe
from preprocess.stage import Piece, StageBuild, build_stage
from preprocess.statistics import fit_reference_energies, shift_energies
from preprocess.survey import Survey, SurveyTask, merged
from preprocess.validate import PairingError, check_elements_known
from shared.cache import read_manifest
from shared.digests import DigestCache, write_atomically
from shared.schema import FRAME_ARRAYS, SCHEMA_VERSION, SPLITS

if TYPE_CHECKING:
    from preprocess.checks import Finding

_CHUNKS_PER_SURVEY_TASK = 8


def build(
    files: list[PairFiles], config: PreprocessConfig, decision: Decision, digests: DigestCache, started: float
) -> Decision:
    """Build what the decision says; report it.

    Returns:
        the decision as it was carried out: appended molecules that do not fit make all frames anew.

    Raises:
        UserError: bad input.
    """
    cache_dir = Path(config.cache_dir)
    chunk_bytes = config.chunk_mib * 2**20
    findings: list[Finding] = []
    with open_engine(config.workers, config.scheduler, chunk_bytes) as engine:
        if decision.why_frames:
            decision, findings = _build_frames(files, config, decision, digests, engine)
        folder = decision.frames_folder(cache_dir)
        frames = read_manifest(folder)
        assert frames is not None
        if decision.why_edges:
            cutoffs = Cutoffs(config.physnet_cutoff, config.dcmnet_cutoff)
            others = [p for p in cache_dir.glob("edges-*") if not config.force]
            with build_stage(decision.edges_folder(cache_dir), digests, not config.force, others) as stage:
                write_edges(stage, engine, folder, frames, cutoffs)
        edges = read_manifest(decision.edges_folder(cache_dir))
        assert edges is not None
    done = [f"{name} {'built' if why else 'unchanged'}" for name, why in _stages(decision)]
    print("preprocess: " + ", ".join(done))
    folders = (folder, decision.edges_folder(cache_dir))
    print(describe(frames, edges, folders, time.perf_counter() - started))
    if findings:
        errors = sum(finding.severity == "error" for finding in findings)
        print(
            f"DATA: {errors} errors, {len(findings) - errors} warnings, see above; `make check-data` looks at all of it"
        )
    return decision


def _stages(decision: Decision) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("frames", decision.why_frames), ("edges", decision.why_edges)


def _build_frames(
    files: list[PairFiles], config: PreprocessConfig, decision: Decision, digests: DigestCache, engine: Engine[Any]
) -> tuple[Decision, list[Finding]]:
    cache_dir = Path(config.cache_dir)
    chunks = split_into_chunks(files, config.chunk_mib * 2**20)
    surveys = _survey(files, chunks, config, decision.recipe, engine)
    basis = decision.recipe.basis
    if basis is not None and (why := _misfit(files, surveys, basis)):
        print(f"preprocess: {why}; buckets and reference energies are chosen anew, and all frames made again")
        decision, basis = decide(files, config, digests, extend=False), None
    if basis is None:
        basis = _fit(files, surveys, config)
    for file, found in zip(files, surveys, strict=True):
        check_elements_known(file.pair, found.first_row_with, basis.reference)
    findings: list[Finding] = []
    if config.checks != "off":
        from preprocess.check_data import check_sample  # a change of cutoff does without it

        findings = check_sample(files, config)
    others = [path for path in sorted(cache_dir.glob("frames-*")) if not config.force]
    with build_stage(decision.frames_folder(cache_dir), digests, not config.force, others) as stage:
        if stage.resumed:
            print(f"preprocess: goes on from {stage.resumed} finished pieces of an interrupted run")
        units = InputUnits.of(config)
        pieces = write_frames(stage, engine, files, chunks, units, basis.plan, basis.reference)
        _finish(stage, files, surveys, decision, basis, pieces)
    remember_inputs(files, digests)
    return decision, findings


def _survey(
    files: list[PairFiles],
    chunks: list[list[Chunk]],
    config: PreprocessConfig,
    recipe: FramesRecipe,
    engine: Engine[Any],
) -> list[Survey]:
    """The survey of every pair; those of pairs seen before are read back."""
    units = InputUnits.of(config)
    folder = Path(config.cache_dir) / "surveys"
    paths = [folder / name for name in survey_names(recipe.inputs, recipe.settings)]
    surveys: dict[int, Survey] = {}
    tasks, of_pair = [], []
    for pair, path in enumerate(paths):
        if path.exists() and not config.force:
            surveys[pair] = Survey.from_json(json.loads(path.read_text()))
            continue
        step = len(chunks[pair]) if files[pair].is_sequential else _CHUNKS_PER_SURVEY_TASK
        for start in range(0, len(chunks[pair]), step):
            tasks.append(SurveyTask(chunks[pair][start : start + step], units))
            of_pair.append(pair)
    amounts = [sum(chunk.stop - chunk.start for chunk in task.chunks) for task in tasks]
    try:
        results = dict(engine.run(tasks, "read geometries", amounts))
    except PairingError as error:
        from preprocess.check_data import explain_pairing

        raise explain_pairing(error, units) from None
    for pair in sorted(set(of_pair)):
        parts = [results[i] for i, owner in enumerate(of_pair) if owner == pair]
        _check_sums(files[pair], [checksums for _, checksums in parts])
        surveys[pair] = merged(part for found, _ in parts for part in found)
        folder.mkdir(exist_ok=True)
        write_atomically(paths[pair], json.dumps(surveys[pair].as_json()).encode())
    return [surveys[pair] for pair in range(len(files))]


def _check_sums(file: PairFiles, found: list[dict[str, list[Checksum]]]) -> None:
    for kind, npz in (("efd", file.efd), ("esp", file.esp)):
        npz.check_sums(checksum for checksums in found for checksum in checksums[kind])


def _fit(files: list[PairFiles], surveys: list[Survey], config: PreprocessConfig) -> Basis:
    training = merged(found for file, found in zip(files, surveys, strict=True) if file.pair.split == "train")
    plan = choose_buckets(merged(surveys).sizes, training.sizes, config.max_buckets, config.min_bucket_size)
    return Basis(plan, fit_reference_energies(training.energies))


def _misfit(files: list[PairFiles], surveys: list[Survey], basis: Basis) -> str:
    largest = basis.plan.shapes[-1]
    for file, found in zip(files, surveys, strict=True):
        for atoms, grid in found.sizes:
            if atoms > largest.atoms or grid > largest.grid:
                return (
                    f"{file.pair.efd} holds a molecule of {atoms} atoms and {grid} grid points, more than the largest "
                    f"bucket ({largest.atoms} atoms, {largest.grid} points)"
                )
        new = set(found.first_row_with) - set(basis.reference)
        if new and file.pair.split == "train":
            return f"{file.pair.efd} holds elements that have no reference energy yet"
    return ""


def _finish(
    stage: StageBuild,
    files: list[PairFiles],
    surveys: list[Survey],
    decision: Decision,
    basis: Basis,
    pieces: list[Piece],
) -> None:
    splits = {}
    for split in SPLITS:
        own = [found for file, found in zip(files, surveys, strict=True) if file.pair.split == split]
        if own:
            total = merged(own)
            splits[split] = {
                "samples": total.samples,
                "atoms": total.atoms,
                "grid_points": total.grid_points,
                "energy_ev": shift_energies(total.energies, basis.reference).summary(),
                "forces_ev_per_angstrom": total.forces.summary(),
            }
    recipe = decision.recipe
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": "frames",
        "digest": decision.frames_digest,
        "inputs": recipe.inputs,
        "files": [
            {"split": f.pair.split, "efd": f.pair.efd.name, "esp": f.pair.esp.name, "samples": f.rows} for f in files
        ],
        "settings": recipe.settings,
        "basis": None if recipe.basis is None else recipe.basis.as_json(),
        "units": {name: spec.unit for name, spec in FRAME_ARRAYS.items() if spec.unit != "-"},
        **basis.as_json(),
        "bucket_totals": bucket_totals(merged(surveys).sizes, basis.plan),
        "splits": splits,
    }
    stage.finish(manifest, pieces)
