import json

import numpy as np
import PIL.Image
import pytest

from imgclass import config as config_lib
from imgclass.cli import main
from imgclass.data import inspect, preprocess, sheet
from imgclass.data.findings import judge
from imgclass.data.inspect import Example
from imgclass.data.source import open_source
from imgclass.errors import UserError

BLUE = (0, 0, 255)


def picture(number, size=(8, 8)):
    """A picture of its own for each number: uint8[*size, 3], in colour from number 1."""
    return np.full((*size, 3), [number % 256, 0, number // 256], np.uint8)


def write(path, pixels, kind="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, kind, **options)


def fill(root, counts):
    """Writes distinct pictures, `counts` of each 'split/class'."""
    number = 1
    for folder, count in counts.items():
        for i in range(count):
            write(root / folder / f"{i}.png", picture(number))
            number += 1


def small_config(root, **data):
    config = config_lib.defaults()
    config.data.update({"name": str(root), "image_size": (8, 8), **data})
    return config_lib.resolve(config)


def look(root, **data):
    config = small_config(root, **data)
    survey = inspect.survey(open_source(config.data), config.data)
    return survey, judge(survey, config)


def codes(findings, level="warning"):
    return [f.code for f in findings if f.level == level]


GOOD = {f"{split}/{label}": 2 for split in ("train", "val", "test") for label in "ab"}


def test_nothing_to_say_of_good_data(tmp_path):
    fill(tmp_path, GOOD)
    survey, findings = look(tmp_path)
    assert findings == ()
    assert survey.duplicates == ()
    assert survey.conflicts.pictures == 0
    assert survey.carved == ()
    assert survey.imbalance == 1.0


def test_measures_by_hand(tmp_path):
    write(tmp_path / "train/a/1.png", picture(1, (10, 20)))
    write(tmp_path / "train/a/2.png", picture(2, (10, 20)))
    write(tmp_path / "train/a/3.jpg", np.full((30, 5), 7, np.uint8), "JPEG")
    write(tmp_path / "train/b/4.bmp", picture(4, (50, 40)), "BMP")
    write(tmp_path / "test/b/5.gif", np.full((1, 1), 9, np.uint8), "GIF")
    survey, _ = look(tmp_path, validation_split="")
    train, test = survey.splits["train"], survey.splits["test"]
    assert list(survey.splits) == ["train", "test"]
    assert (train.examples, train.class_counts) == (4, (3, 1))
    assert (test.examples, test.class_counts) == (1, (0, 1))
    assert train.heights == (10, 20, 50)  # 10 10 30 50
    assert train.widths == (5, 20, 40)  # 5 20 20 40
    assert train.sizes == ((10, 20, 2), (30, 5, 1), (50, 40, 1))
    assert train.distinct_sizes == 3
    assert train.formats == {"jpeg": 1, "png": 2, "bmp": 1}
    assert test.formats == {"gif": 1}
    assert train.colours == {"gray": 1, "colour": 3}
    assert train.bytes == sum(p.stat().st_size for p in (tmp_path / "train").rglob("*.*"))
    assert survey.imbalance == 3.0


def test_arrays_are_measured_as_pixels(tmp_path):
    x = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((6, 4, 5), np.uint8)
    x[5] = x[0]
    np.savez(tmp_path / "set.npz", x_train=x, y_train=[0, 1, 0, 1, 0, 0])
    survey, _ = look(tmp_path / "set.npz", validation_split="")
    train = survey.splits["train"]
    assert train.formats == {"array": 6}
    assert train.colours == {"gray": 6}
    assert train.bytes == 6 * 4 * 5
    assert survey.duplicates[0].shown[0] == (
        Example("train", "train/0", "0"),
        Example("train", "train/5", "0"),
    )


def test_duplicates_are_of_pixels_not_of_bytes(tmp_path):
    fill(tmp_path, GOOD)
    write(tmp_path / "train/a/copy.png", picture(1), compress_level=0)
    write(tmp_path / "train/a/copy.bmp", picture(1), "BMP")
    assert (tmp_path / "train/a/copy.png").read_bytes() != (tmp_path / "train/a/0.png").read_bytes()
    write(tmp_path / "train/b/wide.png", picture(1, (4, 16)))  # as many pixels, another shape
    survey, findings = look(tmp_path)
    (found,) = survey.duplicates
    assert (found.splits, found.pictures, found.examples, found.labels_differ) == (
        ("train",), 1, 3, 0,
    )  # fmt: skip
    assert [e.name for e in found.shown[0]] == [
        "train/a/0.png", "train/a/copy.bmp", "train/a/copy.png",
    ]  # fmt: skip
    assert codes(findings) == []


def test_duplicates_across_splits_and_conflicting_labels(tmp_path):
    fill(tmp_path, GOOD)
    # Pictures 1 and 2 are train/a/0 and 1; 5 is val/a/0.
    write(tmp_path / "val/a/x.png", picture(1))
    write(tmp_path / "test/b/x.png", picture(1))
    write(tmp_path / "test/a/y.png", picture(2))
    write(tmp_path / "test/a/z.png", picture(2))
    survey, findings = look(tmp_path)
    found = {d.splits: (d.pictures, d.examples, d.labels_differ) for d in survey.duplicates}
    assert found == {
        ("test",): (1, 2, 0),
        ("train", "validation"): (1, 2, 0),
        ("train", "test"): (2, 5, 1),
        ("validation", "test"): (1, 2, 1),
    }
    assert (survey.conflicts.pictures, survey.conflicts.examples) == (1, 3)
    assert codes(findings) == ["shared_pictures"] * 3 + ["label_conflict"]
    texts = [f.text for f in findings]
    assert texts[0] == "1 picture both in train and in validation: the score on validation flatters"
    assert texts[1].startswith("2 pictures both in train and in test, 1 with differing labels:")
    assert texts[3] == (
        "1 picture with more than one label, such as train/a/0.png (a) and test/b/x.png (b)"
    )


def test_a_late_conflict_is_among_those_named(tmp_path):
    fill(tmp_path, GOOD)
    for i in range(9):
        write(tmp_path / f"train/a/same{i}.png", picture(500))
    write(tmp_path / "train/b/same.png", picture(500))
    survey, findings = look(tmp_path)
    assert survey.duplicates[0].examples == 10
    assert len(survey.conflicts.shown[0]) == 4
    assert codes(findings) == ["label_conflict"]
    assert "train/a/same0.png (a) and train/b/same.png (b)" in findings[0].text


def test_bad_files_are_named_and_counted(tmp_path):
    fill(tmp_path, GOOD)
    good = (tmp_path / "train/a/0.png").read_bytes()
    (tmp_path / "train/a/cut.png").write_bytes(good[:-20])
    (tmp_path / "train/b/empty.png").write_bytes(b"")
    (tmp_path / "test/b/text.jpg").write_text("not a picture")
    survey, findings = look(tmp_path)
    train = survey.splits["train"]
    assert [(b.index, b.name, b.reason) for b in train.bad_files] == [
        (2, "train/a/cut.png", "truncated"),
        (5, "train/b/empty.png", "empty file"),
    ]
    assert (train.examples, train.class_counts) == (6, (3, 3))
    assert train.formats == {"png": 4}
    assert [b.name for b in survey.splits["test"].bad_files] == ["test/b/text.jpg"]
    assert survey.duplicates == ()  # what cannot be read is not alike
    assert codes(findings) == ["bad_files"]
    assert findings[0].text.startswith("3 pictures cannot be read: training stops at the first")
    _, findings = look(tmp_path, bad_files="skip")
    assert "training leaves them out" in findings[0].text


def test_a_file_that_vanishes_is_a_bad_file(tmp_path):
    fill(tmp_path, GOOD)
    config = small_config(tmp_path)
    source = open_source(config.data)
    (tmp_path / "train/b/0.png").unlink()
    survey = inspect.survey(source, config.data)
    (bad,) = survey.splits["train"].bad_files
    assert (bad.index, bad.name) == (2, "train/b/0.png")
    assert "No such file" in bad.reason
    assert survey.splits["train"].formats == {"png": 3}
    assert survey.splits["train"].fingerprint == source.splits["train"].fingerprint


def test_a_split_without_one_good_picture(tmp_path):
    fill(tmp_path, GOOD)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"x")
    survey, findings = look(tmp_path)
    assert survey.splits["train"].heights == ()
    assert codes(findings) == ["bad_files"]
    assert "-" in sheet.report(survey, findings)


@pytest.mark.parametrize(("count", "expected"), [(20, []), (21, ["imbalance"])])
def test_imbalance_beyond_ten_to_one(tmp_path, count, expected):
    fill(tmp_path, GOOD | {"train/a": count})
    survey, findings = look(tmp_path)
    assert survey.imbalance == count / 2
    assert codes(findings) == expected


def test_missing_class_and_missing_splits(tmp_path):
    fill(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1})
    _, findings = look(tmp_path)
    assert [f.text for f in findings if f.code == "missing_class"] == [
        "no validation example of 'b'"
    ]
    assert codes(findings) == ["missing_class", "no_test"]
    assert codes(findings, "note") == []  # the source's note says the same
    _, findings = look(tmp_path, validation_split="")
    assert codes(findings) == ["no_validation", "no_test"]


def test_fewer_than_two_classes_to_learn():
    # Stored shuffled, so that a slice of one example trains one class.
    config = small_config("digits", train_split="train[:1]", validation_split="")
    survey = inspect.survey(open_source(config.data), config.data)
    assert sum(survey.splits["train"].class_counts) == 1
    found = codes(judge(survey, config))
    assert found == ["one_class", "missing_class", "no_validation"]


def test_carved_splits_are_noted(tmp_path):
    fill(tmp_path, {"a": 20, "b": 20})
    survey, findings = look(tmp_path)
    assert survey.carved == ("validation", "test")
    assert codes(findings) == []
    assert codes(findings, "note") == ["carved", "carved"]
    # Slices that the user chose are not carved.
    slices = {"train_split": "train[5:35]", "validation_split": "train[:5]+train[35:]"}
    survey, _ = look(tmp_path, **slices, test_split="")
    assert survey.carved == ()


def test_source_notes_are_passed_on(tmp_path):
    fill(tmp_path, GOOD)
    (tmp_path / "train/a/list.txt").write_text("x")
    _, findings = look(tmp_path)
    assert codes(findings, "note") == ["source"]
    assert "list.txt" in findings[0].text


@pytest.mark.parametrize(
    ("model", "stem", "side", "expected"),
    [
        ("resnet18", "imagenet", 63, ["imagenet_stem"]),
        ("resnet18", "imagenet", 64, []),
        ("resnet18", "cifar", 32, []),
        ("cnn", "imagenet", 32, []),
    ],
)
def test_imagenet_stem_on_small_pictures(tmp_path, model, stem, side, expected):
    fill(tmp_path, GOOD)
    config = small_config(tmp_path, image_size=(side, 100))
    config.model.update({"name": model, "stem": stem})
    survey = inspect.survey(open_source(config.data), config.data)
    assert codes(judge(survey, config)) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((32, 32), []),  # pictures of 8x8: four times
        ((32, 33), ["upscaled"]),
        ((1, 1), []),  # an eighth
    ],
)
def test_sizes_far_from_the_models(tmp_path, size, expected):
    fill(tmp_path, GOOD)
    assert codes(look(tmp_path, image_size=size)[1], "note") == expected


