"""The repository's config.toml, made of the settings' classes.

python -m tests.config_file > config.toml
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from dataclasses import fields
from typing import Any

import tomli_w

from preprocess.config import PreprocessConfig
from shared.settings import SharedConfig, as_tables
from train.config import TrainConfig

_HEAD = """\
# Settings of preprocessing and training, at their defaults. A flag of the same name (--physnet-cutoff) beats this file;
# an unknown key is an error. Lists of files are given as ["a.npz", "b.npz"], paired in order.
"""
_WIDTH = 118


def render() -> str:
    """Return the file: every setting at its default, below what its class says of it."""
    tables = as_tables(PreprocessConfig(), "preprocess") | as_tables(TrainConfig(), "train")
    parts = [_HEAD]
    for table, config_class in (("shared", SharedConfig), ("preprocess", PreprocessConfig), ("train", TrainConfig)):
        help_of, hints = _help(config_class), typing.get_type_hints(config_class, include_extras=True)
        lines = [f"[{table}]"]
        for name, value in tables[table].items():
            text = help_of[name] + _choices(hints[name])
            lines += [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]
            lines.append(f"{name} = {_toml(value)}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _toml(value: Any) -> str:
    return " ".join(tomli_w.dumps({"x": value}).removeprefix("x = ").split()).replace("[ ", "[").replace(", ]", "]")


def _choices(hint: Any) -> str:
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return " One of " + ", ".join(f'"{choice}"' for choice in choices) + "." if choices else ""


def _help(config_class: type) -> dict[str, str]:
    """Return what stands below each field of a class and of those that it extends."""
    found: dict[str, str] = {}
    for one in config_class.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(field.target, ast.Name):
                found[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    assert {field.name for field in fields(config_class)} <= set(found)
    return found


if __name__ == "__main__":
    print(render(), end="")
