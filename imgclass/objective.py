"""What is differentiated: the loss of a batch as a function of the parameters, and its gradient.

`make` binds the model and the config's losses into one pure function; `gradients` differentiates
it, whole or in micro-batches. No optimizer, no augmentation and no metrics here.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from imgclass import losses, optim
from imgclass import teacher as teacher_lib
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError
from imgclass.models import Model

VIEWS = 3  # of each picture where loss.consistency compares them, as in AugMix

# What a loss is taken of. Every leaf has the rows first: 'image' f32[B, H, W, C] in [0, 1], or
# f32[B, V, H, W, C] with V views of each picture, the plain one first; 'target' f32[B, K],
# distributions over the classes, not smoothed.
Examples = Mapping[str, jax.Array]
# (logits f32[B, K] of the plain view, loss f32[B] of each row, updated batch statistics)
Outcome = tuple[jax.Array, jax.Array, Any]
# (params, batch_stats, examples, key) -> (the mean loss f32[], outcome)
Objective = Callable[[Any, Any, Examples, jax.Array], tuple[jax.Array, Outcome]]
# The same arguments -> (gradient, like params; outcome)
Gradient = Callable[[Any, Any, Examples, jax.Array], tuple[Any, Outcome]]
# (logits f32[B, K], targets f32[B, K]) -> f32[B]
RowLoss = Callable[[jax.Array, jax.Array], jax.Array]


def make(
    config: ml_collections.ConfigDict,
    model: Model,
    prepare: Preprocess,
    class_counts: tuple[int, ...] = (),
    teacher: teacher_lib.Teacher | None = None,
    class_names: tuple[str, ...] = (),
) -> Objective:
    """Returns the function that a train step differentiates with respect to its first argument.

    The loss of a row is

        (1 - a) * label_loss + a * distillation + b * feature error + c * consistency

    with a = loss.distill_weight and b = loss.distill_feature_weight where there is a teacher, and
    c = loss.consistency, for which pictures come in several views; see `losses` for each.

    Args:
      config: resolved and checked.
      model: what is trained.
      prepare: its preprocessing.
      class_counts: training examples by label; needed by class weights and logit adjustment.
      teacher: needed where loss.teacher is given.
      class_names: by label, for what is said of one.

    Raises:
      UsageError: a class without examples, where each must have one.
      ValueError: the config needs a teacher or class counts, and there are none.
    """
    cfg = config.loss
    label_loss = _label_loss(cfg, class_counts, class_names)
    if cfg.teacher and teacher is None:
        raise ValueError("loss.teacher is given, but no teacher")

    def objective(
        params: Any, batch_stats: Any, examples: Examples, key: jax.Array
    ) -> tuple[jax.Array, Outcome]:
        variables = {
            "params": optim.stop_frozen(config.optim, params),
            "batch_stats": batch_stats,
        }
        images = examples["image"]
        views = images.shape[1] if images.ndim == 5 else 1
        # All views in one pass: batch statistics are of all of them.
        x = prepare.standardize(images.reshape(-1, *images.shape[-3:]))
        logits, features, batch_stats = model.apply_train(variables, x, key)
        every = _by_picture(logits, views)
        logits = every[:, 0]
        rows = label_loss(logits, examples["target"])
        if teacher is not None:
            plain = images[:, 0] if views > 1 else images
            rows = _taught(cfg, rows, (logits, features), teacher.outputs(plain), views)
        if views > 1:
            rows = rows + cfg.consistency * losses.jensen_shannon(every)
        return jnp.mean(rows), (logits, rows, batch_stats)

    return objective


def _label_loss(cfg: Any, class_counts: tuple[int, ...], class_names: tuple[str, ...]) -> RowLoss:
    """Returns the loss of logits against targets, with what the class counts make of it."""
    if (cfg.class_weights != "none" or cfg.logit_adjust) and not class_counts:
        raise ValueError("loss.class_weights and loss.logit_adjust need the class counts")
    counts = np.array(class_counts)
    if cfg.logit_adjust and not counts.all():
        empty = int(np.argmin(counts))
        raise UsageError(
            f"loss.logit_adjust={cfg.logit_adjust}: class "
            f"{repr(class_names[empty]) if class_names else empty} has no training example, and so "
            "no prior; set loss.logit_adjust=0 or give it examples"
        )
    each = _by_name(cfg)

    def label_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        if cfg.logit_adjust:
            logits = logits + cfg.logit_adjust * losses.log_priors(counts)[None]
        rows = each(logits, losses.smooth(targets, cfg.label_smoothing))
        if cfg.class_weights != "none":
            weights = losses.class_weights(counts, cfg.class_weights, cfg.effective_beta)
            # A mixed row has its classes' weights mixed alike; smoothing moves no weight.
            rows = rows * jnp.sum(targets * weights[None], axis=-1)
        return rows

    return label_loss


def _by_picture(x: jax.Array, views: int) -> jax.Array:
    """[B * V, ...] -> [B, V, ...]."""
    return x.reshape(-1, views, *x.shape[1:])


def _by_name(cfg: Any) -> RowLoss:
    if cfg.name == "bce":
        return functools.partial(
            losses.binary_cross_entropy, threshold=cfg.bce_threshold, total=cfg.bce_sum
        )
    if cfg.name == "focal":
        return functools.partial(losses.focal, gamma=cfg.focal_gamma)
    return losses.cross_entropy


def _taught(
    cfg: Any,
    rows: jax.Array,
    student: tuple[jax.Array, dict[str, Any]],
    teacher: tuple[jax.Array, dict[str, Any]],
    views: int,
) -> jax.Array:
    """Joins the loss on labels with that on the teacher's outputs, of plain views alone."""
    (logits, features), (wanted, wanted_features) = student, teacher
    rows = (1.0 - cfg.distill_weight) * rows + cfg.distill_weight * losses.distillation(
        logits, wanted, cfg.distill_temperature
    )
    if cfg.distill_feature:
        ours = _by_picture(teacher_lib.feature(features, cfg.distill_feature), views)[:, 0]
        theirs = teacher_lib.feature(wanted_features, cfg.distill_feature)
        rows = rows + cfg.distill_feature_weight * losses.squared_error(ours, theirs)
    return rows


def gradients(objective: Objective, parts: int) -> Gradient:
    """Differentiates an objective, in `parts` micro-batches one after the other.

    The gradient is the mean of the parts', so only what couples rows can tell `parts`: batch
    statistics, which each part updates in turn. Each part has a key of its own.
    """
    grad = jax.grad(objective, has_aux=True)
    if parts == 1:
        return grad

    def accumulated(
        params: Any, batch_stats: Any, examples: Examples, key: jax.Array
    ) -> tuple[Any, Outcome]:
        def micro(carry: tuple, part: tuple) -> tuple:
            total, batch_stats = carry
            index, rows = part
            new, (logits, loss, batch_stats) = grad(
                params, batch_stats, rows, jax.random.fold_in(key, index)
            )
            return (jax.tree.map(jnp.add, total, new), batch_stats), (logits, loss)

        zeros = jax.tree.map(jnp.zeros_like, params)
        cut = (jnp.arange(parts), jax.tree.map(lambda x: _cut(x, parts), examples))
        scanned: Any = jax.lax.scan(micro, (zeros, batch_stats), cut)
        (total, batch_stats), (logits, loss) = scanned
        mean = jax.tree.map(lambda g: g / parts, total)
        return mean, (_join(logits), _join(loss), batch_stats)

    return accumulated


def _cut(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B/parts, ...], every part taking rows from every device's share."""
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _join(x: jax.Array) -> jax.Array:
    """Undoes `_cut`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
