"""How data are named in messages."""

from __future__ import annotations

from typing import Any

import pytest

from shared.data_record import describe_data, describe_difference


def record(digest: str, *names: str, **settings: Any) -> dict[str, Any]:
    """A record of training files of 1,500 molecules each, and one validation file of 10."""
    pairs = [("train", name, 1500) for name in names] + [("valid", "v", 10)]
    return {
        "frames": digest * 32,
        "files": [{"split": s, "efd": f"{n}-efd.npz", "esp": f"{n}-esp.npz", "samples": k} for s, n, k in pairs],
        "inputs": [{"split": s, "efd": n, "esp": n, "units": settings} for s, n, _ in pairs],
        "settings": {"grid_unit": "angstrom", **settings},
    }


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["a"], None, "1,500 train, 10 valid molecules of a-efd.npz, a-esp.npz and 2 more files"),
        (["a", "b"], None, "3,000 train, 10 valid molecules of a-efd.npz, a-esp.npz and 4 more files"),
        (["a"], "valid", "10 valid molecules of v-efd.npz, v-esp.npz"),
    ],
)
def test_files_are_counted_and_the_first_named(names: list[str], split: str, expected: str) -> None:
    assert describe_data(record("c", *names), split) == f"{expected} (frames-{'c' * 16})"


def test_one_file_that_was_divided() -> None:
    splits = {"train": 8, "valid": 1, "test": 1}
    file = {"split": "data", "efd": "all.npz", "esp": "all.npz", "samples": 10, "splits": splits}
    divided = {"frames": "0" * 32, "files": [file, {**file, "efd": "more.npz", "esp": ""}]}
    name = f"frames-{'0' * 16}"
    assert describe_data(divided) == f"16 train, 2 valid, 2 test molecules of all.npz, more.npz ({name})"
    assert describe_data(divided, "test") == f"2 test molecules of all.npz, more.npz ({name})"


def test_without_files_the_frames_are_named() -> None:
    assert describe_data({"frames": "0123456789abcdef0000"}) == "frames-0123456789abcdef"
    assert describe_data(record("c", "a"), "test") == f"frames-{'c' * 16}"


def test_differences() -> None:
    then = record("c", "a")
    assert describe_difference(then, record("d", "b")) == f"trained on {describe_data(then)}, not on " + describe_data(
        record("d", "b")
    )
    same = f"trained on {describe_data(then)}, and these are the same files preprocessed in another way "
    assert describe_difference(then, record("d", "a", grid_unit="bohr")) == same + "(grid_unit angstrom → bohr)"
    assert describe_difference(then, record("d", "a")) == same + "(buckets and reference energies were chosen anew)"
