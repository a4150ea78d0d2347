"""Files of weights: what is read, what is written, and what is said of those that cannot be."""

import hashlib
import pathlib
import shutil
import struct
import zipfile

import numpy as np
import pytest

from imgclass.errors import UserError
from imgclass.models import weight_files

FILES = pathlib.Path(__file__).parent / "weights"


def test_the_digest_is_of_the_file():
    path = FILES / "zip.pth"
    found = weight_files.read(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.path == path
    assert len(found.tensors) == 11


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_other_suffixes_of_pytorch(suffix, tmp_path):
    path = shutil.copy(FILES / "zip.pth", tmp_path / f"weights{suffix}")
    assert len(weight_files.read(pathlib.Path(path)).tensors) == 11


def test_safetensors_byte_by_byte(tmp_path):
    """The format, by its description: a length, a JSON header, the numbers."""
    header = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"b":{"dtype":"BF16","shape":[1,1],"data_offsets":[8,10]}}'
    )
    content = struct.pack("<Q", len(header)) + header + struct.pack("<ff", 1.5, -2.0) + b"\x40\x40"
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    found = weight_files.read(path).tensors
    np.testing.assert_array_equal(found["a"], np.array([1.5, -2.0], np.float32))
    assert found["b"].astype(np.float32) == [[3.0]]  # 0x4040 of bfloat16
    for length in (0, 7, 20, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"not a whole \.safetensors file"):
            weight_files.read(path)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"k": np.arange(6, dtype=np.float32).reshape(2, 3).T, "s": np.float32(3).reshape(())}
    weight_files.write(path, arrays, {"model": "x"})
    found = weight_files.read(path).tensors
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert b'"__metadata__":{' in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(UserError, match="cannot be written"):
        weight_files.write(tmp_path / "nowhere" / "a.safetensors", arrays, {})


def test_keras_files(tmp_path):
    """As Keras 3 lays them out; `test_weights.py` reads one of its own."""
    h5py = pytest.importorskip("h5py")
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = kernel, kernel[0]
        file["layers/sequential/layers/dense_1/vars/0"] = kernel
        file["layers/elsewhere"] = h5py.ExternalLink("other.h5", "layers/dense")
        file["optimizer/vars/0"] = kernel
        file.create_group("layers/flatten/vars")
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.write(tmp_path / "a.weights.h5", "model.weights.h5")
    for name in ("a.weights.h5", "a.keras"):
        found = weight_files.read(tmp_path / name).tensors
        assert sorted(found) == ["dense/0", "dense/1", "sequential/layers/dense_1/0"]
        np.testing.assert_array_equal(found["dense/0"], kernel)
    (tmp_path / "cut.weights.h5").write_bytes((tmp_path / "a.weights.h5").read_bytes()[:2000])
    with pytest.raises(UserError, match="not a whole Keras file"):
        weight_files.read(tmp_path / "cut.weights.h5")


def test_a_file_of_keras_2_is_told(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["conv2d/conv2d/kernel:0"] = np.zeros((3, 3, 3, 2))
    with pytest.raises(UserError, match="not what Keras 3 saves"):
        weight_files.read(tmp_path / "old.h5")


def test_what_is_not_read(tmp_path):
    with pytest.raises(UserError, match=r"a\.onnx: not a kind of file that is read: \.safetens"):
        weight_files.read(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="cannot be read"):
        weight_files.read(tmp_path / "nowhere.pth")
    weight_files.write(tmp_path / "a.safetensors", {"w": np.array([1.0, np.nan])}, {})
    with pytest.raises(UserError, match="w has numbers that are not finite"):
        weight_files.read(tmp_path / "a.safetensors")
