"""Averages of weights, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from imgclass.optim import averaging
from tests.optim.sections import section


def test_ema_by_hand():
    # 0.9 * 1 + 0.1 * 2 = 1.1, then 0.9 * 1.1 + 0.1 * 2 = 1.19.
    ema, new = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}
    once = averaging.ema_update(ema, new, 0.9)
    np.testing.assert_allclose(once["w"], [1.1], rtol=1e-6)
    np.testing.assert_allclose(averaging.ema_update(once, new, 0.9)["w"], [1.19], rtol=1e-6)
    np.testing.assert_array_equal(averaging.ema_update(ema, new, 0.0)["w"], [2.0])


def averaged(cfg, total, weights, step=0):
    """The average after each update, of weights of those values and statistics of the reverse."""
    both = {"params": {"w": jnp.array(0.0)}, "batch_stats": {"w": jnp.array(0.0)}}
    take = jax.jit(lambda t, ema, p, s: averaging.average(cfg, total, t, ema, p, s))
    found, ema = [], both
    for t, w in enumerate(weights, start=step + 1):
        ema = take(jnp.int32(t), ema, {"w": jnp.float32(w)}, {"w": jnp.float32(-w)})
        assert ema["batch_stats"]["w"] == -ema["params"]["w"]
        found.append(float(ema["params"]["w"]))
    return found


def test_the_plain_average_takes_in_every_update_from_the_first():
    got = averaged(section(ema_decay=0.5), 4, [8.0, 8.0, 0.0])
    np.testing.assert_allclose(got, [4.0, 6.0, 3.0])


def test_an_average_of_every_other_update_from_a_third_of_the_run():
    """Up to 4 of 12 it is a copy; then 6, 8 and 10 come in; nothing at odd steps."""
    cfg = section(ema_decay=0.75, average_every=2, ema_start=1 / 3)
    got = averaged(cfg, 12, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    np.testing.assert_allclose(got, [0.0, 2.0, 2.0, 4.0, 4.0, 4.5, 4.5, 5.375], rtol=1e-6)


def test_the_average_warms_up_as_tensorflows_does():
    # Decays min(0.25, 2/11), min(0.25, 3/12), min(0.25, 4/13): from 0 to 11: 9, from 9 to 1: 3, ...
    got = averaged(section(ema_decay=0.25, ema_warmup=True), 9, [11.0, 1.0, 7.0])
    np.testing.assert_allclose(got, [9.0, 3.0, 6.0], rtol=1e-6)


def test_swa_is_the_plain_mean_from_its_start():
    """Weights t^2; from 60% of 10 on, every second: of 6, 8 and 10."""
    cfg = section(swa_start=0.6, average_every=2)
    got = averaged(cfg, 10, [float(t * t) for t in range(1, 11)])
    assert got[:7] == [0, 4, 4, 16, 16, 36, 36]
    np.testing.assert_allclose(got[7:], [(36 + 64) / 2] * 2 + [(36 + 64 + 100) / 3], rtol=1e-6)


def test_swa_of_every_update_where_the_run_starts_again():
    """It follows from the step alone: 6 of 10 done, start at 5, so weight 6 is half of the mean."""
    cfg = section(swa_start=0.5)
    whole = averaged(cfg, 10, [3.0, 3.0, 3.0, 3.0, 3.0, 5.0, 10.0])
    np.testing.assert_allclose(whole, [3, 3, 3, 3, 3, 4, 6], rtol=1e-6)


def looked_ahead(cfg, total, moves):
    """Weights that would go up by `moves`, one after the other, from 0; statistics the reverse."""
    tree = {"w": jnp.array(0.0)}
    slow = {"params": tree, "batch_stats": tree}
    params, stats, path = tree, tree, []
    for t, move in enumerate(moves, start=1):
        params, stats = {"w": params["w"] + move}, {"w": stats["w"] - move}
        slow, params, stats = jax.jit(lambda t, *trees: averaging.lookahead(cfg, total, t, *trees))(
            jnp.int32(t), slow, params, stats
        )
        np.testing.assert_allclose(stats["w"], -params["w"], rtol=1e-6)
        path.append((float(params["w"]), float(slow["params"]["w"])))
    return path


def test_lookahead_by_hand_in_the_form_of_the_cifar_records():
    """k = 2, T = 5, so d = 0.9^2 * (t/5)^3 at t = 2 and 4: 0.05184 and 0.41472."""
    cfg = section(lookahead_steps=2, lookahead_decay=0.9)
    path = looked_ahead(cfg, 5, [1.0, 1.0, 1.0, 1.0, 1.0])
    second = (1 - 0.05184) * 2  # slow was 0, weights 2
    fourth = 0.41472 * second + (1 - 0.41472) * (second + 2)
    expected = [
        (1.0, 0.0),
        (second, second),
        (second + 1, second),
        (fourth, fourth),
        (fourth, fourth),  # the last: the slow weights, and the fifth move is lost
    ]
    np.testing.assert_allclose(path, expected, rtol=1e-6)


def test_lookahead_ends_on_the_slow_average_also_where_it_is_due():
    # T = 2 = k: d = 0.9^2 at the end, so 0.81 * 0 + 0.19 * 2.
    cfg = section(lookahead_steps=2, lookahead_decay=0.9)
    np.testing.assert_allclose(looked_ahead(cfg, 2, [1.0, 1.0])[-1], (0.38, 0.38), rtol=1e-6)


def test_power_zero_is_lookahead_with_a_constant_share():
    """Zhang et al.: slow += alpha * (fast - slow); alpha = 0.25 at k = 1 is a decay of 0.75."""
    cfg = section(lookahead_steps=1, lookahead_decay=0.75, lookahead_power=0.0)
    path = looked_ahead(cfg, 10, [1.0, 1.0])
    np.testing.assert_allclose(path, [(0.25, 0.25), (0.4375 + 0.0625, 0.5)], rtol=1e-6)


def test_lookahead_is_off_by_default_and_touches_nothing():
    trees = {}, {"w": jnp.ones(1)}, {"m": jnp.ones(1)}
    got = averaging.lookahead(section(), 5, 1, *trees)
    assert all(a is b for a, b in zip(got, trees, strict=True))


def test_a_nan_does_not_reach_slow_weights_before_their_turn():
    bad, good = {"w": jnp.array(jnp.nan)}, {"w": jnp.array(1.0)}
    slow = {"params": good, "batch_stats": good}
    slow, params, _ = averaging.lookahead(section(lookahead_steps=2), 9, 1, slow, bad, bad)
    assert float(slow["params"]["w"]) == 1.0
    assert np.isnan(params["w"])


def test_only_averaging_runs_have_an_average():
    assert not averaging.averages(section())
    for changes in ({"ema_decay": 0.5}, {"swa_start": 0.5}, {"schedule_free": True}):
        assert averaging.averages(section(**changes))
    assert averaging.average(section(), 5, 1, {}, {"w": jnp.ones(1)}, {}) == {}


def test_only_lookahead_and_schedule_free_keep_slow_weights():
    assert not averaging.keeps_slow(section(ema_decay=0.5))
    assert averaging.keeps_slow(section(lookahead_steps=5))
    assert averaging.keeps_slow(section(schedule_free=True))
