"""Vision transformers, the yardstick that is no convolutional network.

vit_b_16 as torchvision has it; vit_s_16 and vit_ti_16 are timm's vit_small_patch16_224 and
vit_tiny_patch16_224; vit_ti_4 is vit_ti_16 with patches of 4 pixels, for small pictures. The
position embedding is learned and as long as the picture needs; weights of another picture size are
resampled.

Sources: Dosovitskiy et al. (2021), arXiv:2010.11929; for the small and tiny ones Touvron et al.
(2021), arXiv:2012.12877, whose stochastic depth is 0.1; torchvision's vit_b_16 has none. Neither
uses dropout.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from imgclass.errors import UsageError
from imgclass.models import blocks, layers
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """What tells one vision transformer from another.

    Attributes:
      width: of a token.
      heads: of the attention; a divisor of width.
      patch: side of the square that becomes a token, pixels.
      depth: number of blocks.
    """

    width: int
    heads: int
    patch: int
    depth: int = 12


LAYOUTS: dict[str, Layout] = {
    "vit_ti_4": Layout(width=192, heads=3, patch=4),
    "vit_ti_16": Layout(width=192, heads=3, patch=16),
    "vit_s_16": Layout(width=384, heads=6, patch=16),
    "vit_b_16": Layout(width=768, heads=12, patch=16),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {"vit_ti_4": 32}

# DeiT's and timm's "truncated normal (0.02)" is cut at +-2, a hundred deviations away: never.
_NORMAL = nn.initializers.normal(0.02)


class Attention(nn.Module):
    """Every token becomes a mix of all: softmax(q k^T / sqrt(width / heads)) v, head by head.

    Source: Vaswani et al. (2017), arXiv:1706.03762, eq. 1. One dense layer makes queries, keys and
    values, in this order, head by head within each. The softmax is float32 or wider.

    Attributes:
      heads: a divisor of the token's width.
      dtype: of the computation.
    """

    heads: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps dtype[batch, tokens, width] to the same."""
        batch, tokens, width = x.shape
        qkv = _dense(3 * width, self.dtype, "qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=wide)
        weights = jax.nn.softmax(scores * (self.heads / width) ** 0.5, axis=-1)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), value)
        return _dense(width, self.dtype, "out")(mixed.reshape(x.shape))


class Block(nn.Module):
    """Attention, then two dense layers on each token; both normalised first and added to x.

    Attributes:
      heads: see `Attention`.
      drop_path: see `blocks.DropPath`; of each of the two branches by itself.
      dtype: of the computation.
    """

    heads: int
    drop_path: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, tokens, width] to the same."""
        y = Attention(self.heads, self.dtype, name="attention")(layers.LayerNorm(name="norm1")(x))
        x = x + blocks.DropPath(self.drop_path, name="drop_path1")(y, train)
        y = _dense(4 * x.shape[-1], self.dtype, "expand")(layers.LayerNorm(name="norm2")(x))
        y = _dense(x.shape[-1], self.dtype, "project")(layers.activation("gelu")(y))
        return x + blocks.DropPath(self.drop_path, name="drop_path2")(y, train)


class ViT(nn.Module):
    """Patches and a class token, blocks, a layer norm, and a dense layer on the class token.

    In `features` a map is the grid of patch tokens: in 'stages' as 'patches' and each 'block<i>'
    leave it, 'last_map' after the last norm. The logits see the class token alone, so they have no
    gradient with respect to 'last_map' or the last block's map; the map before has one.

    Attributes:
      num_classes: width of the dense layer.
      layout: see `Layout`.
      dropout: share of the dense layer's inputs set to zero in training.
      drop_path: rate of the last block, see `blocks.drop_path_rates`.
      dtype: of the computation; parameters, moments, softmax and logits are float32.
    """

    num_classes: int
    layout: Layout
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`.

        Raises:
          UsageError: at trace time, if a side is no multiple of the patch.
        """
        width, patch = self.layout.width, self.layout.patch
        _check_sides(x.shape[1:3], patch)
        conv = layers.Conv(width, patch, patch, dtype=self.dtype, name="patches")
        grid = conv(x)
        stages = {"patches": grid}
        tokens = grid.reshape(grid.shape[0], -1, width)
        first = self.param("class_token", nn.initializers.zeros, (1, 1, width), jnp.float32)
        shape = (1, 1 + tokens.shape[1], width)
        position = self.param("position_embedding", _NORMAL, shape, jnp.float32)
        first = jnp.broadcast_to(first.astype(self.dtype), (tokens.shape[0], 1, width))
        tokens = jnp.concatenate([first, tokens], axis=1) + position.astype(self.dtype)
        rates = blocks.drop_path_rates(self.drop_path, self.layout.depth)
        for block, rate in enumerate(rates, start=1):
            name = f"block{block}"
            tokens = Block(self.layout.heads, rate, self.dtype, name=name)(tokens, train)
            stages[name] = tokens[:, 1:].reshape(grid.shape)
        tokens = layers.LayerNorm(name="norm")(tokens)
        last_map, pooled = tokens[:, 1:].reshape(grid.shape), tokens[:, 0]
        features = {"stages": stages, "last_map": last_map, "pooled": pooled}
        dropped = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        head = _dense(self.num_classes, self.dtype, "head")
        return head(dropped).astype(jnp.float32), features