def test_pictures_much_larger_than_the_models(tmp_path):
    fill(tmp_path, GOOD)
    for i in range(5):
        write(tmp_path / f"train/a/wide{i}.png", picture(1000 + i, (8, 9)))
    assert codes(look(tmp_path, image_size=(1, 1))[1], "note") == ["large_pictures"]


def test_survey_is_the_same_on_any_number_of_threads(tmp_path):
    fill(tmp_path, GOOD | {"train/a": 150})
    (tmp_path / "train/a/7.png").write_bytes(b"")
    (tmp_path / "train/a/149.png").write_bytes(b"x")
    write(tmp_path / "test/a/9.png", picture(3))
    assert look(tmp_path, threads=1)[0] == look(tmp_path, threads=5)[0]


def test_sheet_shows_what_the_model_sees(tmp_path):
    # 8x8 pictures become 64x64 cells, 4 pixels apart; class a has 15 examples, every second shown.
    for i in range(15):
        write(tmp_path / f"train/a/{i:02}.png", picture(i))
    half = picture(200)
    half[:, 4:] = BLUE
    write(tmp_path / "train/b/half.png", half)
    (tmp_path / "train/b/bad.png").write_bytes(b"")
    config = small_config(tmp_path, validation_split="")
    source, prepare = open_source(config.data), preprocess.from_config(config.data)
    page = np.asarray(sheet.contact_sheet(source, prepare, bad=[15]))
    left = page.shape[1] - 8 * (64 + 4)
    assert page.shape[0] == 4 + 2 * (64 + 4)
    for column in range(8):
        at = left + column * 68
        cell = page[4:68, at : at + 64]
        np.testing.assert_array_equal(cell, picture(2 * column, (64, 64)))
        assert (page[4:68, at + 64 : at + 68] == 255).all()
    cell = page[72:136, left : left + 64]
    np.testing.assert_array_equal(cell, np.repeat(np.repeat(half, 8, axis=0), 8, axis=1))
    assert (page[72:136, left + 68 :] == 255).all()  # class b has no more
    assert (page[4:136, :left] < 128).any()  # its name


