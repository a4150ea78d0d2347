"""Processes that decode: the bits of the threads, one line for what goes wrong, nothing left."""

import concurrent.futures
import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from imgclass import build, feeds, parallel, train
from imgclass.config import ConfigError
from imgclass.data import cache, dataset, digits, feed, folder, host_crop, workers
from imgclass.data.arrays import ArraySplit
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError, UserError
from tests import tiny

PREPARE = Preprocess(image_size=(8, 8))
ROWS = np.array([0, 1, 4, 6])


def file_split(root, n=20):
    return folder.open_folder(tiny.folder(root, "train", n, size=24)).splits["train"]


def stream(split, processes, crop=None, prepare=PREPARE, repeats=1):
    return feed.StreamFeed(
        split, prepare, (8, 8), seed=4, batch_size=7, rows=ROWS, put=dict, crop=crop,
        threads=1, processes=processes, prefetch=2, repeats=repeats,
    )  # fmt: skip


def pids(feeding):
    return [worker.process.pid for worker in feeding._workers._all]


def is_running(pid):
    try:
        return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
    except OSError:
        return False


def all_end(found, seconds=30):
    end = time.monotonic() + seconds
    while any(map(is_running, found)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(is_running, found))


def same_as_threads(split, disturb):
    """Asserts that two processes give the batches of threads, all the same two to the end."""
    with (
        contextlib.closing(stream(split, 0)) as threads,
        contextlib.closing(stream(split, 2)) as processes,
    ):
        disturb(processes)
        for step in range(6):
            np.testing.assert_array_equal(
                processes.batch(step)["image"], threads.batch(step)["image"], strict=True
            )
        assert all(map(is_running, pids(processes)))


def of_files(root):
    return file_split(root), None


def of_arrays(root):
    images, labels = tiny.pictures(20, 8)
    return ArraySplit("train", images, labels.astype(np.int32)), None


def of_tfds(root):
    return digits.open_digits().splits["train"], None


def of_a_cache(root):
    return cache.cached(file_split(root), PREPARE, (8, 8), "raw")[0], None


def of_crops(root):
    crop = host_crop.RandomCrop(4, 7, (0.1, 1.0), (0.75, 1.333), (8, 8), "bilinear")
    return file_split(root), crop


@pytest.mark.parametrize("make", [of_files, of_arrays, of_tfds, of_a_cache, of_crops])
@pytest.mark.parametrize("repeats", [1, 3])
def test_batches_are_those_of_threads(tmp_path, monkeypatch, make, repeats):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    split, crop = make(tmp_path)
    with (
        contextlib.closing(stream(split, 0, crop, repeats=repeats)) as threads,
        contextlib.closing(stream(split, 2, crop, repeats=repeats)) as processes,
    ):
        for step in (0, 1, 2, 3, 9, 4):
            expected, got = threads.batch(step), processes.batch(step)
            assert expected.keys() == got.keys()
            for name in expected:
                np.testing.assert_array_equal(got[name], expected[name], strict=True)


def test_a_batch_stays_as_it_is_when_the_next_ones_come(tmp_path):
    """The memory that a process shares is used again."""
    with contextlib.closing(stream(file_split(tmp_path), 1)) as feeding:
        first = feeding.batch(0)["image"]
        before = first.copy()
        for step in range(1, 6):
            feeding.batch(step)
        np.testing.assert_array_equal(first, before)


def test_a_bad_picture_has_the_line_it_has_from_a_thread(tmp_path):
    split = file_split(tmp_path)
    path = tmp_path / "train/class1/0004.png"
    path.write_bytes(path.read_bytes()[:-20])

    def line(processes):
        with contextlib.closing(stream(split, processes)) as feeding:
            with pytest.raises(UserError, match=r"class1/0004\.png.*bad_files=skip") as caught:
                list(map(feeding.batch, range(9)))
            return str(caught.value)

    assert line(2) == line(0)


def test_an_error_that_is_nobodys_fault_arrives_with_its_traceback(tmp_path):
    split = file_split(tmp_path)
    said = r"(?s)Traceback.*channels=2: expected 1 or 3"
    with (
        contextlib.closing(stream(split, 1, prepare=Preprocess((8, 8), channels=2))) as feeding,
        pytest.raises(RuntimeError, match=said),
    ):
        feeding.batch(0)


