"""All files of a charge model at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixed_charges import hand_made
from tests.fixed_charges.readers import Itp
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.files import simulation_files

COMMON = {"openmm.xml", "molecule.pdb", "gromacs.itp"}


@pytest.mark.parametrize(
    ("model", "others", "constraints"),
    [
        (hand_made.tip4p(), {"charmm.dcm", "charmm.rtf"}, 3),
        (hand_made.propane(), {"charmm.dcm", "charmm.rtf"}, None),
        (hand_made.random_model("H2O", ((0, 1, 2), (0, 2, 1))), set(), 3),
    ],
    ids=["rigid", "with torsions", "two frames at an atom"],
)
def test_what_can_be_written_is(
    model: ChargeModel, others: set[str], constraints: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = simulation_files(model, "MOL")
    assert set(texts) == COMMON | others
    sections = Itp(texts["gromacs.itp"]).sections
    assert len(sections["constraints"]) == constraints if constraints else "constraints" not in sections
    assert ("<Constraint" in texts["openmm.xml"]) == bool(constraints)
    assert ("no files for CHARMM: charges of atom 0" in capsys.readouterr().out) == (not others)


def test_a_kernel_is_written_for_charmm(capsys: pytest.CaptureFixture[str]) -> None:
    model = hand_made.with_kernel(hand_made.tip4p())
    texts = simulation_files(model, "MOL")
    assert set(texts) == COMMON | {"charmm.dcm", "charmm.rtf", *texts["charmm.kern"].split()[4:], "charmm.kern"}
    assert "coefs8.txt" in texts
    assert "CHARMM's kernel has the charges within" in capsys.readouterr().out


def test_the_users_parameters_are_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "lj.txt").write_text("O 0.31 0.65\nH 0 0\n")
    (tmp_path / "terms.json").write_text('{"bonds": [[0, 1, 0.0957, 4e5], [0, 2, 0.0957, 4e5]]}')
    texts = simulation_files(hand_made.tip4p(), "MOL", tmp_path / "lj.txt", tmp_path / "terms.json")
    for name in ("openmm.xml", "gromacs.itp"):
        assert all(word in texts[name] for word in ("0.31", "0.65", "0.0957", "400000"))
        assert "onstraint" not in texts[name]
