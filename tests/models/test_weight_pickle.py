"""PyTorch's files: what is in them, and that nothing in them runs.

`weights/*.pth` were written by PyTorch; `weights/make.py` says what they hold.
"""

import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from imgclass.errors import UserError
from imgclass.models import weight_pickle

FILES = pathlib.Path(__file__).parent / "weights"
LAYOUTS = ("zip.pth", "plain.pth")
# What a plain file begins with: the magic number, the protocol and the system.
HEADER = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_kind_of_tensor(name):
    found = weight_pickle.read(FILES / name)
    assert list(found) == [
        "conv.weight", "transposed", "first", "last", "half", "bfloat16", "double",
        "bn.num_batches_tracked", "mask", "empty", "parameter",
    ]  # fmt: skip
    np.testing.assert_array_equal(found["conv.weight"], np.arange(24.0).reshape(2, 3, 2, 2))
    np.testing.assert_array_equal(found["transposed"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["first"], [0, 1, 2, 3])
    np.testing.assert_array_equal(found["last"], [6, 7, 8, 9])
    for kind in ("half", "bfloat16", "double"):
        np.testing.assert_array_equal(found[kind].astype(np.float32), [0, 1, 2])
    kinds = {name: array.dtype.name for name, array in found.items()}
    assert (kinds["first"], kinds["half"], kinds["double"]) == ("float32", "float16", "float64")
    assert (kinds["bfloat16"], kinds["mask"]) == ("bfloat16", "bool")
    assert found["bn.num_batches_tracked"] == 7
    np.testing.assert_array_equal(found["mask"], [True, False])
    np.testing.assert_array_equal(found["parameter"], [0, 1])
    assert found["empty"].shape == (0, 5)


def test_a_whole_module_is_refused_by_name():
    with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        weight_pickle.read(FILES / "module.pth")


class Runs:
    """Unpickled by anything that trusts it, calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def plain(content):
    return HEADER + pickle.dumps(content, protocol=2) + pickle.dumps([], protocol=2)


def archive(path, content):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps(content, protocol=2))
    return path.read_bytes()


@pytest.mark.parametrize("layout", ["zip", "plain", "first"])
@pytest.mark.parametrize(
    ("function", "words"),
    [(os.system, r"posix\.system"), (eval, r"__builtin__\.eval"), (getattr, r"getattr")],
    ids=["system", "eval", "getattr"],
)
def test_a_malicious_pickle_runs_nothing(layout, function, words, tmp_path):
    mark = tmp_path / "ran"
    arguments = {
        os.system: [f"touch {mark}"],
        eval: [f"open({str(mark)!r}, 'w')"],
        getattr: [os.path, "join"],
    }[function]
    if function is getattr:
        arguments = ["text", "upper"]  # a method, on the way to more
    attack = {"weight": Runs(function, *arguments)}
    path = tmp_path / "attack.pth"
    content = {
        "zip": lambda: archive(path, attack),
        "plain": lambda: plain(attack),
        "first": lambda: pickle.dumps(attack["weight"], protocol=2),
    }[layout]()
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        weight_pickle.read(path)
    assert not mark.exists()
    assert len(str(error.value).splitlines()) == 1
    if layout != "first":  # of a file that begins with something else nothing more is read
        error.match(f"refused: it asks for .*{words}")

    if function is os.system:  # the attack works on who trusts it
        pickle.loads(pickle.dumps(attack, protocol=2))
        assert mark.exists()


def test_what_is_handed_to_one_file_cannot_spoil_the_next(tmp_path):
    """BUILD sets attributes of whatever a pickle was given: here the defaults of a function."""
    attack = HEADER + b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00"
    attack += b"__defaults__(I7\ntS\x86b."
    path = tmp_path / "attack.pth"
    path.write_bytes(attack)
    with pytest.raises(UserError):
        weight_pickle.read(path)
    assert len(weight_pickle.read(FILES / "zip.pth")) == 11


@pytest.mark.parametrize("name", LAYOUTS)
def test_cut_short_anywhere_it_is_an_error_in_a_line(name, tmp_path):
    whole = (FILES / name).read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth: [^\n]+$"):
            weight_pickle.read(path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_flipped_bits_are_an_error_in_a_line_or_are_in_the_numbers(name, tmp_path):
    random = np.random.default_rng(0)
    whole = (FILES / name).read_bytes()
    path = tmp_path / "flipped.pth"
    errors = []
    for _ in range(200):
        content = bytearray(whole)
        content[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            assert weight_pickle.read(path)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 50
    assert {len(error.splitlines()) for error in errors} == {1}


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((9,), (1,), 0), ((2, 2), (1, 7), 0), ((4,), (1,), 5), ((10**6,), (0,), 0), ((2,), (-1,), 3)],
)
def test_a_tensor_never_reaches_outside_its_numbers(shape, strides, offset):
    storage = weight_pickle._Storage("0", np.dtype("<f4"), 8)
    make = weight_pickle._known()["torch._utils", "_rebuild_tensor_v2"]
    with pytest.raises(weight_pickle._Refused):
        weight_pickle._array(make(storage, offset, shape, strides), {"0": bytes(32)})


def test_weights_beside_other_things_and_of_data_parallel():
    tensor = weight_pickle._Tensor(weight_pickle._Storage("0", np.dtype("<f4"), 1), 0, (), ())
    named = weight_pickle._named({"epoch": 3, "state_dict": {"a": tensor, "version": 2}})
    assert named == {"a": tensor}
    with pytest.raises(weight_pickle._Refused, match="holds no tensors"):
        weight_pickle._named({"epoch": 3})
    with pytest.raises(weight_pickle._Refused, match="a list, not a state_dict"):
        weight_pickle._named([tensor])


def test_other_files(tmp_path):
    for name, content, words in [
        ("text.pth", b"hello", "damaged, or no PyTorch file|not a file that torch.save wrote"),
        ("empty.pth", b"", "damaged, or no PyTorch file"),
        ("number.pth", pickle.dumps(3), "not a file that torch.save wrote"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            weight_pickle.read(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as file:
        file.writestr("a/readme.txt", "hello")
    with pytest.raises(UserError, match=r"it has no data\.pkl"):
        weight_pickle.read(tmp_path / "other.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(10**6))
    with pytest.raises(UserError, match="a compressed zip file"):
        weight_pickle.read(tmp_path / "bomb.pth")


def test_a_key_that_would_be_hashed_for_ever_is_refused(tmp_path):
    """Tuples of two of the tuple before, 60 deep: 2^60 of them to hash."""
    path = tmp_path / "hash.pth"
    pairs = b"".join(
        b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    path.write_bytes(b"\x80\x02K\x01\x85q\x00" + pairs + b"0}h\x3cK\x01s.")
    with pytest.raises(UserError):
        weight_pickle.read(path)


def test_a_memo_of_billions_takes_no_memory(tmp_path):
    path = tmp_path / "memo.pth"
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 0xFFFFFFF0) + b".")
    with pytest.raises(UserError):
        weight_pickle.read(path)
