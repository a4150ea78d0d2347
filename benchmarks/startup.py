"""How long a command takes until it is of use, in fresh processes.

    python -m benchmarks.startup --json=startup.json

Of `python main.py --config=configs/cnn.py` the time until the first step has been taken and said
so: cold, with an empty cache folder, so that the digits are prepared and every program compiled;
and warm, as any later time. Of `imgclass predict RUN one.jpg` and `imgclass --help` the whole time,
warm. Beside them how long Python takes to import JAX and Flax, below which nothing here can come.
The operating system has the files of the packages in memory, as from the second start on.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks import machine

CLI = "from imgclass import cli; cli.console()"
CONFIG = "configs/cnn.py"


def main(argv: list[str] | None = None) -> None:
    """Times the cases in turns and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="", help="some of them, by number, as 0,4")
    parser.add_argument("--json", default="", help="where to write the figures")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        cases = _cases(place)
        names = [list(cases)[int(n)] for n in args.cases.split(",") if n] or list(cases)
        if any("predict" in name for name in names):
            _train(place)
        for name in names:  # what the first start alone pays for
            cases[name]()
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                times[name].append(cases[name]())
    found = {name: machine.spread(values) for name, values in times.items()}
    print("| seconds until | median | least | most |\n| --- | --- | --- | --- |")
    for name, row in found.items():
        print(f"| {name} | {row['median']:.2f} | {row['min']:.2f} | {row['max']:.2f} |")
    if args.json:
        machine.write(args.json, {"rounds": args.rounds, "seconds": found})


def _cases(place: pathlib.Path) -> dict[str, Callable[[], float]]:
    """Returns name -> a function that starts a process and returns its seconds."""
    picture, run = str(place / "one.jpg"), str(place / "run")
    return {
        "`imgclass --help` is printed": lambda: _whole(place, "-c", CLI, "--help"),
        "JAX and Flax are imported, nothing else": lambda: _whole(
            place, "-c", "import jax, flax.linen"
        ),
        "`imgclass predict RUN one.jpg` is done, warm": lambda: _whole(
            place, "-c", CLI, "predict", run, picture
        ),
        "the first training step is done, warm": lambda: _first_step(place, "warm"),
        "the first training step is done, cold": lambda: _first_step(place, "cold"),
    }


def _environment(cache: pathlib.Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.getcwd()}


def _whole(place: pathlib.Path, *words: str) -> float:
    began = time.perf_counter()
    env = _environment(place / "warm")
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=env)
    return time.perf_counter() - began


def _first_step(place: pathlib.Path, cache: str) -> float:
    """Starts a training and stops it once the log has a line of step 1, whose loss it gives."""
    if cache == "cold":
        shutil.rmtree(place / cache, ignore_errors=True)
    work = place / "work"
    command = [sys.executable, "main.py", f"--config={CONFIG}", f"--workdir={work}"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--config.log.every_steps=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(place / cache),
    ) as started:
        assert started.stdout is not None
        said = []
        for line in started.stdout:
            said.append(line)
            if line.startswith("step 1/"):
                seconds = time.perf_counter() - began
                started.kill()
                break
        else:
            raise SystemExit("".join(said[-5:]))
    shutil.rmtree(work)
    return seconds


def _train(place: pathlib.Path) -> None:
    """Leaves a run of a few steps and a picture for it."""
    _whole(
        place,
        "main.py",
        f"--config={CONFIG}",
        f"--workdir={place / 'run'}",
        "--config.train.total_steps=4",
        "--config.log.report=False",
    )
    gray = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    Image.fromarray(gray).save(place / "one.jpg")


if __name__ == "__main__":
    main()
