"""Parts that several architectures share: squeeze-and-excitation, dropped paths.

Built from `layers.py` alone; an architecture's own blocks stay in its own file.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgclass.models import layers


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the mean of every channel.

    y = x * gate(W2 act(W1 mean(x) + b1) + b2), the mean over space. Source: Hu et al. (2018),
    arXiv:1709.01507, eq. 2 to 4.

    Attributes:
      width: of the hidden layer.
      activation: a name in `layers.ACTIVATIONS`, of the hidden layer.
      gate: the same, of the scale: 'sigmoid' or 'hard_sigmoid'.
      dtype: of the computation.
    """

    width: int
    activation: str = "relu"
    gate: str = "sigmoid"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[batch, h, w, c] to dtype[batch, h, w, c]."""
        hidden = layers.Dense(self.width, dtype=self.dtype, name="reduce")(layers.global_mean(x))
        hidden = layers.activation(self.activation)(hidden)
        scale = layers.Dense(x.shape[-1], dtype=self.dtype, name="expand")(hidden)
        return x * layers.activation(self.gate)(scale)[:, None, None, :]


class DropPath(nn.Module):
    """Stochastic depth: in training, zeroes a row's whole branch at `rate`, and scales the rest up.

    Draws from the 'dropout' stream. Source: Huang et al. (2016), arXiv:1603.09382; dividing by
    1 - rate in training, rather than multiplying in inference, is the field's form.

    Attributes:
      rate: chance that a row's branch is dropped, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps float[batch, ...] to the same shape and dtype."""
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """Returns each block's rate: from 0 at the first linearly to `rate` at the last.

    >>> drop_path_rates(0.2, 3)
    [0.0, 0.1, 0.2]
    """
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]
