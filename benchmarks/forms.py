"""How many times as fast our forms of layers are as the plain ones, in one process on a CPU.

    python -m benchmarks.forms --json=forms.json

The gradient of each, or its value, the two forms in turns; a ratio of medians, above 1 where ours
is faster. Absolute times are not the point: the tests hold these ratios alone to a bound.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import machine
from imgclass import process
from imgclass.models import cpu_conv, layers, sums

Form = Callable[..., jax.Array]


def _plain_conv(x: jax.Array, kernel: jax.Array, padding: int, groups: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _kernel_gradient(conv: Form, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.grad(lambda kernel: jnp.square(conv(x, kernel)).sum())(kernel)


def _gradient(pool: Form, x: jax.Array) -> jax.Array:
    return jax.grad(lambda x: jnp.square(pool(x)).sum())(x)


def _draw(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape, jnp.float32)


def _depthwise(conv: Form, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _kernel_gradient(functools.partial(conv, padding=1, groups=x.shape[-1]), x, kernel)


def _bias(add: Form, y: jax.Array, bias: jax.Array) -> jax.Array:
    return jax.grad(lambda bias: jnp.square(add(y, bias)).sum())(bias)


# Name -> what is computed with a form, our form, the plain one, shapes of the arguments.
PAIRS: dict[str, tuple[Callable[..., jax.Array], Form, Form, tuple[tuple[int, ...], ...]]] = {
    "max_pool": (
        _gradient,
        lambda x: layers.max_pool(x, 2),
        lambda x: nn.max_pool(x, (2, 2), (2, 2)),
        ((32, 62, 62, 32),),
    ),
    "max_pool, value": (
        lambda pool, x: pool(x),
        lambda x: layers.max_pool(x, 2),
        lambda x: nn.max_pool(x, (2, 2), (2, 2)),
        ((32, 62, 62, 32),),
    ),
    "few_channels": (
        _kernel_gradient,
        layers.conv,
        functools.partial(_plain_conv, padding=0, groups=1),
        ((32, 64, 64, 3), (3, 3, 3, 32)),
    ),
    # oneDNN's, where it is installed; else both are the same.
    "convolution": (
        _kernel_gradient,
        functools.partial(layers.conv, padding=1),
        functools.partial(_plain_conv, padding=1, groups=1),
        ((32, 16, 16, 128), (3, 3, 128, 128)),
    ),
    "depthwise": (_depthwise, layers.conv, _plain_conv, ((32, 28, 28, 64), (3, 3, 1, 64))),
    "bias": (
        _bias,
        sums.add_bias,
        lambda y, b: y + b[None, None, None, :],
        ((32, 62, 62, 32), (32,)),
    ),
}


def programs(name: str) -> tuple[Form, Form, list[jax.Array]]:
    """Returns our program of a pair, the plain one, and their arguments."""
    work, ours, plain, shapes = PAIRS[name]
    args = [_draw(*shape) for shape in shapes]

    def compiled(form: Form) -> Form:
        program: Form = jax.jit(functools.partial(work, form)).lower(*args).compile()
        return program

    cpu_conv.leave()  # until `layers` comes to one
    theirs = compiled(plain)
    return compiled(ours), theirs, args


def ratio(name: str, times: int = 15) -> float:
    """Returns the median time of the plain form over that of ours."""
    *forms, args = programs(name)
    spent: list[list[float]] = [[], []]
    for number in range(times + 2):
        for form, seconds in zip(forms, spent, strict=True):
            began = time.perf_counter()
            form(*args).block_until_ready()
            if number >= 2:  # the first compiles, the next warms up
                seconds.append(time.perf_counter() - began)
    return statistics.median(spent[1]) / statistics.median(spent[0])


def main(argv: list[str] | None = None) -> None:
    """Prints each ratio as it comes and writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", help="where to write the figures")
    args = parser.parse_args(argv)
    found: dict[str, Any] = {}
    for name in PAIRS:
        found[name] = ratio(name)
        print(f"{name}: {found[name]:.2f}", flush=True)
    print(json.dumps(found))
    if args.json:
        machine.write(args.json, found)


if __name__ == "__main__":
    process.tune()
    main()
