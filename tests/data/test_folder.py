import errno
import io
import os
import pathlib
import subprocess

import numpy as np
import PIL.Image
import pytest

from imgclass.data import folder
from imgclass.data.source import open_source
from imgclass.errors import UsageError, UserError
from tests.data.sections import data_section

SHARED = pathlib.Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def write(root, *names):
    """Writes a small picture at each name; the formats PIL knows go by their extension."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(np.full((4, 5), number % 256, np.uint8))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())


def numbered(parent, count):
    return [f"{parent}/{i}.png" for i in range(count)]


def test_split_folders(tmp_path):
    write(tmp_path, *numbered("train/cat", 3), *numbered("train/dog", 2))
    write(tmp_path, *numbered("Val/cat", 1), *numbered("Val/dog", 1), *numbered("TEST/dog", 2))
    source = open_source(data_section(tmp_path))
    assert source.kind == "folder"
    assert source.class_names == ("cat", "dog")
    assert {role: own.labels.tolist() for role, own in source.splits.items()} == {
        "train": [0, 0, 0, 1, 1],
        "validation": [0, 1],
        "test": [1, 1],
    }
    train = source.splits["train"]
    assert train.labels.dtype == np.int32
    first, second = train.read([4, 0])
    assert (first.name, first.label) == ("train/dog/1.png", 1)
    assert (second.name, second.label) == ("train/cat/0.png", 0)
    assert second.image == (tmp_path / "train/cat/0.png").read_bytes()
    assert source.splits["test"].example_names([1]) == ["TEST/dog/1.png"]
    assert source.notes == ("no test example of 'cat'",)


def test_flat_folder_is_carved(tmp_path):
    write(tmp_path, *numbered("a", 20), *numbered("b", 10))
    source = open_source(data_section(tmp_path))
    # 30 examples: 3 to test, 3 to validate, 2 : 1 in each.
    counts = {role: np.bincount(own.labels).tolist() for role, own in source.splits.items()}
    assert counts == {"train": [16, 8], "validation": [2, 1], "test": [2, 1]}


def test_odd_names_are_counted_right(tmp_path):
    write(tmp_path, "çä t/ö 1.JPG", "çä t/deep/er/x.Jpeg", "dog/a.webp", "dog/b.bmp", "dog/c.GIF")
    write(tmp_path, ".hidden/a.png", "dog/.thumb.png", "dog/.cache/a.png")
    (tmp_path / "README").write_text("x")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog" / "linked.png").symlink_to(tmp_path / "dog" / "a.webp")
    section = data_section(tmp_path, validation_split="", test_split="")
    source = open_source(section)
    assert source.class_names == ("dog", "çä t")
    train = source.splits["train"]
    assert train.example_names(range(len(train))) == [
        "dog/a.webp",
        "dog/b.bmp",
        "dog/c.GIF",
        "dog/linked.png",
        "çä t/deep/er/x.Jpeg",
        "çä t/ö 1.JPG",
    ]
    assert source.notes == (
        "2 files without a picture extension ignored, first README",
        "1 broken link or special file ignored, first dog/gone.png",
    )


def test_link_loops_end(tmp_path):
    write(tmp_path, *numbered("a", 2), *numbered("b", 3))
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "root").symlink_to(tmp_path)
    (tmp_path / "round").symlink_to("round")
    source = open_source(data_section(tmp_path, validation_split="", test_split=""))
    assert np.bincount(source.splits["train"].labels).tolist() == [2, 3]


def test_links_that_multiply_end(tmp_path):
    """Two links to the next folder in each of 30 are 2^30 paths to one picture."""
    root = tmp_path / "root"
    write(root, "a/1.png", "a/2.png", "b/1.png")
    links = tmp_path / "links"
    for depth in range(30):
        (links / str(depth)).mkdir(parents=True)
        for name in ("left", "right"):
            (links / str(depth) / name).symlink_to(links / str(depth + 1))
    (links / "30").mkdir()
    write(links / "30", "picture.png")
    (root / "a" / "more").symlink_to(links / "0")
    with pytest.raises(UserError, match=r"/a: links lead to the same folders again and again"):
        open_source(data_section(root))
    (links / "0" / "right").unlink()
    (links / "1" / "right").unlink()
    for depth in range(2, 30):
        (links / str(depth) / "left").unlink()
    section = data_section(root, validation_split="", test_split="")
    assert np.bincount(open_source(section).splits["train"].labels).tolist() == [3, 1]


def test_folders_a_thousand_deep_are_searched(tmp_path, request):
    # Python 3.11's own `shutil.rmtree`, with which pytest clears up, gives up at that depth.
    request.addfinalizer(lambda: subprocess.run(["rm", "-r", str(tmp_path / "a")], check=True))
    write(tmp_path, "a/1.png", "b/1.png")
    before = os.getcwd()
    try:
        os.chdir(tmp_path / "a")
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        os.symlink(tmp_path / "b" / "1.png", "deep.png")
    finally:
        os.chdir(before)
    section = data_section(tmp_path, validation_split="", test_split="")
    train = open_source(section).splits["train"]
    assert [len(name) for name in train.example_names(range(3))] == [7, 2 + 2 * 1500 + 8, 7]
    assert train.read([1])[0].image == (tmp_path / "b" / "1.png").read_bytes()


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    """A terabyte of nothing, that takes no room on the disk."""
    write(tmp_path, "a/1.png", "b/1.png")
    os.truncate(tmp_path / "a" / "1.png", 1 << 40)
    section = data_section(tmp_path, validation_split="", test_split="")
    train = open_source(section).splits["train"]
    assert train.fingerprint
    with pytest.raises(UserError, match=r"a/1\.png: 1,099,511,627,776 bytes are too many"):
        train.read([0])


def test_pictures_below_any_folder(tmp_path):
    write(tmp_path, "b.png", "deep/er/a.JPG", ".hidden/x.png", "deep/.thumb.png")
    (tmp_path / "deep" / "notes.txt").write_text("x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    write(tmp_path.parent / f"{tmp_path.name}-elsewhere", "c.png")
    (tmp_path / "linked").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    below = folder.pictures_below(tmp_path)
    assert below.pictures == ("b.png", "deep/er/a.JPG", "linked/c.png")
    assert below.other == ("deep/notes.txt",)
    assert below.broken == ("gone.png", "round")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def denied(path):
        if pathlib.Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"cannot list .*/b: Permission denied"):
        folder.pictures_below(tmp_path)


def test_a_class_only_in_test_is_named(tmp_path):
    write(tmp_path, *numbered("train/a", 2), *numbered("train/b", 2), *numbered("test/extra", 1))
    with pytest.raises(UsageError, match="no training example of 'extra'"):
        open_source(data_section(tmp_path, validation_split=""))


def test_an_empty_class_folder_is_a_note(tmp_path):
    write(tmp_path, *numbered("a", 20), *numbered("b", 20))
    (tmp_path / "c").mkdir()
    source = open_source(data_section(tmp_path))
    assert source.class_names == ("a", "b")
    assert source.notes == ("class folder 'c' holds no pictures and is not a class",)


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, *numbered("bus", 20), *numbered("train", 20))
    assert open_source(data_section(tmp_path)).class_names == ("bus", "train")


def test_pictures_without_labels_are_not_a_test_split(tmp_path):
    write(tmp_path, *numbered("train/a", 20), *numbered("train/b", 20), *numbered("test", 3))
    source = open_source(data_section(tmp_path))
    assert set(source.splits) == {"train", "validation"}
    assert source.notes == ("test/ has pictures but no class folders: no labels, not used",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes/readme.txt"], "no pictures in class folders: expected train/CLASS"),
        (["1.png", "2.png"], r"no pictures in class folders \(2 outside of them\): expected"),
        (["cat/1.png"], "only one class, 'cat', and at least two are needed"),
        (["train/1.png", "test/2.png"], "has only test/, train/ without class folders inside"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "two validation folders: val/, valid/"),
        (["set/train/a/1.png", "set/test/a/1.png"], "did you mean .*set"),
    ],
)
def test_layouts_that_leave_labels_unclear(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(UsageError, match=message):
        open_source(data_section(tmp_path))


def test_a_file_that_vanished_is_named(tmp_path):
    write(tmp_path, *numbered("a", 2), *numbered("b", 2))
    train = open_source(data_section(tmp_path, validation_split="", test_split="")).splits["train"]
    (tmp_path / "b" / "0.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*b/0.png: No such file"):
        train.read([0, 2])


def test_the_fingerprint_sees_content_names_and_labels(tmp_path):
    def fingerprint():
        section = data_section(tmp_path, validation_split="", test_split="")
        return open_source(section).splits["train"].fingerprint

    write(tmp_path, *numbered("a", 2), *numbered("b", 2))
    prints = [fingerprint()]
    assert fingerprint() == prints[0]
    content = bytearray((tmp_path / "a/0.png").read_bytes())
    content[-1] ^= 1  # same size
    (tmp_path / "a/0.png").write_bytes(content)
    prints.append(fingerprint())
    os.rename(tmp_path / "a/1.png", tmp_path / "a/9.png")
    prints.append(fingerprint())
    os.rename(tmp_path / "a/9.png", tmp_path / "b/9.png")
    prints.append(fingerprint())
    assert len(set(prints)) == 4


def test_large_sets_are_fingerprinted_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr("imgclass.data.folder.CONTENT_LIMIT", 10)
    write(tmp_path, *numbered("a", 2), *numbered("b", 2))
    section = data_section(tmp_path, validation_split="", test_split="")
    before = open_source(section).splits["train"]
    assert before.fingerprint_kind == "sizes"
    with open(tmp_path / "a/0.png", "ab") as file:
        file.write(b"x")
    assert open_source(section).splits["train"].fingerprint != before.fingerprint


@pytest.mark.skipif(not SHARED.exists(), reason="the real sets are not beside the repository")
def test_traffic_signs_split_by_track():
    pattern = r"(\d+/\d+)_\d+\.png$"  # class and track; frames of a track are near copies
    source = open_source(data_section(SHARED / "traffic_signs", group_by=pattern))
    tracks = {
        role: {name.rsplit("_", 1)[0] for name in own.example_names(range(len(own)))}
        for role, own in source.splits.items()
    }
    assert not tracks["train"] & tracks["validation"]
    counts = [np.bincount(source.splits[r].labels) for r in ("train", "validation")]
    assert sum(own.sum() for own in counts) == 3354
    assert min(own.min() for own in counts) > 0
    np.testing.assert_allclose(counts[1].sum(), 335, atol=35)


@pytest.mark.skipif(not SHARED.exists(), reason="the real sets are not beside the repository")
def test_chest_xray_counts():
    source = open_source(data_section(SHARED / "chest_xray"))
    counts = {role: np.bincount(own.labels).tolist() for role, own in source.splits.items()}
    assert counts == {"train": [913, 2721], "validation": [237, 636], "test": [191, 518]}
    assert source.class_names == ("NORMAL", "PNEUMONIA")
