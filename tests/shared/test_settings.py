"""Settings: defaults, then the file, then the flags; every mistake told in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from preprocess.config import PreprocessConfig
from shared.errors import UserError
from shared.settings import COMPILED, FIXED, Scope, SharedConfig, as_tables, names_in, parse_settings, save_settings
from tests import config_file
from train.config import TrainConfig

REPOSITORY_CONFIG = Path(__file__).parents[2] / "config.toml"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config.toml in the working folder but those that a test writes."""
    monkeypatch.chdir(tmp_path)


def parse_preprocess(*argv: str) -> PreprocessConfig:
    """Settings of preprocessing from these flags."""
    return parse_settings(PreprocessConfig, "preprocess", argv)


def test_defaults_without_file_or_flags() -> None:
    """No file is needed."""
    assert parse_preprocess() == PreprocessConfig()


def test_flag_beats_file_and_file_beats_default() -> None:
    """One setting of each origin."""
    Path("config.toml").write_text(
        "[shared]\nphysnet_cutoff = 5.0\ndcmnet_cutoff = 9\n[preprocess]\nmax_buckets = 7\n", encoding="utf-8"
    )
    config = parse_preprocess("--physnet-cutoff", "4.5")
    assert (config.physnet_cutoff, config.dcmnet_cutoff, config.max_buckets) == (4.5, 9.0, 7)
    assert config.min_bucket_size == PreprocessConfig().min_bucket_size


def test_named_file_takes_the_place_of_the_default_one() -> None:
    """--config FILE and --config=FILE."""
    Path("config.toml").write_text("[preprocess]\nmax_buckets = 7\n", encoding="utf-8")
    Path("other.toml").write_text("[preprocess]\nmin_bucket_size = 9\n", encoding="utf-8")
    for argv in (["--config", "other.toml"], ["--config=other.toml"]):
        config = parse_preprocess(*argv)
        assert (config.max_buckets, config.min_bucket_size) == (PreprocessConfig().max_buckets, 9)


