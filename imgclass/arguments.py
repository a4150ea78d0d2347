"""The command line of main.py: absl and ml_collections parse it, this says what is wrong with it.

Left alone, an unknown key is a traceback, a number of the wrong kind is another, and only the
first mistake is reported. Here every mistake is one line, all at once, with exit status 2.
"""

import ast
import importlib.util
import logging
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from imgclass import config as config_lib
from imgclass import models
from imgclass.errors import UsageError, UserError, first_line, is_out_of_memory

EXAMPLE = "python main.py --config=configs/cnn.py"


def run(main: Callable[[ml_collections.ConfigDict, str], None]) -> None:
    """Parses sys.argv, calls main(config, experiment name) and exits with its status.

    `--config` must be defined, by `config_flags.DEFINE_config_file`.
    """
    app.run(lambda parsed: _guarded(main, *parsed), flags_parser=_guarded_parse)


def _guarded_parse(argv: Sequence[str]) -> Any:
    if {"--help", "-help", "-h"} & set(argv[1:]):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)  # absl's own exits with 1
    parsed = _guarded(parse, argv)
    plain_logging()  # after parsing, which sets absl's own verbosity
    return parsed


def _guarded(function: Callable, *args: Any) -> Any:
    try:
        return function(*args)
    except UserError as error:
        if _debugging():
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except (MemoryError, RuntimeError, ValueError) as error:  # JAX's is one of the last two
        if _debugging() or not is_out_of_memory(error):
            raise
        sys.stderr.write(
            f"out of memory: {first_line(error)}. Try --config.data.feed=stream, "
            "--config.optim.accumulate=4 or a smaller train.batch_size or data.image_size\n"
        )
        sys.exit(1)


def _debugging() -> bool:
    values = flags.FLAGS
    if values.is_parsed() and "debug" in values:
        return bool(values["debug"].value)
    words = [word.lower().lstrip("-") for word in sys.argv[1:] if word.startswith("-")]
    return not {"debug", "debug=true", "debug=1"}.isdisjoint(words)  # parsing has failed


def plain_logging() -> None:
    """Sends this package's log lines to standard error bare, and libraries' only from warnings."""
    root = logging.getLogger()
    root.handlers = [logging.StreamHandler()]
    root.setLevel(logging.WARNING)
    logging.getLogger("imgclass").setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.WARNING)


def parse(
    argv: Sequence[str], values: flags.FlagValues = flags.FLAGS
) -> tuple[ml_collections.ConfigDict, str]:
    """Returns the resolved and checked config, and the experiment's name.

    Args:
      argv: the program's name and its arguments.
      values: the flags, 'config' among them.

    Raises:
      ConfigError: with every problem found.
    """
    try:
        rest = values(list(argv))
    except Exception as error:  # whatever a parser or a config file raises is the user's to mend
        raise _diagnosis(argv, values, error) from error
    given = values["config"]
    if len(rest) > 1 or not isinstance(given.value, ml_collections.ConfigDict):
        raise _diagnosis(argv, values)
    _check_repeated(argv)
    overrides = config_flags.get_override_values(given)
    config = config_lib.resolve(given.value, overrides)
    config_lib.check(config, overrides, models.used_keys())
    return config, pathlib.Path(config_flags.get_config_filename(given).split(":")[0]).stem


def _check_repeated(argv: Sequence[str]) -> None:
    """Raises UsageError for a tuple given twice, whose values ml_collections would join."""
    kinds = config_lib.kinds()
    names = [word.removeprefix("--").partition("=")[0] for word in argv[1:]]
    keys = [name.removeprefix("config.") for name in names if name.startswith("config.")]
    twice = sorted({key for key in keys if keys.count(key) > 1 and kinds.get(key) is tuple})
    if twice:
        raise UsageError("\n".join(f"{key}: given twice; give it once" for key in twice))


