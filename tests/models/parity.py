"""Parity with torchvision and timm, without PyTorch: their results are in `reference/`.

How to check a family file, registered or not:

1. Write PyTorch's results, once, where it is installed (`reference/make.py` says more):

       python -m tests.models.reference.make torchvision:vgg11 timm:seresnet50

   --side=S and --batch=B where 64 and 4 do not suit; `timm:THEIRS=OURS` where the names differ;
   --key=batch_norm_epsilon=1e-5 where a library's constants are not our defaults. A timm model
   whose names and results equal torchvision's needs no file of its own.
2. Compare, from Python or from the command line:

       check(read("torchvision-vgg11"), vgg)
       python -m tests.models.parity imgclass.models.vgg torchvision-vgg11

3. `test_parity.py` does so for every file in `reference/`; but for its QUICK ones they are slow
   tests.

The family's `TORCH[library]` names the tensors; `imgclass/models/torch_names.py` says how. A module
that takes a flattened map is in the family's FLATTENED, {path: (height, width, channels)}.
"""

import functools
import importlib
import json
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgclass import config
from imgclass.models import densenet, registry, torch_names
from tests.models.reference import draw

REFERENCE = pathlib.Path(__file__).parent / "reference"

MOMENTS = ("running_mean", "running_var")

# Of the largest logit, of the size of a statistic. Both sides compute in float64, ours from and to
# float32: in float32 alone a deep network in training amplifies rounding to 1e-3.
TOLERANCE = 1e-6


def names() -> list[str]:
    return sorted(path.stem for path in REFERENCE.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / f"{name}.json").read_text())


def tensors(reference: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor in the `state_dict`, but `num_batches_tracked`."""
    found = {name: tuple(shape) for name, shape in reference["tensors"].items()}
    for name, (channels, *_) in reference["norms"].items():
        for leaf in ("weight", "bias", *MOMENTS):
            found[f"{name}.{leaf}"] = (channels,)
    return found


def check(reference: dict[str, Any], family: ModuleType) -> None:
    """Asserts that names, shapes, logits and running statistics agree.

    Args:
      reference: what `read` returned.
      family: a file of `imgclass.models`.
    """
    found = differences(reference, family)
    assert max(found.values()) < TOLERANCE, found


def differences(reference: dict[str, Any], family: ModuleType) -> dict[str, float]:
    """Returns the largest difference of each kind; asserts that names and shapes agree."""
    # Linen's LayerNorm leaves its scale float32 beside float64.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return _differences(reference, family)


def _differences(reference: dict[str, Any], family: ModuleType) -> dict[str, float]:
    section = config.defaults().model
    section.update(name=reference["model"], dtype="float64", **reference["keys"])
    side = reference["side"]
    model = registry.Model(family.build(section, reference["classes"]), (side, side, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rules = family.TORCH[reference["library"]]
    slots = torch_names.slots(shapes, rules, getattr(family, "FLATTENED", {}))
    wanted = tensors(reference)
    assert slots.keys() == wanted.keys(), (
        f"only ours: {sorted(slots.keys() - wanted.keys())}; "
        f"only theirs: {sorted(wanted.keys() - slots.keys())}"
    )
    drawn = {
        name: torch_names.to_ours(slots[name], draw.tensor(name, shape))
        for name, shape in wanted.items()
    }
    start, running = {}, {}
    for norm, (channels, *_, spread) in reference["norms"].items():
        moments = draw.statistics(norm, channels, spread)
        for leaf, values in zip(MOMENTS, moments, strict=True):
            start[f"{norm}.{leaf}"] = np.zeros_like(values)
            running[f"{norm}.{leaf}"] = values
    variables = _tree(slots, drawn | start, shapes)
    logits, stats = _quickest(family, functools.partial(_train, model))(
        variables, _pictures("train", reference)
    )
    found = {"training": _of_logits(reference["logits"]["train"], logits)}
    if stats:
        name, difference = _of_statistics(reference, slots, stats)
        found[f"statistics, most {name}"] = difference
    variables = _tree(slots, drawn | running, shapes)
    logits = _quickest(family, functools.partial(_eval, model))(
        variables, _pictures("eval", reference)
    )
    return found | {"inference": _of_logits(reference["logits"]["eval"], logits)}


def _train(model: registry.Model, variables: Any, x: jax.Array) -> Any:
    logits, _, stats = model.apply_train(variables, x, jax.random.key(0))
    return logits, stats


def _eval(model: registry.Model, variables: Any, x: jax.Array) -> jax.Array:
    return model.apply(variables, x)[0]


def _quickest(family: ModuleType, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function in the form that takes the least time to run once.

    Compiling takes most of it, so one program an operation: layers repeat. Where they do not, as in
    DenseNet, whose every layer is wider, one program is quicker.
    """
    if family is not densenet:
        return function
    # XLA's optimisations would double the time.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=quick)


def _of_logits(theirs: list[list[float]], ours: Any) -> float:
    largest = np.abs(theirs).max()
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / largest)


def _of_statistics(
    reference: dict[str, Any], slots: dict[str, torch_names.Slot], stats: Any
) -> tuple[str, float]:
    """Compares what one batch has made of statistics of 0; returns the one that differs most.

    Ours keeps the biased variance, theirs the unbiased one, n / (n - 1) times as large.
    """
    found = {}
    for norm, (_, count, mean, variance, spread) in reference["norms"].items():
        factors, sizes = (1.0, count / (count - 1)), (spread, spread**2)
        for leaf, theirs, factor, size in zip(
            MOMENTS, (mean, variance), factors, sizes, strict=True
        ):
            name = f"{norm}.{leaf}"
            ours = stats
            for key in slots[name].path[1:]:
                ours = ours[key]
            checksum = draw.checksum(name, np.asarray(ours, np.float64) * factor)
            found[name] = abs(checksum - theirs) / (reference["momentum"] * size)
    worst = max(found, key=lambda name: found[name])
    return worst, found[worst]


def _tree(
    slots: dict[str, torch_names.Slot], arrays: dict[str, np.ndarray], shapes: Any
) -> dict[str, Any]:
    by_path = {slot.path: arrays[name] for name, slot in slots.items()}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(by_path[tuple(entry.key for entry in path)]), shapes
    )


def _pictures(name: str, reference: dict[str, Any]) -> jax.Array:
    pictures = draw.pictures(name, reference["batch"], reference["side"])
    return jnp.asarray(pictures.transpose(0, 2, 3, 1), jnp.float64)


if __name__ == "__main__":
    for chosen in sys.argv[2:]:
        print(chosen)
        found = differences(read(chosen), importlib.import_module(sys.argv[1]))
        for kind, difference in found.items():
            print(f"  {difference:.1e}  {kind}")
        if max(found.values()) >= TOLERANCE:
            sys.exit("too far")
