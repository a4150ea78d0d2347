"""ResNet-50's training step in PyTorch: channels-last, bfloat16 autocast, torch.compile.

    python benchmarks/peers/resnet50_torch.py BATCH SIDE

Prints {"images_per_second": ...}: the median of 3 rounds of 20 steps on one batch on the GPU.
"""

import json
import statistics
import sys
import time

import torch
import torchvision


def main(batch: int, side: int, steps: int = 20) -> None:
    """Times the step; the input is uint8 and is standardised on the GPU, as ours is."""
    torch.backends.cudnn.benchmark = True
    model = torchvision.models.resnet50().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    compiled = torch.compile(model)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device="cuda")
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device="cuda")
    mean = torch.tensor([0.485, 0.456, 0.406], device="cuda").view(1, 3, 1, 1)

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            x = (images.float() / 255 - mean) / 0.2
            loss = torch.nn.functional.cross_entropy(compiled(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rates = []
    for _ in range(4):  # the first compiles
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        rates.append(batch * steps / (time.perf_counter() - began))
    print(json.dumps({"images_per_second": statistics.median(rates[1:])}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
