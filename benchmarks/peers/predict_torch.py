"""Prediction by PyTorch or, exported from it, ONNX Runtime, on CPU.

    python benchmarks/peers/predict_torch.py MODEL BATCH eager|compiled|onnx

MODEL is cnn (64 pixels, 10 classes) or a name in torchvision (224 pixels, 1,000 classes). Weights
are random. A call takes uint8 pictures from NumPy and gives probabilities to NumPy. Prints
{"milliseconds": ...}, the median of the calls in some seconds.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from timed import milliseconds

CORES = len(os.sched_getaffinity(0))


class Predictor(torch.nn.Module):
    """uint8[batch, height, width, 3] -> f32[batch, classes], channels last inside."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scales, runs the net and makes probabilities of its logits."""
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        return torch.softmax(self.net(x), dim=1)


def _net(name: str) -> torch.nn.Module:
    if name == "cnn":
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 3),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(30_752, 10),
        )
    return getattr(torchvision.models, name)()


def _onnx(model: Predictor, images: np.ndarray) -> Callable[[], np.ndarray]:
    import onnxruntime

    with contextlib.redirect_stdout(sys.stderr):
        program = torch.onnx.export(model, (torch.from_numpy(images),), dynamo=True)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})[0]


def main(name: str, batch: int, mode: str) -> None:
    """Times the calls."""
    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    side = 64 if name == "cnn" else 224
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    model = Predictor(_net(name)).eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        if mode == "onnx":
            call = _onnx(model, images)
        else:
            # The compiler may fold batch norm into the convolutions.
            frozen = {"freezing": True}
            run = torch.compile(model, options=frozen) if mode == "compiled" else model

            def call() -> np.ndarray:
                return run(torch.from_numpy(images)).numpy()

        print(json.dumps({"milliseconds": milliseconds(call)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
