"""Settings from flags and config.toml in a frozen dataclass: tyro makes the flags, pydantic checks the values."""

from __future__ import annotations

import argparse
import codecs
import difflib
import json
import sys
import tomllib
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
import tyro
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from shared.errors import UserError
from shared.files import write_atomically

DEFAULT_CONFIG_FILE = Path("config.toml")
TABLES = ("shared", "preprocess", "train")
_FOUND = " (it lies in the working directory; --config FILE names another one, --config /dev/null none)"
_CLOSE = 0.6
"""Similarity from which on a word may have been meant."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _not_empty(path: str) -> str:
    if not path.strip():
        raise ValueError("a path is needed, and this one is empty")
    return path


PathName = Annotated[str, AfterValidator(_not_empty)]
"""Path that is needed; an empty one would be the working directory."""


class Scope(Enum):
    """What a setting of training determines, and therefore what may be kept when it changes."""

    MODEL = "what the weights mean: other weights cannot be taken over"
    STEP = "the compiled programs and the steps taken: a run keeps it"
    RUN = "the steps taken: a run keeps it, the same programs serve others"
    PROGRAM = "the compiled programs: a continued run may have another"
    HOST = "neither: a continued run may have another"


COMPILED = (Scope.MODEL, Scope.STEP, Scope.PROGRAM)
"""Scopes of the settings that compiled programs contain."""

FIXED = (Scope.MODEL, Scope.STEP, Scope.RUN)
"""Scopes of the settings that a run keeps: another value would give other weights, beyond rounding."""


def setting(default: Any, scope: Scope, before: Any = None) -> Any:
    """Return a dataclass field with this default and scope.

    ``before`` is the value with which runs were trained that are older than the setting, where that is not its default.
    """
    return field(default=default, metadata={"scope": scope, "before": before})


def names_in(config_class: type, *scopes: Scope) -> list[str]:
    """Return the names of the settings of these scopes, in order."""
    return [one.name for one in fields(config_class) if one.metadata["scope"] in scopes]


def values_before(config_class: type, written: Container[str]) -> dict[str, Any]:
    """Return the values of the settings that are newer than a run, whose file has the settings ``written``."""
    found = {one.name: one.metadata["before"] for one in fields(config_class)}
    return {name: value for name, value in found.items() if value is not None and name not in written}


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that give settings these values, which are numbers, texts or booleans."""
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


@dataclass(frozen=True)
class SharedConfig:
    """Settings that preprocessing and training must agree on (table [shared] of config.toml)."""

    config: PathName = setting(str(DEFAULT_CONFIG_FILE), Scope.HOST)
    """TOML file with settings; a flag beats the file."""

    cache_dir: PathName = setting("data_cache", Scope.HOST)
    """Folder of the preprocessed shards."""

    physnet_cutoff: Positive = setting(6.0, Scope.MODEL)
    """Cutoff of PhysNet's messages, Å."""

    dcmnet_cutoff: Positive = setting(10.0, Scope.MODEL)
    """Cutoff of DCMNet's messages, Å."""


ConfigT = TypeVar("ConfigT", bound=SharedConfig)
DataclassT = TypeVar("DataclassT")


def parse_settings(
    config_class: type[ConfigT], table: str, argv: Sequence[str] | None = None, prog: str | None = None
) -> ConfigT:
    """Return the settings from defaults, then config.toml's [shared] and [``table``], then the flags.

    Raises:
        UserError: an unknown table or key, a value of the wrong type or out of range, a file that cannot be read.
        SystemExit: with code 2 for an unknown flag (tyro prints the nearest one), with 0 after --help.
    """
    argv = _merge_repeated(config_class, list(sys.argv[1:] if argv is None else argv))
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    asked = finder.parse_known_args(argv)[0].config
    path = Path(asked or DEFAULT_CONFIG_FILE)
    try:
        written = _settings_of_file(config_class, table, path, bool(asked))
        default = _checked(config_class, written, f"{path}: ", typed=True)
    except UserError as error:
        if not {"-h", "--help"}.intersection(argv):
            raise error if asked else UserError(f"{error}{_FOUND}") from error
        print(f"note: {error}{'' if asked else _FOUND}", file=sys.stderr)
        default = config_class()
    parsed = tyro.cli(config_class, prog=prog, args=argv, default=default, description=config_class.__doc__)
    return checked(config_class, asdict(parsed), "", as_flag=True)


def checked(config_class: type[ConfigT], values: dict[str, Any], where: str, as_flag: bool = False) -> ConfigT:
    """Return an instance of ``config_class`` from plain values, with types and ranges checked by pydantic."""
    return _checked(config_class, values, where, as_flag)


