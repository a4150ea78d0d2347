"""Feeds: the same bits from memory and from threads; evaluation counts every example once."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from imgclass import build, feeds, parallel
from imgclass.data import cache, dataset, feed, folder, load, order
from imgclass.data.arrays import ArraySplit
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UserError
from tests import tiny

PREPARE = Preprocess(image_size=(6, 5))
TAKE = jax.jit(parallel.take_rows)
READ = ArraySplit.read


def array_split(n):
    images, labels = tiny.pictures(n, 8)
    return ArraySplit("train", images, labels.astype(np.int32))


def file_split(root, n):
    return folder.open_folder(tiny.folder(root, "train", n)).splits["train"]


def resident(split, batch_size, threads=1, repeats=1):
    return feed.ResidentFeed(
        split, PREPARE, (6, 5), seed=4, batch_size=batch_size,
        put_all=lambda tree: tree, take=TAKE, repeats=repeats, threads=threads,
    )  # fmt: skip


def stream(split, batch_size, rows=None, threads=1, prefetch=1, repeats=1):
    return feed.StreamFeed(
        split, PREPARE, (6, 5), seed=4, batch_size=batch_size,
        rows=np.arange(batch_size) if rows is None else rows,
        put=lambda batch: batch, repeats=repeats, threads=threads, prefetch=prefetch,
    )  # fmt: skip


def assert_same(a, b):
    assert a.keys() == b.keys() == {"image", "label", "index", "mask"}
    for name in a:
        left, right = np.asarray(a[name]), np.asarray(b[name])
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (2, 4), (5, 2), (0, 9)])
def test_resident_and_stream_give_the_same_bits(tmp_path, threads, prefetch):
    split = file_split(tmp_path, 23)
    a = resident(split, 7, threads)
    b = stream(split, 7, threads=threads, prefetch=prefetch)
    for step in range(12):  # 84 examples: three epochs and a half
        assert_same(a.batch(step), b.batch(step))
    for step in (3, 0, 100, 101, 7):  # a stream may be asked for any step
        assert_same(a.batch(step), b.batch(step))
    b.close()


def test_repeats_are_rows_running_and_are_decoded_once(monkeypatch):
    split = array_split(11)
    a, b = resident(split, 7, repeats=3), stream(split, 7, repeats=3)
    for step in range(6):
        assert_same(a.batch(step), b.batch(step))
    b.close()
    c = stream(split, 7, repeats=3)
    read = []
    monkeypatch.setattr(ArraySplit, "read", lambda self, i: read.extend(i) or READ(self, i))
    assert (
        c._load(0)["index"].tolist() == np.repeat(order.permutation(4, 0, 11)[:3], 3)[:7].tolist()
    )
    assert sorted(read) == sorted(order.permutation(4, 0, 11)[:3].tolist())
    c.close()


def test_a_batch_is_the_pictures_of_its_step():
    split = array_split(11)
    feeding = stream(split, 4, threads=2)
    for step in (0, 1, 2, 9):
        batch = feeding.batch(step)
        indices = order.batch_indices(4, 11, 4, step)
        pictures = Image.fromarray  # resized one by one, by Pillow itself
        for row, index in enumerate(indices):
            resized = pictures(split.pictures[index]).resize((5, 6), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(batch["image"][row], np.asarray(resized))
        assert batch["label"].tolist() == [int(i) % tiny.CLASSES for i in indices]
        assert batch["index"].tolist() == indices.tolist()
        assert batch["mask"].all()
    feeding.close()


@pytest.mark.parametrize(
    ("threads", "prefetch", "ahead"), [(4, 1, 1), (2, 3, 3), (2, 0, 4), (5, 0, 5)]
)
def test_a_stream_decodes_so_many_batches_ahead(threads, prefetch, ahead):
    feeding = stream(array_split(11), 4, threads=threads, prefetch=prefetch)
    for step in (0, 1, 7):
        feeding.batch(step)
        assert [number for number, _ in feeding._pending] == list(range(step + 1, step + 1 + ahead))
    feeding.close()


@pytest.mark.parametrize(("prefetch", "ahead"), [(1, 1), (3, 3), (0, 4)])
def test_an_evaluation_decodes_so_many_batches_ahead(prefetch, ahead, monkeypatch):
    asked = []
    load = feed.EvalFeed._load
    monkeypatch.setattr(feed.EvalFeed, "_load", lambda self, n: asked.append(n) or load(self, n))
    batches = feed.EvalFeed(
        array_split(40), PREPARE, batch_size=4, rows=np.arange(4), put=lambda b: b, threads=2,
        prefetch=prefetch,
    )  # fmt: skip
    stopped = iter(batches)
    next(stopped)
    stopped.close()  # waits for what was begun
    assert max(asked) <= ahead
    asked.clear()
    assert len(list(batches)) == 10
    assert sorted(asked) == list(range(10))


def test_the_config_reaches_the_feeds(tmp_path):
    keys = {"data.prefetch": 1, "data.threads": 3}
    for kind, cached in (("stream", False), ("resident", True)):
        config = tiny.config(tiny.archive(tmp_path), keys | {"data.feed": kind})
        data = dataset.open_dataset(config)
        mesh = parallel.make_mesh(1, config.train.batch_size)
        task = build.make(config, data.source.class_names, data.prepare, mesh, 6, 0)
        evaluation = feeds.eval_feed(task, data, "validation")
        assert (evaluation._ahead, evaluation._keep) == (1, cached)
        training = feeds.train_feed(task, data)
        if kind == "stream":
            training.batch(0)
            assert len(training._pending) == 1
        training.close()


def test_processes_share_a_global_batch():
    split = array_split(11)
    whole, first, second = (
        stream(split, 6),
        stream(split, 6, [0, 1, 2]),
        stream(split, 6, [3, 4, 5]),
    )
    for step in range(5):
        parts = [first.batch(step), second.batch(step)]
        together = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        assert_same(whole.batch(step), together)
    for feeding in (whole, first, second):
        feeding.close()


def test_resident_indices_of_many_steps():
    feeding = resident(array_split(5), 3)
    expected = [order.batch_indices(4, 5, 3, k).tolist() for k in (7, 8, 9, 10)]
    assert feeding.indices(7, 4).tolist() == expected
    assert feeding.indices(7, 4).dtype == np.int32


@pytest.mark.parametrize("resident_bytes", [0, 10**6])
@pytest.mark.parametrize(("n", "batch_size"), [(13, 4), (12, 4), (3, 8), (1, 1), (9, 2)])
def test_evaluation_counts_each_example_once(n, batch_size, resident_bytes):
    split = array_split(n)
    batches = feed.EvalFeed(
        split, PREPARE, batch_size=batch_size, rows=np.arange(batch_size),
        put=lambda batch: batch, threads=2, resident_bytes=resident_bytes,
    )  # fmt: skip
    expected = feed.load_all(split, PREPARE, (6, 5), 1)
    for _ in range(2):  # the second time from memory, if it fits
        seen = list(batches)
        assert len(seen) == len(batches) == -(-n // batch_size)
        assert all(batch["image"].shape == (batch_size, 6, 5, 3) for batch in seen)
        mask = np.concatenate([batch["mask"] for batch in seen])
        assert mask.tolist() == [True] * n + [False] * (len(seen) * batch_size - n)
        for name, values in (("index", range(n)), ("label", split.labels), ("image", expected)):
            found = np.concatenate([batch[name] for batch in seen])
            np.testing.assert_array_equal(found[mask], values)
            assert not found[~mask].any()


def test_evaluation_over_processes_covers_the_split_once():
    split = array_split(10)
    seen = []
    for rows in ([0, 1], [2, 3]):  # of a global batch of 4: the last one is all padding for one
        batches = feed.EvalFeed(
            split, PREPARE, batch_size=4, rows=np.array(rows), put=lambda b: b, threads=1
        )
        for batch in batches:
            seen += batch["index"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(10))


def test_leaving_an_evaluation_half_way_leaves_no_thread_waiting():
    batches = feed.EvalFeed(
        array_split(40), PREPARE, batch_size=4, rows=np.arange(4), put=lambda b: b, threads=2
    )
    for number, _ in enumerate(batches):
        if number == 1:
            break
    assert len(list(batches)) == 10


@pytest.mark.parametrize("kind", ["resident", "stream", "eval"])
def test_a_bad_file_is_named(tmp_path, kind):
    split = file_split(tmp_path, 9)
    bad = tmp_path / "train/class1/0004.png"
    bad.write_bytes(bad.read_bytes()[:60])

    def load():
        if kind == "resident":
            with contextlib.closing(resident(split, 3)) as feeding:
                return feeding.batch(0)
        if kind == "eval":
            batches = feed.EvalFeed(
                split, PREPARE, batch_size=4, rows=np.arange(4), put=lambda b: b
            )
            return list(batches)
        with contextlib.closing(stream(split, 3, threads=2)) as feeding:
            return [feeding.batch(step) for step in range(3)]

    with pytest.raises(UserError, match=r"train/class1/0004\.png.*bad_files=skip"):
        load()


def test_a_resident_set_that_is_closed_while_loading_leaves_the_rest(tmp_path, monkeypatch):
    begun, go_on, asked = threading.Event(), threading.Event(), []
    examples = load.examples

    def held(split, indices, *args):
        asked.append(indices.start)
        begun.set()
        go_on.wait(60)
        return examples(split, indices, *args)

    monkeypatch.setattr(load, "examples", held)
    monkeypatch.setattr(feed._Loading, "CHUNK", 2)
    feeding = resident(file_split(tmp_path, 9), 3)  # returns while its first two are held
    assert begun.wait(60)
    last = feeding._loading._parts[-1]

    def release():  # once the rest has been dropped
        while not last.cancelled():
            time.sleep(0.01)
        go_on.set()

    threading.Thread(target=release).start()
    feeding.close()
    assert go_on.is_set()  # it waited for those begun
    feeding.close()
    assert asked == [0]


def test_a_bad_file_stops_the_stream_at_its_own_step_not_earlier(tmp_path):
    split = file_split(tmp_path, 9)
    (tmp_path / "train/class1/0004.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    place = split.names.index("train/class1/0004.png")
    row = int(np.flatnonzero(order.permutation(4, 0, 9) == place)[0])
    feeding = stream(split, 1, threads=2, prefetch=9)  # read ahead past the bad one
    for step in range(row):
        feeding.batch(step)
    with pytest.raises(UserError, match=r"0004\.png"):
        feeding.batch(row)
    feeding.close()


PEAK = """
import json, pathlib, resource, sys
import numpy as np
from imgclass.data import feed
from imgclass.data.folder import FileSplit
from imgclass.data.preprocess import Preprocess

