"""Multiply-adds, by hand and as torchvision publishes them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from imgclass import models
from imgclass.models import layers


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = jax.nn.relu(layers.Conv(6, 3, 2, padding=1, name="conv")(x))
        x = layers.Conv(12, 3, 1, padding=1, groups=3, name="grouped")(x)
        x = layers.max_pool(x, 2)
        tokens = x.reshape(x.shape[0], -1, 12)
        tokens = jax.jit(lambda t: jnp.einsum("bqc,bkc->bqk", t, t) @ t)(tokens)
        mix = jnp.eye(12, dtype=x.dtype)
        tokens, _ = jax.lax.scan(lambda t, _: (t @ mix, None), tokens, length=7)
        pooled = tokens.mean(1)
        logits = layers.Dense(5, name="head")(pooled)
        return logits, {"stages": {"x": x}, "last_map": x, "pooled": pooled}


def test_by_hand():
    # 8x8x3 at stride 2 is 4x4: 16 places x 6 filters x 3*3*3. Grouped: 16 x 12 filters x 3*3*(6/3).
    # Pooled to 4 tokens of 12, each with each and back: 2 x 4*4*12. Seven times 4 x 12*12. At last
    # 12 x 5.
    by_hand = 16 * 6 * 27 + 16 * 12 * 18 + 2 * 4 * 4 * 12 + 7 * 4 * 144 + 12 * 5
    assert models.multiply_adds(models.Model(Small(), (8, 8, 3))) == by_hand


# `_ops` of torchvision's weights, in units of 1e9, at 1000 classes and the size of `input_size`.
PUBLISHED = {
    "convnext_tiny": 4.456,
    "densenet121": 2.834,
    "efficientnet_b0": 0.386,
    "efficientnet_v2_s": 8.366,
    "mobilenet_v2": 0.301,
    "mobilenet_v3_large": 0.217,
    "regnet_x_400mf": 0.414,
    "regnet_y_400mf": 0.402,
    "resnet18": 1.814,
    "resnet50": 4.089,
    "resnext50_32x4d": 4.230,
    "vgg16_bn": 15.470,
    "vit_b_16": 17.564,
    "wide_resnet50_2": 11.398,
}
QUICK = {"resnet18", "regnet_x_400mf", "vgg16_bn", "vit_b_16"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in PUBLISHED]
)
def test_as_published(model_config, name):
    side = models.input_size(name)
    model = models.create(model_config(name=name), 1000, (side, side, 3))
    assert round(models.multiply_adds(model) / 1e9, 3) == PUBLISHED[name]
