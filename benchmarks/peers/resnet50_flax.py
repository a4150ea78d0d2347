"""ResNet-50's training step as Flax's documentation would have it: nn.Conv, nn.BatchNorm, jit.

    python benchmarks/peers/resnet50_flax.py BATCH SIDE

Prints {"images_per_second": ...}: the median of 3 rounds of 20 steps on one batch on the device.
"""

import functools
import json
import statistics
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

conv = functools.partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, with the stride on the 3x3."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a map to a map."""
        norm = functools.partial(nn.BatchNorm, use_running_average=False, dtype=jnp.bfloat16)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), (self.stride, self.stride))(y)))
        y = norm()(conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.width, (1, 1), (self.stride, self.stride))(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """The usual four stages."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps pictures to logits."""
        x = conv(64, (7, 7), (2, 2))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, dtype=jnp.bfloat16)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)).astype(jnp.float32))


def main(batch: int, side: int, steps: int = 20) -> None:
    """Times the step."""
    model = ResNet50()
    tx = optax.sgd(0.1, 0.9)
    random = np.random.default_rng(0)
    images = jnp.asarray(random.integers(0, 256, (batch, side, side, 3), np.uint8))
    labels = jnp.asarray(random.integers(0, 10, batch).astype(np.int32))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, side, side, 3)))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: tuple) -> tuple:
        params, stats, opt = state

        def loss(params: dict) -> tuple:
            x = (images / 255.0 - 0.45) / 0.2
            logits, new = model.apply(
                {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
            )
            rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return rows.mean(), new["batch_stats"]

        (_, stats_), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(params, updates), stats_, opt

    state = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))
    rates = []
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        for _ in range(steps):
            state = step(state)
        jax.block_until_ready(state)
        rates.append(batch * steps / (time.perf_counter() - began))
    print(json.dumps({"images_per_second": statistics.median(rates[1:])}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
