"""The learning-rate range test: smoothing and suggestions by hand, and a run that finds a rate."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from imgclass import build, cli, feeds, lr_range, parallel
from imgclass.data import dataset
from imgclass.errors import UsageError, UserError
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


def curve(smoothed):
    losses = np.array(smoothed, np.float64)
    return lr_range.Curve(1e-4 * 10.0 ** np.arange(len(losses)), losses, losses)


def test_smoothing_by_hand():
    # Weights 1, 0.98, 0.9604 backwards: (4 + 0.98 * 2 + 0.9604 * 1) / 2.9404.
    got = lr_range.smooth([1.0, 2.0, 4.0], 100)
    np.testing.assert_allclose(got, [1.0, 2.98 / 1.98, 6.9204 / 2.9404], rtol=1e-12)


def test_suggestions_by_hand():
    """20 steps; the first 2 and the last 5 are left out, so place i is step i + 2."""
    inside = [9, 9, 9, 8.5, 8.0, 5.0, 4.5, 4.6, 4.0, 3.9, 6, 18, 12]
    found = lr_range.suggestions(curve([99, 1, *inside, 0, 0, 0, 0, 0]))
    # Least at place 9; falls most from place 4 to 5, but for the way down from the spike beyond.
    # Longest falling: 9, 8.5, 8, 5, 4.5, 4, 3.9, seven that end at place 9, so from place 2, and
    # its middle is 2 + int(7/3) + int(7/6) = 5.
    assert found["steepest"] == pytest.approx(1e-4 * 10**6)
    assert found["minimum_tenth"] == pytest.approx(1e-4 * 10**11 / 10)
    assert found["valley"] == pytest.approx(1e-4 * 10**7)


def fastai_valley(losses):
    """Its loops, from fastai 2.7's callback/schedule.py, Apache-2.0."""
    start, end = 0, 0
    lengths = [1] * len(losses)
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end = i
                start = end - lengths[end]
    sections = (end - start) / 3
    return start + int(sections) + int(sections / 2)


@pytest.mark.parametrize("seed", range(20))
def test_the_valley_is_that_of_fastai(seed):
    random = np.random.default_rng(seed)
    x = np.linspace(-2, 3, 85)
    losses = 2 - np.exp(-((x - random.random()) ** 2)) + 0.02 * random.standard_normal(85)
    assert lr_range._valley(losses) == fastai_valley(losses.tolist())


@pytest.mark.parametrize("smoothed", [np.arange(30.0), [1.0] * 30, [3.0, 2.0, 1.0]])
def test_a_loss_that_never_fell_suggests_nothing(smoothed):
    with pytest.raises(UserError, match=r"the loss fell at no rate from 0\.0001 to"):
        lr_range.suggestions(curve(smoothed))


def settings(tmp_path, **changes):
    data = tiny.archive(tmp_path, train=64, validation=8, test=0)
    return tiny.config(data, {"optim.name": "sgd", "model.batch_norm": True, **changes})


def test_rates_rise_by_one_factor_and_losses_are_those_of_training(tmp_path):
    config = settings(tmp_path, **{"optim.schedule": "cosine", "optim.warmup_steps": 3})
    found = lr_range.range_test(config, 1e-6, 1e-2, 21)
    np.testing.assert_allclose(found.rates, 1e-6 * 10 ** (np.arange(21) / 5), rtol=1e-6)
    again = lr_range.range_test(config, 1e-6, 1e-2, 21)
    np.testing.assert_array_equal(found.losses, again.losses)
    data = dataset.open_dataset(config)
    mesh = parallel.make_mesh(1, 8)
    task = build.make(config, data.source.class_names, data.prepare, mesh, 21, 0)
    feed = feeds.train_feed(task, data)
    _, out = task.jitted_train_step()(task.initial_state(), feed.batch(0))
    assert found.losses[0] == float(out["sums"]["loss"][0]) / 8


def test_it_ends_where_the_loss_is_lost(tmp_path):
    config = settings(tmp_path, **{"model.batch_norm": False})
    found = lr_range.range_test(config, 1e-3, 1e12, 60)
    assert 3 < len(found.rates) < 50
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize(("low", "high", "steps"), [(0.0, 1.0, 30), (1.0, 0.1, 30), (0.1, 1.0, 5)])
def test_rates_that_make_no_curve_are_refused(tmp_path, low, high, steps):
    with pytest.raises(UsageError, match="lr-find needs 0 < low < high and at least 20 steps"):
        lr_range.range_test(settings(tmp_path), low, high, steps)


def experiment(tmp_path):
    data = tiny.archive(tmp_path, train=64, validation=8, test=0)
    path = tmp_path / "experiment.py"
    keys = {**tiny.BASE, "data.name": str(data), "optim.name": "sgd", "model.batch_norm": True}
    lines = ["from imgclass import config as c", "", "def get_config():", "    x = c.defaults()"]
    lines += [f"    x.{key} = {value!r}" for key, value in keys.items()]
    path.write_text("\n".join([*lines, "    return x", ""]))
    return str(path)


def run(capsys, *words):
    status = cli.main(["lr-find", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra `plots`"
)


@needs_matplotlib
def test_the_verb_draws_and_prints_json(tmp_path, capsys):
    plot = tmp_path / "curve.png"
    status, out, _ = run(
        capsys, experiment(tmp_path), "--json", f"--plot={plot}", "--low=1e-4", "--high=1",
        "--steps=40", "--config.model.filters=(8,)", "--config.optim.momentum=0.5",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out.splitlines()[-1])
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert 1e-4 < found["valley"] < 1
    assert found["plot"] == str(plot)
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_the_verb_prints_the_flag_to_use(tmp_path, capsys):
    status, out, _ = run(
        capsys, experiment(tmp_path), "--plot=", "--low=1e-4", "--high=1", "--steps=40"
    )
    assert status == 0
    assert "--config.optim.lr=" in out
    assert ".png" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.optim.momentum=2"], "optim.momentum=2.0"),
        (["--config.train.batch_size=many"], "must be a whole number"),
        (["--low=1", "--high=0.5"], "lr-find needs 0 < low < high"),
        (["--high=inf"], "lr-find needs 0 < low < high"),
        (["--plot=curve.txt"], "has to end in .png or .svg"),
    ],
)
def test_a_mistake_is_a_line(tmp_path, capsys, words, message):
    status, _, err = run(capsys, experiment(tmp_path), "--plot=", *words)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


@needs_matplotlib
def test_the_rate_is_said_even_if_the_plot_cannot_be_written(tmp_path, capsys):
    words = (f"--plot={tmp_path / 'nowhere' / 'a.png'}", "--low=1e-4", "--high=1", "--steps=40")
    status, out, err = run(capsys, experiment(tmp_path), *words)
    assert status == 1
    assert "--config.optim.lr=" in out
    assert err == f"{tmp_path}/nowhere/a.png: cannot be written (No such file or directory)\n"


def test_a_plot_that_cannot_be_written_is_a_line(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        lr_range.draw(
            curve(np.arange(30.0)[::-1]), {"valley": 1.0}, str(tmp_path / "nowhere/a.png")
        )
    with pytest.raises(UserError, match=r"a\.what: its name has to end in \.png or \.svg"):
        lr_range.draw(curve(np.arange(30.0)[::-1]), {}, str(tmp_path / "a.what"))