def _checked(
    config_class: type[DataclassT], values: dict[str, Any], where: str, as_flag: bool = False, typed: bool = False
) -> DataclassT:
    """Return the instance; of ``typed`` values, a text is no number, and true is not 1."""
    adapter = TypeAdapter(config_class)
    try:
        if typed:
            # As JSON, in which a list may stand for a tuple.
            return adapter.validate_json(json.dumps(values, default=str), strict=True)
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        shown = "--" + key.replace("_", "-") if as_flag else key
        own = first.get("ctx", {}).get("error") if first["type"] == "value_error" else None
        # Only the first letter: the rest may hold a pattern.
        why = str(own) if own else first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{where}{shown} = {first['input']!r}: {why}") from error


def parse_flags(config_class: type[DataclassT], prog: str, argv: Sequence[str] | None = None) -> DataclassT:
    """Return the settings from flags alone, for a program that reads no config.toml.

    Raises:
        UserError: a value is out of its range; names the flag.
        SystemExit: with code 2 for an unknown flag, with 0 after --help.
    """
    parsed = tyro.cli(config_class, prog=prog, args=argv, description=config_class.__doc__)
    return _checked(config_class, vars(parsed), "", as_flag=True)


def save_settings(path: Path, tables: dict[str, dict[str, Any]]) -> None:
    """Write settings as TOML tables."""
    write_atomically(path, tomli_w.dumps(tables).encode())


def as_tables(config: SharedConfig, table: str) -> dict[str, dict[str, Any]]:
    """Return the settings as config.toml's tables, so that the written file can be given with --config."""
    shared_keys = {field.name for field in fields(SharedConfig)}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    values.pop("config")
    return {
        "shared": {key: value for key, value in values.items() if key in shared_keys},
        table: {key: value for key, value in values.items() if key not in shared_keys},
    }


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; a UserError names the file and the line."""
    try:
        return tomllib.loads(_decoded(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; --config names a TOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not in UTF-8, which TOML is ({error.reason}); save it in UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def _decoded(path: Path) -> str:
    """Return the text of a file in UTF-8, with the mark that some editors begin with or without, or in UTF-16."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig").replace("\r\n", "\n")


def _settings_of_file(config_class: type[ConfigT], table: str, path: Path, asked: bool) -> dict[str, Any]:
    """Return the settings in a file; none if nobody asked for it and it is absent or another program's."""
    if not asked and not path.exists():
        return {}
    content = read_toml(path)
    own = {*TABLES, *(one.name for one in fields(config_class))}
    if not asked and content and not any(difflib.get_close_matches(name, own, 1, _CLOSE) for name in content):
        print(f"note: {path}: none of its tables is {', '.join(TABLES)}, so it is not read{_FOUND}", file=sys.stderr)
        return {}
    return _read_tables(config_class, table, path, content)


def _read_tables(config_class: type[ConfigT], table: str, path: Path, content: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, entries in content.items():
        if name not in TABLES or not isinstance(entries, dict):
            raise UserError(
                f"{path}: unknown table [{name}]{_nearest(name, TABLES)}; the tables are {', '.join(TABLES)}"
            )
    shared_keys = [field.name for field in fields(SharedConfig) if field.name != "config"]
    own_keys = [field.name for field in fields(config_class) if field.name != "config"]
    for name, allowed in (("shared", shared_keys), (table, own_keys)):
        for key, value in content.get(name, {}).items():
            if key not in allowed:
                raise UserError(f"{path}: unknown key {key!r} in [{name}]{_nearest(key, allowed)}")
            values[key] = value
    return values


def _nearest(word: str, candidates: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, candidates, 1, _CLOSE)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _merge_repeated(config_class: type[SharedConfig], argv: list[str]) -> list[str]:
    """Merge ``--train-efd a --train-efd b`` into ``--train-efd a b``: the parser alone would keep only the last."""
    flags = {
        "--" + field.name.replace("_", "-") for field in fields(config_class) if str(field.type).startswith("tuple[")
    }
    merged: list[str] = []
    gathered: dict[str, list[str]] = {}
    target = merged
    for word in argv:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")  # the parser takes both spellings
        if flag in flags:
            target = gathered.setdefault(flag, [])
            target.extend([value] if equals else [])
        elif word.startswith("--"):
            target = merged
            merged.append(word)
        else:
            target.append(word)
    for flag, values in gathered.items():
        merged.extend([flag, *values])
    return merged
