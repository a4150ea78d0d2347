"""How far a map can be believed: the deletion curve, and the check with random weights.

Neither needs to know where the object is. Deletion asks whether the pixels that a map calls
important are those that the model needs; the check asks whether the map depends on what was learned
at all. A map can pass both and still not show what a person would call the reason.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from imgclass.data.preprocess import Preprocess
from imgclass.explain import maps
from imgclass.models import Model

POINTS = 21  # of the curve: 0%, 5%, ..., 100% of the pixels covered
ORDERS = 5  # random ones, whose mean curve is the yardstick
DRAWS = 5  # of random weights


@dataclasses.dataclass(frozen=True)
class Deletion:
    """A label's probability as pixels are covered, those that speak most for it first.

    Attributes:
      removed: f64[points], the share of the pixels that is covered, 0 to 1.
      probability: f64[points], in the map's order.
      random: f64[points], the mean over random orders of the map's own grain; see `deletion`.
    """

    removed: np.ndarray
    probability: np.ndarray
    random: np.ndarray

    @property
    def auc(self) -> float:
        """Returns the area under `probability`, by the trapezoid rule; lower is better."""
        return float(np.trapezoid(self.probability, self.removed))

    @property
    def random_auc(self) -> float:
        """Returns the area under `random`."""
        return float(np.trapezoid(self.random, self.removed))


def deletion(
    model: Model,
    variables: maps.Variables,
    image: jax.Array,
    label: jax.Array,
    evidence: np.ndarray,
    colour: jax.Array,
    seed: int = 0,
) -> Deletion:
    """Covers a picture pixel by pixel and returns the label's probability along the way.

    A random order is that of the same map moved round the picture by a random distance both ways,
    what leaves on one side coming back on the other. It covers pieces as large as the map's own.
    Single pixels at random would be no yardstick: scattered over a photo they blind a network
    sooner than any square does.

    Source: Petsiuk et al. (2018), arXiv:1806.07421, section 4.1.

    Args:
      model: in inference.
      variables: {'params', 'batch_stats'}.
      image: f32[h, w, channels], standardised.
      label: int32[].
      evidence: f32[h, w]; pixels of equal evidence are covered in a random order.
      colour: f32[channels] of what covers, standardised.
      seed: of the random orders.
    """
    rng = np.random.default_rng(seed)
    height, width = evidence.shape
    removed = np.linspace(0, 1, POINTS)
    counts = np.round(removed * evidence.size).astype(np.int32)
    moves = [(rng.integers(height), rng.integers(width)) for _ in range(ORDERS)]
    orders = [evidence, *(np.roll(evidence, move, axis=(0, 1)) for move in moves)]
    curves = []
    for values in orders:
        rank = _rank(values, rng)
        found = _covered(model, variables, image, label, colour, rank, counts)
        curves.append(np.asarray(found, np.float64))
    return Deletion(removed, curves[0], np.mean(curves[1:], axis=0))


def _rank(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns i32[h, w]: 0 for the highest value, and so on; ties at random."""
    order = np.lexsort((rng.random(values.size), -values.ravel()))
    rank = np.empty(values.size, np.int32)
    rank[order] = np.arange(values.size, dtype=np.int32)
    return rank.reshape(values.shape)


@functools.partial(jax.jit, static_argnames="model")
def _covered(
    model: Model,
    variables: maps.Variables,
    image: jax.Array,
    label: jax.Array,
    colour: jax.Array,
    rank: jax.Array,
    counts: jax.Array,
) -> jax.Array:
    """Returns f32[k], the label's probability with the first counts[k] pixels covered."""
    gone = rank[None] < counts[:, None, None]
    views = jnp.where(gone[..., None], colour[None, None, None, :], image[None])
    logits, _ = model.apply(dict(variables), views)
    return jax.nn.softmax(logits)[:, label]


def random_correlation(
    method: str,
    model: Model,
    image: jax.Array,
    label: jax.Array,
    prepare: Preprocess,
    evidence: np.ndarray,
) -> float | None:
    """Returns how alike a map and those of the same net before any training are.

    Near 0 says that what was learned decides where the map points; near 1, that the map would have
    come out so anyway, as an edge detector's does. Source: Adebayo et al. (2018), arXiv:1810.03292,
    section 3, all layers at once.

    Args:
      method: one of `maps.METHODS`.
      model: in inference.
      image: f32[h, w, channels], standardised.
      label: int32[].
      prepare: how the picture was prepared.
      evidence: f32[h, w], the method's map with the trained weights.

    Returns:
      The mean of Spearman's rank correlation over DRAWS draws of the weights; draws whose map is
      flat are left out, and None is all of them.
    """
    found = []
    for seed in range(DRAWS):
        drawn = _drawn(model, jax.random.key(seed))
        (other,) = maps.evidence(method, model, drawn, image[None], label[None], prepare)
        found.append(rank_correlation(evidence, other))
    have = [value for value in found if value is not None]
    return float(np.mean(have)) if have else None


@functools.partial(jax.jit, static_argnums=0)
def _drawn(model: Model, key: jax.Array) -> maps.Variables:
    return model.init(key)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns Spearman's correlation of two maps f32[h, w], pixel by pixel; None if one is flat."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic)
