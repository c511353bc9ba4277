"""A charge model for the DCM module of CHARMM: its charges (.dcm), its kernel (.kern), and a residue's topology (.rtf).

The axes of the .dcm file are those of :mod:`train.inference.charmm_frames`, one set for each atom. In a frame BO of the
same atoms a, b, c they are those of the model but for order and sign, in every geometry: x = -y, y = -z, z = -x of the
model. Where the charges of an atom are in several frames, those of all but the first are so at the reference geometry
alone (:func:`largest_departure`).

The kernel's files are those of the authors of kernel-based distributed charges (Boittier, Töpfer, Devereux & Meuwly,
arXiv 2406.00513; EricBoittier/kMDCM and EricBoittier/FF-Fit on GitHub). The .kern file has the number of reference
geometries, of charges, of frames and of atoms, then the names of the files of the reference distances, a line for each
geometry, and of the coefficients, a file for each coordinate. The coordinates themselves (not their shifts) are
Σ_m α_m exp(-|d - d_m|²/2), the distances d in Å; the width is 1 Å.
"""

from __future__ import annotations

import io

import numpy as np
from scipy.spatial.distance import squareform

from shared.elements import MASSES
from shared.errors import UserError
from train.fixed_charges.charge_model import ChargeModel, gaussians, pair_distances
from train.fixed_charges.topology import atom_names
from train.inference import charmm_frames

_WIDTH = 1.0
"""Å, of CHARMM's kernel, which is fixed."""

_RIDGE = 1e-10
"""Added to the kernel's diagonal, of each geometry: those that are close to each other make it nearly singular."""


def charmm_dcm(model: ChargeModel, residue: str) -> str:
    """Return the text of a .dcm file of one residue, with a frame for each atom that has charges.

    Args:
        model: of a kernel's the charges are where they are at the reference geometry.
        residue: name in CHARMM's topology, whose atoms are in the same order.
    """
    frames = _frames(model)
    (local,) = _local(model, model.positions[None])
    text = io.StringIO()
    text.write("1 0          ! residue types, residues with flexible charges\n\n")
    text.write(f"{residue}       ! residue\n{len(frames)}          ! frames\n")
    for number, (atom, frame) in enumerate(frames.items(), start=1):
        indices = [0 if other is None else other + 1 for other in frame]
        text.write("{:4d} {:4d} {:4d} BO  ! atoms of frame {}\n".format(*indices, number))
        own = [k for k, other in enumerate(model.frames) if other[0] == atom]
        text.write(f"{len(own)} 0          ! charges and polarisable sites of atom {indices[0]}\n")
        for k in own:
            text.write("".join(f"{value:18.10f}" for value in (*local[k], model.charges[k])) + "\n")
        text.writelines(f"0 0          ! atom {index}: none here\n" for index in indices[1:])
    text.write("\n")
    return text.getvalue()


def charmm_kernel(model: ChargeModel) -> dict[str, str]:
    """Return the kernel's files by name: ``charmm.kern``, ``x_fit.txt``, ``coefs0.txt``, ...

    The charges are in the order of :func:`charmm_dcm`, and so are the frames. The kernel is fitted anew to the model's
    sites at its reference geometries, since CHARMM's width and form are fixed (:func:`largest_departure`).

    Raises:
        UserError: the model has no kernel.
    """
    if model.kernel is None:
        raise UserError("the charge model has no kernel; charmm.dcm alone describes it")
    order = [k for atom in _frames(model) for k, frame in enumerate(model.frames) if frame[0] == atom]
    coefficients = _coefficients(model)[:, order]
    m, k, _ = coefficients.shape
    names = ["x_fit.txt", *(f"coefs{number}.txt" for number in range(3 * k))]
    header = f"{m} {k} {len(_frames(model))} {len(model.atomic_numbers)}"
    texts = {"charmm.kern": "\n".join([header, *names]) + "\n"}
    for name, values in zip(names, [model.kernel.distances, *coefficients.reshape(m, 3 * k).T], strict=True):
        text = io.StringIO()
        np.savetxt(text, values, fmt="%.16e")
        texts[name] = text.getvalue()
    return texts


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
    lines += ["", "AUTOGENERATE ANGLES DIHEDRALS", ""]
    lines += [f"RESI {residue} 0.00", "GROUP", *(f"ATOM {name:<6} {name:<6} 0.00" for name in names)]
    lines += [f"BOND {names[first]} {names[second]}" for first, second in model.bonds.tolist()]
    return "\n".join([*lines, "PATCHING FIRST NONE LAST NONE", "", "END"]) + "\n"


