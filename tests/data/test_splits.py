import numpy as np
import pytest

from imgclass.data.arrays import ArraySplit
from imgclass.data.splits import Subset, select
from imgclass.errors import UsageError


def numbered(name, count, first=0):
    """A split whose picture i is filled with first + i, labels alternating."""
    values = np.arange(first, first + count, dtype=np.uint8)
    pictures = np.broadcast_to(values[:, None, None], (count, 2, 2))
    return ArraySplit(name, np.ascontiguousarray(pictures), np.arange(count, dtype=np.int32) % 2)


SPLITS = {"train": numbered("train", 10), "validation": numbered("validation", 4, 100)}


def values(subset):
    return [int(record.image[0, 0]) for record in subset.read(range(len(subset)))]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("train[:3]", [0, 1, 2]),
        ("train[-2:]", [8, 9]),
        ("train[:-7]", [0, 1, 2]),
        ("train[20%:50%]", [2, 3, 4]),
        ("train[:24%]", [0, 1]),  # 2.4 examples, to the nearest
        ("train[:26%]", [0, 1, 2]),
        ("train[80%:]+validation[:50%]", [8, 9, 100, 101]),
        ("validation + train[:1]", [100, 101, 102, 103, 0]),
        ("val[3:]", [103]),  # the same split by its other name
        ("valid", [100, 101, 102, 103]),
    ],
)
def test_slices(spec, expected):
    assert values(select(spec, SPLITS, "data.train_split", "train")) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trian", "no split 'trian' here, only train, validation; did you mean 'train'"),
        ("test[:3]", "no split 'test' here"),
        ("all", "no split 'all' here"),
        ("train[:11]", r"data.test_split='train\[:11\]' reaches outside its split: train has 10"),
        ("train[:3", "cannot be read"),
        ("train[3]", "cannot be read"),
        ("train[x:]", "cannot be read"),
        ("train[:101%]", "cannot be read"),
        ("train[4:4]", "selects no examples"),
        ("train[6:4]", "selects no examples"),
        ("train[:6]+train[4:]", "names 2 examples twice"),
    ],
)
def test_specifications_that_make_no_sense(spec, message):
    with pytest.raises(UsageError, match=message):
        select(spec, SPLITS, "data.test_split", "test")


def test_reads_in_the_order_asked_across_parents():
    subset = select("train[5:]+validation", SPLITS, "data.train_split", "train")
    records = subset.read([8, 0, 5, 0])
    assert [int(r.image[0, 0]) for r in records] == [103, 5, 100, 5]
    assert [r.name for r in records] == ["validation/3", "train/5", "validation/0", "train/5"]
    assert subset.example_names([8, 0]) == ["validation/3", "train/5"]
    assert subset.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert subset.labels.dtype == np.int32


@pytest.mark.parametrize("index", [-1, 9])
def test_an_index_outside_is_an_error(index):
    subset = select("train[5:]+validation", SPLITS, "data.train_split", "train")
    with pytest.raises(IndexError, match=f"example {index} is outside"):
        subset.read([0, index])


def test_take_keeps_order():
    subset = select("train[5:]+validation", SPLITS, "data.train_split", "train")
    assert values(subset.take(np.array([0, 4, 6]), "part")) == [5, 9, 101]


def test_fingerprint_says_which_examples():
    whole = select("train", SPLITS, "data.train_split", "train")
    assert whole.fingerprint == SPLITS["train"].fingerprint
    assert select("train[0:]", SPLITS, "data.train_split", "x").fingerprint == whole.fingerprint
    prints = {
        select(spec, SPLITS, "data.train_split", "train").fingerprint
        for spec in ("train", "train[1:]", "train[:9]", "train[:5]+train[5:]", "validation")
    }
    assert len(prints) == 5
    reordered = Subset("train", [(SPLITS["train"], np.arange(10)[::-1])])
    assert reordered.fingerprint != whole.fingerprint
    assert whole.fingerprint_kind == "content"
