"""``python -m preprocess.reference_data``: molecules to NPZ pairs in the input format, computed by PySCF.

Its parts are in :mod:`preprocess.reference`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.reference.config import ReferenceConfig, parse
from preprocess.reference.method import Level, pyscf_version, require_computable
from preprocess.reference.molecules import Molecule, collect
from preprocess.reference.output import UNITS, Output, Row, draw_split, padded
from preprocess.reference.selection import selected_geometries
from preprocess.reference.smiles import rdkit_version
from preprocess.reference.tasks import ModesTask, ReferenceTask, Task
from preprocess.reference.workers import run_tasks
from shared.errors import UserError, run_program
from shared.job_limits import usable_cores
from shared.locks import lock_folder
from shared.log import log
from shared.schema import SPLITS, Split
from shared.signals import say_when_stopped


@dataclass(frozen=True)
class Planned:
    """A requested geometry."""

    molecule: int
    """Index of the molecule among those given."""
    sample: int
    geometry: Molecule | str
    """The geometry, or the reason why there is none."""


def main(argv: Sequence[str] | None = None) -> None:
    """Compute the geometries that are not done yet, and write the files when all are.

    Raises:
        UserError: bad settings or molecules, a folder in other use, or no geometry can be computed.
    """
    config = parse(argv)
    geometries = [*config.geometries, *([str(selected_geometries(config))] if config.select else [])]
    molecules = collect(config.molecules, geometries, config.smiles, config.seed)
    version = pyscf_version()
    require_computable(config.level, molecules)
    if config.samples and (single := next((m for m in molecules if len(m) == 1), None)):
        raise UserError(f"{single.name}: a single atom has no conformers; compute it with --samples 0")
    split_of_molecule = divide_molecules(molecules, config) if config.split_by == "molecule" else None
    output = Output(Path(config.output))
    output.folder.mkdir(parents=True, exist_ok=True)
    say_when_stopped("stopped with all finished geometries kept; the same command goes on")
    with lock_folder(output.folder):
        record = output.begin(identity(config, molecules, version))
        if record is None:
            record = _Calculation(config, molecules, version, output, split_of_molecule).run()
        if not config.keep_parts:
            output.remove_parts()
    counts = ", ".join(f"{split} {count:,}" for split, count in record["splits"].items())
    log.info(f"reference data in {output.folder}: {counts} geometries")
    if "quadrupole" not in record["units"]:
        log.info("they are of an older version, without quadrupoles; another --output computes them with these")


def identity(config: ReferenceConfig, molecules: Sequence[Molecule], version: str) -> dict[str, Any]:
    """Return all that the files depend on, as JSON; settings newer than the others only where they are used."""
    settings: dict[str, Any] = {
        **config.level.identity,
        "shells": list(config.shells),
        "density": config.density,
        "samples": config.samples,
        "split": list(config.split),
        "seed": config.seed,
        "names": [molecule.name for molecule in molecules],
        "molecules": [molecule.digest for molecule in molecules],
        "pyscf": version,
    }
    if config.smiles:
        settings["rdkit"] = rdkit_version()
    if config.split_by == "molecule":
        settings["split_by"] = config.split_by
    if config.samples:
        settings |= {"sampling": config.sampling, "rotate": config.rotate}
        chosen = ("displacement",) if config.sampling == "displacement" else ("temperature", "statistics")
        settings |= {key: getattr(config, key) for key in chosen}
    return settings


def divide_molecules(molecules: Sequence[Molecule], config: ReferenceConfig) -> np.ndarray:
    """Return the split (molecules,), index into SPLITS, of every molecule; those that are the same are in one.

    The same are those of one bond graph, in any geometry and of any charge, and those of one name.

    Raises:
        UserError: training or validation would be empty.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    from preprocess.input.molecule_kinds import join_kinds
    from preprocess.input.splits import divide_by_kind
    from shared.bond_graphs import describe_kinds

    n_atoms = np.array([len(molecule) for molecule in molecules])
    numbers, positions = (padded([getattr(m, key) for m in molecules]) for key in ("atomic_numbers", "positions"))
    graphs = join_kinds([describe_kinds(numbers, n_atoms, positions, np.full(len(molecules), b""))])
    _, graph = np.unique(graphs, return_inverse=True)
    _, name = np.unique([molecule.name for molecule in molecules], return_inverse=True)
    nodes = len(molecules)
    links = coo_matrix((np.ones(nodes), (graph, nodes + name)), shape=(2 * nodes, 2 * nodes))
    kinds = connected_components(links, directed=False)[1][graph]
    found = divide_by_kind(kinds, config.split, config.seed)
    for number, split in enumerate(SPLITS[:2]):
        if config.split[number] and not (found == number).any():
            raise UserError(
                f"--split-by molecule: the {split} split would be empty ({len(np.unique(kinds))} different molecules); "
                "name more molecules, change --split, or take --split-by geometry"
            )
    return found


