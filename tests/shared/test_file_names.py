"""Files as users name them: pipes, marks of an encoding, `@` in names, numbers of frames; and true reasons."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import pytest

from shared.errors import UserError
from shared.files import require_readable
from shared.input.ase_files import read_frames
from shared.input.file_names import expand
from shared.input.labelled import open_source
from shared.input.labels import FrameKeys
from tests.support import SAMPLE

WATER = ase.Atoms("OH2", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]])


@pytest.fixture
def frames(tmp_path: Path) -> bytes:
    """Three frames in extended XYZ."""
    ase.io.write(tmp_path / "w.xyz", [WATER] * 3, format="extxyz")
    return (tmp_path / "w.xyz").read_bytes()


def count(name: str | Path) -> int:
    return sum(1 for _ in open_source(str(name), FrameKeys("", "", "", "")))


@pytest.mark.parametrize("change", [lambda b: b, lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")])
@pytest.mark.parametrize("name", ["CO2@B3LYP.xyz", "w@1.xyz", "ü 中.xyz"])
def test_a_file_that_is_there_is_found(
    tmp_path: Path, frames: bytes, name: str, change: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(change(frames))
    assert count(tmp_path / name) == 3
    assert count(f"{tmp_path / name}@1:") == 2


@pytest.mark.parametrize("index", ["3", "-4", "5:9"])
def test_a_number_of_no_frame_is_said(tmp_path: Path, frames: bytes, index: str) -> None:
    with pytest.raises(UserError, match=f"w.xyz@{index} names none of the frames .* counted from 0"):
        list(read_frames(f"{tmp_path / 'w.xyz'}@{index}"))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_said(tmp_path: Path, frames: bytes, encoding: str) -> None:
    text = frames.decode().replace("pbc=", 'note="ü" pbc=')
    (tmp_path / "w.xyz").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match="not in UTF-8"):
        list(read_frames(str(tmp_path / "w.xyz")))


@pytest.mark.parametrize("name", ["pipe", "pipe.xyz", "pipe.npz"])
def test_molecules_come_through_a_pipe(tmp_path: Path, frames: bytes, name: str) -> None:
    """As from /dev/stdin, of which the name says nothing. Preprocessing, which reads more than once, refuses it."""
    pipe = tmp_path / name
    os.mkfifo(pipe)
    content = (SAMPLE / "co2-efd-test.npz").read_bytes() if name == "pipe.npz" else frames
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert count(pipe) == (40 if name == "pipe.npz" else 3)
    writer.join()
    with pytest.raises(UserError, match=r"--data: .* is a pipe"):
        expand([str(pipe)], "--data")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data: .* empty"):
        expand([""], "--data")


@pytest.mark.parametrize("name", ["w.xyz", "w.npz", "w.h5"])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(
    tmp_path: Path, frames: bytes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of another user; root may open all files, so the refusal is made up."""
    path = tmp_path / name
    path.write_bytes(frames)
    opened = Path.open

    def refuse(self: Path, *more: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"^\S*w\.\w+: Permission denied$"):
        require_readable(path)
    if name != "w.xyz":
        from shared.input.npz import NpzFile
        from shared.shards import map_shard

        with pytest.raises(UserError, match=r"^\S*: Permission denied$"):
            NpzFile(path) if name == "w.npz" else map_shard(path)
