"""Comparison of files and settings with the cache: which stages have to be built, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocess.config import PreprocessConfig
from preprocess.input.pairs import PairFiles, describe_input
from preprocess.input.split_settings import split_settings
from preprocess.stages.buckets import Plan
from shared.buckets import FrameShape
from shared.digest_cache import DigestCache
from shared.digests import settings_digest
from shared.errors import UserError
from shared.input.npz_rows import verify_file
from shared.manifest import current_stages, edges_digest, is_intact, read_manifest, stage_folder
from shared.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class Basis:
    """Buckets and reference energies that appended files take over from the frames before them."""

    plan: Plan
    reference: dict[int, float]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of a manifest and of the digest."""
        return {
            "buckets": [asdict(shape) for shape in self.plan.shapes],
            "reference_energies_ev": {str(z): energy for z, energy in sorted(self.reference.items())},
        }

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Basis:
        """Return the basis of complete frames."""
        shapes = [FrameShape(**shape) for shape in manifest["buckets"]]
        return cls(Plan(shapes), {int(z): float(e) for z, e in manifest["reference_energies_ev"].items()})


@dataclass(frozen=True)
class FramesRecipe:
    """All that determines the frames: input content, settings, and what they take over."""

    inputs: list[dict[str, Any]]  # split, content digests and units of every pair, in order
    settings: dict[str, Any]
    basis: Basis | None

    @property
    def digest(self) -> str:
        """Return the digest of all of it."""
        basis = None if self.basis is None else self.basis.as_json()
        return settings_digest(
            {"schema": SCHEMA_VERSION, "inputs": self.inputs, "settings": self.settings, "basis": basis}
        )


@dataclass(frozen=True)
class BuildPlan:
    """The digests of both stages, and why each has to be built (empty: it is up to date)."""

    recipe: FramesRecipe
    edges_digest: str
    why_frames: str
    why_edges: str

    @property
    def frames_digest(self) -> str:
        """Return the digest of the frames."""
        return self.recipe.digest

    def frames_folder(self, cache_dir: Path) -> Path:
        """Return the folder of the frames."""
        return stage_folder(cache_dir, "frames", self.frames_digest)

    def edges_folder(self, cache_dir: Path) -> Path:
        """Return the folder of the edges."""
        return stage_folder(cache_dir, "edges", self.edges_digest)


def find_what_to_build(
    files: list[PairFiles], config: PreprocessConfig, digests: DigestCache, extend: bool = True
) -> BuildPlan:
    """Compare files and settings with the stages in the cache, and return what has to be built.

    Args:
        files: every pair.
        config: settings.
        digests: remembered digests.
        extend: whether appended files may take over buckets and reference energies.
    """
    cache_dir = Path(config.cache_dir)
    readings = [file.reading(config) for file in files]
    inputs = [describe_input(*pair) for pair in zip(files, readings, strict=True)]
    settings = {
        **_shown_units(inputs),
        **{name: getattr(config, name) for name in ("grid_frame", "max_buckets", "min_bucket_size", "chunk_mib")},
        **split_settings(config),
    }
    extend = extend and not config.refit and not config.data
    recipe = FramesRecipe(inputs, settings, None)
    manifests = list(_manifests(cache_dir))
    same = [m for m in manifests if m["inputs"] == inputs and m["settings"] == settings]
    found = next((m for m in same if m["basis"] is None or extend), None)
    latest = manifests[0] if manifests else None
    if found is not None:
        recipe = FramesRecipe(inputs, settings, Basis.of(found) if found["basis"] else None)
        folder = stage_folder(cache_dir, "frames", recipe.digest)
        _verify_touched(files, digests)
        intact = is_intact(folder, digests)
        why_frames = "asked for (--force)" if config.force else "" if intact else f"{folder.name} is damaged"
    elif extend and latest is not None and latest["settings"] == settings and _appended(latest["inputs"], inputs):
        recipe = FramesRecipe(inputs, settings, Basis.of(latest))
        count = len(inputs) - len(latest["inputs"])
        pairs = "1 pair" if count == 1 else f"{count} pairs"
        why_frames = f"{pairs} of files appended; buckets and reference energies stay (--refit chooses anew)"
    else:
        why_frames = _difference(latest, inputs, settings) if latest else "nothing preprocessed yet"
    wanted_edges = edges_digest(recipe.digest, config.physnet_cutoff, config.dcmnet_cutoff)
    return BuildPlan(recipe, wanted_edges, why_frames, _why_edges(config, wanted_edges, why_frames, digests))


def _why_edges(config: PreprocessConfig, digest: str, why_frames: str, digests: DigestCache) -> str:
    folder = stage_folder(Path(config.cache_dir), "edges", digest)
    if config.force:
        return "asked for (--force)"
    if is_intact(folder, digests):
        return ""
    if folder.exists():
        return f"{folder.name} is damaged"
    if why_frames:
        return "the frames change"
    return f"none at cutoffs {config.physnet_cutoff:g} Å (PhysNet) and {config.dcmnet_cutoff:g} Å (DCMNet)"


def _manifests(cache_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield the readable manifests of frames, the current one first."""
    folders = sorted(cache_dir.glob("frames-*"))
    try:
        current = stage_folder(cache_dir, "frames", current_stages(cache_dir)["frames"])
        folders = [current, *(folder for folder in folders if folder != current)]
    except UserError:
        pass  # nothing is current
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except UserError:
            continue  # damaged: treated as absent
        if manifest is not None:
            yield manifest


def _verify_touched(files: list[PairFiles], digests: DigestCache) -> None:
    """Verify files touched since they were last read: an edit in place leaves the archive's directory as it was.

    Raises:
        UserError: a file's bytes are not those of its directory's checksums.
    """
    for file in files:
        for npz in file.files.values():
            if not digests.is_known(npz.path, npz.content_digest):
                verify_file(npz.path)
    remember_inputs(files, digests)


def _shown_units(inputs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the unit of each kind; all of them where files differ."""
    each = [entry["units"] for entry in inputs]
    names = dict.fromkeys(name for units in each for name in units)
    return {name: ", ".join(sorted({units[name] for units in each if name in units})) for name in names}


def remember_inputs(files: list[PairFiles], digests: DigestCache) -> None:
    """Record that these files were read and are intact."""
    for file in files:
        for npz in file.files.values():
            digests.remember(npz.path, npz.content_digest)


def _appended(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Return whether every split begins with the files that it had before."""
    splits = {entry["split"] for entry in before}
    for split in splits:
        old = [entry for entry in before if entry["split"] == split]
        new = [entry for entry in now if entry["split"] == split]
        if new[: len(old)] != old:
            return False
    return len(now) > len(before)


def _difference(latest: Mapping[str, Any], inputs: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    changed = [
        f"{name} {latest['settings'].get(name)} → {value}"
        for name, value in settings.items()
        if latest["settings"].get(name) != value
    ]
    before, now = ({settings_digest(entry) for entry in entries} for entries in (latest["inputs"], inputs))
    if before != now:
        changed.append(f"input files changed ({len(now - before)} pairs new, {len(before - now)} gone)")
    elif latest["inputs"] != inputs:
        changed.append("the input files' order changed")
    return ", ".join(changed) or "asked for (--refit)"
