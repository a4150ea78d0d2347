"""What the model sees in training: the first pictures of a run, augmented as its first step does.

A picture to look at, drawn by a program of its own: the run's steps know nothing of it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from imgclass import build, feeds, keys, step
from imgclass.data import dataset, load, sampling

PICTURES, COLUMNS = 32, 8  # of the sheet
SMALLEST = 64  # side of a cell in pixels: smaller pictures are enlarged
GAP = 2


def first_pictures(task: build.Task, data: dataset.Dataset, most: int = PICTURES) -> np.ndarray:
    """Returns u8[n, height, width, C]: the first rows of step 0, augmented, before standardising.

    They are what that step trains on to the bit, but that mixup and cutmix pair the rows of the
    whole batch, and here those `most` among themselves. Several views of a picture follow one
    another.

    Raises:
      UserError: a picture cannot be read.
    """
    config, split = task.config, data.splits["train"]
    order = sampling.make_order(
        config.seed,
        split.labels,
        config.train.batch_size,
        config.data.sampling,
        config.augment.repeats,
    )
    rows = order(0)[:most]
    source, prepare = feeds.training_pictures(task, data)
    size, crop = feeds.train_size(task), feeds.host_crop(task)
    images = load.BatchLoader(source, prepare, size, crop)(0, rows, np.arange(len(rows)))
    batch = {
        "image": images,
        "label": np.asarray(split.labels[rows], np.int32),
        "index": np.asarray(rows, np.int32),
    }
    seen_size = step.training_sizes(config.augment, task.prepare)[0]
    augmented = step.make_augmented(
        config, task.prepare, len(task.class_names), sum(task.class_counts), None
    )
    draw = jax.jit(lambda batch: augmented(batch, jnp.int32(0), keys.root(config.seed), seen_size))
    shown = np.asarray(draw(batch)["image"])
    shown = shown.reshape(-1, *shown.shape[-3:])[:most]
    return np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8)


def sheet(pictures: np.ndarray) -> np.ndarray:
    """Lays out u8[n, h, w, C] in rows of 8, on white.

    Returns:
      u8[height, width, 3]; pictures under 64 pixels are enlarged by a whole factor.
    """
    factor = math.ceil(SMALLEST / max(pictures.shape[1:3]))
    cells = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = cells.shape
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        page[top : top + height, left : left + width] = cell
    return page
