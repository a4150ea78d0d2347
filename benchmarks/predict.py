"""Prediction on CPU: what `imgclass predict` runs, beside PyTorch, ONNX Runtime and Keras.

    python -m benchmarks.predict --torch_python=/path/with/torch/bin/python \
        --tf_python=/path/with/keras/bin/python --json=predict.json

Every program takes a batch of uint8 pictures from the host and gives float32 probabilities to the
host; weights are random. Ours is the compiled eval step as `imgclass.evaluate.predict` calls it.
Programs run as fresh processes in turns, with one allocator's settings.
Prints milliseconds a call, the median over rounds of each process's median call, pictures a second,
and GFLOP/s: two for each multiply-add that `imgclass.models.count` finds, over that time.
"""

import argparse
import json
import sys

import numpy as np

from benchmarks import machine, rounds
from benchmarks.peers import timed
from imgclass import build, config, parallel, process
from imgclass.data.preprocess import Preprocess
from imgclass.models import count
from imgclass.state import eval_variables

# Ours -> side in pixels, classes, the peers' name.
MODELS = {
    "cnn": (64, 10, "cnn"),
    "resnet50": (224, 1000, "resnet50"),
    "mobilenet_v3_large": (224, 1000, "mobilenet_v3_large"),
}
TORCH = {"PyTorch eager": "eager", "torch.compile": "compiled", "ONNX Runtime": "onnx"}
KERAS = {"Keras predict_on_batch": "predict", "Keras tf.function": "call"}


def main(argv: list[str] | None = None) -> None:
    """Runs the programs and prints their table, or is one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default="", help="with torch, torchvision, onnxruntime")
    parser.add_argument("--tf_python", default="", help="with tensorflow and keras")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--programs", default="", help="some of them, by name; default all")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", default="", help="where to write the figures")
    parser.add_argument("--one", default="", help="MODEL:BATCH, ours alone, in this process")
    args = parser.parse_args(argv)
    if args.one:
        name, batch = args.one.split(":")
        print(json.dumps({"milliseconds": milliseconds(name, int(batch))}))
        return
    found = []
    for name in args.models.split(","):
        for batch in map(int, args.batches.split(",")):
            programs = _programs(name, batch, args.torch_python, args.tf_python)
            wanted = args.programs.split(",") if args.programs else programs
            said = rounds.run({program: programs[program] for program in wanted}, args.rounds)
            for program, rows in said.items():
                times = [row["milliseconds"] for row in rows]
                about = {"model": name, "batch": batch, "program": program, "rounds": times}
                found.append(about | machine.spread(times))
    print("| model | batch | program | ms a call (least, most) | pictures/s | GFLOP/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    work = {name: count.multiply_adds(_task(name).model) for name in args.models.split(",")}
    for row in found:
        rate = row["batch"] / row["median"] * 1000
        gigaflops = 2 * work[row["model"]] * rate / 1e9
        spread = f"{row['median']:.3g} ({row['min']:.3g}, {row['max']:.3g})"
        cells = f"{row['model']} | {row['batch']} | {row['program']} | {spread}"
        print(f"| {cells} | {rate:,.0f} | {gigaflops:.0f} |")
    if args.json:
        machine.write(args.json, {"rounds": args.rounds, "multiply_adds": work, "calls": found})


def _programs(name: str, batch: int, torch: str, tf: str) -> dict[str, list[str]]:
    """Returns program -> its command."""
    programs = {"imgclass": [sys.executable, "-m", "benchmarks.predict", f"--one={name}:{batch}"]}
    peer = [MODELS[name][2], str(batch)]
    for label, mode in TORCH.items() if torch else ():
        programs[label] = [torch, "benchmarks/peers/predict_torch.py", *peer, mode]
    for label, mode in KERAS.items() if tf else ():
        programs[label] = [tf, "benchmarks/peers/predict_keras.py", *peer, mode]
    return programs


def _task(name: str) -> build.Task:
    side, classes, _ = MODELS[name]
    made = config.defaults()
    made.model.name = name
    made.data.image_size = (side, side)
    mesh = parallel.make_mesh(1, 1)
    names = tuple(map(str, range(classes)))
    return build.make(config.resolve(made), names, Preprocess((side, side)), mesh, 1, 0)


def milliseconds(name: str, batch: int) -> float:
    """Returns the median time of a call of ours."""
    task = _task(name)
    variables = eval_variables(task.initial_state())
    eval_step = task.jitted_eval_step()
    shape = (batch, *task.prepare.image_size, task.prepare.channels)
    rows = {
        "image": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "label": np.zeros(batch, np.int32),
        "index": np.zeros(batch, np.int32),
        "mask": np.zeros(batch, bool),
    }
    return timed.milliseconds(lambda: np.asarray(eval_step(variables, rows)[1]))


if __name__ == "__main__":
    process.tune()
    main()