@pytest.mark.parametrize(
    ("size", "cell"),
    [((8, 8), (64, 64)), ((28, 14), (84, 42)), ((64, 64), (64, 64)), ((512, 256), (128, 64))],
)
def test_cells_are_64_to_128_pixels(tmp_path, size, cell):
    fill(tmp_path, GOOD)
    config = small_config(tmp_path, image_size=size, channels=1)
    page = sheet.contact_sheet(open_source(config.data), preprocess.from_config(config.data))
    assert page.height == 4 + 2 * (cell[0] + 4)
    assert page.width - 8 * (cell[1] + 4) < 40  # the names


def test_sheet_of_many_classes_has_20_rows(tmp_path):
    fill(tmp_path, {f"train/{chr(0x3042)}{label:02}": 1 for label in range(39)})
    config = small_config(tmp_path, validation_split="")
    page = np.asarray(
        sheet.contact_sheet(open_source(config.data), preprocess.from_config(config.data))
    )
    assert page.shape[0] == 4 + 20 * 68
    left = page.shape[1] - 8 * 68
    shown = page[4::68, left, 0]  # red is the number of the picture, from 1
    assert shown.tolist()[:20] == list(range(1, 40, 2))


def test_verb_on_a_path(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "set", {"train/a": 3, "train/b": 1, "test/a": 1, "test/b": 1})
    write(tmp_path / "set/test/a/x.png", picture(1))
    (tmp_path / "set/train/b" / ("long" * 20 + ".png")).write_bytes(b"")
    assert main(["data", "./set"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "./set: folder, 2 classes, 8 pictures" in out
    assert "1 picture both in train and in test" in out
    assert "train/b/longlong" in out
    assert "empty file" in out
    with PIL.Image.open("contact_sheet.png") as page:
        assert page.format == "PNG"


def test_verb_on_an_experiment(tmp_path, capsys):
    fill(tmp_path / "set", GOOD)
    experiment = tmp_path / "mine.py"
    experiment.write_text(
        "from imgclass import config\n"
        "def get_config(arg=None):\n"
        "    c = config.defaults()\n"
        "    c.data.name = arg\n"
        "    c.data.image_size = (16, 16)\n"
        "    c.model.name = 'resnet18'\n"
        "    return c\n"
    )
    argument = f"{experiment}:{tmp_path / 'set'}"
    assert main(["data", argument, "--json", "--sheet="]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["class_names"] == ["a", "b"]
    assert list(found["splits"]) == ["train", "validation", "test"]
    train = found["splits"]["train"]
    assert train["class_counts"] == [2, 2]
    assert train["sizes"] == [[8, 8, 4]]
    assert train["formats"] == {"png": 4}
    assert train["bad_files"] == []
    assert len(train["fingerprint"]) == 32
    assert found["duplicates"] == []
    assert found["imbalance"] == 1.0
    assert [w["code"] for w in found["warnings"]] == ["imagenet_stem"]
    assert found["notes"] == []
    assert found["sheet"] is None


def test_json_says_everything_of_duplicates_and_bad_files(tmp_path, capsys):
    fill(tmp_path, GOOD)
    write(tmp_path / "val/b/x.png", picture(1))
    (tmp_path / "val/a/bad.png").write_bytes(b"")
    page = tmp_path / "page.png"
    assert main(["data", str(tmp_path), "--json", f"--sheet={page}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["validation"]["bad_files"] == [
        {"index": 2, "name": "val/a/bad.png", "reason": "empty file"}
    ]
    assert found["duplicates"] == [
        {
            "splits": ["train", "validation"],
            "pictures": 1,
            "examples": 2,
            "labels_differ": 1,
            "shown": [
                [
                    {"split": "train", "name": "train/a/0.png", "label": "a"},
                    {"split": "validation", "name": "val/b/x.png", "label": "b"},
                ]
            ],
        }
    ]
    assert found["conflicts"]["pictures"] == 1
    assert found["sheet"] == str(page)
    assert page.read_bytes().startswith(b"\x89PNG")


def test_verb_refuses_in_one_line(tmp_path, capsys):
    fill(tmp_path / "set", GOOD)
    assert main(["data", str(tmp_path / "nothing")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["data", str(tmp_path / "mine.py")]) == 2
    assert "no such file" in capsys.readouterr().err
    experiment = tmp_path / "typo.py"
    experiment.write_text(
        "from imgclass import config\n"
        "def get_config():\n"
        "    c = config.defaults()\n"
        "    c.data.bad_files = 'skp'\n"
        "    return c\n"
    )
    assert main(["data", str(experiment)]) == 2
    assert "data.bad_files='skp'" in capsys.readouterr().err
    nowhere = tmp_path / "gone" / "page.png"
    assert main(["data", str(tmp_path / "set"), f"--sheet={nowhere}"]) == 1
    assert f"--sheet={nowhere}: cannot be written (No such file" in capsys.readouterr().err


def test_save_refuses_a_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        sheet.save(PIL.Image.new("RGB", (1, 1)), str(tmp_path))


def test_report_shortens_long_class_names_and_long_lists(tmp_path):
    fill(tmp_path, {f"train/{label:03}": 1 for label in range(102)} | {"train/" + "n" * 90: 1})
    survey, findings = look(tmp_path, validation_split="")
    lines = sheet.report(survey, findings).splitlines()[1:]  # the first has the folder's own path
    assert "... and 3 more" in lines
    assert max(map(len, lines)) <= 100


def test_names_that_are_not_text_are_shown(tmp_path):
    fill(tmp_path, GOOD | {"train/odd\udcff": 1})
    (tmp_path / "train/a/\udcfe.png").write_bytes(b"")
    report = sheet.report(*look(tmp_path))
    report.encode("utf-8")
    assert "odd\\udcff" in report
    assert "train/a/\\udcfe.png: empty file" in report
