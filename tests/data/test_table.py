import pytest

from imgclass.data.source import open_source
from imgclass.errors import UsageError, UserError
from tests.data.sections import data_section


def table(tmp_path, text, name="set.csv", encoding="utf-8"):
    """Writes a table, and a file for each name of one letter that it could mean."""
    (tmp_path / "p").mkdir(exist_ok=True)
    for letter in "abcdefgh":
        (tmp_path / "p" / f"{letter}.png").write_bytes(letter.encode())
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


ROWS = "p/a.png,2\np/b.png,10\np/c.png,2\np/d.png,10\n"


def opened(path, **changes):
    return open_source(data_section(path, validation_split="", test_split="", **changes))


def test_labels_are_strings_and_whole_numbers_sort_as_numbers(tmp_path):
    source = opened(table(tmp_path, "path,label\n" + ROWS))
    assert source.kind == "table"
    assert source.class_names == ("2", "10")
    train = source.splits["train"]
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert [(r.name, r.image) for r in train.read([3, 0])] == [("p/d.png", b"d"), ("p/a.png", b"a")]


def test_words_sort_as_words(tmp_path):
    text = "path,label\np/a.png,10\np/b.png,9\np/c.png,x\n"
    assert opened(table(tmp_path, text)).class_names == ("10", "9", "x")


def test_columns_in_any_order_with_a_byte_order_mark(tmp_path):
    text = "Split\tnote\tLABEL\tPath\n"
    for letter, label, split in zip(
        "abcdef", "xyxyxy", ["train"] * 4 + ["Val", "TEST"], strict=True
    ):
        text += f"{split}\t-\t{label}\tp/{letter}.png\n"
    source = open_source(data_section(table(tmp_path, text, "set.tsv", "utf-8-sig")))
    names = {role: own.example_names(range(len(own))) for role, own in source.splits.items()}
    assert names == {
        "train": ["p/a.png", "p/b.png", "p/c.png", "p/d.png"],
        "validation": ["p/e.png"],
        "test": ["p/f.png"],
    }


def test_quoted_names_and_windows_line_ends(tmp_path):
    (tmp_path / "a, b.png").write_bytes(b"!")
    text = 'path,label\r\n"a, b.png",x\r\np/b.png,"y ""z"""\r\n'
    source = opened(table(tmp_path, text))
    assert source.class_names == ("x", 'y "z"')
    assert source.splits["train"].read([0])[0].image == b"!"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line has to name the columns"),
        (ROWS, "first line has to name the columns .* it is 'p/a.png,2'"),
        ("path,class\np/a.png,2\n", "first line has to name the columns"),
        ("path,label,path\np/a.png,2,3\n", "first line has to name the columns"),
        ("path,label\n", "no rows below its first line"),
        ("path,label\np/a.png,1\np/b.png\n", "line 3: 1 columns where 2 are named"),
        ("path,label\np/a.png,1\np/b.png, \n", "line 3: the label is empty"),
        ("path,label\n,1\n", "line 2: the path is empty"),
        ("path,label,split\np/a.png,1,dev\n", "line 2: split 'dev' is not one of"),
        ("path,label\np/a.png,1\np/b.png,2\np/../p/a.png,1\n", "line 2 and again in line 4"),
        ("path,label\np/a.png,1\np/b.png,1\n", "at least two classes are needed; found '1'"),
        ('path,label\n"p/a.png,1\n', "not a well-formed table"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        opened(table(tmp_path, text))


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    rows = "".join(f"q/{i}.png,{i % 2}\n" for i in range(5))
    message = (
        r"5 of 9 files are missing: q/0.png \(line 6\), q/1.png \(line 7\), "
        r"q/2.png \(line 8\), \.\.\."
    )
    with pytest.raises(UsageError, match=message):
        opened(table(tmp_path, "path,label\n" + ROWS + rows))


@pytest.mark.parametrize("name", ["x" * 5000, "p/" * 3000 + "a.png", "p/\0a.png", "p", "/dev/zero"])
def test_names_that_no_file_can_have_are_missing_files(tmp_path, name):
    with pytest.raises(UsageError, match="1 of 5 files are missing"):
        opened(table(tmp_path, "path,label\n" + "".join([ROWS, f"{name},1\n"])))


def test_other_encodings_are_refused(tmp_path):
    path = table(tmp_path, "path,label\np/a.png,ä\n", encoding="latin-1")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        opened(path)


def test_a_picture_that_is_gone_by_the_time_it_is_read(tmp_path):
    train = opened(table(tmp_path, "path,label\n" + ROWS)).splits["train"]
    (tmp_path / "p" / "c.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*p/c.png"):
        train.read([2])
