"""The first pass over all files: match rows, divide them among the splits, and survey them.

Its results for a pair are kept in the cache folder, so that after files are appended only the new ones are surveyed.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.config import PreprocessConfig
from preprocess.input.grid_points import PointCounts, total
from preprocess.input.matching import explain_pairing, match_rows, needs_random_access, with_stored_esp
from preprocess.input.pairs import Chunk, PairFiles, Reading, RowFacts, describe_input, split_into_chunks, with_facts
from preprocess.input.split_settings import split_settings
from preprocess.input.survey import ChunkSurvey, Survey, SurveyTask, merged
from preprocess.input.validate import PairingError
from preprocess.stages.divide import divide_rows
from preprocess.stages.task_runner import TaskRunner
from shared.digests import settings_digest
from shared.errors import UserError
from shared.files import write_atomically
from shared.input.npz import Checksum
from shared.manifest import CONVERTED
from shared.schema import FRAME_ARRAYS, OPTIONAL_FRAME_ARRAYS, ArraySpec, Split
from shared.sealed import read_sealed, write_sealed

_FORMAT = 2
"""Version of the kept results; other versions are not read."""

_CHUNKS_PER_TASK = 8


@dataclass(frozen=True)
class PairSurvey:
    """The results of the first pass for a pair."""

    splits: dict[Split, Survey]
    points: PointCounts | None
    """Counts of grid points; None if the file counts them and the grids have not been read."""

    facts: RowFacts
    uncertainty: np.ndarray | None
    """Standard error (n,) in Å of fitted frames."""

    how_divided: str
    """Description of the division; empty where the file belongs to one split."""


@dataclass(frozen=True)
class Prepared:
    """All pairs with their surveys, and the chunks that the second pass reads."""

    files: list[PairFiles]
    readings: list[Reading]
    surveys: list[PairSurvey]
    chunks: list[list[Chunk]]
    names: list[str]
    """Names of the surveys in the cache folder."""

    def merged(self, split: Split | None = None) -> Survey:
        """Return the survey of a split, or of all splits."""
        return merged(
            found for pair in self.surveys for name, found in pair.splits.items() if split is None or name == split
        )

    @property
    def frame_arrays(self) -> dict[str, ArraySpec]:
        """Return the arrays of the frames: of quantities that any of the files holds, all frames have them."""
        return FRAME_ARRAYS | (OPTIONAL_FRAME_ARRAYS if any("quadrupole" in file.efd for file in self.files) else {})


def survey_names(inputs: list[dict[str, Any]], config: PreprocessConfig) -> list[str]:
    """Return the names under which the surveys of the pairs are kept."""
    # The chunks determine the order of summation, and with it the last digit of the reference energies.
    common: dict[str, Any] = {"format": _FORMAT, "chunk_mib": config.chunk_mib, **split_settings(config)}
    if config.data:
        common["inputs"] = inputs
    return [settings_digest({**common, "pair": entry}) for entry in inputs]


def prepare(files: list[PairFiles], config: PreprocessConfig, runner: TaskRunner[Any]) -> Prepared:
    """Match, divide and survey the rows of all pairs.

    Raises:
        UserError: bad input, naming file, key, row and value.
    """
    readings = [file.reading(config) for file in files]
    inputs = [describe_input(*pair) for pair in zip(files, readings, strict=True)]
    folder = Path(config.cache_dir) / "surveys"
    names = survey_names(inputs, config)
    paths = [folder / name for name in names]
    known = {} if config.force else {i: old for i, path in enumerate(paths) if (old := _remembered(path))}
    # Divided files are divided together: the results of all of them are kept, or of none.
    divides = bool(config.data) and len(known) < len(files)
    fresh = [i for i in range(len(files)) if divides or i not in known]
    facts = {i: survey.facts for i, survey in known.items()}
    facts |= {i: RowFacts(esp_row=_matched(files[i], readings[i])) for i in fresh}
    files, readings = _with_random_access(files, readings, facts, config)
    chunks = split_into_chunks(files, config.chunk_mib * 2**20)
    if fresh:
        how = ""
        if divides:
            parts = [with_facts(chunks[i], facts[i]) for i in fresh]
            divided, how = divide_rows(files, readings, parts, config, runner)
            facts = {i: replace(facts[i], split=divided[i]) for i in fresh}
        parts = [with_facts(chunks[i], facts[i]) for i in fresh]
        found = _survey([files[i] for i in fresh], [readings[i] for i in fresh], parts, runner)
        for i, chunk_surveys in zip(fresh, found, strict=True):
            known[i] = _joined(chunk_surveys, facts[i], how)
            with contextlib.suppress(OSError):  # a cache of another user: the next time takes longer
                folder.mkdir(parents=True, exist_ok=True)
                _remember(paths[i], known[i])
    surveys = [known[i] for i in range(len(files))]
    chunks = [with_facts(parts, survey.facts) for parts, survey in zip(chunks, surveys, strict=True)]
    return Prepared(files, readings, surveys, chunks, names)


def _with_random_access(
    files: list[PairFiles], readings: list[Reading], facts: Mapping[int, RowFacts], config: PreprocessConfig
) -> tuple[list[PairFiles], list[Reading]]:
    """Replace compressed ESP files whose rows are wanted in another order by uncompressed copies in the cache."""
    files, readings = list(files), list(readings)
    for i, known in facts.items():
        if needs_random_access(files[i], known.esp_row):
            files[i] = with_stored_esp(files[i], Path(config.cache_dir) / CONVERTED)
            readings[i] = replace(readings[i], pair=files[i].pair)
    return files, readings


def _matched(file: PairFiles, reading: Reading) -> np.ndarray | None:
    return match_rows(file, reading) if file.needs_matching else None


def _survey(
    files: list[PairFiles], readings: list[Reading], chunks: list[list[Chunk]], runner: TaskRunner[Any]
) -> list[list[ChunkSurvey]]:
    tasks: list[SurveyTask] = []
    of_pair: list[int] = []
    for pair, (file, reading, parts) in enumerate(zip(files, readings, chunks, strict=True)):
        # Fits take much longer than reading: they are spread over all cores.
        groups = file.chunk_groups(parts, 1 if reading.grid_frame == "fit" else _CHUNKS_PER_TASK)
        tasks += [SurveyTask(group, reading) for group in groups]
        of_pair += [pair] * len(groups)
    amounts = [sum(len(chunk) for chunk in task.chunks) for task in tasks]
    try:
        results = runner.run(tasks, "read geometries", amounts)
    except PairingError as error:
        raise explain_pairing(error, readings) from None
    found = []
    for pair, file in enumerate(files):
        own = [result for result, owner in zip(results, of_pair, strict=True) if owner == pair]
        check_sums(file, [checksums for _, checksums in own])
        found.append([survey for surveys, _ in own for survey in surveys])
    return found


def check_sums(file: PairFiles, found: list[dict[str, list[Checksum]]]) -> None:
    """Compare what was read of a pair with its files' checksums.

    Raises:
        UserError: a file is damaged.
    """
    for role, npz in file.files.items():
        npz.check_sums(checksum for checksums in found for checksum in checksums[role])


def _joined(chunks: list[ChunkSurvey], facts: RowFacts, how: str) -> PairSurvey:
    splits = {name: merged(c.surveys[name] for c in chunks if name in c.surveys) for c in chunks for name in c.surveys}
    fitted = [chunk.fitted for chunk in chunks if chunk.fitted is not None]
    uncertainty = None
    if fitted:
        facts = replace(facts, grid_shift=np.concatenate([fit.shift for fit in fitted]))
        uncertainty = np.concatenate([fit.uncertainty for fit in fitted])
    counted = [chunk.points for chunk in chunks]
    points = total(one for one in counted if one) if all(one is not None for one in counted) else None
    return PairSurvey(splits, points, facts, uncertainty, how)


def _remember(path: Path, survey: PairSurvey) -> None:
    """Write the survey as JSON and arrays; its loss costs only time."""
    arrays = {name: values for name, values in vars(survey.facts).items() if values is not None}
    if survey.uncertainty is not None:
        arrays["uncertainty"] = survey.uncertainty
    content: dict[str, Any] = {
        "splits": {name: found.as_json() for name, found in survey.splits.items()},
        "points": survey.points,
        "how_divided": survey.how_divided,
        "arrays": sorted(arrays),
    }
    if arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    write_sealed(path.with_suffix(".json"), content)


def _remembered(path: Path) -> PairSurvey | None:
    """Read a survey; None if it is absent or damaged."""
    try:
        content = read_sealed(path.with_suffix(".json"), "it is made again")
        arrays: dict[str, np.ndarray] = {}
        if content["arrays"]:
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in content["arrays"]}
        points = content["points"]
        return PairSurvey(
            {name: Survey.from_json(found) for name, found in content["splits"].items()},
            None if points is None else PointCounts(*points),
            RowFacts(**{name: values for name, values in arrays.items() if name != "uncertainty"}),
            arrays.get("uncertainty"),
            str(content["how_divided"]),
        )
    except (OSError, UserError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
