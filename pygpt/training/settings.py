"""Reads and writes the settings of a run: train.json in its output directory, and --config."""

import os
from dataclasses import asdict, fields

from pygpt.config import ConfigError, TrainConfig
from pygpt.files import (MOST_JSON_BYTES, decode_utf8, errors_begin_with, json_bytes, read_bytes,
                         read_json_object, shown, write_json_object)

MOST_SETTINGS_BYTES = MOST_JSON_BYTES - (1 << 12)  # trainer.json holds the settings and numbers


def read_settings(path):
    """Read a settings file, TOML or JSON.

    Args:
        path: its path. The file is TOML if its name ends in .toml, else JSON.
    Returns:
        {name of a TrainConfig field: value}.
    Raises:
        OSError: it cannot be read.
        ConfigError: it is neither TOML nor JSON, or one of its keys is not a setting.
    """
    path = os.fspath(path)
    try:
        document = (_read_toml(path) if path.endswith(".toml")
                    else read_json_object(path, is_pipe_allowed=True))  # --config <(...)
        check_names(path, document)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return document


def _read_toml(path):
    try:
        import tomllib
    except ImportError:
        raise ValueError(f"{path}: TOML needs Python 3.11 or later; with this one, use JSON"
                         ) from None
    data = read_bytes(path, MOST_JSON_BYTES, is_pipe_allowed=True)
    with errors_begin_with(path):
        text = decode_utf8(data)
        try:
            return tomllib.loads(text)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"is not TOML: {error}") from None


def check_names(path, settings):
    """Check that each key of a dict names a setting.

    Raises:
        ValueError: some keys do not; the message names them.
    """
    unknown = settings.keys() - {f.name for f in fields(TrainConfig)}
    if unknown:
        are = "are not settings" if len(unknown) > 1 else "is not a setting"
        raise ValueError(f"{path}: {', '.join(map(shown, sorted(unknown)))} {are} of a run")


def check_settings_readable(config):
    """Check, before a run begins, that read_settings will be able to read its TrainConfig.

    Raises:
        ConfigError: it is too long as JSON, for example because of a hundred thousand paths.
    """
    try:
        json_bytes(asdict(config), MOST_SETTINGS_BYTES, indent=1)
    except ValueError as error:
        longest = max(("data", "val_data", "sample_prompts"),
                      key=lambda name: sum(map(len, getattr(config, name))))
        raise ConfigError(f"the run's settings: their text {error}; {longest} has "
                          f"{len(getattr(config, longest))} entries: name a directory or a "
                          "pattern instead of each file") from None


def write_settings(path, config):
    """Write a TrainConfig as a file that read_settings can read.

    Raises:
        OSError: the file cannot be written.
        ValueError: the file could not be read again, for example because it is too long.
    """
    write_json_object(path, asdict(config), MOST_SETTINGS_BYTES, indent=1)