def _diagnosis(
    argv: Sequence[str], values: flags.FlagValues, error: Exception | None = None
) -> UserError:
    """Looks at what absl refused, and says everything that is wrong with it."""
    kinds = config_lib.kinds()
    found: list[str] = []
    path, early = "", []
    overrides: dict[str, Any] = {}
    for word in _joined(argv[1:], values):
        name, given, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            found.append(f"{word!r}: not a flag; flags start with --")
        elif name == "config":
            path = text
        elif name.startswith(("config.", "noconfig.")):
            key = name.partition(".")[2]
            if not path:
                early.append(word)
            if key not in kinds:
                found.append(f"{key}: no such key{config_lib.nearest(key, kinds)}")
                continue
            if not given and kinds[key] is bool:
                text = str(name.startswith("config."))
            try:
                overrides[key] = parse_value(text, kinds[key])
            except ValueError as problem:
                found.append(f"{key}={text}: {problem}")
        else:
            found += _flag_problems(name, text if given else None, values)
    if not path:
        found.insert(0, f"--config is missing; for example {EXAMPLE}")
        return UsageError("\n".join(found))
    found += [f"{word}: has to stand after --config={path}" for word in early]
    try:
        config = load_experiment(path)
    except UsageError as problem:
        return UsageError("\n".join([str(problem), *found]))
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        target = config.get(section) if section else config
        if isinstance(target, ml_collections.ConfigDict):
            with target.unlocked(), target.ignore_type():
                target[name] = value
    resolved = config_lib.resolve(config, overrides)
    found += config_lib.problems(resolved, overrides, models.used_keys())
    return config_lib.ConfigError(found or [first_line(error or ValueError("bad arguments"))])


def _joined(words: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Returns the words with '-flag value' written '--flag=value', which absl takes as well."""
    joined: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and word.strip("-"):
            word = f"--{word.lstrip('-')}"
            name = word[2:]
            known = name.startswith("config.") or (name in values and not values[name].boolean)
            alone = config_lib.kinds().get(name.removeprefix("config.")) is bool or "=" in word
            if known and not alone and rest and not rest[0].startswith("--"):
                word = f"{word}={rest.pop(0)}"
        joined.append(word)
    return joined


def _flag_problems(name: str, text: str | None, values: flags.FlagValues) -> list[str]:
    known = {flag for flag in values if not flag.startswith("config.")}
    if name not in known and name.removeprefix("no") not in known:
        return [f"--{name}: no such flag{config_lib.nearest(name, known)}"]
    if name in known and text is not None:
        try:
            values[name].parser.parse(text)
        except (ValueError, TypeError) as problem:
            return [f"--{name}={text}: {first_line(problem)}"]
    return []


def load_experiment(path_and_argument: str) -> ml_collections.ConfigDict:
    """Returns the config of 'FILE.py' or 'FILE.py:ARGUMENT', neither resolved nor checked.

    Raises:
      UsageError: there is no such file, or it fails.
    """
    path, _, argument = path_and_argument.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        near = sorted(p.as_posix() for p in pathlib.Path("configs").glob("*.py"))
        raise UsageError(f"--config={path}: no such file{config_lib.nearest(path, near)}")
    given = (argument,) if argument else ()
    config = run_file(path, lambda module: module.get_config(*given))
    if not isinstance(config, ml_collections.ConfigDict):
        raise UsageError(f"{path}: get_config() has to return imgclass.config.defaults(), changed")
    return config


def run_file(path: str, ask: Callable[[Any], Any]) -> Any:
    """Runs a person's Python file and returns what `ask` gets of the module.

    Raises:
      UsageError: it is no Python file, or one of the two fails; with the line of the file.
    """
    spec = importlib.util.spec_from_file_location("_file", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return ask(module)
    except (Exception, SystemExit) as error:  # whatever the file raises is its author's to mend
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        where = f"{path}, line {lines[-1]}" if lines else path
        said = str(error) if isinstance(error, UserError) else _reason(error)
        raise UsageError(f"{where}: {said}") from error


def _reason(error: BaseException) -> str:
    text = first_line(error)
    unknown = re.match(r"""['"]+Key "(.+?)" does not exist""", text)
    if unknown:  # ml_collections goes on to print every key there is
        return f"no such key {unknown[1]!r}{config_lib.nearest(unknown[1], config_lib.kinds())}"
    return f"{type(error).__name__}: {text}"


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
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("must be values in parentheses, such as (64,64)") from None
    return tuple(value) if isinstance(value, list | tuple) else (value,)