def test_tables_of_the_other_program_do_not_matter() -> None:
    """One file serves both programs."""
    Path("config.toml").write_text("[train]\nepochs = 3\n[preprocess]\nmax_buckets = 2\n", encoding="utf-8")
    assert parse_preprocess().max_buckets == 2
    assert parse_settings(TrainConfig, "train", []).epochs == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[preprocess]\nmax_bucket = 2\n", ["'max_bucket'", "[preprocess]", "'max_buckets'"]),
        ("[shared]\nphysnet_cutof = 2.0\n", ["'physnet_cutof'", "[shared]", "'physnet_cutoff'"]),
        ("[shared]\nmax_buckets = 2\n", ["'max_buckets'", "[shared]"]),
        ("[preproces]\nmax_buckets = 2\n", ["[preproces]", "'preprocess'", "shared, preprocess, train"]),
        ("max_buckets = 2\n", ["max_buckets", "shared, preprocess, train"]),
        ("[preprocess]\nmax_buckets = 'many'\n", ["max_buckets", "'many'", "integer"]),
        ("[preprocess]\nmax_buckets = true\n", ["max_buckets", "True", "integer"]),
        ("[preprocess]\nmax_buckets = '3'\n", ["max_buckets", "'3'", "integer"]),
        ("[preprocess]\nmax_buckets = 1979-05-27\n", ["max_buckets", "1979-05-27", "integer"]),
        ("[shared]\nphysnet_cutoff = true\n", ["physnet_cutoff", "True", "number"]),
        ("[preprocess]\nmax_buckets = 0\n", ["max_buckets", "0", "greater than or equal to 1"]),
        ("[shared]\nphysnet_cutoff = -1.0\n", ["physnet_cutoff", "-1.0", "greater than 0"]),
        ("[shared]\nphysnet_cutoff = nan\n", ["physnet_cutoff", "nan"]),
        ("[shared]\nphysnet_cutoff = inf\n", ["physnet_cutoff", "inf"]),
        ("[preprocess]\ngrid_unit = 'feet'\n", ["grid_unit", "'feet'", "angstrom", "bohr"]),
        ("[preprocess]\ntrain_efd = 'a.npz'\n", ["train_efd", "'a.npz'"]),
        ("[preprocess]\nmax_buckets = \n", ["not valid TOML", "line 2"]),
    ],
)
def test_mistake_in_the_file_names_file_key_and_remedy(content: str, words: list[str]) -> None:
    """One line with the file's name and all that is needed to mend it."""
    Path("bad.toml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        parse_preprocess("--config", "bad.toml")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["bad.toml", *words]:
        assert word in message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_file_with_a_mark_of_its_encoding_is_read(encoding: str) -> None:
    text = "[preprocess]\r\nmax_buckets = 7\r\n"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    Path("config.toml").write_bytes((mark + text).encode(encoding))
    assert parse_preprocess().max_buckets == 7


def test_another_programs_file_in_the_working_directory_is_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("title = 'a page'\n[params]\nmax_buckets = 2\n", encoding="utf-8")
    assert parse_preprocess() == PreprocessConfig()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: config.toml")
    assert "--config" in line
    with pytest.raises(UserError, match="title"):
        parse_preprocess("--config", "config.toml")


@pytest.mark.parametrize(
    "content", [b"[train]\nlr = 1\n", b"[train]\nepochs = 1\n[model]\nx = 1\n", b"[[[\n", b"[train]\nname = '\xfc'\n"]
)
def test_a_file_that_nobody_named_says_where_it_is_and_how_to_name_another(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """And does not keep --help from helping."""
    Path("config.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"^config\.toml: .*working directory.*--config FILE") as caught:
        parse_settings(TrainConfig, "train", [])
    assert "did you mean" not in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        parse_settings(TrainConfig, "train", ["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "--epochs" in shown.out
    assert "--config FILE" in shown.err


@pytest.mark.parametrize("argv", [["--cache-dir", ""], ["--cache-dir= "], ["--config", ""]])
def test_an_empty_path_is_refused(argv: list[str]) -> None:
    with pytest.raises(UserError, match=f"^{argv[0].split('=')[0]} = .*empty"):
        parse_preprocess(*argv)


def test_absent_named_file_is_an_error() -> None:
    """Only the default file may be absent."""
    with pytest.raises(UserError, match=r"nowhere\.toml: no such file"):
        parse_preprocess("--config", "nowhere.toml")


@pytest.mark.parametrize("argv", [["--max-buckets", "0"], ["--workers", "-1"], ["--dcmnet-cutoff", "nan"]])
def test_flag_out_of_range_names_the_flag(argv: list[str]) -> None:
    """The flag as it was typed, and its value."""
    with pytest.raises(UserError) as caught:
        parse_preprocess(*argv)
    assert str(caught.value).startswith(f"{argv[0]} = {argv[1]}")


@pytest.mark.parametrize("argv", [["--max-bucketz", "2"], ["--max-buckets", "many"], ["--checks", "maybe"]])
def test_unusable_flag_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown flag or a value of the wrong type; nothing on standard output."""
    with pytest.raises(SystemExit) as caught:
        parse_preprocess(*argv)
    assert caught.value.code == 2
    assert ("maybe" if argv[0] == "--checks" else "--max-buckets") in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--train-efd", "a", "b", "c"],
        ["--train-efd", "a", "--train-efd", "b", "c"],
        ["--train-efd=a", "--max-buckets", "3", "--train-efd=b", "--train-efd", "c"],
        ["--train_efd", "a", "--train_efd", "b", "--train-efd", "c"],
    ],
)
def test_repeated_lists_are_merged_in_order(argv: list[str]) -> None:
    """No file is dropped in silence, however the flag is spelt."""
    config = parse_preprocess(*argv, "--train-esp", "x", "--train-esp", "y", "z")
    assert config.train_efd == ("a", "b", "c")
    assert config.train_esp == ("x", "y", "z")


def _changed(config: SharedConfig) -> SharedConfig:
    """Every number doubled or shifted, every switch turned, every list and text filled, where the ranges allow it."""
    changes: dict[str, object] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, bool):
            changes[field.name] = not value
        elif isinstance(value, int):
            changes[field.name] = value + 1
        elif isinstance(value, float):
            changes[field.name] = value / 2 + 0.1
        elif isinstance(value, tuple) and value:
            changes[field.name] = tuple(number / 2 + 0.1 for number in value)
        elif isinstance(value, tuple):
            changes[field.name] = (f"{field.name} ä.npz", 'quote".npz')
    return dataclasses.replace(config, cache_dir="some where", **changes)


@pytest.mark.parametrize(("config_class", "table"), [(PreprocessConfig, "preprocess"), (TrainConfig, "train")])
@pytest.mark.parametrize("change", [False, True])
def test_saved_settings_read_back_the_same(config_class: type[SharedConfig], table: str, change: bool) -> None:
    """What is written can be given back with --config, for defaults and for settings that differ in every field."""
    config = _changed(config_class()) if change else config_class()
    save_settings(Path("saved.toml"), as_tables(config, table))
    again = parse_settings(config_class, table, ["--config", "saved.toml"])
    assert dataclasses.replace(again, config=config.config) == config
    assert not change or again.physnet_cutoff == 3.1


def test_every_setting_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help exits with 0 and lists every flag."""
    with pytest.raises(SystemExit) as caught:
        parse_preprocess("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(PreprocessConfig):
        assert "--" + field.name.replace("_", "-") in shown


def test_the_repository_s_config_is_that_of_the_settings_and_is_read_back() -> None:
    """It documents every setting at its default; `python -m tests.config_file > config.toml` makes it anew."""
    assert REPOSITORY_CONFIG.read_text(encoding="utf-8") == config_file.render()
    for config_class, table in ((PreprocessConfig, "preprocess"), (TrainConfig, "train")):
        config = parse_settings(config_class, table, ["--config", str(REPOSITORY_CONFIG)])
        assert dataclasses.replace(config, config="config.toml") == config_class()


def test_every_setting_of_training_says_what_it_determines() -> None:
    scopes = {field.name: field.metadata["scope"] for field in dataclasses.fields(TrainConfig)}
    assert set(scopes.values()) == set(Scope)
    assert names_in(TrainConfig, *Scope) == list(scopes)
    # What is compiled for one training serves another one of other data, lengths and places.
    free = ("frames", "name", "seed", "epochs", "batch_size", "learning_rate", "cache_dir")
    assert not any(scopes[name] in COMPILED for name in free)
    assert all(scopes[name] in COMPILED and scopes[name] in FIXED for name in ("n_dcm", "esp_weight", "ema_decay"))
    assert all(scopes[name] in FIXED for name in ("seed", "batch_size", "learning_rate", "esp_radius_factor"))
    assert scopes["epochs"] not in FIXED
