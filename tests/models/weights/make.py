"""Writes the small PyTorch files beside it, with PyTorch: python -m tests.models.weights.make

    zip.pth, plain.pth  one state_dict in the two layouts that torch.save has had
    module.pth          a whole module, which is more than tensors

The numbers are counts, so that a test knows them.
"""

import pathlib

import torch

HERE = pathlib.Path(__file__).parent


def tensors():
    """Returns a tensor of each kind of number, a transposed one, and two of one storage."""
    shared = torch.arange(10.0)
    return {
        "conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "first": shared[:4],
        "last": shared[6:],
        "half": torch.arange(3.0).half(),
        "bfloat16": torch.arange(3.0).bfloat16(),
        "double": torch.arange(3.0).double(),
        "bn.num_batches_tracked": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 5),
        "parameter": torch.nn.Parameter(torch.arange(2.0)),
    }


if __name__ == "__main__":
    torch.save(tensors(), HERE / "zip.pth")
    torch.save(tensors(), HERE / "plain.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(1, 1), HERE / "module.pth")
