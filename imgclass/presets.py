"""How the field reads well-known sets: values of the `data` section that experiments share.

    config.data.update(presets.IMAGENET)

Facts about data sets and nothing about training; an experiment changes what it likes afterwards.
"""

from typing import Any

# Mean and deviation are those of the 50,000 training pictures.
CIFAR10: dict[str, Any] = {
    "name": "cifar10",
    "image_size": (32, 32),
    "standardize": "given",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}

# Evaluated as torchvision's first weights are: short side 256, the middle 224. torchvision and timm
# crop at random from the file itself; here from its middle square at load_size (docs/recipes.md).
IMAGENET: dict[str, Any] = {
    "name": "imagenet2012",
    "image_size": (224, 224),
    "load_size": (256, 256),
    "resize": "crop",
    "crop_fraction": 224 / 256,
    "standardize": "given",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