root, files, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
names = [f"{i}.jpg" for i in range(files)]
split = FileSplit("train", root, names, np.zeros(files, np.int32))
prepare = Preprocess(image_size=(256, 256))
rows = np.arange(20)
stream = feed.StreamFeed(split, prepare, (256, 256), seed=0, batch_size=20, rows=rows,
                         put=lambda b: b, threads=2, prefetch=4)
total = 0
for step in range(steps):
    total += len(stream.batch(step)["label"])
stream.close()
for batch in feed.EvalFeed(split, prepare, batch_size=20, rows=rows, put=lambda b: b, threads=2):
    total += int(batch["mask"].sum())
    if total >= 20 * steps + 300:
        break
print(json.dumps([total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def test_memory_of_a_stream_does_not_grow_with_the_data_set(tmp_path):
    # 200 and 2,000 pictures of 256x256x3: 38 and 375 MiB decoded. Both processes decode 2,300.
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (32, 32, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(pixels).save(tmp_path / "0.jpg", quality=70)
    data = (tmp_path / "0.jpg").read_bytes()
    for i in range(1, 2000):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PEAK, str(tmp_path), str(files), "100"],
            stdout=subprocess.PIPE, env=tiny.environment(),
        )
        for files in (200, 2000)
    ]  # fmt: skip
    (small_count, small), (large_count, large) = (
        json.loads(process.communicate(timeout=120)[0]) for process in running
    )
    assert (small_count, large_count) == (2200, 2300)
    assert large - small < 12, f"peak {small:.0f} MiB for 200 pictures, {large:.0f} for 2,000"


@pytest.mark.parametrize("kind", ["resident", "stream", "eval", "eval in memory", "cache"])
def test_what_is_dropped_ends_within_a_picture(tmp_path, monkeypatch, kind):
    """A feed whose user has been told to stop does not decode the rest of its batches."""
    split = file_split(tmp_path, 60)
    decoded, two = [], threading.Event()
    decode = Preprocess.load

    def slow(self, data, size):
        decoded.append(1)
        if len(decoded) > 1:
            two.set()
        time.sleep(0.05)
        return decode(self, data, size)

    monkeypatch.setattr(Preprocess, "load", slow)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def stop_when_two_are_decoded():
        assert two.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    class Interrupted(Exception):
        pass

    def interrupted(*_):
        raise Interrupted

    def use():
        if kind in ("resident", "stream"):
            made = resident(split, 60) if kind == "resident" else stream(split, 60)
            with contextlib.closing(made) as feeding:
                feeding.batch(0)
            return
        if kind == "cache":
            cache.cached(split, PREPARE, (6, 5), "raw", threads=1)
            return
        in_memory = 2**20 if kind == "eval in memory" else 0
        list(feed.EvalFeed(
            split, PREPARE, batch_size=60, rows=np.arange(60), put=lambda b: b, threads=1,
            resident_bytes=in_memory,
        ))  # fmt: skip

    before = signal.signal(signal.SIGUSR1, interrupted)
    threading.Thread(target=stop_when_two_are_decoded).start()
    try:
        with pytest.raises(Interrupted):
            use()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(decoded) < 10
