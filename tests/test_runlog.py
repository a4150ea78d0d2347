"""What a run says and writes: lines, records, speed, the log file, the bar."""

import io
import json
import logging
import math
import pathlib
import types

import pytest

from imgclass import plan, runlog
from imgclass.errors import UsageError, UserError
from tests import tiny

# 6 steps of 8 of 48 pictures: one epoch.
FIGURES = {"step": 4, "examples": 12, "loss": 0.12345, "accuracy": 0.91666, "top5": 1.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock.now` is moved."""
    made = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(runlog, "time", types.SimpleNamespace(perf_counter=lambda: made.now))
    return made


def open_log(folder, changes=None, resume_step=0, lead=True):
    config = tiny.config("unused", changes)
    return runlog.RunLog(folder, config, plan.make_plan(config, 48), lead, resume_step)


def result(**values):
    plain = {"parameters": 308426, "steps": 1406, "epochs": 10.0092, "wall_seconds": 25.4,
             "final": None, "best": None}  # fmt: skip
    return plain | values


def test_the_last_lines_of_a_run():
    final = {"step": 1406, "examples": 12, "loss": 0.5, "accuracy": 0.75, "auroc": 0.875}
    lines = runlog.result_lines(
        pathlib.Path("runs/cnn-1"), result(final=final, best=FIGURES, test=FIGURES)
    )
    assert lines == [
        "runs/cnn-1: 1,406 steps, 10.0 epochs, 308,426 parameters, 25 s",
        "  validation, final (step 1406): loss 0.5000, accuracy 75.00%, auroc 0.8750",
        "  validation, best (step 4): loss 0.1235, accuracy 91.67%, top5 100.00%",
        "  test (step 4): loss 0.1235, accuracy 91.67%, top5 100.00%",
        "Next:",
        "  imgclass evaluate runs/cnn-1 --split=test",
        "  imgclass predict runs/cnn-1 PICTURE-OR-FOLDER...",
    ]


@pytest.mark.parametrize(("values", "split"), [({}, "train"), ({"final": FIGURES}, "validation")])
def test_the_next_command_names_a_split_that_is_there(values, split):
    lines = runlog.result_lines(pathlib.Path("my runs"), result(**values))
    assert f"  imgclass evaluate 'my runs' --split={split}" in lines
    assert "  imgclass predict 'my runs' PICTURE-OR-FOLDER..." in lines


def test_a_figure_that_was_not_finite_is_left_out_of_the_last_lines():
    lines = runlog.result_lines(pathlib.Path("r"), result(final=FIGURES | {"loss": None}))
    assert "  validation, final (step 4): accuracy 91.67%, top5 100.00%" in lines


def test_speed_and_wait_leave_pauses_out(tmp_path, clock):
    """2 steps of 8 in 4 s of 9, and half a second of those 4 waiting; then one step in 2 s."""
    with open_log(tmp_path) as log:
        clock.now += 1.0
        with log.paused():
            clock.now += 5.0
        clock.now += 3.0
        log.train(2, {"loss": 1.0}, 0.5)
        clock.now += 2.0
        log.train(3, {"loss": 1.0}, 1.5)  # seconds of waiting are of the whole run
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["images_per_second"], r["data_wait"]) for r in lines] == [
        (2, 16 / 4, 0.5 / 4), (3, 8 / 2, 1.0 / 2),
    ]  # fmt: skip


def test_the_wait_of_the_whole_run_is_weighed_by_time(tmp_path, clock, caplog):
    """1 s of 4 and then 1 of 2 are 2 of 6, not the mean of 1/4 and 1/2."""
    with caplog.at_level(logging.INFO), open_log(tmp_path) as log:
        clock.now += 4.0
        log.train(2, {"loss": 1.0}, 1.0)
        clock.now += 2.0
        log.train(3, {"loss": 1.0}, 2.0)
        log.finish(result())
    assert json.loads((tmp_path / "result.json").read_text())["data_wait"] == 2 / 6
    assert "step 2/6 epoch 0.33 train: loss 1.0000, 4 images/s, data wait 25%" in caplog.messages


def test_speed_counts_from_the_step_that_was_gone_on_from(tmp_path, clock):
    with open_log(tmp_path, resume_step=4) as log:
        clock.now += 2.0
        log.train(5, {"loss": 1.0}, 0.0)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["images_per_second"] == 8 / 2


def test_a_record_and_its_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO), open_log(tmp_path) as log:
        log.write(3, "validation", {"examples": 12, "loss": 0.5, "accuracy": 0.25})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 3, "epoch": 0.5, "split": "validation", "examples": 12, "loss": 0.5,
        "accuracy": 0.25,
    }  # fmt: skip
    assert "step 3/6 epoch 0.50 validation: loss 0.5000, accuracy 25.00%" in caplog.messages


def test_what_is_not_finite_is_null(tmp_path):
    with open_log(tmp_path) as log:
        log.write(3, "train", {"loss": math.nan, "gradient_norm": math.inf, "accuracy": 0.5})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (record["loss"], record["gradient_norm"], record["accuracy"]) == (None, None, 0.5)


def test_a_process_that_does_not_lead_writes_nothing(tmp_path, caplog):
    with caplog.at_level(logging.INFO), runlog.to_file(tmp_path, False):
        with open_log(tmp_path, lead=False) as log:
            log.train(3, {"loss": 1.0}, 0.0)
            log.tick(3)
            log.finish(result())
        logging.getLogger("imgclass").warning("hello")
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == ["hello"]


def test_finishing_writes_the_result_and_says_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO), open_log(tmp_path) as log:
        log.finish(result(final=FIGURES | {"auroc": math.nan}))
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["final"] == FIGURES | {"auroc": None}
    assert stored["data_wait"] is None  # no step was done
    assert f"{tmp_path}: 1,406 steps, 10.0 epochs, 308,426 parameters, 25 s" in caplog.messages


def log_lines(folder):
    """Returns the lines of log.txt without date and time."""
    lines = (folder / "log.txt").read_text().splitlines()
    return [line.split(" ", 2)[2] for line in lines]


def test_the_log_file_ends_with_the_error_that_ended_the_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")  # so it is a run folder
    handlers = list(logging.getLogger().handlers)

    def ends_badly():
        with runlog.to_file(tmp_path, True):
            logging.getLogger("imgclass.train").warning("step %d is odd", 3)
            raise UserError("the disk is full: make room")

    with pytest.raises(UserError):
        ends_badly()
    assert log_lines(tmp_path) == ["step 3 is odd", "the disk is full: make room"]
    logging.getLogger("imgclass.train").warning("after")
    assert logging.getLogger().handlers == handlers
    assert len(log_lines(tmp_path)) == 2
    with runlog.to_file(tmp_path, True):  # going on adds to it
        logging.getLogger("imgclass.train").warning("on it goes")
    assert log_lines(tmp_path)[2:] == ["on it goes"]


def test_a_start_that_is_refused_leaves_no_log_file(tmp_path):
    with pytest.raises(UsageError), runlog.to_file(tmp_path, True):
        raise UsageError("no such data")
    assert list(tmp_path.iterdir()) == []


class Bar:
    """Stands in for tqdm; remembers where it was set."""

    made: "list[Bar]" = []  # noqa: RUF012  (the test's own, emptied by the fixture)

    def __init__(self, total, initial, **_):
        self.total, self.n, self.closed = total, initial, False
        self.made.append(self)

    def update(self, more):
        self.n += more

    def clear(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(runlog, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_counts_images(tmp_path, monkeypatch, bars):
    monkeypatch.setattr("sys.stderr", Terminal())
    with open_log(tmp_path, {"log.progress": True}, resume_step=2) as log:
        (bar,) = bars
        assert (bar.n, bar.total) == (16, 48)  # 8 a step, 6 steps
        log.tick(3)
        assert bar.n == 24
        log.tick(6)
        assert bar.n == 48
        assert not bar.closed
    assert bar.closed


def test_there_is_no_bar_where_nobody_looks(tmp_path, monkeypatch, bars):
    with open_log(tmp_path, {"log.progress": True}):
        pass
    monkeypatch.setattr("sys.stderr", Terminal())
    with open_log(tmp_path, {"log.progress": False}):
        pass
    with open_log(tmp_path, {"log.progress": True}, lead=False):
        pass
    assert bars == []
