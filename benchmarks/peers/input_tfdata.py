"""tf.data doing what imgclass's input does, on the same files.

    python benchmarks/peers/input_tfdata.py convert PICTURES.npz OUT.tfrecord
    python benchmarks/peers/input_tfdata.py cifar FILE.tfrecord BATCH SECONDS [batched]
    python benchmarks/peers/input_tfdata.py photos FOLDER BATCH SECONDS [default]

`cifar` decodes PNG bytes, pads by 4, crops 32 and mirrors at random, as a map over examples, which
is how it is mostly written; with 'batched' the examples are parsed, and the labels joined, a batch
at a time. `photos` decodes the random box of a JPEG alone and resizes it to 224: antialiased and
with the accurate DCT, as imgclass does it, or as tf.data does both by default. Nothing is cached.
The last two print {"images_per_second": ..., "peak_mib": ...}.
"""

import json
import os
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def convert(source: str, target: str) -> None:
    """Writes encoded pictures and labels as a TFRecord file."""
    stored = np.load(source)
    data, starts, labels = (stored[name] for name in ("data", "starts", "labels"))
    with tf.io.TFRecordWriter(target) as writer:
        for i, label in enumerate(labels):
            image = data[starts[i] : starts[i + 1]].tobytes()
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def augmented(png: tf.Tensor) -> tf.Tensor:
    """Returns f32[32, 32, 3] in [0, 1]: a random window of the padded picture, or its mirror."""
    image = tf.reshape(tf.io.decode_png(png, 3), (32, 32, 3))
    image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), (32, 32, 3))
    return tf.cast(tf.image.random_flip_left_right(image), tf.float32) / 255.0


def cifar(path: str, batch: int, batched: bool) -> tf.data.Dataset:
    """Returns shuffled, augmented batches."""

    def of_one(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, FEATURES)
        return augmented(example["image"]), example["label"]

    def of_many(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        examples = tf.io.parse_example(records, FEATURES)
        images = tf.map_fn(augmented, examples["image"], fn_output_signature=tf.float32)
        return images, examples["label"]

    data = tf.data.TFRecordDataset(path).repeat().shuffle(50_000)
    if batched:
        return data.batch(batch, drop_remainder=True).map(of_many, tf.data.AUTOTUNE)
    return data.map(of_one, tf.data.AUTOTUNE).batch(batch, drop_remainder=True)


def photos(folder: str, batch: int, default: bool) -> tf.data.Dataset:
    """Returns shuffled batches of random resized crops, 224 x 224."""
    files = tf.io.gfile.glob(os.path.join(folder, "*", "*"))

    def load(path: tf.Tensor) -> tf.Tensor:
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([1, 0, 4]),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        method = "" if default else "INTEGER_ACCURATE"
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method=method)
        image = tf.image.resize(image, (224, 224), antialias=not default)
        return tf.image.random_flip_left_right(image) / 255.0

    shuffled = tf.data.Dataset.from_tensor_slices(files).repeat().shuffle(len(files))
    return shuffled.map(load, tf.data.AUTOTUNE).batch(batch, drop_remainder=True)


def measure(data: tf.data.Dataset, batch: int, seconds: float) -> None:
    """Prints the rate at which batches come."""
    batches = iter(data.prefetch(tf.data.AUTOTUNE))
    began = time.perf_counter()
    while time.perf_counter() - began < seconds / 2:  # the shuffle buffer and the autotuner
        next(batches)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(batches)
        count += batch
    rate = count / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images_per_second": rate, "peak_mib": peak}))


if __name__ == "__main__":
    kind, path, *rest = sys.argv[1:]
    if kind == "convert":
        convert(path, rest[0])
    else:
        make, size = {"cifar": cifar, "photos": photos}[kind], int(rest[0])
        measure(make(path, size, len(rest) > 2), size, float(rest[1]))
