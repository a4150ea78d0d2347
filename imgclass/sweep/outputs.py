"""What a sweep leaves in its folder besides runs: logs' places, plots, tables, the best config.

Figures are given; nothing here reads a run.
"""

import pathlib
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from imgclass import config as config_lib
from imgclass import files
from imgclass.errors import UserError


def log_of(root: pathlib.Path, name: str) -> pathlib.Path:
    """Returns where the output of a run's process goes; its folder is made."""
    folder = root / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); give --root") from None
    return folder / f"{name}.txt"


def plot_history(
    finished: Sequence[tuple[int, float]],
    pruned: Sequence[tuple[int, float]],
    metric: str,
    path: pathlib.Path,
) -> None:
    """Draws each trial's figure by its number, and the best so far; pruned ones are crosses."""
    figure, axes = _figure(3.6)
    better = min if metric == "loss" else max
    numbers, values = zip(*sorted(finished), strict=True)
    best = [better(values[: count + 1]) for count in range(len(values))]
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="0.6", label="pruned, where it stopped")
    axes.plot(numbers, values, "o", color="C0", label="finished")
    axes.step(numbers, best, where="post", color="C1", label="best so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {metric}")
    axes.legend()
    files.save_figure(figure, path)


def plot_importance(importance: Mapping[str, float], path: pathlib.Path) -> None:
    """Draws each key's share of the variance between finished trials (fANOVA)."""
    figure, axes = _figure(0.4 * len(importance) + 1.2)
    keys = sorted(importance, key=lambda key: importance[key])
    axes.barh(keys, [importance[key] for key in keys], color="C0")
    axes.set_xlabel("share of the variance between finished trials (fANOVA)")
    files.save_figure(figure, path)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots()


def recipe(config: ml_collections.ConfigDict, about: str, path: pathlib.Path) -> str:
    """Returns the text of an experiment file that makes `config`, whatever its base becomes.

    Args:
      config: resolved and checked.
      about: its docstring's first paragraph.
      path: where the text will be.
    """
    differing = config_lib.difference(config_lib.defaults(), config)
    lines = [f"config.{key} = {new!r}" for key, (_, new) in differing.items() if new is not None]
    # For a shell first, and then for a docstring.
    quoted = shlex.quote(str(path)).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'"""{_wrapped(about)}\n\nRun       python main.py --config={quoted}\n"""\n\n'
        "import ml_collections\n\n"
        "from imgclass import config as config_lib\n\n\n"
        "def get_config() -> ml_collections.ConfigDict:\n"
        '    """Returns the config."""\n'
        "    config = config_lib.defaults()\n"
        + "".join(f"    {line}\n" for line in lines)
        + "    return config\n"
    )


def _wrapped(text: str) -> str:
    safe = text.replace("\\", "/").replace('"', "'")
    return "\n".join(textwrap.wrap(safe, 96, break_long_words=False))


def trials_table(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Returns a Markdown table of trials, a row each: number, state, figure and values."""
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    head = ["trial", "state", f"validation {metric}", *keys]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        figure = "" if row["value"] is None else f"{row['value']:.4f}"
        values = [_short(row["values"].get(key, "")) for key in keys]
        cells = [str(row["trial"]), row["state"], figure, *values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