class _Calculation:
    """The calculation of all geometries of one folder."""

    def __init__(
        self,
        config: ReferenceConfig,
        molecules: list[Molecule],
        version: str,
        output: Output,
        split_of_molecule: np.ndarray | None,
    ) -> None:
        self._config, self._molecules, self._version, self._output = config, molecules, version, output
        self._split_of_molecule = split_of_molecule
        self._wavenumbers: dict[int, list[float]] = {}

    def run(self) -> dict[str, Any]:
        """Compute all geometries, write the files, and return the record.

        Raises:
            UserError: nothing can be computed.
        """
        planned = self._plan()
        tasks = {
            i: ReferenceTask(*self._common(plan.geometry), self._config.grid)
            for i, plan in enumerate(planned)
            if isinstance(plan.geometry, Molecule)
        }
        self._compute("reference data", list(tasks.values()))
        rows: dict[int, Row] = {}
        left_out = []
        for i, plan in enumerate(planned):
            reason = plan.geometry
            if isinstance(reason, Molecule):
                part = _result(tasks[i])
                if part.left_out is None:
                    rows[i] = Row(reason, part.arrays)
                    continue
                reason = part.left_out
            left_out.append(self._leave_out(plan, reason))
        if not rows:
            self._output.discard()
            raise UserError(f"none of {len(planned)} geometries could be computed; the reasons are printed above")
        return self._write(planned, rows, left_out)

    def _plan(self) -> list[Planned]:
        if not self._config.samples:
            return [Planned(i, 0, molecule) for i, molecule in enumerate(self._molecules)]
        from preprocess.reference import sampling

        samplers: list[sampling.Sampler | str] = []
        if self._config.sampling == "displacement":
            samplers += [sampling.displacement_sampler(m, self._config.displacement) for m in self._molecules]
        else:
            samplers += self._mode_samplers()
        planned = []
        for i, (molecule, sampler) in enumerate(zip(self._molecules, samplers, strict=True)):
            for sample in range(self._config.samples):
                geometry: Molecule | str
                if isinstance(sampler, str):
                    geometry = sampler
                else:
                    geometry = sampling.draw(molecule, sampler, self._config, sample) or (
                        "two atoms come too close in every draw; lower --displacement or --temperature"
                    )
                planned.append(Planned(i, sample, geometry))
        return planned

    def _mode_samplers(self) -> list[Any]:
        from preprocess.reference import sampling
        from preprocess.reference.modes import Modes

        tasks = [ModesTask(*self._common(molecule)) for molecule in self._molecules]
        self._compute("normal modes", tasks)
        samplers: list[sampling.Sampler | str] = []
        for i, task in enumerate(tasks):
            part = _result(task)
            if part.left_out is not None:
                samplers.append(part.left_out)
                continue
            modes = Modes(**part.arrays)
            self._wavenumbers[i] = np.round(modes.wavenumbers, 2).tolist()
            samplers.append(sampling.mode_sampler(modes, self._config.temperature, self._config.statistics))
        return samplers

    def _common(self, molecule: Molecule) -> tuple[Path, Molecule, Level, str]:
        return self._output.parts, molecule, self._config.level, self._version

    def _compute(self, label: str, tasks: Sequence[Task]) -> None:
        open_tasks = [task for task in tasks if task.result() is None]
        # The largest molecules first, so that no process is left alone with them at the end.
        open_tasks.sort(key=lambda task: -int(task.molecule.atomic_numbers.sum()))
        workers = self._config.workers or usable_cores()
        try:
            run_tasks(open_tasks, workers, label, len(tasks) - len(open_tasks))
        except OSError as error:
            if error.errno is None:
                raise
            what = f"{error.strerror}; finished geometries are kept, and the same command goes on from them"
            raise OSError(error.errno, what, str(self._output.parts)) from error

    def _leave_out(self, plan: Planned, reason: str) -> dict[str, Any]:
        name = self._molecules[plan.molecule].name
        log.info(f"left out: {name} (molecule {plan.molecule}), sample {plan.sample}: {reason}")
        return {"name": name, "molecule": plan.molecule, "sample": plan.sample, "reason": reason}

    def _divide(self, planned: Sequence[Planned]) -> dict[Split, np.ndarray]:
        """Return the indices of each split, drawn over all: one that is left out moves no other to another split."""
        if self._split_of_molecule is None:
            return draw_split(len(planned), self._config.split, self._config.seed)
        splits = self._split_of_molecule[[plan.molecule for plan in planned]]
        return {split: np.flatnonzero(splits == number) for number, split in enumerate(SPLITS)}

    def _write(
        self, planned: Sequence[Planned], rows: dict[int, Row], left_out: list[dict[str, Any]]
    ) -> dict[str, Any]:
        files: list[str] = []
        counts = {}
        for split, indices in self._divide(planned).items():
            chosen = [rows[i] for i in indices.tolist() if i in rows]
            counts[split] = len(chosen)
            if chosen:
                files += self._output.write_split(split, chosen)
        record = {
            "complete": True,
            "settings": identity(self._config, self._molecules, self._version),
            "versions": {
                "pyscf": self._version,
                **({"rdkit": rdkit_version()} if self._config.smiles else {}),
                "numpy": np.__version__,
                "python": sys.version.split()[0],
            },
            "units": UNITS,
            "splits": {split: counts[split] for split in SPLITS},
            "files": files,
            "molecules": [
                {
                    "name": molecule.name,
                    "atoms": len(molecule),
                    "charge": molecule.charge,
                    "multiplicity": molecule.multiplicity,
                    **({"wavenumbers_per_cm": self._wavenumbers[i]} if i in self._wavenumbers else {}),
                }
                for i, molecule in enumerate(self._molecules)
            ],
            "left_out": left_out,
        }
        self._output.write_record(record)
        return record


def _result(task: Task) -> Any:
    part = task.result()
    if part is None:
        raise UserError(f"{task.path}: was removed or damaged meanwhile; the same command computes it again")
    return part


if __name__ == "__main__":
    sys.exit(run_program(main))