def largest_departure(model: ChargeModel, geometries: np.ndarray) -> float:
    """Return how far (Å) a charge of the files is from that of the model at most, at geometries (G, N, 3) in Å."""
    if model.kernel is None:
        local = np.broadcast_to(_local(model, model.positions[None]), (len(geometries), *model.local.shape))
    else:
        weights = gaussians(pair_distances(geometries), model.kernel.distances, _WIDTH)
        local = np.einsum("gm,mkx->gkx", weights, _coefficients(model))
    owners = geometries[:, [frame[0] for frame in model.frames]]
    sites = owners + np.einsum("gki,gkix->gkx", local, _axes(model, geometries))
    return float(np.linalg.norm(sites - model.sites(geometries), axis=-1).max())


def kernel_geometries(model: ChargeModel) -> np.ndarray:
    """Return the reference geometries (M, N, 3) in Å of the model's kernel, from their distances alone.

    Of the two mirror images each is the one that is more like the reference geometry of the model.

    Raises:
        UserError: the model has no kernel.
    """
    if model.kernel is None:
        raise UserError("the charge model has no kernel")
    reference = model.positions - model.positions.mean(axis=0)
    geometries = []
    for distances in model.kernel.distances:
        squares = squareform(distances) ** 2
        centred = squares - squares.mean(axis=0)
        # Classical multidimensional scaling.
        values, vectors = np.linalg.eigh(-0.5 * (centred - centred.mean(axis=1, keepdims=True)))
        found = np.zeros_like(reference)
        found[:, : len(values)] = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1][:, :3]
        # The best of all rotations and reflections, of which a reflection would not be a motion.
        left, _, right = np.linalg.svd(found.T @ reference)
        geometries.append(found @ left @ right)
    return np.stack(geometries)


def _frames(model: ChargeModel) -> dict[int, charmm_frames.Frame]:
    """Return the frame of each atom that has charges: the first of those with most atoms."""
    atoms = dict.fromkeys(frame[0] for frame in model.frames)
    longest = {atom: max((frame for frame in model.frames if frame[0] == atom), key=len) for atom in atoms}
    return {atom: charmm_frames.completed_frame(model.positions, frame) for atom, frame in longest.items()}


def _axes(model: ChargeModel, geometries: np.ndarray) -> np.ndarray:
    """Return the file's axes (G, K, 3, 3) of each charge."""
    frames = _frames(model)
    own = [{atom: charmm_frames.frame_axes(one, frame)[0] for atom, frame in frames.items()} for one in geometries]
    return np.stack([[axes[frame[0]] for frame in model.frames] for axes in own])


def _local(model: ChargeModel, geometries: np.ndarray) -> np.ndarray:
    """Return the file's coordinates (G, K, 3) in Å of each charge."""
    displacements = model.sites(geometries) - geometries[:, [frame[0] for frame in model.frames]]
    return np.einsum("gkix,gkx->gki", _axes(model, geometries), displacements)


def _coefficients(model: ChargeModel) -> np.ndarray:
    """Return α (M, K, 3) in Å of each charge."""
    assert model.kernel is not None
    local = _local(model, kernel_geometries(model))
    m = len(local)
    matrix = gaussians(model.kernel.distances, model.kernel.distances, _WIDTH) + _RIDGE * m * np.eye(m)
    return np.linalg.solve(matrix, local.reshape(m, -1)).reshape(local.shape)
