"""How fast pictures reach the model, beside tf.data, from the same files on the same cores.

    python -m benchmarks.input --data_dir=TFDS --photos=FOLDER --tf_python=PYTHON --json=input.json

Each figure is of fresh processes, in turns: images a second that come out of the feed, on the
device and, where said, augmented. Neither side caches but where `data.cache` is measured.

cifar     streams CIFAR-10 from tfds's files: PNG decoding, pad by 4 and crop, mirror; batches of
          512. tf.data reads the same PNG bytes from a TFRecord, for it cannot read ArrayRecord;
          'batched' is the same with parsing batch by batch.
photos    JPEG files to random resized crops of 224 x 224, batches of 32. 'aliased' is with workers
          and without antialiasing, 'device' crops pictures of 256 x 256 on the device, 'raw' takes
          the host's crops out of a cache of those. tf.data decodes the crop alone; 'default' is
          without antialiasing and with the fast DCT.
cache     the same files at 256 x 256 and nothing else: decoded, and out of either cache.
resident  CIFAR-10 from the device's memory: a batch assembled, nothing else.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks import machine, rounds

OURS = {
    "cifar": ("cifar", "cifar, workers"),
    "photos": (
        "photos",
        "photos, workers",
        "photos, aliased",
        "photos, device",
        "photos, raw",
    ),
    "cache": ("originals", "raw", "jpeg"),
    "resident": ("resident",),
}
PEERS = {
    "cifar": {"tf.data": (), "tf.data, batched": ("batched",)},
    "photos": {"tf.data": (), "tf.data, default": ("default",)},
}
BATCH = {"cifar": 512, "photos": 32}
PEER = pathlib.Path(__file__).parent / "peers" / "input_tfdata.py"


def copied(photos: pathlib.Path, folder: pathlib.Path, count: int) -> None:
    """Makes a set of two classes out of a folder's JPEG files, over and over, by links."""
    files = sorted(photos.glob("*.JPEG")) + sorted(photos.glob("*.jpg"))
    if not files:
        raise SystemExit(f"{photos}: no .jpg or .JPEG files")
    for i in range(count):
        link = folder / "ab"[i % 2] / f"{i}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(files[i % len(files)].absolute())


def export(data_dir: str, path: pathlib.Path) -> None:
    """Writes CIFAR-10's training pictures, still encoded, for the peer to make a TFRecord of."""
    from benchmarks import input_programs

    changes = {"data.name": "cifar10", "data.data_dir": data_dir, "data.image_size": (32, 32)}
    split = input_programs.opened(changes | {"data.validation_split": ""})[1].splits["train"]
    pictures = [
        record.image
        for start in range(0, len(split), 1000)
        for record in split.read(range(start, min(start + 1000, len(split))))
    ]
    data = np.frombuffer(b"".join(bytes(picture) for picture in pictures), np.uint8)
    starts = np.cumsum([0, *(len(picture) for picture in pictures)])
    np.savez(path, data=data, starts=starts, labels=split.labels)


def programs(
    what: str, path: str, peer_path: str, tf_python: str, seconds: float
) -> dict[str, list[str]]:
    """Returns the commands of one figure."""
    ours = [sys.executable, "-m", "benchmarks.input_programs"]
    found = {name: [*ours, name, path, str(seconds)] for name in OURS[what]}
    for name, words in PEERS.get(what, {}).items() if tf_python else ():
        peer = [tf_python, str(PEER), what, peer_path, str(BATCH[what]), str(seconds)]
        found[name] = [*peer, *words]
    return found


def measure(
    folder: pathlib.Path, args: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns figure -> program -> summary of images a second, and its largest peak in MiB."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "home")  # the caches go with the folder
    paths = {"cifar": args.data_dir, "resident": args.data_dir}
    peers = {}
    if args.photos:
        copied(pathlib.Path(args.photos), folder / "photos", args.count)
        paths["photos"] = paths["cache"] = peers["photos"] = str(folder / "photos")
    if args.data_dir and args.tf_python and "cifar" in args.only:
        export(args.data_dir, folder / "cifar.npz")
        peers["cifar"] = str(folder / "cifar.tfrecord")
        convert = [args.tf_python, str(PEER), "convert", str(folder / "cifar.npz"), peers["cifar"]]
        subprocess.run(convert, check=True, capture_output=True)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for what in args.only:
        if not paths.get(what):
            print(f"{what}: left out, for want of --data_dir or --photos")
            continue
        commands = programs(what, paths[what], peers.get(what, ""), args.tf_python, args.seconds)
        table[what] = {
            name: machine.spread([run["images_per_second"] for run in runs])
            | {"peak_mib": max(run["peak_mib"] for run in runs)}
            for name, runs in rounds.run(commands, args.rounds).items()
        }
    return table


def show(table: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints a line a program, each beside the first of its figure."""
    for what, found in table.items():
        first = next(iter(found.values()))["median"]
        for name, row in found.items():
            print(
                f"{what:9} {name:18} {row['median']:12,.0f} images/s  ({row['min']:,.0f} to "
                f"{row['max']:,.0f}), {row['median'] / first:6.2f} of the first, "
                f"peak {row['peak_mib']:,.0f} MiB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", default="", help="where tfds has prepared cifar10")
    parser.add_argument("--photos", default="", help="a folder of JPEG files")
    parser.add_argument("--tf_python", default="", help="a python with tensorflow; '': no peer")
    parser.add_argument("--only", default=",".join(OURS), help="figures, with commas")
    parser.add_argument("--rounds", type=int, default=4, help="fresh processes a program")
    parser.add_argument("--seconds", type=float, default=6.0, help="that each measures")
    parser.add_argument("--count", type=int, default=600, help="photographs, by links to the files")
    parser.add_argument("--json", default="", help="file to write the results to")
    args = parser.parse_args()
    args.only = args.only.split(",")
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        table = measure(folder, args)
    finally:
        shutil.rmtree(folder)
    show(table)
    if args.json:
        machine.write(args.json, {"seconds": args.seconds, "figures": table})


if __name__ == "__main__":
    main()
