"""Class names for weights that have none."""

import pytest

from imgclass.data import class_names
from imgclass.errors import UsageError


def test_imagenet():
    names = class_names.read("imagenet")
    assert len(names) == len(set(names)) == 1000
    # Labels that every list of ImageNet's classes has.
    known = {
        0: "n01440764 tench",
        1: "n01443537 goldfish",
        207: "n02099601 golden retriever",
        281: "n02123045 tabby",
        999: "n15075141 toilet tissue",
    }
    assert {label: names[label] for label in known} == known
    assert list(names) == sorted(names)


def test_a_text_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\n dog \n\nKuh, Rind\n", encoding="utf-8")
    assert class_names.read(str(path)) == ("cat", "dog", "Kuh, Rind")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cat\ndog\ncat\n", "'cat' comes twice"),
        (b"cat\n", "fewer than two names"),
        (b"\xff\xfe", "not UTF-8 text"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_list_of_names(content, words, tmp_path):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"names\.txt: .*{words}"):
        class_names.read(str(path))
