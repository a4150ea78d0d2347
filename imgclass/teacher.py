"""A trained model that another one learns from, and whether the two fit together.

It is a guest in the train step: it sees the augmented pictures in its own size and standardisation,
predicts as in evaluation, and is never trained or saved.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError
from imgclass.models import Model


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model with its weights.

    Attributes:
      model: init and apply.
      prepare: its preprocessing.
      variables: {'params', 'batch_stats'}.
      class_names: by label.
    """

    model: Model
    prepare: Preprocess
    variables: dict[str, Any]
    class_names: tuple[str, ...]

    def outputs(self, images: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Predicts augmented pictures.

        Args:
          images: f32[batch, h, w, C] in [0, 1]; resized (bilinear, antialiased) where the
            teacher's pictures have another size.

        Returns:
          f32[batch, K] logits, and the features by name.
        """
        height, width = self.prepare.image_size
        if images.shape[1:3] != (height, width):
            shape = (images.shape[0], height, width, images.shape[3])
            images = jax.image.resize(images, shape, "bilinear")
        return self.model.apply(self.variables, self.prepare.standardize(images))


def feature(features: dict[str, Any], name: str) -> jax.Array:
    """Returns the feature 'pooled' or 'last_map', or the stage of that name.

    Raises:
      UsageError: there is none.
    """
    if name in ("pooled", "last_map"):
        return features[name]
    stages = features["stages"]
    if name not in stages:
        raise UsageError(
            f"loss.distill_feature={name!r}: there is 'pooled', 'last_map' and "
            f"{', '.join(map(repr, stages))}"
        )
    return stages[name]


def check(
    teacher: Teacher, model: Model, prepare: Preprocess, class_names: Sequence[str], name: str
) -> None:
    """Refuses a teacher that a model cannot learn from.

    Args:
      teacher: who teaches.
      model: who learns.
      prepare: the preprocessing of the learner.
      class_names: of the learner, by label.
      name: loss.distill_feature; '' for none.

    Raises:
      UsageError: other classes, other channels, or a feature of another shape.
    """
    if tuple(class_names) != teacher.class_names:
        raise UsageError(
            f"loss.teacher: it knows the classes {_some(teacher.class_names)}, "
            f"this data has {_some(class_names)}"
        )
    if teacher.prepare.channels != prepare.channels:
        raise UsageError(
            f"loss.teacher: it sees {teacher.prepare.channels} channels, "
            f"data.channels is {prepare.channels}"
        )
    if not name:
        return

    def shapes(of: Model) -> Any:
        variables = jax.eval_shape(lambda: of.init(jax.random.key(0)))
        picture = jax.ShapeDtypeStruct((1, *of.input_shape), jnp.float32)
        return jax.eval_shape(of.apply, variables, picture)[1]

    ours, theirs = feature(shapes(model), name).shape, feature(shapes(teacher.model), name).shape
    if ours != theirs:
        raise UsageError(
            f"loss.distill_feature={name!r} has shape {list(ours[1:])} here and "
            f"{list(theirs[1:])} in the teacher: choose one that is alike, or '' for logits alone"
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(repr, names[:most])) + (f" ({len(names)} in all)" if names[most:] else "")
