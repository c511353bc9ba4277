"""All files of a charge model at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixed_charges import hand_made
from tests.fixed_charges.readers import Itp
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.charmm_files import kernel_geometries
from train.fixed_charges.files import describe_departures, kernel_files, read_parameters, simulation_files


@pytest.mark.parametrize(
    ("model", "constraints"), [(hand_made.tip4p(), 3), (hand_made.propane(), None)], ids=["rigid", "with torsions"]
)
def test_constraints_are_written_where_they_suffice(model: ChargeModel, constraints: int | None) -> None:
    texts = simulation_files(model, "MOL")
    assert set(texts) == {"openmm.xml", "molecule.pdb", "gromacs.itp", "charmm.dcm", "charmm.rtf"}
    sections = Itp(texts["gromacs.itp"]).sections
    assert len(sections["constraints"]) == constraints if constraints else "constraints" not in sections
    assert ("<Constraint" in texts["openmm.xml"]) == bool(constraints)


def test_a_kernel_is_written_for_charmm_and_what_is_lost_is_said() -> None:
    plain = hand_made.tip4p()
    model = hand_made.with_kernel(plain)
    texts = kernel_files(model, "MOL")
    assert set(texts) == {"charmm.dcm", "charmm.rtf", "charmm.kern", *texts["charmm.kern"].split()[4:]}
    assert "coefs8.txt" in texts
    pattern = r"at 12 geometries .* most (\S+) Å in OpenMM, (\S+) Å in GROMACS, (\S+) Å in CHARMM"
    for own, more in ((plain, ""), (model, ", (\\S+) Å in CHARMM's kernel")):
        said = describe_departures(own, model if more else None, kernel_geometries(model))
        found = re.fullmatch(f"note: {pattern}{more}", said)
        assert found, said
        openmm, gromacs, charmm, *kernel = map(float, found.groups())
        if more:
            # Files without a kernel lose its shifts.
            assert kernel == [charmm]
            assert charmm < 1e-3 < openmm < gromacs
        else:
            assert openmm == 0.0 < gromacs


def test_the_users_parameters_are_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "lj.txt").write_text("O 0.31 0.65\nH 0 0\n")
    (tmp_path / "terms.json").write_text('{"bonds": [[0, 1, 0.0957, 4e5], [0, 2, 0.0957, 4e5]]}')
    model = hand_made.tip4p()
    texts = simulation_files(model, "MOL", *read_parameters(model, "MOL", tmp_path / "lj.txt", tmp_path / "terms.json"))
    for name in ("openmm.xml", "gromacs.itp"):
        assert all(word in texts[name] for word in ("0.31", "0.65", "0.0957", "400000"))
        assert "onstraint" not in texts[name]
