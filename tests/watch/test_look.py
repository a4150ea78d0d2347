"""A run seen from outside: its state, records half written, and how far it is."""

import fcntl
import json
import os
import time

import pytest

from imgclass import config as config_lib
from imgclass import run
from imgclass.errors import UserError
from imgclass.watch import look
from tests import tiny


def record(step, split="train", **values):
    plain = {"step": step, "epoch": step / 6, "split": split, "loss": 1 / step, "accuracy": 0.5}
    speed = {"images_per_second": 4.0, "data_wait": 0.25} if split == "train" else {}
    return json.dumps(plain | speed | values) + "\n"


@pytest.fixture
def folder(tmp_path):
    """A run of 12 steps of 8 of 48 pictures, without any record."""
    made = tmp_path / "cnn-1"
    made.mkdir()
    config = tiny.config("unused", {"train.total_steps": 12})
    (made / "config.json").write_text(config_lib.to_json(config))
    (made / "data.json").write_text(json.dumps({"splits": {"train": {"examples": 48}}}))
    (made / "lock").write_text("1 on host")
    return made


@pytest.fixture
def held(folder):
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_a_run_under_way(folder, held):
    """4 steps of 8 left at 4 images a second: 8 s a 4 steps. Of equal accuracies the first."""
    text = record(4) + record(4, "validation") + record(8) + record(8, "validation")
    (folder / "metrics.jsonl").write_text(text + record(4, "test"))
    view = look.Watch(folder).look()
    assert (view.state, view.step, view.total) == ("running", 8, 12)
    assert view.epoch == pytest.approx(8 * 8 / 48)
    assert view.eta_seconds == 4 * 8 / 4.0
    assert (view.images_per_second, view.data_wait) == (4.0, 0.25)
    assert (view.validation["step"], view.best["step"], view.train["step"]) == (8, 4, 8)
    assert not view.silent


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 2), ("loss", 3)])
def test_the_best_is_what_training_calls_the_best(folder, held, metric, best):
    config = tiny.config("unused", {"eval.best_metric": metric})
    (folder / "config.json").write_text(config_lib.to_json(config))
    lines = [
        record(1, "validation", accuracy=0.6, loss=0.5),
        record(2, "validation", accuracy=0.7, loss=0.6),
        record(3, "validation", accuracy=0.7, loss=0.4),
        record(4, "validation", accuracy=0.9, loss=None),  # NaN: never the best
    ]
    (folder / "metrics.jsonl").write_text("".join(lines))
    assert look.Watch(folder).look().best["step"] == best


def test_a_line_half_written_is_read_when_it_is_whole(folder, held):
    path, whole = folder / "metrics.jsonl", record(4) + record(8)
    watched = look.Watch(folder)
    seen = []
    for end in range(0, len(whole) + 1, 7):
        path.open("w").close() if end == 0 else None
        with path.open("r+") as file:  # the same file, longer
            file.write(whole[:end])
        seen.append(watched.look().step)
    with path.open("r+") as file:
        file.write(whole)
    assert watched.look().step == 8
    assert sorted(set(seen)) == [0, 4]
    assert seen == sorted(seen)


def test_damaged_lines_are_passed_over(folder, held):
    text = record(4) + "\x00\x00\n[]\n{}\n"
    for step, split in (("5", "[]"), ("1e400", '"train"'), ('"5"', '"train"')):
        text += f'{{"step": {step}, "split": {split}}}\n'
    text += record(6)
    (folder / "metrics.jsonl").write_text(text)
    assert [r["step"] for r in look.Watch(folder).look().records] == [4, 6]


def test_a_run_gone_on_with_is_read_anew(folder, held):
    watched = look.Watch(folder)
    (folder / "metrics.jsonl").write_text(record(4) + record(8))
    assert watched.look().step == 8
    run.Records(folder / "metrics.jsonl", 4).close()  # as a start from step 4 does
    assert watched.look().step == 4
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(record(6))
    assert [r["step"] for r in watched.look().records] == [4, 6]


def test_states_of_a_life(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert look.Watch(empty).look().state == "waiting"
    config, records = (folder / "config.json").read_text(), folder / "metrics.jsonl"
    watched = look.Watch(folder)
    with run.locked(folder):
        (folder / "config.json").unlink()
        assert watched.look().state == "starting"  # it opens its data
        (folder / "config.json").write_text(config)
        assert watched.look().state == "starting"  # it compiles
        records.write_text(record(6))
        assert watched.look().state == "running"
    view = watched.look()  # killed
    assert (view.state, view.eta_seconds) == ("stopped", None)
    with run.locked(folder):
        records.write_text(record(6) + record(12))
        assert watched.look().state == "finishing"
        (folder / "result.json").write_text('{"steps": 12}')
        assert watched.look().state == "finishing"
    assert watched.look().state == "finished"
    longer = tiny.config("unused", {"train.total_steps": 24})  # the total raised, not gone on yet
    (folder / "config.json").write_text(config_lib.to_json(longer))
    assert watched.look().state == "stopped"


def test_an_empty_config_is_one_line(folder):
    (folder / "config.json").write_text("")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        look.Watch(folder).look()


def test_a_run_imported_without_data_has_nothing_to_train_on(folder):
    (folder / "data.json").write_text(json.dumps({"splits": {"train": {"examples": 0}}}))
    view = look.Watch(folder).look()
    assert (view.state, view.total, view.eta_seconds) == ("imported", None, None)


def test_looking_leaves_the_lock_to_the_run(folder):
    """However often it is looked at, a run can take its folder."""
    watched = look.Watch(folder)
    for _ in range(50):
        watched.look()
        with run.locked(folder):
            assert watched.look().state == "starting"


def test_silence_is_said_after_a_minute_or_ten_usual_gaps(folder, held):
    """Records come every 4 * 8 / 4 = 8 s: at 81 s it is unusual, at 79 s it is not."""
    path = folder / "metrics.jsonl"
    path.write_text(record(4) + record(8))
    for age, silent in ((79, False), (81, True)):
        os.utime(path, (time.time() - age,) * 2)
        view = look.Watch(folder).look()
        assert view.silent == silent
        assert view.age_seconds == pytest.approx(age, abs=1.0)


def test_the_pace_that_was_seen_counts_validations_too(folder, held, monkeypatch):
    """8 steps in 80 s seen, whatever the records say of speed: 2 more take 20 s."""
    now = [1000.0]
    monkeypatch.setattr(look.time, "monotonic", lambda: now[0])
    path, watched = folder / "metrics.jsonl", look.Watch(folder)
    path.write_text(record(2))
    assert watched.look().eta_seconds == 10 * 8 / 4.0
    with path.open("a") as file:
        file.write(record(10))
    now[0] += 80.0
    assert watched.look().eta_seconds == 20.0


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        look.Watch(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="not a run folder"):
        look.Watch(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        look.Watch(tmp_path).look()
