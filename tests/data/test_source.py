import numpy as np
import pytest

from imgclass.data.source import checked_indices, open_source
from imgclass.errors import UsageError
from tests.data.sections import data_section


@pytest.mark.parametrize(
    "name",
    ["./nothing", "../nothing", "/nothing/here", "~/nothing-here", "a.csv", "b.TSV", "c.npz"],
)
def test_a_path_that_is_not_there(name):
    with pytest.raises(UsageError, match="no such file or folder: "):
        open_source(data_section(name))


def test_no_name():
    with pytest.raises(UsageError, match=r"data.name is empty: give 'digits'"):
        open_source(data_section(""))


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"")
    with pytest.raises(UsageError, match=r"set.zip is a file that cannot be read as a data set"):
        open_source(data_section(tmp_path / "set.zip"))


def test_a_folder_wins_over_a_tfds_set_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(UsageError, match="no pictures in class folders"):
        open_source(data_section("cifar10"))


def test_keys_that_only_tfds_sets_have_are_noted(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, x_train=np.zeros((4, 2, 2), np.uint8), y_train=np.array([0, 1, 0, 1]))
    section = data_section(path, validation_split="", data_dir="/data")
    assert open_source(section).notes == ("data.data_dir is for tfds sets; ignored here",)


def test_indices_are_never_counted_from_the_end():
    assert checked_indices([2, 0], 3).tolist() == [2, 0]
    with pytest.raises(IndexError, match=r"example -1 is outside \[0, 3\)"):
        checked_indices([0, -1], 3)
