"""Muon: momentum whose update of a weight matrix is orthogonalised.

optax.contrib.muon is another form of it: its momentum is a bias-corrected average, what is not a
matrix goes to Adam, and kernels are orthogonalised one after another in the gradient's own dtype.
Here, as in the program that set the CIFAR-10 records, momentum is SGD's, the rest is SGD's, and
kernels of one shape are orthogonalised together, in bfloat16 if asked. Not here: the momentum, for
which optax.trace serves, and the choice of what is trained how, which is `create`'s.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgclass.optim import masks

# Of the quintic a*s + b*s^3 + c*s^5, which takes small singular values s up fast and keeps those
# near 1 within about [0.7, 1.2]: Jordan et al. (2024), "Muon: an optimizer for hidden layers".
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7  # added to the norm, as in the same program


def orthogonalize(x: jax.Array, steps: int, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """Brings the singular values of matrices near 1, by Newton-Schulz iterations.

    From X = x / ||x||_F, each step is X <- a*X + b*(X X^T) X + c*(X X^T)^2 X. It commutes with
    transposing, so the products are taken over the longer side.

    Args:
      x: f32[n, rows, columns], n matrices.
      steps: 5 take singular values above 1% of the norm to about [0.7, 1.2]; 3, those above 10%.
      dtype: of the products.

    Returns:
      f32[n, rows, columns].
    """
    a, b, c = COEFFICIENTS
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))
    y = (x / (norm + EPSILON)).astype(dtype)
    wide = y.shape[1] <= y.shape[2]
    for _ in range(steps):
        transposed = jnp.swapaxes(y, 1, 2)
        gram = y @ transposed if wide else transposed @ y
        poly = b * gram + c * (gram @ gram)
        y = a * y + (poly @ y if wide else y @ poly)
    return y.astype(x.dtype)


def matrices(cfg: Any, params: Any) -> Any:
    """Says which parameters Muon updates as matrices: the kernels that optim.muon_params matches.

    Frozen ones are not, nor those with a learning-rate factor of 0.

    Args:
      cfg: the config's `optim` section.
      params: tree of arrays.

    Returns:
      A tree like `params` of bool.
    """
    named = masks.matching(params, cfg.muon_params, "optim.muon_params")
    frozen = masks.matching(params, cfg.freeze, "optim.freeze")
    factors = masks.lr_factors(params, cfg.lr_factors)

    def chosen(p: jax.Array, named: bool, frozen: bool, factor: float) -> bool:
        return named and not frozen and factor > 0 and p.ndim in (2, 4)

    return jax.tree.map(chosen, params, named, frozen, factors)


def scale_by_orthogonalizing(
    steps: int, dtype: jax.typing.DTypeLike
) -> optax.GradientTransformation:
    """Orthogonalises updates, and multiplies those of more outputs than inputs by their root ratio.

    A kernel of shape [height, width, in, out] is the matrix [height * width * in, out]: of a
    grouped convolution all groups are one matrix. The factor sqrt(max(1, out / rows)) is that of
    the program by Jordan et al.; a 3x3 convolution hardly ever has more outputs than rows.

    Args:
      steps: see `orthogonalize`.
      dtype: see `orthogonalize`.

    Returns:
      A transformation of a tree of f32 arrays of rank 2 or more.
    """

    def orthogonalized(updates: Any, params: Any = None) -> Any:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        flat = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves]
        done: dict[int, jax.Array] = {}
        for shape in sorted({x.shape for x in flat}):
            same = [i for i, x in enumerate(flat) if x.shape == shape]
            scale = max(1.0, shape[1] / shape[0]) ** 0.5
            stack = orthogonalize(jnp.stack([flat[i] for i in same]), steps, dtype) * scale
            done |= {i: stack[n].reshape(leaves[i].shape) for n, i in enumerate(same)}
        return jax.tree.unflatten(treedef, [done[i] for i in range(len(leaves))])

    return optax.stateless(orthogonalized)


def project(cfg: Any, params: Any) -> Any:
    """With optim.muon_normalize, gives each of Muon's matrices the norm of an orthogonal one.

    To be called before the optimizer's update: W <- W * sqrt(outputs) / ||W||_F, as the program
    named above does. A layer of batch norm that follows makes the network blind to it.

    Args:
      cfg: the config's `optim` section.
      params: tree of f32 arrays.

    Returns:
      A tree like `params`; `params` itself when there is nothing to do.
    """
    if cfg.name != "muon" or not cfg.muon_normalize:
        return params

    def normalized(p: jax.Array, chosen: bool) -> jax.Array:
        if not chosen:
            return p
        norm = jnp.sqrt(jnp.sum(jnp.square(p)))
        return p * (p.shape[-1] ** 0.5 / jnp.maximum(norm, EPSILON))

    return jax.tree.map(normalized, params, matrices(cfg, params))
