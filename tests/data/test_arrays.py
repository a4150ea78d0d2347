import io
import os
import pathlib
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from imgclass.data import arrays
from imgclass.data.source import open_source
from imgclass.errors import UsageError, UserError
from tests.data.sections import data_section


def pictures(count, *shape):
    """uint8[count, *shape]; picture i is filled with i."""
    filled = np.arange(count, dtype=np.uint8).reshape(count, *[1] * len(shape))
    return np.ascontiguousarray(np.broadcast_to(filled, (count, *shape)))


def save(tmp_path, **named):
    path = tmp_path / "set.npz"
    np.savez(path, **named)
    return path


def test_flat_arrays_are_carved(tmp_path):
    path = save(tmp_path, x=pictures(30, 4, 5), y=np.arange(30) % 3)
    source = open_source(data_section(path))
    assert source.kind == "arrays"
    assert source.class_names == ("0", "1", "2")
    counts = {role: np.bincount(own.labels).tolist() for role, own in source.splits.items()}
    assert counts == {"train": [8, 8, 8], "validation": [1, 1, 1], "test": [1, 1, 1]}


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_splits_of_their_own(tmp_path, validation):
    labels = np.array([7, 3, 7, 3])
    arrays = {"x_train": pictures(4, 4, 5, 3), "y_train": labels[:, None]}  # y as Keras stores it
    arrays |= {f"x_{validation}": pictures(2, 4, 5, 3), f"y_{validation}": labels[:2]}
    arrays |= {"x_test": pictures(3, 4, 5, 3), "y_test": labels[:3]}
    source = open_source(data_section(save(tmp_path, **arrays)))
    assert source.class_names == ("3", "7")
    labels = {role: own.labels.tolist() for role, own in source.splits.items()}
    assert labels == {"train": [1, 0, 1, 0], "validation": [1, 0], "test": [1, 0, 1]}
    (record,) = source.splits["train"].read([2])
    assert record.image.dtype == np.uint8
    assert record.image.shape == (4, 5, 3)
    assert (record.image == 2).all()
    assert (record.label, record.name) == (1, "train/2")


@pytest.mark.parametrize(
    ("labels", "given", "names", "expected"),
    [
        (["dog", "ant", "dog"], None, ("ant", "dog"), [1, 0, 1]),
        (["dog", "ant", "dog"], ["dog", "ant"], ("dog", "ant"), [0, 1, 0]),
        ([1, 0, 1], ["off", "on"], ("off", "on"), [1, 0, 1]),
        ([True, False, True], None, ("False", "True"), [1, 0, 1]),
        ([10, 9, 10], None, ("9", "10"), [1, 0, 1]),
    ],
)
def test_class_names(tmp_path, labels, given, names, expected):
    arrays = {"x_train": pictures(3, 2, 2), "y_train": np.array(labels)}
    if given:
        arrays["class_names"] = np.array(given)
    source = open_source(data_section(save(tmp_path, **arrays), validation_split=""))
    assert source.class_names == names
    assert source.splits["train"].labels.tolist() == expected


FOUR = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": FOUR}, "expected arrays x and y, or x_train.*found a"),
        ({"x": pictures(4, 2, 2)}, "x has no y beside it"),
        ({"x": pictures(4, 2, 2), "y": FOUR[:3]}, "x has 4 pictures, y 3 labels"),
        (
            {"x": pictures(4, 2, 2).astype(np.float32), "y": FOUR},
            r"x is float32\[4, 2, 2\]; expected uint8.*multiply .* by 255 and store uint8",
        ),
        ({"x": pictures(4, 2, 2).astype(np.int64), "y": FOUR}, r"x is int64\[4, 2, 2\]; expected"),
        ({"x": pictures(4, 3, 8, 8), "y": FOUR}, r"channels come last: np.moveaxis\(x, 1, 3\)"),
        ({"x": pictures(4, 9), "y": FOUR}, r"x is uint8\[4, 9\]; expected uint8\[n, height"),
        ({"x": pictures(4, 2, 2), "y": FOUR * 0.5}, r"y is float64\[4\]; expected whole numbers"),
        ({"x": pictures(4, 2, 2), "y": np.eye(4, dtype=int)}, r"y is int64\[4, 4\]; expected"),
        (
            {"x": pictures(4, 2, 2), "y": FOUR + 1, "class_names": np.array(["a", "b"])},
            r"label 2 is not in class_names \(2\)",
        ),
        ({"x": pictures(4, 2, 2), "y": FOUR * 0}, "at least two classes are needed; found '0'"),
        (
            {"x": pictures(4, 2, 2), "y": np.array([0, "a", None, 1], object)},
            "Pickled objects are refused",
        ),
    ],
)
def test_archives_that_make_no_sense(tmp_path, arrays, message):
    with pytest.raises(UsageError, match=message):
        open_source(data_section(save(tmp_path, **arrays)))


