"""Which pixels speak for a class: Grad-CAM, integrated gradients and occlusion.

All three explain the logit of one class, the number before the softmax, and take pictures as the
model sees them. They show what the model used, not whether that is right; how far a map can be
believed is measured in `faithful`.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgclass.data.preprocess import Preprocess
from imgclass.explain.feature_gradient import feature_gradient
from imgclass.models import Model

METHODS = ("gradcam", "integrated-gradients", "occlusion")
STEPS = 64  # of integrated gradients
_AT_ONCE = 32  # squares in one batch of occlusion

Variables = Mapping[str, Any]


def neutral(prepare: Preprocess) -> jax.Array:
    """Returns the colour of nothing, f32[channels], standardised: what covers a removed pixel.

    It is the mean that pictures are standardised with, for black takes nothing away from a black
    swan. Where they are not standardised no mean is known, and it is black.
    """
    return jnp.zeros(prepare.channels, jnp.float32)  # either, for the mean is standardised to 0


def evidence(
    method: str,
    model: Model,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    prepare: Preprocess,
) -> np.ndarray:
    """Returns how much each pixel speaks for its picture's label; higher is more.

    Args:
      method: one of METHODS.
      model: in inference.
      variables: {'params', 'batch_stats'}.
      images: f32[n, h, w, channels], standardised.
      labels: int32[n].
      prepare: how the pictures were prepared; gives the colour of what is taken away.

    Returns:
      f32[n, h, w]: of Grad-CAM in [0, 1], of the others in units of the logit, and signed.
    """
    if method == "gradcam":
        return gradcam(model, variables, images, labels)
    if method == "occlusion":
        return occlusion(model, variables, images, labels, neutral(prepare))
    return integrated_gradients(model, variables, images, labels, neutral(prepare)).sum(axis=-1)


def shown(found: np.ndarray) -> np.ndarray:
    """Scales evidence for showing: what speaks against is 0, the strongest hundredth of pixels 1.

    Without the cut a few pixels of integrated gradients would leave all others dark.

    Args:
      found: f32[n, h, w].

    Returns:
      f32[n, h, w] in [0, 1].
    """
    positive = np.maximum(found, 0)
    top = np.quantile(positive, 0.99, axis=(1, 2), keepdims=True)
    top = np.where(top > 0, top, positive.max(axis=(1, 2), keepdims=True))
    return np.clip(positive / np.where(top > 0, top, 1), 0, 1).astype(np.float32)


def gradcam(model: Model, variables: Variables, images: jax.Array, labels: jax.Array) -> np.ndarray:
    """Returns Grad-CAM of the last feature map, enlarged to the picture's size.

    With A the map and y the label's logit, it is relu(sum_k A_kij * dy / dA_kij), divided by its
    maximum. Where the net averages the map over space, as most do, the gradient is the same at all
    i, j, and this is Grad-CAM as published (Selvaraju et al., 2017, arXiv:1610.02391, eq. 1 and 2),
    which averages the gradient first. Where it does not (a flattened map, a maximum, tokens), that
    average mixes places that count for the class with places that count against it; left out,
    after Draelos and Carin (2020), arXiv:2011.08891, the map shows what the logit is made of.

    Where no logit depends on the last map it is the one before, and so on: a vision transformer's
    logits see only the class token of its last block.

    Args:
      model: in inference.
      variables: {'params', 'batch_stats'}.
      images: f32[n, h, w, channels], standardised.
      labels: int32[n].

    Returns:
      f32[n, h, w] in [0, 1]; zeros where nothing in the map speaks for the label.
    """
    found, gradient = feature_gradient(model, variables, images, labels, "last_map")
    if not np.any(gradient):
        for name in _stages_from_the_end(model, variables, images):
            found, gradient = feature_gradient(model, variables, images, labels, name)
            if np.any(gradient):
                break
    return np.asarray(_enlarged(found, gradient, images.shape[1:3]))


def _stages_from_the_end(model: Model, variables: Variables, images: jax.Array) -> list[str]:
    names: list[str] = []

    def note(variables: Variables, images: jax.Array) -> jax.Array:
        logits, features = model.apply(dict(variables), images)
        names.extend(features["stages"])  # here: a dict that JAX hands back is sorted
        return logits

    jax.eval_shape(note, variables, images)
    return names[::-1]


@functools.partial(jax.jit, static_argnames="size")
def _enlarged(found: jax.Array, gradient: jax.Array, size: tuple[int, int]) -> jax.Array:
    product = found.astype(jnp.float32) * gradient.astype(jnp.float32)
    coarse = jax.nn.relu(product.sum(axis=-1))
    top = coarse.max(axis=(1, 2), keepdims=True)
    coarse = coarse / jnp.where(top > 0, top, jnp.ones_like(top))
    return jax.image.resize(coarse, (coarse.shape[0], *size), "bilinear")


def integrated_gradients(
    model: Model,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    baseline: jax.Array,
    steps: int = STEPS,
) -> np.ndarray:
    """Returns what each value adds to the logit on the straight way from the baseline to it.

        (x - b) * integral over t from 0 to 1 of dy/dx at b + t (x - b),

    by the midpoint rule. The sum over a picture tends to y(x) - y(b) as `steps` grows.

    Source: Sundararajan et al. (2017), arXiv:1703.01365, eq. 1 and 3.

    Args:
      model: in inference.
      variables: {'params', 'batch_stats'}.
      images: f32[n, h, w, channels], standardised.
      labels: int32[n].
      baseline: f32[channels], a colour; as the pictures, standardised.
      steps: gradients taken on the way.

    Returns:
      f32[n, h, w, channels], in units of the logit.
    """
    start = jnp.broadcast_to(baseline[None, None, None, :], images.shape)
    way = images - start
    total = jnp.zeros_like(images)
    for step in range(steps):  # not a scan: XLA:CPU is six times slower with convolutions in one
        part = jnp.float32((step + 0.5) / steps)
        total = total + _input_gradient(model, variables, start + part * way, labels)
    return np.asarray(way * total / jnp.float32(steps))


@functools.partial(jax.jit, static_argnames="model")
def _input_gradient(
    model: Model, variables: Variables, images: jax.Array, labels: jax.Array
) -> jax.Array:
    return jax.grad(lambda x: _logits_of(model, variables, x, labels).sum())(images)


def _logits_of(
    model: Model, variables: Variables, images: jax.Array, labels: jax.Array
) -> jax.Array:
    logits, _ = model.apply(dict(variables), images)
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def occlusion(
    model: Model, variables: Variables, images: jax.Array, labels: jax.Array, colour: jax.Array
) -> np.ndarray:
    """Returns by how much the logit drops where a square covers a pixel.

    The square's side is a seventh of the picture's shorter side, and it moves by half of that; a
    pixel has the mean drop of all squares that cover it. Source: Zeiler and Fergus (2014),
    arXiv:1311.2901, section 4.2, which plots the probability at the square's centre.

    Args:
      model: in inference.
      variables: {'params', 'batch_stats'}.
      images: f32[n, h, w, channels], standardised.
      labels: int32[n].
      colour: f32[channels] of the square, standardised.

    Returns:
      f32[n, h, w], in units of the logit; negative where covering raises it.
    """
    height, width = images.shape[1:3]
    side = max(min(height, width) // 7, 1)
    corners = list(itertools.product(_starts(height, side), _starts(width, side)))
    at_once = min(_AT_ONCE, len(corners))
    spare = -len(corners) % at_once  # all batches of one size: one program
    batches = np.array(corners + corners[:1] * spare, np.int32).reshape(-1, at_once, 2)
    result = np.zeros(images.shape[:3], np.float32)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        covered = [_covered(model, variables, image, label, colour, c, side) for c in batches]
        logits = np.concatenate(jax.device_get(covered))[: len(corners)]
        full = float(_logits_of(model, variables, image[None], label[None])[0])
        drops, times = np.zeros((2, height, width))
        for (top, left), logit in zip(corners, logits, strict=True):
            drops[top : top + side, left : left + side] += full - logit
            times[top : top + side, left : left + side] += 1
        result[row] = drops / times
    return result


def _starts(length: int, side: int) -> list[int]:
    last = length - side
    return sorted({*range(0, last, max(side // 2, 1)), last})


@functools.partial(jax.jit, static_argnames=("model", "side"))
def _covered(
    model: Model,
    variables: Variables,
    image: jax.Array,
    label: jax.Array,
    colour: jax.Array,
    corners: jax.Array,
    side: int,
) -> jax.Array:
    """Returns f32[k], the logit with a square at each corner of i32[k, 2]."""
    height, width, _ = image.shape
    rows = jnp.arange(height, dtype=jnp.int32)[None, :] - corners[:, :1]
    columns = jnp.arange(width, dtype=jnp.int32)[None, :] - corners[:, 1:]
    hidden = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[
        :, None
    ]
    views = jnp.where(hidden[..., None], colour[None, None, None, :], image[None])
    return _logits_of(model, variables, views, jnp.broadcast_to(label, len(corners)))
