"""Settings of ``python -m preprocess.reference_data``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from preprocess.reference.method import Level
from shared.errors import UserError
from shared.settings import NonNegative, NonNegativeInt, PathName, Positive, PositiveInt, Seed, parse_flags
from shared.shells import Shells

Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ReferenceConfig:
    """Make reference data in the input format: energies, forces, moments, ESP on Merz-Kollman shells (needs PySCF)."""

    molecules: tuple[str, ...] = ()
    """Names of ASE's collection (g2: CO2 H2O CH3OH ...); radicals have the multiplicity given there."""

    geometries: tuple[str, ...] = ()
    """Extended XYZ files, every frame a molecule; charge=, multiplicity= (default 1) and name= in its comment line."""

    smiles: tuple[str, ...] = ()
    """Files of one SMILES a line, and a name after a blank; RDKit makes the geometries (ETKDGv3, MMFF94 or UFF)."""

    from_run: tuple[str, ...] = ()
    """Ensemble (a run of several --members, or several runs) that chooses what to compute among --candidates."""

    candidates: tuple[str, ...] = ()
    """Files of molecules in any format that ASE reads, or NPZ, of which --select are computed."""

    select: NonNegativeInt = 0
    """How many of the --candidates: those on which the ensemble disagrees most, not alike among themselves."""

    output: PathName = "reference-data"
    """Folder of the NPZ pairs; what is finished there is not computed again."""

    method: str = "hf"
    """hf, or a density functional as PySCF names it (pbe0, b3lyp, wb97x-v); unrestricted for multiplicities > 1."""

    basis: str = "6-31g*"
    """Basis set as PySCF names it, with its own effective core potentials."""

    density_fit: bool = False
    """Fit the electrons' repulsion (PySCF's default fitting basis): sooner, but several meV from the exact energies."""

    conv_tol: Positive = 1e-9
    """The SCF has converged when the energy changes by less, Hartree."""

    max_cycles: PositiveInt = 100
    """SCF cycles after which a geometry is left out."""

    xc_grid_level: Annotated[int, Field(ge=0, le=9)] = 3
    """Fineness of a functional's integration grid (PySCF's levels)."""

    samples: NonNegativeInt = 0
    """Conformers of every molecule; 0 = each geometry once, as it is given."""

    sampling: Literal["normal-modes", "displacement"] = "normal-modes"
    """How conformers are made: along the harmonic modes of the relaxed geometry, or every coordinate displaced."""

    temperature: NonNegative = 300.0
    """Temperature of normal-mode sampling, K."""

    statistics: Literal["quantum", "classical"] = "quantum"
    """Spread of the normal modes: that of quantum oscillators (with zero-point motion), or kT in each."""

    displacement: Positive = 0.06
    """Standard deviation of every coordinate for --sampling displacement, Å."""

    rotate: bool = False
    """Turn every conformer at random."""

    shells: tuple[Positive, ...] = (1.4, 1.6, 1.8, 2.0)
    """Radii of the ESP shells, as multiples of the elements' radii."""

    density: Positive = 1.0
    """ESP points on each sphere, 1/Å²."""

    split: tuple[Fraction, Fraction, Fraction] = (0.8, 0.1, 0.1)
    """Parts of the geometries (or molecules) for train, valid and test; drawn at random over all of them."""

    split_by: Literal["geometry", "molecule"] = "geometry"
    """What is divided; by molecule, all geometries of one name or one bond graph are in one split."""

    seed: Seed = 0
    """Seed of the conformers, of the split, and of the geometries made from SMILES."""

    workers: NonNegativeInt = 0
    """Worker processes, of one thread each (0 = one for each core)."""

    memory_mib: PositiveInt = 2000
    """Memory of one process for integrals, MiB."""

    keep_parts: bool = False
    """Keep the results of single geometries (OUTPUT/parts) beside the files made from them."""

    @property
    def level(self) -> Level:
        """Return the level of theory."""
        return Level(
            self.method.lower(),
            self.basis.lower(),
            self.conv_tol,
            self.max_cycles,
            self.xc_grid_level,
            self.memory_mib,
            self.density_fit,
        )

    @property
    def grid(self) -> Shells:
        """Return the shells of ESP points."""
        return Shells(tuple(self.shells), self.density)


def parse(argv: Sequence[str] | None = None) -> ReferenceConfig:
    """Return the settings from the flags.

    Raises:
        UserError: a value is out of its range, or two contradict each other.
        SystemExit: with code 2 for an unknown flag, with 0 after --help.
    """
    config = parse_flags(ReferenceConfig, "python -m preprocess.reference_data", argv)
    selection = {"--from-run": config.from_run, "--candidates": config.candidates, "--select": config.select}
    if any(selection.values()) and not all(selection.values()):
        missing = " and ".join(flag for flag, value in selection.items() if not value)
        raise UserError(f"{missing}: needed too; --from-run RUN --candidates FILES --select N belong together")
    if not config.molecules and not config.geometries and not config.smiles and not config.select:
        raise UserError("nothing to compute: give --molecules CO2 H2O ..., --geometries FILE.xyz or --smiles FILE.smi")
    if not config.shells:
        raise UserError("--shells names no shell: the ESP needs points")
    if abs(sum(config.split) - 1.0) > 1e-6:
        raise UserError(
            f"--split {' '.join(f'{part:g}' for part in config.split)} adds up to {sum(config.split):g}, not 1"
        )
    if (
        config.samples
        and config.sampling == "normal-modes"
        and config.statistics == "classical"
        and not config.temperature
    ):
        raise UserError(
            "--temperature 0 with --statistics classical moves nothing: raise it, or take quantum statistics"
        )
    return config
