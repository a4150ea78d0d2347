"""Patterns on parameters' names: what decays, what moves how fast, what does not move at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config, models, optim
from imgclass.errors import UsageError
from imgclass.optim import masks
from tests.optim.sections import section

PARAMS = {
    "stem": {"kernel": jnp.array([1.0, 2.0])},
    "head": {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])},
}
GRADS = {
    "stem": {"kernel": jnp.array([0.5, -0.5])},
    "head": {"kernel": jnp.array([2.0]), "bias": jnp.array([1.0])},
}


def test_decay_mask_by_path():
    params = {
        "bias_net": {"kernel": 0.0, "bias": 0.0},
        "norm": {"scale": 0.0, "bias": 0.0},
        "scaled": {"prescale": 0.0},
    }
    default = masks.decay_mask(params, config.defaults().optim.no_decay)
    assert default == {
        "bias_net": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "scaled": {"prescale": True},
    }
    assert all(jax.tree.leaves(masks.decay_mask(params, "")))
    assert masks.decay_mask(params, "^norm/")["norm"] == {"scale": False, "bias": False}
    assert masks.decay_mask(params, "^norm/")["bias_net"] == {"kernel": True, "bias": True}


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("convnext_tiny", {"bias", "scale", "layer_scale"}),
        ("vit_ti_4", {"bias", "scale", "class_token", "position_embedding"}),
    ],
)
def test_of_the_families_with_parameters_of_their_own_only_kernels_decay(name, others):
    cfg = config.defaults()
    cfg.model.name = name
    model = models.create(cfg.model, 3, (32, 32, 3))
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    found = {True: set(), False: set()}

    def note(path, decays):
        found[decays].add(path.rpartition("/")[2])

    masks.map_named(note, masks.decay_mask(params, cfg.optim.no_decay))
    assert found == {True: {"kernel"}, False: others}


@pytest.mark.parametrize("key", ["no_decay", "freeze", "muon_params"])
def test_a_bad_pattern_is_refused_at_once(key):
    with pytest.raises(UsageError, match=rf"optim\.{key}='\(' is not a regular expression"):
        optim.create(section(**{key: "("}))


def test_the_first_factor_whose_pattern_is_found_counts():
    factors = ("bias$=64", "^head=0.5", "head=7")
    assert masks.lr_factors(PARAMS, factors) == {
        "stem": {"kernel": 1.0},
        "head": {"kernel": 0.5, "bias": 64.0},
    }
    # The number is after the last equals sign: a pattern may look ahead with one.
    assert masks.lr_factors({"a=b": 0.0, "a": 0.0}, ("a(?=[=])=2",)) == {"a=b": 2.0, "a": 1.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bias", "'bias' is not 'REGEX=FACTOR'"),
        ("=2", "'=2' is not 'REGEX=FACTOR'"),
        ("bias=fast", "FACTOR a finite number, 0 or more"),
        ("bias=-1", "FACTOR a finite number, 0 or more"),
        ("bias=inf", "FACTOR a finite number, 0 or more"),
        ("bias=nan", "FACTOR a finite number, 0 or more"),
        ("(=2", r"'(' is not a regular expression"),
    ],
)
def test_a_factor_that_cannot_be_read_is_one_line_of_the_config(text, words):
    changed = config.defaults()
    changed.optim.lr_factors = ("bias$=2", text)
    (line,) = config.problems(config.resolve(changed))
    assert line.startswith("optim.lr_factors: ")
    assert words in line
    with pytest.raises(UsageError, match=r"^optim\.lr_factors: "):
        optim.create(section(lr_factors=(text,)))


def test_factors_that_are_no_texts_are_one_line_of_the_config():
    changed = config.defaults()
    changed.optim.lr_factors = (2.0,)
    (line,) = config.problems(config.resolve(changed))
    assert line == "optim.lr_factors=(2.0,): must be any number of texts"


ALL = ["sgd", "adam", "adamw", "lamb", "lars", "lion", "rmsprop", "muon"]


def moved(cfg, steps=1):
    """What updates of one gradient make of PARAMS at a rate of 0.1."""
    tx, params = optim.create(cfg), PARAMS
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
    return params, state


def test_in_sgd_a_factor_scales_the_gradient_and_not_the_decay():
    # stem: u = 0.5 + 0.2 * 1 = 0.7 and -0.5 + 0.4 = -0.1. head/kernel: 10 * 2 + 0.2 * 3 = 20.6.
    # head/bias is not decayed: 10 * 1. A second step: v = 0.5 * v + g + 0.2 * w, so head/kernel is
    # 3 - 2.06 = 0.94, then v = 10.3 + 20 + 0.188 = 30.488, and w = 0.94 - 3.0488.
    cfg = section(name="sgd", momentum=0.5, weight_decay=0.2, lr_factors=("^head=10",))
    once, _ = moved(cfg)
    np.testing.assert_allclose(once["stem"]["kernel"], [0.93, 2.01], rtol=1e-6)
    np.testing.assert_allclose(once["head"]["kernel"], [0.94], rtol=1e-6)
    np.testing.assert_allclose(once["head"]["bias"], [3.0], rtol=1e-6)
    twice, _ = moved(cfg, 2)
    np.testing.assert_allclose(twice["head"]["kernel"], [-2.1088], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lars", "lion", "rmsprop"])
def test_elsewhere_a_factor_scales_the_whole_update(name):
    plain, _ = moved(section(name=name, weight_decay=0.2))
    scaled, _ = moved(section(name=name, weight_decay=0.2, lr_factors=("^head=0.25",)))
    for module, factor in (("stem", 1.0), ("head", 0.25)):
        for leaf, first in PARAMS[module].items():
            expected = first + factor * (plain[module][leaf] - first)
            np.testing.assert_allclose(scaled[module][leaf], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_what_has_factor_zero_stays_where_it_is(name):
    cfg = section(name=name, weight_decay=0.2, no_decay="", lr_factors=("kernel=0",))
    params, _ = moved(cfg, 2)
    np.testing.assert_array_equal(params["stem"]["kernel"], PARAMS["stem"]["kernel"])
    np.testing.assert_array_equal(params["head"]["kernel"], PARAMS["head"]["kernel"])
    assert params["head"]["bias"] != PARAMS["head"]["bias"]


@pytest.mark.parametrize("name", ALL)
def test_the_frozen_have_no_update_and_no_state(name):
    params, state = moved(section(name=name, weight_decay=0.2, freeze="^stem"), 2)
    np.testing.assert_array_equal(params["stem"]["kernel"], PARAMS["stem"]["kernel"])
    others, _ = moved(section(name=name, weight_decay=0.2), 2)
    np.testing.assert_array_equal(params["head"]["kernel"], others["head"]["kernel"])
    np.testing.assert_array_equal(params["head"]["bias"], others["head"]["bias"])
    assert 2 not in {leaf.size for leaf in jax.tree.leaves(state)}  # the stem's; the others' are 1


def test_the_frozen_have_no_part_in_the_norm_that_is_clipped():
    # Of 3, 4 and a frozen 12, the norm is 5: clipped to 1, (0.6, 0.8).
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1), "c": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0]), "c": jnp.array([12.0])}
    tx = optim.create(section(name="sgd", momentum=0.0, clip_norm=1.0, freeze="^c$"))
    updates, _ = tx.update(grads, tx.init(params), params)
    got = [float(updates[name][0]) for name in "abc"]
    np.testing.assert_allclose(got, [0.6, 0.8, 0.0], rtol=1e-6)


def test_the_gradient_of_the_frozen_is_zero():
    def loss(params):
        params = masks.stop_frozen(section(freeze="^head/bias"), params)
        return sum(jnp.sum(p * p) for p in jax.tree.leaves(params))

    grads = jax.grad(loss)(PARAMS)
    np.testing.assert_array_equal(grads["stem"]["kernel"], [2.0, 4.0])
    np.testing.assert_array_equal(grads["head"]["kernel"], [6.0])
    np.testing.assert_array_equal(grads["head"]["bias"], [0.0])


def test_a_pattern_that_chooses_nothing_is_refused():
    good = section(freeze="^stem/", lr_factors=("bias=2",))
    masks.check_patterns(good, PARAMS)
    for changes, words in (
        ({"freeze": "^stm/"}, r"optim\.freeze='\^stm/': found in no parameter's name"),
        ({"lr_factors": ("bias=2", "scale=3")}, r"optim\.lr_factors='scale=3': found in no"),
        ({"name": "muon", "muon_params": "conv"}, r"optim\.muon_params='conv': found in no"),
    ):
        with pytest.raises(UsageError, match=words):
            masks.check_patterns(section(**changes), PARAMS)
    # What another optimizer would do with a pattern is no matter.
    masks.check_patterns(section(name="sgd", muon_params="conv"), PARAMS)


def test_switching_clipping_or_factors_on_keeps_the_names_of_the_state():
    """A checkpoint knows arrays by their path in the state."""

    def names(**changes):
        state = optim.create(section(name="sgd", **changes)).init(PARAMS)
        return [
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)
        ]

    assert names() == names(clip_norm=1.0) == names(lr_factors=("bias=2",))
