"""What a view looks like: everything said, nothing wider than the terminal."""

import pytest

from imgclass.watch import frame, textplot
from imgclass.watch.look import View

RECORDS = tuple(
    {"step": step, "split": split, "loss": 2.0 / step, "accuracy": 1 - 1 / step}
    for step in range(10, 210, 10)
    for split in ("train", "validation")
)


def view(**values):
    plain = {
        "run": "runs/cnn-1", "state": "running", "step": 200, "total": 400, "epoch": 4.9,
        "eta_seconds": 125.0, "images_per_second": 1395.1, "data_wait": 0.034, "age_seconds": 3.0,
        "train": RECORDS[-2], "validation": RECORDS[-1], "best": RECORDS[19], "records": RECORDS,
    }  # fmt: skip
    return View(**plain | values)


@pytest.mark.parametrize("width", [24, 40, 79, 80, 100, 200])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("state", ["running", "stopped", "waiting"])
def test_nothing_is_wider_than_the_terminal(width, color, state):
    long = view(run="runs/" + "x" * 80, state=state, silent=True)
    text = frame.frame(long, width, 30, color)
    for code in (textplot.LINE, textplot.MARKS, textplot.RESET):
        text = text.replace(code, "")
    assert max(map(len, text.split("\n"))) <= width
    assert "\x1b" not in text


@pytest.mark.parametrize("size", [(40, 24), (80, 24), (120, 24), (80, 60)])
def test_it_fits_on_the_screen(size):
    width, height = size
    assert len(frame.frame(view(), width, height).split("\n")) <= height


def test_at_40_columns_everything_is_said():
    text = frame.frame(view(), 40, 40)
    for words in (
        "runs/cnn-1  running", "step 200/400  50%  epoch 4.90  ETA 2:05", "1,395 images/s",
        "data wait 3%", "record 0:03 ago", "train loss 0.0100 acc. 99.50% @200",
        "valid loss 0.0100 acc. 99.50% @200", "best  loss 0.0200 acc. 99.00% @100",
        "loss   line train   o validation", "accuracy   line train   o validation",
    ):  # fmt: skip
        assert words in text
    bar = next(line for line in text.split("\n") if line.startswith("["))
    assert bar == "[" + "=" * 19 + " " * 19 + "]"


def test_before_the_first_record_and_with_figures_that_were_not_finite():
    bare = View("runs/cnn-1", "starting")
    assert frame.frame(bare, 40, 30).split("\n")[0] == "runs/cnn-1  starting"
    assert frame.summary(bare) == "runs/cnn-1: starting"
    nan = {"step": 10, "split": "train", "loss": None, "accuracy": 0.5}
    text = frame.frame(view(train=nan, records=(nan,)), 60, 30)
    assert "loss - acc. 50.00% @10" in text
    assert "loss   line train   o validation: nothing yet" in text


def test_an_imported_run_has_no_plots():
    text = frame.frame(View("runs/lite", "imported"), 60, 30)
    assert text == "runs/lite  imported\nweights from elsewhere:  no training to watch"
    assert frame.summary(View("runs/lite", "imported")) == "runs/lite: imported"


def test_one_line_of_it():
    assert frame.summary(view()) == (
        "runs/cnn-1: running, step 200/400, 50%, epoch 4.90, ETA 2:05, 1,395 images/s, "
        "data wait 3%, train loss 0.0100 acc. 99.50%, validation loss 0.0100 acc. 99.50%"
    )