def test_a_file_in_the_current_folder_is_not_taken_for_pythons_own(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for name in ("signal", "numpy"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('not mine')")
    monkeypatch.chdir(tmp_path / "here")
    split = file_split(tmp_path)
    with (
        contextlib.closing(stream(split, 0)) as threads,
        contextlib.closing(stream(split, 1)) as processes,
    ):
        assert np.array_equal(processes.batch(0)["image"], threads.batch(0)["image"])
        assert all(map(is_running, pids(processes)))


def test_processes_that_cannot_be_had_are_a_line_and_the_others_end(tmp_path, monkeypatch):
    begun = []

    def refused(self, *args):
        if len(begun) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        make(self, *args)
        begun.append(self.process.pid)

    make = workers._Worker.__init__
    monkeypatch.setattr(workers._Worker, "__init__", refused)
    with pytest.raises(UserError, match=r"data\.workers=5: .*Too many open files.*Use fewer"):
        stream(file_split(tmp_path), 5)
    assert len(begun) == 2
    assert all_end(begun)


def test_what_keeps_one_from_starting_is_told(tmp_path):
    split = of_a_cache(tmp_path)[0]
    with contextlib.closing(stream(split, 1)) as feeding:
        split.path.unlink()  # which a pickled split opens anew
        with pytest.raises(RuntimeError, match=r"(?s)Traceback.*No such file.*\.raw"):
            feeding.batch(0)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "was ended by SIGKILL, perhaps for want of memory"),
        (signal.SIGSEGV, "was ended by SIGSEGV"),
        (40, "was ended by signal 40"),
    ],
)
def test_a_process_that_is_killed_is_told_of(tmp_path, number, said):
    with contextlib.closing(stream(file_split(tmp_path), 2)) as feeding:
        feeding.batch(0)
        for pid in pids(feeding):
            os.kill(pid, number)
        with pytest.raises(
            UserError, match=rf"{said}\. Go on with fewer: --config\.data\.workers=N"
        ):
            list(map(feeding.batch, range(1, 9)))


@pytest.mark.parametrize("seconds", [0, 0.15, 1.5])  # at once, while NumPy is imported, and later
def test_signals_to_all_processes_of_a_job_leave_them_at_work(tmp_path, seconds):
    def signalled(feeding):
        time.sleep(seconds)
        for number in (signal.SIGINT, signal.SIGTERM):
            for pid in pids(feeding):
                os.kill(pid, number)

    same_as_threads(file_split(tmp_path), signalled)
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_closing_ends_them_whatever_they_are_doing(tmp_path):
    feeding = stream(file_split(tmp_path), 2)
    feeding.batch(0)
    found, outcome = pids(feeding), []
    for pid in found:
        os.kill(pid, signal.SIGSTOP)  # a batch that never comes

    def ask():
        try:
            for step in range(1, 9):
                feeding.batch(step)
        except concurrent.futures.CancelledError:
            outcome.append("cancelled")

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    feeding.close()
    asking.join(30)
    assert outcome == ["cancelled"]
    assert all_end(found, 1)


PARENT = """
import pathlib, sys, time
import numpy as np
from tests.data import test_workers as t
if __name__ == "__main__":
    feeding = t.stream(t.file_split(pathlib.Path(sys.argv[1])), 2)
    feeding.batch(0)
    print(*t.pids(feeding), flush=True)
    time.sleep(60)
"""


def test_they_end_with_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        cwd=tiny.ROOT,
    )  # fmt: skip
    with parent:
        found = list(map(int, parent.stdout.readline().split()))
        assert len(found) == 2
        assert all(map(is_running, found))
        parent.kill()
    assert all_end(found)


@pytest.mark.parametrize("make", [of_tfds, of_a_cache])
def test_they_do_not_import_jax_or_the_script(tmp_path, monkeypatch, make):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with contextlib.closing(stream(make(tmp_path)[0], 1)) as feeding:
        feeding.batch(0)
        mapped = pathlib.Path(f"/proc/{pids(feeding)[0]}/maps").read_text()
    assert "numpy" in mapped
    assert "jaxlib" not in mapped


def test_the_config_asks_for_them(tmp_path):
    def opened(name):
        config = tiny.config(name, {"data.workers": 2, "data.test_split": ""})
        found = dataset.open_dataset(config)
        mesh = parallel.make_mesh(1, config.train.batch_size)
        return build.from_data(config, found, mesh, 6, 0), found

    archive = tiny.archive(tmp_path)
    with pytest.raises(UsageError, match=r"data\.workers=2: the pictures of .*npz are in memory"):
        feeds.train_feed(*opened(archive))
    root = tmp_path / "pictures"
    tiny.folder(root, "train", 20), tiny.folder(root, "validation", 6)
    task, found = opened(root)
    with contextlib.closing(feeds.train_feed(task, found)) as feeding:
        assert isinstance(feeding, feed.StreamFeed)  # though 'auto' would keep so small a set
        assert len(pids(feeding)) == 2
    with pytest.raises(ConfigError, match=r"data\.workers needs the stream feed"):
        tiny.config(root, {"data.workers": 2, "data.feed": "resident"})


def test_a_run_with_them_is_the_run_without(tmp_path):
    root = tmp_path / "pictures"
    tiny.folder(root, "train", 20), tiny.folder(root, "validation", 6)
    changes = tiny.FULL | {"data.test_split": "", "data.feed": "stream"}
    for count in (0, 2):
        config = tiny.config(root, changes | {"data.workers": count})
        train.train_and_evaluate(config, tmp_path / str(count))
    assert tiny.records(tmp_path / "0") == tiny.records(tmp_path / "2")
    tiny.assert_same_bits(tiny.arrays(tmp_path / "0"), tiny.arrays(tmp_path / "2"))
