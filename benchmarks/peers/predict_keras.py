"""Prediction by Keras on TensorFlow, on CPU.

    python benchmarks/peers/predict_keras.py MODEL BATCH predict|call

MODEL is cnn (64 pixels, 10 classes), resnet50 or mobilenet_v3_large (224 pixels, 1,000 classes).
Weights are random. A call takes uint8 pictures from NumPy and gives probabilities to NumPy, by
`predict_on_batch` or by the model in a `tf.function`. Prints {"milliseconds": ...}, the median of
the calls in some seconds.
"""

import json
import os
import sys
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from timed import milliseconds


def _model(name: str) -> keras.Model:
    if name == "cnn":
        return keras.Sequential(
            [
                keras.Input((64, 64, 3), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(32, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
    if name == "resnet50":
        net = keras.applications.ResNet50(weights=None)
    else:
        net = keras.applications.MobileNetV3Large(weights=None, include_preprocessing=False)
    picture = keras.Input((224, 224, 3), dtype="uint8")
    return keras.Model(picture, net(keras.layers.Rescaling(1 / 255)(picture)))


def main(name: str, batch: int, mode: str) -> None:
    """Times the calls."""
    model = _model(name)
    side = model.input_shape[1]
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    call: Callable[[], np.ndarray]
    if mode == "predict":

        def call() -> np.ndarray:
            return model.predict_on_batch(images)

    else:
        run = tf.function(lambda x: model(x, training=False))

        def call() -> np.ndarray:
            return run(tf.constant(images)).numpy()

    print(json.dumps({"milliseconds": milliseconds(call)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
