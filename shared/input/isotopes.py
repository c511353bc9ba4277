"""Deuterium and tritium in extended XYZ and SDF files, whose symbols ASE does not know: hydrogen with its mass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO
from typing import IO

from ase.data import atomic_masses_iupac2016, atomic_numbers

ISOTOPES = {"D": 2.01410177812, "T": 3.01604928199}
"""Masses in u (AME2020)."""

_SYMBOL = re.compile(r"^\s*[DT]\s", re.MULTILINE)
_PROPERTIES = re.compile(r"(Properties\s*=\s*)(\"[^\"]*\"|'[^']*'|\S+)", re.IGNORECASE)
_PLAIN = "species:S:1:pos:R:3"


def with_masses(stream: IO[str]) -> IO[str]:
    """Return an extended XYZ file in which D and T are H with a column of masses; the same file if it has neither."""
    start = stream.tell()
    found = any(_SYMBOL.match(line) for line in stream)
    stream.seek(start)
    return StringIO("".join(_frames(stream))) if found else stream


def _frames(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline():
        yield line
        if not line.strip().isdigit():
            continue  # not a frame: ASE says what is wrong
        comment = stream.readline()
        atoms = [stream.readline() for _ in range(int(line))]
        if any(_SYMBOL.match(atom) for atom in atoms):
            comment, atoms = _with_column(comment, atoms)
        yield comment
        yield from atoms


def _with_column(comment: str, atoms: list[str]) -> tuple[str, list[str]]:
    found = _PROPERTIES.search(comment)
    columns = found[2].strip("\"'") if found else _PLAIN
    names = columns.split(":")[::3]
    if "masses" in names or names[0] != "species":
        return comment, [_SYMBOL.sub("H ", atom) for atom in atoms]
    named = f"Properties={columns}:masses:R:1"
    comment = _PROPERTIES.sub(named, comment) if found else f"{named} {comment if '=' in comment else ''}\n"
    widened = []
    for atom in atoms:
        word = (atom.split() or [""])[0]
        mass = ISOTOPES.get(word) or atomic_masses_iupac2016[atomic_numbers.get(word, 0)]
        widened.append(f"{_SYMBOL.sub('H ', atom).rstrip()} {mass}\n")
    return comment, widened


def masses_of_mol(lines: list[str]) -> tuple[list[str], dict[int, float]]:
    """Return the lines of an SDF record with H for D and T, and the masses in u of its isotopes, by atom from 0."""
    masses: dict[int, float] = {}
    count = int(lines[3][:3]) if len(lines) > 3 and lines[3][:3].strip().isdigit() else 0
    lines = list(lines)
    for atom in range(min(count, len(lines) - 4)):
        line = lines[4 + atom]
        if line[31:34].strip() in ISOTOPES:
            masses[atom] = ISOTOPES[line[31:34].strip()]
            lines[4 + atom] = f"{line[:31]}H  {line[34:]}"
    for words in (line.split()[3:] for line in lines if line.startswith("M  ISO")):
        for atom_number, mass in zip(words[::2], words[1::2], strict=False):
            exact = {2: ISOTOPES["D"], 3: ISOTOPES["T"]}
            masses[int(atom_number) - 1] = exact.get(int(mass), float(mass))
    return lines, masses
