"""The default CNN in Keras on TensorFlow: `fit`, or a bare `tf.function` step on one batch.

    python benchmarks/peers/train_keras.py fit|function BATCH WINDOW WINDOWS

Prints {"images_per_second": ...}: the median of WINDOWS - 1 windows of WINDOW steps; the first,
which compiles, is left out. `fit` is given float32 pictures scaled to [0, 1] beforehand.
"""

import json
import os
import statistics
import sys
import time

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf


def main(form: str, batch: int, window: int, windows: int) -> None:
    """Times either form."""
    layers = [
        keras.Input((64, 64, 3)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    random = np.random.default_rng(0)
    images = random.random((batch * window, 64, 64, 3), dtype=np.float32)
    labels = random.integers(0, 10, len(images)).astype(np.int32)
    rates: list[float] = []
    if form == "fit":
        for _ in range(windows):
            began = time.perf_counter()
            model.fit(images, labels, batch_size=batch, epochs=1, verbose=0)
            rates.append(len(images) / (time.perf_counter() - began))
    else:
        optimizer.build(model.trainable_variables)

        @tf.function
        def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            slopes = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(zip(slopes, model.trainable_variables, strict=True))
            return value

        x, y = tf.constant(images[:batch]), tf.constant(labels[:batch])
        for _ in range(windows):
            began = time.perf_counter()
            for _ in range(window):
                value = step(x, y)
            value.numpy()
            rates.append(batch * window / (time.perf_counter() - began))
    print(json.dumps({"images_per_second": statistics.median(rates[1:])}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
