"""What each augmentation costs a picture, compiled, without a model.

    python -m benchmarks.augmentation                                    # 32 and 224 pixels
    python -m benchmarks.augmentation --sides=224 --batch=256 --json=augmentation.json

Prints the best of five batches, in microseconds a picture, and the seconds that compiling took.
A picture is uint8 noise on the device, as a feed leaves it; the result is float32 in [0, 1].
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgclass import config as config_lib
from imgclass.data import augment, preprocess

_CROP = {"random_resized_crop": True, "flip": True}
CASES: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "pad_crop, flip": {"flip": True, "pad_crop": 4, "pad_mode": "reflect"},
    "resized crop, flip": _CROP,
    "and colour jitter": _CROP
    | {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "and random erasing": _CROP | {"erase": 0.25},
    "and trivial_wide, nearest": _CROP
    | {"policy": "trivial_wide", "policy_interpolation": "nearest"},
    "and trivial_wide": _CROP | {"policy": "trivial_wide"},
    "and rand, 2 operations": _CROP | {"policy": "rand"},
    "and auto_imagenet": _CROP | {"policy": "auto_imagenet"},
    "and augmix": _CROP | {"policy": "augmix"},
    "and mixup or cutmix": _CROP | {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
}


def measure(changes: dict[str, Any], batch: int, side: int) -> tuple[float, float]:
    """Returns (microseconds a picture, seconds to compile)."""
    cfg = config_lib.defaults().augment
    cfg.update(changes)
    targets, fill = jnp.zeros((batch, 10), jnp.float32), jnp.zeros(3, jnp.float32)

    def run(images: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, batch)
        unit = preprocess.to_unit(images)
        return augment.augment(unit, targets, keys, key, cfg, (side, side), fill)[0]

    noise = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    images, key = jnp.asarray(noise), jax.random.key(0)
    start = time.perf_counter()
    program = jax.jit(run).lower(images, key).compile()
    compiling = time.perf_counter() - start
    jax.block_until_ready(program(images, key))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(program(images, key))
        times.append(time.perf_counter() - start)
    return min(times) / batch * 1e6, compiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sides", default="32,224", help="pixels; several with commas")
    parser.add_argument("--batch", type=int, default=0, help="pictures; 0 fits the side")
    parser.add_argument("--json", default="", help="file to write the table to")
    args = parser.parse_args()
    accelerated = jax.default_backend() != "cpu"
    rows = []
    for side in map(int, args.sides.split(",")):
        batch = args.batch or (2**21 if accelerated else 2**18) // side**2 * (
            8 if accelerated else 1
        )
        print(f"{side} x {side}, batches of {batch}, {jax.devices()[0].device_kind}")
        for name, changes in CASES.items():
            cost, compiling = measure(changes, batch, side)
            rows.append({"side": side, "batch": batch, "case": name, "us_per_picture": cost})
            print(
                f"  {name:28} {cost:10.2f} us a picture, compiled in {compiling:.1f} s", flush=True
            )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"device": jax.devices()[0].device_kind, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