def test_a_text_file_is_no_archive(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UsageError, match=r"text\.npz is not an \.npz archive; np\.savez writes"):
        open_source(data_section(str(tmp_path / "text.npz")))


def test_a_truncated_archive_is_named(tmp_path):
    path = save(tmp_path, x=pictures(40, 4, 4), y=np.arange(40) % 2)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"set.npz is damaged"):
        open_source(data_section(path))


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path, x=pictures(40, 4, 4), y=np.arange(40) % 2)
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"set.npz is damaged"):
        open_source(data_section(path))


def test_the_fingerprint_sees_pixels_and_labels(tmp_path):
    def fingerprint(x, y):
        section = data_section(save(tmp_path, x=x, y=y), validation_split="", test_split="")
        return open_source(section).splits["train"].fingerprint

    x, y = pictures(4, 2, 2), FOUR
    changed = x.copy()
    changed[3, 1, 1] += 1
    assert fingerprint(x, y) == fingerprint(x, y)
    assert len({fingerprint(x, y), fingerprint(changed, y), fingerprint(x, 1 - y)}) == 3


def test_an_archive_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """64 MiB of zeros in 64 KB, on a machine of 100 MB; 128 bytes of header each, 32 of labels."""
    np.savez_compressed(tmp_path / "set.npz", x=pictures(4, 4096, 4096) * 0, y=FOUR)
    assert (tmp_path / "set.npz").stat().st_size < 100_000
    monkeypatch.setattr(arrays, "memory_bytes", lambda: 100_000_000)
    words = r"set\.npz: 67,109,152 bytes unpacked, more than half of .*\(100,000,000 bytes\)"
    tracemalloc.start()
    with pytest.raises(UserError, match=words):
        open_source(data_section(tmp_path / "set.npz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("shape", ["(99999999999, 4, 4)", "(-1, 4, 4)", "(4, 4", "4" * 9000])
def test_a_header_that_lies_about_its_size(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    start = b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x.npy", start + bytes(64))
        archive.writestr("y.npy", b"")
    with pytest.raises(UserError, match=r"set\.npz (cannot be loaded|is damaged)"):
        open_source(data_section(tmp_path / "set.npz"))


class Opens:
    """Unpickles to an open file: proof that it ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("class_names.npy", "Pickled objects are refused"),
        ("more.npy", "Pickled objects are refused"),
        ("more", "more is not an array"),  # a pickle alone
    ],
)
def test_a_pickle_inside_is_not_run(tmp_path, name, words):
    ran = tmp_path / "ran"
    file = io.BytesIO()
    np.save(file, np.array([Opens(str(ran))], object), allow_pickle=True)
    content = file.getvalue() if name.endswith(".npy") else pickle.dumps(Opens(str(ran)))
    np.savez(tmp_path / "set.npz", x=pictures(4, 2, 2), y=FOUR)
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr(name, content)
    with pytest.raises(UsageError, match=words):
        open_source(data_section(tmp_path / "set.npz"))
    assert not ran.exists()
    pickle.loads(pickle.dumps(Opens(str(ran)))).close()
    assert ran.exists()  # where pickles are loaded it does


def test_names_that_climb_out_of_an_archive_write_nothing(tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    np.savez(inside / "set.npz", x=pictures(4, 2, 2), y=FOUR)
    with zipfile.ZipFile(inside / "set.npz", "a") as archive:
        for name in ("../../evil.npy", "/tmp/evil-of-imgclass.npy", "..\\evil.npy"):
            file = io.BytesIO()
            np.save(file, FOUR)
            archive.writestr(name, file.getvalue())
    before = sorted(tmp_path.rglob("*"))
    source = open_source(data_section(inside / "set.npz", validation_split="", test_split=""))
    assert len(source.splits["train"]) == 4
    assert sorted(tmp_path.rglob("*")) == before
    assert not pathlib.Path("/tmp/evil-of-imgclass.npy").exists()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "set.npz")
    with pytest.raises(UsageError, match="not a regular file"):
        open_source(data_section(tmp_path / "set.npz"))
