"""Training steps in eager PyTorch on a CPU: the default CNN, ResNet-18 for CIFAR, airbench94.

    python benchmarks/peers/train_torch.py cnn|resnet18|airbench94 BATCH WINDOW WINDOWS

Prints {"images_per_second": ...}: the median of WINDOWS - 1 windows of WINDOW steps; the first is
left out. Pictures are gathered from a uint8 tensor and scaled in the loop, as ours are. Channels
last; the optimizer is Adam for the CNN and SGD with momentum for the others, which is less work
than airbench's own. No augmentation.
"""

import json
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional


def cnn() -> nn.Module:
    """The default CNN."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(30752, 10)
    )


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 with the first convolution 3x3 at stride 1 and no first pool."""
    import torchvision

    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class Group(nn.Module):
    """Convolution, pool, convolution, each with batch norm and GELU."""

    def __init__(self, inputs: int, width: int):
        """Makes the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halves the map."""
        x = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.gelu(self.norm2(self.conv2(x)))


def airbench94() -> nn.Module:
    """The net of airbench94; its whitening kernel is not trained."""
    whiten = nn.Conv2d(3, 24, 2)
    whiten.weight.requires_grad_(False)
    groups = [Group(24, 64), Group(64, 256), Group(256, 256)]
    head = nn.Linear(256, 10, bias=False)
    return nn.Sequential(whiten, nn.GELU(), *groups, nn.MaxPool2d(3), nn.Flatten(), head)


def main(name: str, batch: int, window: int, windows: int) -> None:
    """Times the loop."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    side = 64 if name == "cnn" else 32
    model = {"cnn": cnn, "resnet18": resnet18, "airbench94": airbench94}[name]()
    model = model.to(memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "cnn":
        optimizer = torch.optim.Adam(trained, 1e-3)
    else:
        optimizer = torch.optim.SGD(trained, 0.01, momentum=0.9, nesterov=True)
    count = max(2048, 3 * batch)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (count,))
    rates = []
    for _ in range(windows):
        began = time.perf_counter()
        for _ in range(window):
            rows = torch.randint(0, count, (batch,))
            x = images[rows].float().div_(255)
            loss = functional.cross_entropy(model(x), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        rates.append(batch * window / (time.perf_counter() - began))
    print(json.dumps({"images_per_second": statistics.median(rates[1:])}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
