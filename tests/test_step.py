"""One step: closed forms in float64, accumulation, averaging, clipping, NaN, and lowering."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgclass import build, metrics, objective, optim, parallel, step
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError
from tests import tiny

NAMES = ("a", "b", "c")


def make_task(changes=None, size=8, total=20, prepare=None, **further):
    config = tiny.config("unused", {"data.image_size": (size, size), **(changes or {})})
    mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
    prepare = prepare or Preprocess(image_size=(size, size))
    return build.make(config, NAMES, prepare, mesh, total, 0, **further)


_FIRST: dict[int, object] = {}


def first_state(task):
    """Returns task.initial_state(), whose compilation is paid once a task."""
    if id(task) not in _FIRST:
        with tiny.compiled_quickly():
            _FIRST[id(task)] = (task, as_arrays(task.initial_state()))
    # Copied, for a step consumes what it is given, and on CPU a put array may share memory.
    return jax.device_put(jax.tree.map(np.copy, _FIRST[id(task)][1]), task.shardings)


def make_batch(rows=8, size=8, seed=0):
    images, labels = tiny.pictures(rows, size, seed)
    return {
        "image": images,
        "label": labels.astype(np.int32),
        "index": np.arange(rows, dtype=np.int32),
        "mask": np.ones(rows, bool),
    }


def as_arrays(tree):
    return jax.tree.map(np.array, tree)


# A convolution of one 1x1 filter without pooling, averaged over space, before a dense layer: with
# identity activation the logits are (mean(x) @ k + b) @ W + c.
LINEAR = {
    "model.filters": (2,),
    "model.kernel_size": 1,
    "model.pool": "none",
    "model.head": "average",
    "optim.name": "sgd",
    "optim.momentum": 0.0,
    "optim.lr": 0.5,
}


def linear_by_hand(params, images, labels, smoothing=0.0):
    """Returns loss and gradients of LINEAR in float64, by the chain rule."""
    as64 = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    k, b = as64["block1_conv1"]["kernel"][0, 0], as64["block1_conv1"]["bias"]
    w, c = as64["head"]["kernel"], as64["head"]["bias"]
    x = images.astype(np.float64) / 255
    z = x @ k + b  # [B, H, W, 2]
    hidden = np.maximum(z, 0)
    pooled = hidden.mean((1, 2))
    logits = pooled @ w + c
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    rows = -(target * np.log(p)).sum(1)
    d_logits = (p - target) / len(labels)
    d_z = (d_logits @ w.T)[:, None, None, :] * (z > 0) / (z.shape[1] * z.shape[2])
    gradient = {
        "block1_conv1": {
            "kernel": np.einsum("bhwi,bhwo->io", x, d_z)[None, None],
            "bias": d_z.sum((0, 1, 2)),
        },
        "head": {"kernel": pooled.T @ d_logits, "bias": d_logits.sum(0)},
    }
    return rows, gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_sgd_step_is_the_closed_form(smoothing):
    task = make_task(LINEAR | {"loss.label_smoothing": smoothing})
    before = as_arrays(first_state(task).params)
    batch = make_batch()
    state, out = task.jitted_train_step()(first_state(task), batch)
    rows, gradient = linear_by_hand(before, batch["image"], batch["label"], smoothing)
    expected = jax.tree.map(lambda w, g: w - 0.5 * g, before, gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), state.params, expected
    )
    assert int(state.step) == 1
    sums = out["sums"]
    np.testing.assert_allclose(sums["loss"][0], rows.sum(), rtol=1e-6)
    assert int(sums["loss"][1]) == 8
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(sums["gradient_norm"][0], norm, rtol=1e-5)
    assert float(sums["learning_rate"][0]) == 0.5


def test_standardization_reaches_the_model():
    prepare = Preprocess(image_size=(8, 8), mean=(0.2, 0.3, 0.4), std=(0.5, 0.25, 0.125))
    task = make_task(LINEAR, prepare=prepare)
    batch = make_batch()
    params = as_arrays(first_state(task).params)
    _, out = task.jitted_train_step()(first_state(task), batch)
    x = (batch["image"] / 255 - np.array(prepare.mean)) / np.array(prepare.std)
    rows, _ = linear_by_hand(params, x * 255, batch["label"])
    np.testing.assert_allclose(out["sums"]["loss"][0], rows.sum(), rtol=1e-6)
    variables = {"params": params, "batch_stats": {}}
    sums, probabilities = task.jitted_eval_step()(variables, batch)
    np.testing.assert_allclose(sums["loss"][0], rows.sum(), rtol=1e-6)
    own = np.asarray(probabilities)[np.arange(8), batch["label"]]
    np.testing.assert_allclose(own, np.exp(-rows), rtol=1e-5)


def test_clipping_scales_the_whole_gradient():
    batch = make_batch()
    free = make_task(LINEAR)
    before = as_arrays(first_state(free).params)
    _, gradient = linear_by_hand(before, batch["image"], batch["label"])
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    for limit, scale in ((norm / 4, 0.25), (norm * 4, 1.0)):
        task = make_task(LINEAR | {"optim.clip_norm": float(limit)})
        state, out = task.jitted_train_step()(first_state(task), batch)
        jax.tree.map(
            lambda w, a, g, s=scale: np.testing.assert_allclose(a, w - 0.5 * s * g, atol=1e-6),
            before, as_arrays(state.params), gradient,
        )  # fmt: skip
        # What is reported is the norm before clipping.
        np.testing.assert_allclose(out["sums"]["gradient_norm"][0], norm, rtol=1e-5)


def test_accumulation_changes_nothing_without_batch_norm():
    batch = make_batch(16)
    results = []
    for parts in (1, 4):
        task = make_task(
            {"optim.accumulate": parts, "train.batch_size": 16, "augment.flip": True,
             "optim.name": "sgd"}
        )  # fmt: skip
        run, state = task.jitted_train_step(), first_state(task)
        for _ in range(3):
            state, out = run(state, batch)
        results.append((as_arrays(state.params), as_arrays(out["sums"])))
    (params_1, sums_1), (params_4, sums_4) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params_1, params_4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums_1, sums_4)


def test_accumulated_rows_come_back_in_order():
    # Accuracy pairs logits with labels, so a wrong order would show: fit 12 rows, then count.
    task = make_task(
        {"optim.accumulate": 3, "train.batch_size": 12, "optim.lr": 0.02, "optim.name": "adam"},
        total=200,
    )
    batch, run, state = make_batch(12), task.jitted_train_step(), first_state(task)
    for _ in range(150):
        state, out = run(state, batch)
    assert float(out["sums"]["accuracy"][0]) == 12.0


def test_average_of_weights_by_hand():
    task = make_task({"optim.ema_decay": 0.75, "model.batch_norm": True})
    run, state, batch = task.jitted_train_step(), first_state(task), make_batch()
    expected = as_arrays({"params": state.params, "batch_stats": state.batch_stats})
    for _ in range(4):
        state, _ = run(state, batch)
        new = as_arrays({"params": state.params, "batch_stats": state.batch_stats})
        expected = jax.tree.map(lambda e, n: 0.75 * np.float64(e) + 0.25 * n, expected, new)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state.ema, expected
    )


def test_batch_statistics_are_of_the_whole_batch():
    # 1x1 convolution, no bias: its output is linear in the pixels, so NumPy knows the moments.
    changes = {"model.batch_norm": True, "model.kernel_size": 1, "train.devices": 8}
    task = make_task(changes)
    state, batch = first_state(task), make_batch()
    kernel = np.asarray(state.params["block1_conv1"]["kernel"], np.float64)[0, 0]
    state, _ = task.jitted_train_step()(state, parallel.put_rows(task.mesh)(batch))
    z = (batch["image"] / 255) @ kernel
    stats = state.batch_stats["block1_bn1"]
    np.testing.assert_allclose(stats["mean"], 0.1 * z.mean((0, 1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * z.var((0, 1, 2)), rtol=1e-5)


def nan_task():
    """A task and a state whose head is so large that the softmax overflows to NaN."""
    task = make_task(
        {"train.on_nonfinite": "skip", "optim.ema_decay": 0.5, "model.batch_norm": True}
    )
    state = first_state(task)
    huge = jax.tree.map(lambda a: a * 1e38, state.params["head"])
    return task, state.replace(params=state.params | {"head": huge})


def test_a_skipped_step_leaves_all_but_the_count():
    task, state = nan_task()
    before = as_arrays(state)
    after, out = task.jitted_train_step()(state, make_batch())
    assert not bool(out["finite"])
    assert int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, as_arrays(after.replace(step=before.step)), before)
    # It adds nothing to the window, neither to sums nor to counts.
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(as_arrays(out["sums"])))


def test_after_a_skipped_step_the_learning_rate_is_that_of_the_step():
    """Half a cosine over 4 steps from 0.5; step 1 is skipped, and does not hold the others back."""
    task = make_task(
        LINEAR | {"train.on_nonfinite": "skip", "optim.schedule": "cosine"}, total=4
    )  # fmt: skip
    # With seed 0 a relu comes so near its kink at step 3 that float64 falls on the other side.
    run, state, batch = task.jitted_train_step(), first_state(task), make_batch(seed=1)
    for number in range(4):
        before = as_arrays(state.params)
        if number == 1:
            nan = jax.tree.map(lambda a: np.full_like(a, np.nan), before)
            state, out = run(state.replace(params=jax.device_put(nan)), batch)
            assert not bool(out["finite"])
            state = state.replace(params=jax.device_put(before))
            continue
        rate = 0.5 * (1 + np.cos(np.pi * number / 4)) / 2  # 0.5, 0.427, 0.25, 0.073
        _, gradient = linear_by_hand(before, batch["image"], batch["label"])
        state, out = run(state, batch)
        expected = jax.tree.map(lambda w, g, r=rate: w - r * g, before, gradient)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
            as_arrays(state.params), expected,
        )  # fmt: skip
        np.testing.assert_allclose(out["sums"]["learning_rate"][0], rate, rtol=1e-6)
    assert int(state.step) == 4


def test_many_steps_in_one_dispatch():
    """Stretches of 4, 1, 3, 2, ... from one program give what single steps give."""
    task = make_task({"model.batch_norm": True, "model.dropout": 0.2, "augment.flip": True})
    images, labels = tiny.pictures(30)
    examples = {"image": images, "label": labels.astype(np.int32)}
    rows = np.random.default_rng(0).integers(0, 30, (12, 8)).astype(np.int32)

    single, state = task.jitted_train_step(), first_state(task)
    losses = []
    for indices in rows:
        batch = as_arrays(parallel.take_rows(jax.tree.map(jnp.asarray, examples), indices))
        state, out = single(state, batch)
        losses.append(float(out["sums"]["loss"][0]))
    expected = as_arrays(state.params)

    many, state = task.jitted_train_steps(4), first_state(task)
    at, seen = 0, []
    for count in (4, 1, 3, 2, 2):
        padded = np.resize(rows[at : at + 4], (4, 8))  # rows past the count are never read
        state, out = many(state, examples, padded, np.int32(count))
        seen += np.asarray(out["sums"]["loss"][0])[:count].tolist()
        at += count
    assert at == 12
    assert int(state.step) == 12
    assert many._cache_size() == 1
    np.testing.assert_allclose(seen, losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, expected)


def test_steps_are_traced_once(monkeypatch):
    traces = []
    original = metrics.batch_sums
    monkeypatch.setattr(metrics, "batch_sums", lambda *args: (traces.append(1), original(*args))[1])
    task = make_task({"model.batch_norm": True, "optim.schedule": "cosine"})
    put = parallel.put_rows(task.mesh)
    run, state = task.jitted_train_step(), first_state(task)
    for seed in range(5):
        state, _ = run(state, put(make_batch(seed=seed)))
    assert len(traces) == 1
    score = task.jitted_eval_step()
    for seed in range(5):
        score(
            {"params": state.params, "batch_stats": state.batch_stats}, put(make_batch(seed=seed))
        )
    assert len(traces) == 2
    assert (run._cache_size(), score._cache_size()) == (1, 1)


def test_padding_rows_do_not_reach_the_score():
    task = make_task()
    state = first_state(task)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batch = make_batch()
    batch["mask"][5:] = False
    sums, _ = task.jitted_eval_step()(variables, batch)
    batch["image"][5:] = 255
    batch["label"][5:] = 0
    again, _ = task.jitted_eval_step()(variables, batch)
    assert int(sums["loss"][1]) == 5
    jax.tree.map(np.testing.assert_array_equal, as_arrays(sums), as_arrays(again))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_steps_lower_for_accelerators_without_one(name, dtype):
    changes = {"model.name": name, "model.dtype": dtype, "optim.ema_decay": 0.9}
    if name == "cnn":
        changes |= {"augment.random_resized_crop": True, "augment.hue": 0.1}
    task = make_task(changes, size=32)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in make_batch(size=32).items()}
    variables = {"params": task.abstract.params, "batch_stats": task.abstract.batch_stats}
    traced = [
        task.jitted_train_step().trace(task.abstract, batch),
        task.jitted_eval_step().trace(variables, batch),
    ]
    if name == "cnn":
        examples = {
            "image": jax.ShapeDtypeStruct((30, 32, 32, 3), np.uint8),
            "label": jax.ShapeDtypeStruct((30,), np.int32),
        }
        rows, count = jax.ShapeDtypeStruct((4, 8), np.int32), jax.ShapeDtypeStruct((), np.int32)
        traced.append(task.jitted_train_steps(4).trace(task.abstract, examples, rows, count))
    for platform in ("cuda", "tpu"):
        for trace in traced:
            text = trace.lower(lowering_platforms=(platform,)).as_text()
            made = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]+x(\w+)>", text)
            assert set(made) == {{"float32": "f32", "bfloat16": "bf16"}[dtype]}


def test_bfloat16_learns_and_keeps_float32_weights():
    task = make_task({"model.dtype": "bfloat16", "model.batch_norm": True, "optim.lr": 0.01})
    run, state, batch = task.jitted_train_step(), first_state(task), make_batch()
    losses = []
    for _ in range(30):
        state, out = run(state, batch)
        losses.append(float(out["sums"]["loss"][0]) / 8)
    assert losses[-1] < 0.5 * losses[0]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.batch_stats))


def test_a_step_is_a_pure_function_and_consumes_its_state():
    """Equal (state, batch) give equal bits, whatever was called in between."""
    task = make_task({"model.dropout": 0.5, "augment.flip": True})
    run = task.jitted_train_step()
    given = first_state(task)
    first, _ = run(given, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))  # consumed
    first = as_arrays(first)
    run(first_state(task), make_batch(seed=9))
    again, _ = run(first_state(task), make_batch())
    jax.tree.map(np.testing.assert_array_equal, first, as_arrays(again))
    later, _ = run(first_state(task).replace(step=jnp.int32(1)), make_batch())
    assert any(  # the step chooses the draws
        (a != b).any() for a, b in zip(
            jax.tree.leaves(first.params), jax.tree.leaves(as_arrays(later.params)), strict=True
        )
    )  # fmt: skip


def test_make_train_step_needs_no_task():
    """The pure step with everything bound by hand, on two rows."""
    task = make_task({"train.batch_size": 2} | LINEAR)
    plain = step.make_train_step(
        config=task.config, loss=objective.make(task.config, task.model, task.prepare),
        update=optim.make_update(
            task.config.optim, optax.identity(), lambda _: jnp.float32(0.5), 20
        ),
        prepare=task.prepare, num_classes=3, examples=0,
    )  # fmt: skip
    batch = jax.tree.map(jnp.asarray, make_batch(2))
    state = first_state(task).replace(opt_state=optax.identity().init(None))
    after, _ = jax.jit(plain)(state, batch)
    _, gradient = linear_by_hand(
        state.params, np.asarray(batch["image"]), np.asarray(batch["label"])
    )
    np.testing.assert_allclose(
        after.params["head"]["bias"],
        np.asarray(state.params["head"]["bias"]) - 0.5 * gradient["head"]["bias"],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("batch_size", "examples", "at"),
    [
        (4, 13, 3),
        (32, 1, 7),
        (256, 10, 1000),
        (1024, 1_281_167, 375_000),  # 300 epochs of ImageNet
        (4096, 14_197_122, 10**6),  # the product is 4.1e9, past 2^31
        (8192, 130_000_000, 10**6),
    ],
)
def test_epochs_of_rows_are_exact(batch_size, examples, at):
    got = jax.jit(lambda s: step.epochs(s, batch_size, examples))(jnp.int32(at))
    assert got.dtype == jnp.int32
    expected = (at * batch_size + np.arange(batch_size, dtype=np.int64)) // examples
    np.testing.assert_array_equal(got, expected)


def test_mixing_ends_where_the_config_says():
    """Mixed with its mirror row, a batch has no hard target left; until step 5 of 20 it is."""
    task = make_task({"augment.mixup_alpha": 1.0, "augment.mix_until_percent": 25.0})

    def loss(params, batch_stats, examples, key):
        del batch_stats, key
        rows = jnp.zeros(8, jnp.float32)
        seen = {"seen": examples["target"]}
        return jnp.sum(params["head"]["bias"]), (jnp.zeros((8, 3), jnp.float32), rows, seen)

    plain = jax.jit(step.make_train_step(
        config=task.config, loss=loss, prepare=task.prepare, num_classes=3, examples=14,
        update=optim.make_update(task.config.optim, task.tx, task.schedule, 20), mix_steps=5,
    ))  # fmt: skip
    for at in (0, 4, 5, 19):
        after, _ = plain(first_state(task).replace(step=jnp.int32(at)), make_batch())
        assert bool(np.all(after.batch_stats["seen"] % 1 == 0)) == (at >= 5)


def test_pictures_grow_where_the_config_says():
    """A third of the run at 2 pixels, a third at 4, the rest whole; the width keeps the shape."""
    task = make_task(
        {"augment.sizes": (2, 4, 8), "augment.size_at": (0.3, 0.6), "model.head": "average",
         "model.kernel_size": 1, "model.pool": "none"}
    )  # fmt: skip
    assert step.training_sizes(task.config.augment, Preprocess(image_size=(8, 12))) == [
        (2, 3), (4, 6), (8, 12),
    ]  # fmt: skip

    def loss(params, batch_stats, examples, key):
        del batch_stats, key
        rows = jnp.zeros(8, jnp.float32)
        seen = {"seen": jnp.int32(examples["image"].shape[1])}
        return jnp.sum(params["head"]["bias"]), (jnp.zeros((8, 3), jnp.float32), rows, seen)

    plain = jax.jit(step.make_train_step(
        config=task.config, loss=loss, prepare=task.prepare, num_classes=3, examples=14,
        update=optim.make_update(task.config.optim, task.tx, task.schedule, 20),
        size_steps=(6, 12),
    ))  # fmt: skip
    seen = {}
    for at in (0, 5, 6, 11, 12, 19):
        after, _ = plain(first_state(task).replace(step=jnp.int32(at)), make_batch())
        seen[at] = int(after.batch_stats["seen"])
    assert seen == {0: 2, 5: 2, 6: 4, 11: 4, 12: 8, 19: 8}

    run, state, losses = task.jitted_train_step(), first_state(task), []
    for _ in range(20):
        state, out = run(state, make_batch())
        losses.append(float(out["sums"]["loss"][0]))
    assert run._cache_size() == 1
    assert losses[-1] < losses[0]


def test_a_model_that_is_bound_to_its_size_is_refused_another():
    with pytest.raises(
        UsageError, match=r"cannot take pictures of 4x4 besides .*\(8, 8\)"
    ) as error:
        make_task({"augment.sizes": (4, 8), "augment.size_at": (0.5,), "model.head": "flatten"})
    # 3x3 pixels after a convolution and a pool of 8x8, of 4 filters; one pixel of 4x4.
    words = str(error.value)
    assert "shape (4, 3), but the existing parameter it received has shape (36, 3)." in words
    assert words.endswith(
        "); drop augment.sizes, or use a net without a position embedding or a flattened map"
    )
    assert "http" not in words


def test_sharpness_is_looked_for_before_the_step():
    """The gradient at w + rho * g / |g|, g being that at w; in float64 by hand."""
    task = make_task(LINEAR | {"optim.sam_rho": 0.1})
    before, batch = as_arrays(first_state(task).params), make_batch(seed=1)
    rows, first = linear_by_hand(before, batch["image"], batch["label"])
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(first)))
    above = jax.tree.map(lambda w, g: w + 0.1 * g / norm, before, first)
    _, gradient = linear_by_hand(above, batch["image"], batch["label"])
    state, out = task.jitted_train_step()(first_state(task), batch)
    jax.tree.map(
        lambda w, a, g: np.testing.assert_allclose(a, w - 0.5 * g, rtol=0, atol=1e-6),
        before, as_arrays(state.params), gradient,
    )  # fmt: skip
    np.testing.assert_allclose(out["sums"]["loss"][0], rows.sum(), rtol=1e-6)


def test_an_example_is_mirrored_every_other_epoch():
    """14 examples in batches of 8: rows 6 and 7 of step 1 begin the second epoch."""
    task = make_task({"augment.flip_alternate": True}, class_counts=(5, 5, 4))
    image = np.zeros((8, 8, 8, 3), np.uint8)
    image[:, :, 0] = 255  # mirrored, the light is in the last column

    def loss(params, batch_stats, examples, key):
        del batch_stats, key
        rows = jnp.zeros(8, jnp.float32)
        seen = {"seen": examples["image"][:, 0, 0, 0]}  # comes back in the state
        return jnp.sum(params["head"]["bias"]), (jnp.zeros((8, 3), jnp.float32), rows, seen)

    plain = jax.jit(step.make_train_step(
        config=task.config, loss=loss, prepare=task.prepare, num_classes=3, examples=14,
        update=optim.make_update(task.config.optim, task.tx, task.schedule, 20),
    ))  # fmt: skip
    seen = []
    for at in range(4):
        index = np.arange(8 * at, 8 * at + 8, dtype=np.int32) % 14
        batch = make_batch() | {"image": image, "index": index}
        after, _ = plain(first_state(task).replace(step=jnp.int32(at)), batch)
        seen.append(after.batch_stats["seen"])
    lit = np.concatenate(seen) == 1.0  # of 32 rows in order, 14 an epoch
    np.testing.assert_array_equal(lit[14:28], ~lit[:14])
    np.testing.assert_array_equal(lit[28:], lit[:4])
    assert 0 < lit[:14].sum() < 14
