"""Parity with Keras in training: 50 steps of the textbook CNN, loss for loss."""

import importlib.util
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

import jax
import numpy as np
import pytest

from imgclass import build, feeds, parallel
from imgclass import config as config_lib
from imgclass.data import dataset, feed, order

keras = pytest.importorskip("keras")

STEPS = 50


def textbook_config():
    """Returns configs/cnn.py as it stands."""
    path = pathlib.Path(__file__).parents[1] / "configs/cnn.py"
    spec = importlib.util.spec_from_file_location("cnn", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = config_lib.resolve(module.get_config())
    config_lib.check(config)
    return config


def keras_losses(params, images, labels, batches):
    """Trains the same network in Keras from the same weights on the same batches."""
    # Keras promotes dtypes and ranks as NumPy does, which the test session forbids elsewhere.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        net = keras.Sequential(
            [
                keras.Input((64, 64, 3)),
                keras.layers.Conv2D(32, 3, activation="relu"),
                keras.layers.MaxPooling2D(2),
                keras.layers.Flatten(),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        net.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        conv, head = params["block1_conv1"], params["head"]
        net.set_weights([conv["kernel"], conv["bias"], head["kernel"], head["bias"]])
        assert net.count_params() == 308_426
        losses = []
        for rows in batches:
            net.reset_metrics()  # or train_on_batch returns the mean so far
            losses.append(float(net.train_on_batch(images[rows], labels[rows])))
    return losses


def test_fifty_steps_of_adam_are_those_of_keras():
    config = textbook_config()
    config.train.devices = 1
    opened = dataset.open_dataset(config)
    split = opened.splits["train"]
    task = build.make(
        config, opened.source.class_names, opened.prepare, parallel.make_mesh(1, 32), STEPS, 0
    )
    batches = [order.batch_indices(config.seed, len(split), 32, k) for k in range(STEPS)]
    state = task.initial_state()
    params = jax.tree.map(np.array, state.params)

    feeding, run, ours = feeds.train_feed(task, opened), task.jitted_train_step(), []
    for k in range(STEPS):
        state, out = run(state, feeding.batch(k))
        ours.append(out["sums"]["loss"][0])
    ours = np.array([float(loss) / 32 for loss in ours])

    images = feed.load_all(split, opened.prepare, (64, 64)).astype(np.float32) / 255
    theirs = np.array(keras_losses(params, images, split.labels, batches))
    assert theirs[-5:].mean() < 0.5 * theirs[:5].mean()  # it does train
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
