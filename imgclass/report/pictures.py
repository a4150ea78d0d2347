"""Pictures inside the page: the examples worth a look, read again, and encoded as data URIs."""

import base64
import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from imgclass import objective, seen
from imgclass.data import dataset, load, preprocess, sampling
from imgclass.evaluate.outcomes import Outcomes
from imgclass.evaluate.restore import Restored
from imgclass.explain import maps, overlay

LARGEST = 160  # pixels of a side in the page; what is larger is made smaller
ERRORS, PAIRS, OF_A_PAIR, SEEN = 18, 6, 5, 12  # pictures of each kind, at most


@dataclasses.dataclass(frozen=True)
class Shown:
    """One example of the scored split.

    Attributes:
      index: its place in the split.
      name: its file, or what the source calls it.
      label: the true one.
      predicted: the likeliest one.
      confidence: its probability.
      picture: as the model got it, before standardising; a data URI.
      map: Grad-CAM for the predicted label, laid over the picture; '' where there is none.
    """

    index: int
    name: str
    label: int
    predicted: int
    confidence: float
    picture: str
    map: str = ""


@dataclasses.dataclass(frozen=True)
class Seen:
    """A training picture as it is stored and as the first step got it, data URIs, and its label."""

    label: int
    before: str
    after: str


def data_uri(pixels: np.ndarray) -> str:
    """Encodes uint8[h, w, 1 or 3]: PNG where it is small, JPEG where that would be large."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BILINEAR)
    file, small = io.BytesIO(), max(image.size) <= 64
    image.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def confident_errors(outcomes: Outcomes, most: int = ERRORS) -> np.ndarray:
    """Returns rows of `outcomes` that are wrong, the most confident first, ties by row."""
    wrong = np.flatnonzero(~outcomes.right)
    return wrong[np.argsort(-outcomes.confidence[wrong], kind="stable")][:most]


def of_pair(outcomes: Outcomes, label: int, predicted: int, most: int = OF_A_PAIR) -> np.ndarray:
    """Returns rows of `label` that were taken for `predicted`, the most confident first."""
    rows = np.flatnonzero((outcomes.labels == label) & (outcomes.predicted == predicted))
    return rows[np.argsort(-outcomes.confidence[rows], kind="stable")][:most]


def show(
    found: Restored,
    data: dataset.Dataset,
    split: str,
    outcomes: Outcomes,
    rows: np.ndarray,
    explain: bool = False,
) -> list[Shown]:
    """Reads the examples of some rows of `outcomes`, and explains what was said of them.

    Raises:
      UserError: a picture cannot be read.
    """
    if not len(rows):
        return []
    prepare, examples = found.task.prepare, data.splits[split]
    index, predicted = outcomes.index[rows], outcomes.predicted[rows]
    images = load.examples(examples, index.tolist(), prepare, prepare.image_size)
    overlays = [""] * len(rows)
    if explain:
        ready = prepare.standardize(preprocess.to_unit(jnp.asarray(images)))
        variables = jax.device_get(found.variables)  # whole, wherever they are
        heat = maps.gradcam(found.task.model, variables, ready, jnp.asarray(predicted))
        colour = np.broadcast_to(images, (*images.shape[:3], 3))
        overlays = [data_uri(overlay.blend(*pair)) for pair in zip(colour, heat, strict=True)]
    return [
        Shown(
            index=int(index[i]),
            name=name,
            label=int(outcomes.labels[row]),
            predicted=int(predicted[i]),
            confidence=float(outcomes.confidence[row]),
            picture=data_uri(images[i]),
            map=overlays[i],
        )
        for i, (row, name) in enumerate(
            zip(rows, examples.example_names(index.tolist()), strict=True)
        )
    ]


def first_seen(found: Restored, data: dataset.Dataset, most: int = SEEN) -> list[Seen]:
    """Returns the first training pictures of the first step, as they are and as augmented.

    Raises:
      UserError: a picture cannot be read.
    """
    config, split, prepare = found.task.config, data.splits["train"], found.task.prepare
    counts = np.bincount(split.labels, minlength=len(found.task.class_names))
    task = dataclasses.replace(found.task, class_counts=tuple(counts.tolist()))
    after = seen.first_pictures(task, data, most)
    order = sampling.make_order(
        config.seed, split.labels, config.train.batch_size, config.data.sampling,
        config.augment.repeats,
    )  # fmt: skip
    each = objective.VIEWS if config.loss.consistency else 1  # of an example, one after another
    index = np.repeat(order(0), each)[: len(after)].tolist()
    before = load.examples(split, index, prepare, prepare.image_size)
    return [
        Seen(int(split.labels[place]), data_uri(old), data_uri(new))
        for place, old, new in zip(index, before, after, strict=True)
    ]
