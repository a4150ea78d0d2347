"""Writes what PyTorch computes, so that the tests can compare with it and not install it.

    python -m tests.models.reference.make torchvision:resnet18 timm:seresnet50
    python -m tests.models.reference.make --side=224 --batch=2 torchvision:vgg16
    python -m tests.models.reference.make timm:mobilenetv3_large_100=mobilenet_v3_large \
        --key=batch_norm_epsilon=1e-5 --key=batch_norm_momentum=0.9

By hand, in an environment with torch, torchvision and timm; for each model one file beside this
one. After '=' stands our name, where it is another; a key is of our config.model. Parameters are
drawn by `draw.py`, running statistics start at 0, dropout and stochastic depth are off, and all is
computed in float64:

  logits.train  of training on `draw.pictures('train', ...)`: the batch's own statistics.
  logits.eval   of inference on `draw.pictures('eval', ...)`, with the running statistics of
                `draw.statistics`.
  norms         name: [channels, values behind a mean, checksum of the updated running mean, of the
                updated running variance, spread]; updated by that one batch, at the model's own
                momentum; the spread is what `draw.statistics` needs. It is measured in inference;
                in the files of all but EfficientNet-B7 and V2-L it still is of training.
  tensors       name: shape of all tensors but the batch norms'.
"""

import argparse
import json
import pathlib

import timm
import torch
import torchvision

from tests.models.reference import draw

HERE = pathlib.Path(__file__).parent
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write PyTorch's results for our tests.")
    parser.add_argument("models", nargs="+", metavar="LIBRARY:NAME[=OURS]")
    parser.add_argument("--side", type=int, default=64, help="of the pictures (default 64)")
    parser.add_argument("--batch", type=int, default=4, help="default 4")
    parser.add_argument("--classes", type=int, default=10, help="default 10")
    parser.add_argument("--key", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    for text in args.models:
        library, _, rest = text.partition(":")
        name, _, ours = rest.partition("=")
        record = {"library": library, "name": name, "model": ours or name}
        record["keys"] = {key: json.loads(value) for key, value in map(_pair, args.key)}
        record |= reference(library, name, args.side, args.batch, args.classes)
        path = HERE / f"{library}-{name}.json"
        path.write_text(dumps(record))
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def reference(library: str, name: str, side: int, batch: int, classes: int) -> dict:
    model = build(library, name, side, classes)
    state = {
        key: torch.from_numpy(draw.tensor(key, tuple(value.shape))).double()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    model.load_state_dict(state, strict=False)
    model.double()
    norms = {
        key: module
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    }
    momenta = {module.momentum for module in norms.values()} or {0.0}
    (momentum,) = momenta
    counts, spreads = {}, {}

    def measure(key: str, x: torch.Tensor) -> None:
        module = norms[key]
        if model.training:
            counts[key] = x.numel() // x.shape[1]
        elif key not in spreads:  # so of the first pass, in which those before have theirs already
            spreads[key] = float(f"{x.square().mean().sqrt():.2g}")
            mean, variance = draw.statistics(key, module.num_features, spreads[key])
            module.running_mean.copy_(torch.from_numpy(mean))
            module.running_var.copy_(torch.from_numpy(variance))

    for key, module in norms.items():
        module.running_mean.zero_()
        module.running_var.zero_()
        module.register_forward_pre_hook(lambda _, inputs, key=key: measure(key, inputs[0]))

    def run(picture: str) -> list[list[float]]:
        x = torch.from_numpy(draw.pictures(picture, batch, side)).double()
        with torch.no_grad():
            logits = model(x)
        return [[rounded(value) for value in row] for row in logits.tolist()]

    model.train()
    train = run("train")
    sums = {
        key: [
            rounded(draw.checksum(f"{key}.{leaf}", getattr(module, leaf).numpy()))
            for leaf in ("running_mean", "running_var")
        ]
        for key, module in norms.items()
    }
    assert run("train") == train, "something random is left"
    model.eval()
    inference = run("eval")
    assert run("eval") == inference, "the statistics were not settled"
    figures = {
        key: [module.num_features, counts[key], *sums[key], spreads[key]]
        for key, module in norms.items()
    }
    skipped = {f"{key}.{leaf}" for key in norms for leaf in NORM_LEAVES}
    return {
        "versions": {
            module.__name__: module.__version__.partition("+")[0]
            for module in (torch, torchvision, timm)
        },
        "side": side,
        "batch": batch,
        "classes": classes,
        "momentum": momentum,
        "logits": {"train": train, "eval": inference},
        "norms": figures,
        "tensors": {key: list(value.shape) for key, value in state.items() if key not in skipped},
    }


def build(library: str, name: str, side: int, classes: int) -> torch.nn.Module:
    """Returns the untrained model, with nothing random in it."""
    if library == "timm":  # its dropout and stochastic depth are 0 unless asked for
        more = {"img_size": side} if "vit" in name else {}
        return timm.create_model(name, num_classes=classes, **more)
    more = {"image_size": side} if name.startswith("vit_") else {}
    model = torchvision.models.get_model(name, num_classes=classes, **more)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
    return model


def rounded(value: float) -> float:
    """Keeps 8 digits: our logits and running statistics are float32."""
    return float(f"{value:.8g}")


def dumps(record: dict) -> str:
    """Returns JSON with a line an entry, so that a difference can be read."""
    lines = []
    for key, value in record.items():
        text = json.dumps(value)
        if isinstance(value, dict) and value:
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            text = f"{{\n{inner}\n }}"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