def build(config: ml_collections.ConfigDict, num_classes: int) -> ViT:
    """Builds the module that a checked config.model describes."""
    return ViT(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        dropout=config.dropout,
        drop_path=config.drop_path,
        dtype=jnp.dtype(config.dtype),
    )


def resample_positions(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns a position embedding for pictures of another size, as timm makes it.

    The grid is resampled by a cubic filter, widened where it gets smaller; the class token's stays.

    Args:
      table: float[1, 1 + side * side, width].
      shape: wanted, (1, 1 + side * side, width) of another side.

    Returns:
      f32[shape]; None of another width, or where a grid is not square: its sides are not known.
    """
    if table.ndim != 3 or (table.shape[0], table.shape[2]) != (1, shape[2]):
        return None
    there, here = (math.isqrt(max(length - 1, 0)) for length in (table.shape[1], shape[1]))
    if not there or (1 + there**2, 1 + here**2) != (table.shape[1], shape[1]):
        return None
    table = np.asarray(table, np.float32)
    grid = table[0, 1:].reshape(there, there, -1)
    grid = np.asarray(jax.image.resize(grid, (here, here, shape[2]), "cubic", antialias=True))
    return np.concatenate([table[:, :1], grid.reshape(1, here**2, -1)], axis=1)


RESAMPLE = {"position_embedding": resample_positions}


def _check_sides(sides: tuple[int, ...], patch: int) -> None:
    if any(side % patch for side in sides):
        near = tuple(max(round(side / patch), 1) * patch for side in sides)
        raise UsageError(
            f"data.image_size={sides}: this model cuts pictures into patches of {patch}x{patch} "
            f"pixels, so both sides must be multiples of {patch}; the nearest is {near}."
        )


def _dense(features: int, dtype: jax.typing.DTypeLike, name: str) -> layers.Dense:
    return layers.Dense(features, kernel_init=_NORMAL, dtype=dtype, name=name)


def _torchvision(name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"encoder.layers.encoder_layer_{int(match[1]) - 1}.{match.expand(name)}"


def _timm(name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"blocks.{int(match[1]) - 1}.{match.expand(name)}"


_BLOCK = r"block(\d+)/"
TORCH: dict[str, Rules] = {
    "torchvision": (
        ("patches", "conv_proj"),
        ("class_token", "class_token"),
        ("position_embedding", "encoder.pos_embedding"),
        (_BLOCK + r"norm(\d)", _torchvision(r"ln_\2")),
        (_BLOCK + "attention/qkv", _torchvision("self_attention.in_proj_")),
        (_BLOCK + "attention/out", _torchvision("self_attention.out_proj")),
        (_BLOCK + "expand", _torchvision("mlp.0")),
        (_BLOCK + "project", _torchvision("mlp.3")),
        ("norm", "encoder.ln"),
        ("head", "heads.head"),
    ),
    "timm": (
        ("patches", "patch_embed.proj"),
        ("class_token", "cls_token"),
        ("position_embedding", "pos_embed"),
        (_BLOCK + r"norm(\d)", _timm(r"norm\2")),
        (_BLOCK + "attention/qkv", _timm("attn.qkv")),
        (_BLOCK + "attention/out", _timm("attn.proj")),
        (_BLOCK + "expand", _timm("mlp.fc1")),
        (_BLOCK + "project", _timm("mlp.fc2")),
        ("norm", "norm"),
        ("head", "head"),
    ),
}
