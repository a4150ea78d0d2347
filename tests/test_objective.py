"""What is differentiated, in float64 by hand: weights, adjustment, views, teachers, freezing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models, objective, teacher
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError
from tests import tiny

COUNTS = (60, 30, 10)
PREPARE = Preprocess(image_size=(2, 2), mean=(0.5,) * 3, std=(0.25,) * 3)
EXAMPLES = 6


class Linear:
    """Logits are the mean pixel times a kernel; in training 1 is added, which nothing else does."""

    def __init__(self, head="kernel"):
        self.input_shape, self.head = (2, 2, 3), head

    def init(self, key):
        return {"params": {self.head: jax.random.normal(key, (3, 3), jnp.float32)}}

    def apply(self, variables, x):
        assert x.shape[1:] == self.input_shape
        pooled = x.mean((1, 2))
        features = {"stages": {"only": x}, "last_map": x, "pooled": pooled}
        return pooled @ variables["params"][self.head], features

    def apply_train(self, variables, x, key):
        del key
        logits, features = self.apply(variables, x)
        return logits + 1.0, features, {"rows": jnp.int32(x.shape[0])}


def drawn(seed=0, views=None):
    """Returns parameters and examples, all f32: pictures in [0, 1] and mixed labels."""
    random = np.random.default_rng(seed)
    shape = (EXAMPLES, 2, 2, 3) if views is None else (EXAMPLES, views, 2, 2, 3)
    targets = 0.7 * np.eye(3)[random.integers(0, 3, EXAMPLES)]
    targets += 0.3 * np.eye(3)[random.integers(0, 3, EXAMPLES)]
    examples = {
        "image": random.random(shape, np.float32),
        "target": targets.astype(np.float32),
    }
    return {"kernel": random.standard_normal((3, 3)).astype(np.float32)}, examples


def config(changes):
    return tiny.config("unused", changes)


def rows_of(changes, examples, params, **further):
    loss = objective.make(config(changes), Linear(), PREPARE, COUNTS, **further)
    mean, (logits, rows, stats) = jax.jit(loss)(params, {}, examples, jax.random.key(0))
    np.testing.assert_allclose(mean, np.mean(rows), rtol=1e-6)
    return np.asarray(logits), np.asarray(rows), stats


def logits64(params, images):
    x = (np.float64(images) - 0.5) / 0.25
    return x.mean((-3, -2)) @ np.float64(params["kernel"]) + 1.0


def log_softmax64(z):
    return (
        z
        - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - z.max(-1, keepdims=True)
    )


def test_the_plain_loss_is_smoothed_cross_entropy():
    params, examples = drawn()
    logits, rows, stats = rows_of({"loss.label_smoothing": 0.3}, examples, params)
    z = logits64(params, examples["image"])
    np.testing.assert_allclose(logits, z, rtol=1e-5, atol=1e-6)
    smoothed = 0.7 * examples["target"] + 0.1
    np.testing.assert_allclose(rows, -(smoothed * log_softmax64(z)).sum(1), rtol=1e-5)
    assert int(stats["rows"]) == EXAMPLES


@pytest.mark.parametrize("name", ["bce", "focal", "cross_entropy"])
def test_a_row_is_weighed_by_its_label_not_by_its_smoothing(name):
    params, examples = drawn()
    changes = {"loss.name": name, "loss.label_smoothing": 0.3}
    _, plain, _ = rows_of(changes, examples, params)
    _, weighed, _ = rows_of(changes | {"loss.class_weights": "inverse"}, examples, params)
    weights = [100 / (3 * n) for n in COUNTS]
    np.testing.assert_allclose(weighed, plain * (examples["target"] @ weights), rtol=1e-5)
    changes |= {"loss.class_weights": "effective", "loss.effective_beta": 0.9}
    _, weighed, _ = rows_of(changes, examples, params)
    raw = [0.1 / (1 - 0.9**n) for n in COUNTS]
    scale = 100 / sum(n * w for n, w in zip(COUNTS, raw, strict=True))
    weights = [scale * w for w in raw]
    np.testing.assert_allclose(weighed, plain * (examples["target"] @ weights), rtol=1e-5)


def test_bce_takes_its_keys():
    params, examples = drawn()
    changes = {"loss.name": "bce", "loss.bce_sum": True, "loss.bce_threshold": 0.2}
    _, rows, _ = rows_of(changes, examples, params)
    z, t = logits64(params, examples["image"]), examples["target"] > 0.2
    assert t.sum() > EXAMPLES  # a mixed picture is wholly of both classes
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(rows, -np.log(np.where(t, p, 1 - p)).sum(1), rtol=1e-5)


def test_focal_takes_its_gamma():
    params, examples = drawn()
    _, rows, _ = rows_of({"loss.name": "focal", "loss.focal_gamma": 1.5}, examples, params)
    log_p = log_softmax64(logits64(params, examples["image"]))
    expected = -(examples["target"] * (1 - np.exp(log_p)) ** 1.5 * log_p).sum(1)
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_logits_are_adjusted_in_the_loss_and_nowhere_else():
    params, examples = drawn()
    logits, rows, _ = rows_of({"loss.logit_adjust": 2.0}, examples, params)
    z = logits64(params, examples["image"])
    np.testing.assert_allclose(logits, z, rtol=1e-5, atol=1e-6)
    adjusted = log_softmax64(z + 2 * np.log(np.array(COUNTS) / 100))
    np.testing.assert_allclose(rows, -(examples["target"] * adjusted).sum(1), rtol=1e-5)


def test_views_are_one_batch_and_their_disagreement_costs():
    params, examples = drawn(views=3)
    logits, rows, stats = rows_of(
        {"loss.consistency": 5.0, "augment.policy": "augmix"}, examples, params
    )
    assert int(stats["rows"]) == 3 * EXAMPLES
    z = logits64(params, examples["image"])
    assert z.shape == (EXAMPLES, 3, 3)
    np.testing.assert_allclose(logits, z[:, 0], rtol=1e-5, atol=1e-6)
    p = np.exp(log_softmax64(z))
    mean = p.mean(1, keepdims=True)
    divergence = (p * np.log(p / mean)).sum((1, 2)) / 3
    plain = -(examples["target"] * log_softmax64(z[:, 0])).sum(1)
    np.testing.assert_allclose(rows, plain + 5 * divergence, rtol=1e-5)


def make_teacher(seed=7, size=2, names=("a", "b", "c"), channels=3):
    variables = {"params": {"other": np.random.default_rng(seed).random((3, 3), np.float32)}}
    model = Linear("other")
    model.input_shape = (size, size, 3)
    prepare = Preprocess(
        image_size=(size, size), channels=channels, mean=(0.2,) * 3, std=(0.5,) * 3
    )
    return teacher.Teacher(model, prepare, variables, names)


TAUGHT = {"loss.teacher": "a run", "loss.distill_weight": 0.25, "loss.distill_temperature": 2.0}


def test_a_teacher_s_share_of_the_loss():
    params, examples = drawn()
    taught = TAUGHT | {"loss.distill_feature": "pooled", "loss.distill_feature_weight": 3.0}
    mentor = make_teacher()
    _, rows, _ = rows_of(taught, examples, params, teacher=mentor)
    # The teacher has a standardisation of its own, and predicts as in evaluation.
    seen = ((np.float64(examples["image"]) - 0.2) / 0.5).mean((1, 2))
    p = log_softmax64(seen @ np.float64(mentor.variables["params"]["other"]) / 2)
    z = logits64(params, examples["image"])
    soft = 4 * (np.exp(p) * (p - log_softmax64(z / 2))).sum(1)
    hard = -(examples["target"] * log_softmax64(z)).sum(1)
    pooled = ((np.float64(examples["image"]) - 0.5) / 0.25).mean((1, 2))
    expected = 0.75 * hard + 0.25 * soft + 3 * ((pooled - seen) ** 2).mean(1)
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_a_teacher_is_asked_about_the_plain_view():
    params, examples = drawn(views=3)
    taught = TAUGHT | {"loss.distill_feature": "pooled"}
    _, rows, _ = rows_of(taught, examples, params, teacher=make_teacher())
    plain = examples | {"image": examples["image"][:, 0]}
    _, expected, _ = rows_of(taught, plain, params, teacher=make_teacher())
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_a_teacher_of_another_size_sees_the_picture_in_its_own():
    params, examples = drawn()
    # Every pixel of a flat picture stays what it is, so both sizes see the same mean.
    flat = np.broadcast_to(examples["image"][:, :1, :1], examples["image"].shape)
    examples = examples | {"image": flat}
    same = rows_of(TAUGHT, examples, params, teacher=make_teacher(size=2))[1]
    other = rows_of(TAUGHT, examples, params, teacher=make_teacher(size=6))[1]
    np.testing.assert_allclose(other, same, rtol=1e-5)


def test_nothing_is_learnt_through_the_teacher():
    """The gradient is that of the student alone: T^2 * share * (q - p) / T with p held."""
    params, examples = drawn()
    loss = objective.make(
        config(TAUGHT | {"loss.distill_weight": 1.0}), Linear(), PREPARE, COUNTS, make_teacher()
    )
    grad, _ = jax.grad(loss, has_aux=True)(params, {}, examples, jax.random.key(0))
    seen = ((np.float64(examples["image"]) - 0.2) / 0.5).mean((1, 2))
    p = np.exp(log_softmax64(seen @ np.float64(make_teacher().variables["params"]["other"]) / 2))
    q = np.exp(log_softmax64(logits64(params, examples["image"]) / 2))
    pooled = ((np.float64(examples["image"]) - 0.5) / 0.25).mean((1, 2))
    expected = pooled.T @ (2 * (q - p)) / EXAMPLES
    np.testing.assert_allclose(grad["kernel"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("views", [None, 3])
def test_parts_give_the_gradient_of_the_whole(parts, views):
    params, examples = drawn(views=views)
    loss = objective.make(
        config({"loss.class_weights": "inverse"}), Linear(), PREPARE, COUNTS
    )  # fmt: skip
    whole, (logits, rows, _) = jax.grad(loss, has_aux=True)(params, {}, examples, jax.random.key(0))

    def counted(*args):  # the carry of a loop keeps its structure
        mean, (logits, rows, _) = loss(*args)
        return mean, (logits, rows, {})

    gradient = jax.jit(objective.gradients(counted, parts))
    grad, (logits_2, rows_2, _) = gradient(params, {}, examples, jax.random.key(0))
    np.testing.assert_allclose(grad["kernel"], whole["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits_2, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows_2, rows, rtol=1e-5)


def test_frozen_parameters_have_no_gradient():
    params, examples = drawn()
    loss = objective.make(config({"optim.freeze": "kernel"}), Linear(), PREPARE, COUNTS)
    grad, _ = jax.grad(loss, has_aux=True)(params, {}, examples, jax.random.key(0))
    np.testing.assert_array_equal(grad["kernel"], np.zeros((3, 3)))


def test_what_is_missing_is_said_before_a_step():
    with pytest.raises(UsageError, match=r"logit_adjust=1.0: class 1 has no training example"):
        objective.make(config({"loss.logit_adjust": 1.0}), Linear(), PREPARE, (5, 0, 5))
    with pytest.raises(
        UsageError, match=r"class 'b' has .*; set loss\.logit_adjust=0 or give it examples$"
    ):
        objective.make(
            config({"loss.logit_adjust": 1.0}), Linear(), PREPARE, (5, 0, 5),
            class_names=("a", "b", "c"),
        )  # fmt: skip
    with pytest.raises(ValueError, match="need the class counts"):
        objective.make(config({"loss.class_weights": "inverse"}), Linear(), PREPARE)
    with pytest.raises(ValueError, match="no teacher"):
        objective.make(config(TAUGHT), Linear(), PREPARE)


def check(mentor, name="", changes=None, prepare=None):
    settings = config({"data.image_size": (8, 8), **(changes or {})})
    model = models.create(settings.model, 3, (8, 8, 3))
    prepare = prepare or Preprocess(image_size=(8, 8))
    teacher.check(mentor, model, prepare, ("a", "b", "c"), name)


def test_a_teacher_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="knows the classes 'x', 'y', this data has 'a', 'b', 'c'"):
        check(make_teacher(names=("x", "y")))
    with pytest.raises(UsageError, match=r"sees 1 channels, data\.channels is 3"):
        check(make_teacher(channels=1))
    with pytest.raises(
        UsageError, match=r"'pooled' has shape \[36\] here and \[3\] in the teacher"
    ):
        check(make_teacher(), "pooled")
    with pytest.raises(UsageError, match="'nowhere': there is 'pooled', 'last_map' and 'block1'"):
        check(make_teacher(), "nowhere")


def test_many_class_names_are_cut_short():
    names = tuple(map(str, range(1000)))
    with pytest.raises(UsageError, match=r"'0', '1', '2', '3', '4' \(1000 in all\), this data"):
        check(make_teacher(names=names))


def test_a_loss_of_certain_logits_is_finite():
    """ln 3 / 0 and the like: certain students and teachers, in all terms at once."""
    params, examples = drawn()
    params = {"kernel": params["kernel"] * np.float32(1e4)}
    mentor = make_teacher()
    mentor.variables["params"]["other"] *= np.float32(1e4)
    for name in ("cross_entropy", "bce", "focal"):
        changes = TAUGHT | {"loss.name": name, "loss.label_smoothing": 0.1}
        loss = objective.make(config(changes), Linear(), PREPARE, COUNTS, mentor)
        grad, (_, rows, _) = jax.grad(loss, has_aux=True)(params, {}, examples, jax.random.key(0))
        assert np.isfinite(rows).all()
        assert np.isfinite(grad["kernel"]).all()
        assert all(math.isfinite(x) for x in rows)
