"""Made-up pictures, targets, keys and programs for the tests of augmentation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgclass import config
from imgclass.data import augment


def pictures(n, h=8, w=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(n, h, w, channels)), jnp.float32)


def one_hot(n, classes=4):
    return jax.nn.one_hot(jnp.arange(n) % classes, classes, dtype=jnp.float32)


def row_keys(n, seed=1):
    return jax.random.split(jax.random.key(seed), n)


@functools.cache
def many_keys():
    return row_keys(2000, seed=3)


def every(function):
    """Applies a function of a key to 2000 keys, as one array."""
    return np.asarray(jax.jit(jax.vmap(function))(many_keys()))


def section(**changes):
    cfg = config.defaults().augment
    cfg.update(changes)
    return cfg


def function(changes, out_size=(8, 8), channels=3, **fixed):
    fill = jnp.asarray(np.linspace(0.25, 0.75, channels), jnp.float32)
    cfg = section(**changes)
    return functools.partial(augment.augment, cfg=cfg, out_size=out_size, fill=fill, **fixed)


@functools.cache
def compiled(changes, out_size, channels, fixed=()):
    return jax.jit(function(dict(changes), out_size, channels, **dict(fixed)))


def run(images, changes, out_size=(8, 8), targets=None, keys=None, views=1, size=None, **rows):
    """Augments as the config keys of `changes` say; returns images and targets."""
    n = images.shape[0]
    targets = one_hot(n) if targets is None else targets
    keys = row_keys(n) if keys is None else keys
    fixed = (("views", views), ("size", size))
    program = compiled(tuple(changes.items()), out_size, images.shape[3], fixed)
    return program(images, targets, keys, jax.random.key(2), **rows)
