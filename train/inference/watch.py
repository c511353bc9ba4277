"""An observer of ASE's dynamics and optimizers, which stops them where the model is not to be trusted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np

from shared.elements import symbol
from shared.errors import UserError
from shared.input.total_charge import total_charge_of
from shared.text import escaped
from train.inference.predictor import Predictor

_TIMES_THE_ERROR = 5.0
"""Default bounds of the deviations, in mean absolute errors on the validation split."""

_KEPT = ("name", "multiplicity", "spin")
"""Of what ``atoms.info`` states beside the total charge, what a reference calculation needs."""

_UNITS = "positions Angstrom, energy eV, forces eV/Angstrom, charge e; of the model, with deviations among its members"


class OutsideDomain(UserError):
    """A trajectory has come where the model is not to be trusted.

    Attributes:
        reasons: why, one text each.
    """

    def __init__(self, message: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class Watch:
    """Observer that ends dynamics or an optimization by raising :class:`OutsideDomain`.

    ``dyn.attach(Watch(atoms, frame="outside.xyz"))`` looks at the first geometry and at every one after it. The steps
    before are complete, and so are the files of observers that were attached before; ``atoms`` are where it stopped.

    Attributes:
        energy_std: largest deviation of the energy of the molecule, eV; None: not watched.
        forces_std: largest deviation of the force on an atom, √(σ_x² + σ_y² + σ_z²), eV/Å; None: not watched.
    """

    def __init__(
        self,
        atoms: ase.Atoms,
        energy_std: float | None = None,
        forces_std: float | None = None,
        strict: bool = True,
        frame: str | Path | None = None,
    ) -> None:
        """Look at a molecule.

        Args:
            atoms: with a ``JointCalculator``.
            energy_std: bound of the deviation among an ensemble's members, eV. Default: five times the mean absolute
                error on the validation split, if there is an ensemble.
            forces_std: bound of the deviation of the force on an atom, eV/Å; the default likewise.
            strict: stop at what no training molecule had, too.
            frame: extended XYZ file to which the geometry is appended where it stops, to be labelled.

        Raises:
            UserError: another calculator, or one that is strict itself; bounds for a single model; no bounds, and the
                validation errors are not known; strict, and a model of an older version, which does not tell what it
                was trained on; a single model that is not strict.
        """
        predictor = getattr(atoms.calc, "predictor", None)
        if not isinstance(predictor, Predictor):
            raise UserError('Watch: atoms.calc has to be JointCalculator("runs/NAME")')
        if predictor.domain.strict:
            raise UserError("Watch: a calculator with strict=True would end before a frame is written; leave it out")
        model = next(iter(predictor.members))
        if strict and not predictor.domain.is_known:
            raise UserError(f"Watch: {model} is of an older version, which did not keep what it was trained on")
        if not predictor.is_ensemble and (energy_std, forces_std, strict) != (None, None, True):
            raise UserError(f"Watch: {model} is a single model, without deviations: only strict=True watches it")
        self.energy_std, self.forces_std = energy_std, forces_std
        if predictor.is_ensemble and None in (energy_std, forces_std):
            errors = predictor.validation_errors()
            if errors is None:
                raise UserError(
                    f"Watch: {model} has no evaluation-valid.json beside best/; give energy_std, forces_std"
                )
            energy, forces = (_TIMES_THE_ERROR * error for error in errors)
            self.energy_std = energy if energy_std is None else energy_std
            self.forces_std = forces if forces_std is None else forces_std
        self._atoms = atoms
        self._strict = strict
        self._frame = None if frame is None else Path(frame)

    def __call__(self) -> None:
        """Look at the present geometry.

        Raises:
            OutsideDomain: the model is not to be trusted there.
            OSError: the frame cannot be written.
        """
        self._atoms.get_potential_energy()  # calculates where nobody has
        results: dict[str, Any] = self._atoms.calc.results
        reasons = tuple(self._reasons(results))
        if not reasons:
            return
        if self._frame is not None:
            self._append(self._frame, results, reasons)
        written = f"; the geometry is in {self._frame}" if self._frame else ""
        raise OutsideDomain(f"stopped, not to be trusted from here on: {'; '.join(reasons)}{written}", reasons)

    def _reasons(self, results: dict[str, Any]) -> list[str]:
        reasons = []
        if self.energy_std is not None and results["energy_std"] > self.energy_std:
            reasons.append(f"energies deviate by {results['energy_std']:.3g} eV, more than {self.energy_std:.3g}")
        if self.forces_std is not None:
            deviations = np.linalg.norm(results["forces_std"], axis=1)
            atom = int(deviations.argmax())
            if deviations[atom] > self.forces_std:
                reasons.append(
                    f"forces on atom {atom}, {symbol(int(self._atoms.numbers[atom]))}, deviate by "
                    f"{deviations[atom]:.3g} eV/Å, more than {self.forces_std:.3g}"
                )
        return reasons + (results["outside"] if self._strict else [])

    def _append(self, path: Path, results: dict[str, Any], reasons: tuple[str, ...]) -> None:
        atoms = self._atoms
        frame = ase.Atoms(atoms.numbers, atoms.positions)
        if atoms.has("masses"):
            frame.set_masses(atoms.get_masses())
        frame.info = {key: value for key, value in atoms.info.items() if key.lower() in _KEPT}
        frame.info |= {"name": escaped(str(frame.info["name"]))} if "name" in frame.info else {}
        frame.info |= {"charge": total_charge_of(atoms), "energy": results["energy"]}
        frame.arrays["forces"] = results["forces"]
        if "energy_std" in results:
            frame.info["energy_std"] = results["energy_std"]
            frame.arrays["forces_std"] = results["forces_std"]
        frame.info |= {"reason": "; ".join(reasons), "units": _UNITS}
        stream = io.StringIO()
        ase.io.write(stream, frame, format="extxyz")
        text = stream.getvalue()
        path.parent.mkdir(parents=True, exist_ok=True)
        # The same script, run again, comes to the same geometry, which need not be labelled twice.
        if not path.exists() or text not in path.read_text(encoding="utf-8"):
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
