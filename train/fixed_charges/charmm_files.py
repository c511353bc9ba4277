"""A charge model for the DCM module of CHARMM: its charges (.dcm), its kernel (.kern), and a residue's topology (.rtf).

The axes of the .dcm file are those of :mod:`train.inference.charmm_frames`. In a frame BO of the same atoms a, b, c
they are those of the model but for order and sign, in every geometry: x = -y, y = -z, z = -x of the model.

The kernel's files are those of the authors of kernel-based distributed charges (Boittier, Töpfer, Devereux & Meuwly,
arXiv 2406.00513; EricBoittier/kMDCM and EricBoittier/FF-Fit on GitHub). The .kern file has the number of reference
geometries, of charges, of frames and of atoms, then the names of the files of the reference distances, a line for each
geometry, and of the coefficients, a file for each coordinate. The coordinates themselves (not their shifts) are
Σ_m α_m exp(-|d - d_m|²/2), the distances d in Å; the width is 1 Å.
"""

from __future__ import annotations

import io

import numpy as np

from shared.elements import MASSES
from shared.errors import UserError
from train.fixed_charges.charge_model import ChargeModel, Frame, frame_axes
from train.fixed_charges.topology import atom_names, without_kernel
from train.inference import charmm_frames

_RIDGE = 1e-10
"""Added to the kernel's diagonal: reference geometries that are close to each other make it nearly singular."""


def charmm_dcm(model: ChargeModel, residue: str) -> str:
    """Return the text of a .dcm file of one residue, with a frame for each atom that has charges.

    Args:
        model: of a kernel's the charges are where they are at the reference geometry.
        residue: name in CHARMM's topology, whose atoms are in the same order.

    Raises:
        UserError: the charges of an atom are in different frames.
    """
    model = without_kernel(model)
    text = io.StringIO()
    frames = _frames(model)
    text.write("1 0          ! residue types, residues with flexible charges\n\n")
    text.write(f"{residue}       ! residue\n{len(frames)}          ! frames\n")
    for number, (atom, frame) in enumerate(frames.items(), start=1):
        indices = [0 if other is None else other + 1 for other in charmm_frames.completed_frame(model.positions, frame)]
        text.write("{:4d} {:4d} {:4d} BO  ! atoms of frame {}\n".format(*indices, number))
        own = [k for k, other in enumerate(model.frames) if other[0] == atom]
        text.write(f"{len(own)} 0          ! charges and polarisable sites of atom {indices[0]}\n")
        for k in own:
            values = (*model.local[k] @ _turn(model, k), model.charges[k])
            text.write("".join(f"{value:18.10f}" for value in values) + "\n")
        text.writelines(f"0 0          ! atom {index}: none here\n" for index in indices[1:])
    text.write("\n")
    return text.getvalue()


def charmm_kernel(model: ChargeModel) -> dict[str, str]:
    """Return the kernel's files by name: ``charmm.kern``, ``x_fit.txt``, ``coefs0.txt``, ...

    The charges are in the order of :func:`charmm_dcm`, and so are the frames. The kernel is fitted anew to its sites at
    its reference geometries, since CHARMM's width and form are fixed (:func:`kernel_departure`).

    Raises:
        UserError: the model has no kernel, or the charges of an atom are in different frames.
    """
    if model.kernel is None:
        raise UserError("the charge model has no kernel; charmm.dcm alone describes it")
    coefficients = _coefficients(model)
    m, k, _ = coefficients.shape
    names = ["x_fit.txt", *(f"coefs{number}.txt" for number in range(3 * k))]
    header = f"{m} {k} {len(_frames(model))} {len(model.atomic_numbers)}"
    texts = {"charmm.kern": "\n".join([header, *names]) + "\n"}
    for name, values in zip(names, [model.kernel.distances, *coefficients.reshape(m, 3 * k).T], strict=True):
        text = io.StringIO()
        np.savetxt(text, values, fmt="%.16e")
        texts[name] = text.getvalue()
    return texts


def kernel_departure(model: ChargeModel) -> float:
    """Return how far (Å) a site of the kernel's files is from that of the model at most, at the reference geometries.

    Raises:
        UserError: as :func:`charmm_kernel`.
    """
    if model.kernel is None:
        raise UserError("the charge model has no kernel; charmm.dcm alone describes it")
    fitted = np.einsum("gm,mkx->gkx", _gaussians(model.kernel.distances), _coefficients(model))
    return float(np.linalg.norm(fitted - _coordinates(model), axis=-1).max())


def charmm_rtf(model: ChargeModel, residue: str) -> str:
    """Return the topology of a residue without charges, which are those of the .dcm file.

    Each atom has a type of its own, of its name: to be replaced by those of a parameter file.
    """
    names = atom_names(model)
    lines = [f"* {residue}: charges are those of the DCM module", "*", "36  1", ""]
    lines += [
        f"MASS -1 {name:<6} {MASSES[number]:10.5f}"
        for name, number in zip(names, model.atomic_numbers.tolist(), strict=True)
    ]
    lines += ["", f"RESI {residue} 0.00", "GROUP", *(f"ATOM {name:<6} {name:<6} 0.00" for name in names)]
    lines += [f"BOND {names[first]} {names[second]}" for first, second in model.bonds.tolist()]
    return "\n".join([*lines, "PATCHING FIRST NONE LAST NONE", "", "END"]) + "\n"


def _frames(model: ChargeModel) -> dict[int, Frame]:
    """Return the frame of each atom that has charges."""
    frames: dict[int, Frame] = {}
    for frame in model.frames:
        known = frames.setdefault(frame[0], frame)
        if len(known) > 1 and len(frame) > 1 and known != frame:
            raise UserError(
                f"charges of atom {frame[0]} are in the frames {list(known)} and {list(frame)}; CHARMM's file has one "
                "frame for each atom"
            )
        frames[frame[0]] = max(known, frame, key=len)
    return frames


def _turn(model: ChargeModel, k: int) -> np.ndarray:
    """Return the axes (3, 3) of a charge's frame in those of the file; zero where they are not defined."""
    frame = model.frames[k]
    atoms = charmm_frames.completed_frame(model.positions, _frames(model)[frame[0]])
    own = charmm_frames.frame_axes(model.positions, atoms)[0]
    # Signs and zeros, up to rounding.
    return np.rint(frame_axes(model.positions, frame) @ own.T)


def _order(model: ChargeModel) -> list[int]:
    """Return the charges in the order of the .dcm file."""
    return [k for atom in _frames(model) for k, frame in enumerate(model.frames) if frame[0] == atom]


def _coordinates(model: ChargeModel) -> np.ndarray:
    """Return the coordinates (M, K, 3) in Å of the file's charges at the kernel's reference geometries."""
    assert model.kernel is not None
    local = model.local + model.kernel.shifts(model.kernel.distances)
    return np.stack([local[:, k] @ _turn(model, k) for k in _order(model)], axis=1)


def _gaussians(distances: np.ndarray) -> np.ndarray:
    """Return CHARMM's kernel (M, M) of distances (M, P) in Å."""
    return np.exp(-0.5 * ((distances[:, None] - distances[None]) ** 2).sum(axis=-1))


def _coefficients(model: ChargeModel) -> np.ndarray:
    """Return α (M, K, 3) in Å."""
    assert model.kernel is not None
    coordinates = _coordinates(model)
    m = len(coordinates)
    gaussians = _gaussians(model.kernel.distances) + _RIDGE * m * np.eye(m)
    return np.linalg.solve(gaussians, coordinates.reshape(m, -1)).reshape(coordinates.shape)
