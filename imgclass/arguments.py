"""The command line of main.py: absl and ml_collections parse it, this says what is wrong with it.

Left alone, an unknown key is a traceback, a number of the wrong kind is another, and only the
first mistake is reported. Here every mistake is one line, all at once, with exit status 2.
"""

import ast
import importlib.util
import logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from imgclass import config as config_lib
from imgclass.errors import UsageError, UserError

EXAMPLE = "python main.py --config=configs/cnn.py"


def run(main: Callable[[ml_collections.ConfigDict, str], None]) -> None:
    """Parses sys.argv, calls main(config, experiment name) and exits with its status.

    `--config` must be defined, by `config_flags.DEFINE_config_file`.
    """
    app.run(lambda parsed: _guarded(main, *parsed), flags_parser=_guarded_parse)


def _guarded_parse(argv: Sequence[str]) -> Any:
    return _guarded(parse, argv)


def _guarded(function: Callable, *args: Any) -> Any:
    try:
        return function(*args)
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def plain_logging() -> None:
    """Sends this package's log lines to standard error bare, and libraries' only from warnings."""
    root = logging.getLogger()
    root.handlers = [logging.StreamHandler()]
    root.setLevel(logging.WARNING)
    logging.getLogger("imgclass").setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.WARNING)


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, str]:
    """Returns the resolved and checked config, and the experiment's name.

    Raises:
      ConfigError: with every problem found.
    """
    try:
        rest = flags.FLAGS(list(argv))
    except UserError:
        raise
    except Exception as error:  # whatever a parser or a config file raises is the user's to mend
        raise _diagnosis(argv, error) from error
    given = flags.FLAGS["config"]
    if given.value is None:
        raise UsageError(f"--config is missing; for example {EXAMPLE}")
    plain_logging()  # after parsing, which sets absl's own verbosity
    overrides = config_flags.get_override_values(given)
    config = config_lib.resolve(given.value, overrides)
    found = [f"{word!r}: not a flag; flags start with --" for word in rest[1:]]
    found += config_lib.problems(config)
    if found:
        raise config_lib.ConfigError(found)
    return config, pathlib.Path(config_flags.get_config_filename(given).split(":")[0]).stem


def _diagnosis(argv: Sequence[str], error: Exception) -> UserError:
    """Looks at what absl refused, and says everything that is wrong with it."""
    words = list(argv[1:])
    path = next((w.split("=", 1)[1] for w in words if w.startswith("--config=")), None)
    if path is None:
        first = [w for w in words if w.startswith("--config.")]
        if first:
            return UsageError(f"{first[0]}: needs --config=FILE as well; for example {EXAMPLE}")
        return UsageError(str(error))
    try:
        config = _load(path)
    except UsageError as problem:
        return problem
    found: list[str] = []
    flat = config_lib.flatten(config)
    kinds = config_lib.kinds()
    for word in words:
        if word.startswith("--config.") and "=" in word:
            key, text = word.removeprefix("--config.").split("=", 1)
            if key not in kinds:
                found.append(f"{key}: no such key{config_lib.nearest(key, kinds)}")
                continue
            try:
                flat[key] = parse_value(text, kinds[key])
            except ValueError as problem:
                found.append(f"{key}={text}: {problem}")
        elif word.startswith(("--config.", "--noconfig.")):
            key = word.removeprefix("--no").removeprefix("--").removeprefix("config.")
            if key not in kinds:
                found.append(f"{key}: no such key{config_lib.nearest(key, kinds)}")
        elif not word.startswith("-"):
            found.append(f"{word!r}: not a flag; flags start with --")
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        target = config[section] if section else config
        if key in kinds:
            with config.unlocked(), target.ignore_type():
                target[name] = value
    return config_lib.ConfigError(
        [*found, *config_lib.problems(config_lib.resolve(config))] or [_first_line(error)]
    )


def _load(path_and_argument: str) -> ml_collections.ConfigDict:
    path, _, argument = path_and_argument.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        near = sorted(p.as_posix() for p in pathlib.Path("configs").glob("*.py"))
        raise UsageError(f"--config={path}: no such file{config_lib.nearest(path, near)}")
    try:
        spec = importlib.util.spec_from_file_location("_experiment", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except Exception as error:
        raise UsageError(f"{path}: {type(error).__name__}: {_first_line(error)}") from error
    return ml_collections.ConfigDict(config)


def parse_value(text: str, kind: type) -> Any:
    """Returns `text` as a value of `kind`. Raises ValueError with what it must be."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        raise ValueError("must be True or False")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"must be {wanted}") from None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ValueError("must be values in parentheses, such as (64,64)") from None
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
