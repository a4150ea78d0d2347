"""RegNet on ImageNet by torchvision's first recipe, that of the paper.

Run       python main.py --config=configs/imagenet_regnet.py:y_400mf      (any name below)
          ... --config.data.name=FOLDER for other pictures
Published top-1 on the validation pictures (torchvision, IMAGENET1K_V1)
          400mf   800mf   1_6gf   3_2gf   8gf     16gf    32gf
          :x_*    72.834  75.212  77.040  78.364  79.344  80.058  80.622
          :y_*    74.046  76.420  77.950  78.948  80.032  80.424  80.878
Source    references/classification in pytorch/vision
Tolerance 0.5, our guess: one run each
Ours      not run
Differs   the rate changes each step, torchvision's each epoch; docs/recipes.md has the rest
"""

import ml_collections

from imgclass import config as config_lib
from imgclass import presets

SMALL = ("x_400mf", "x_800mf", "x_1_6gf", "y_400mf", "y_800mf", "y_1_6gf")
MEDIUM = ("x_3_2gf", "x_8gf", "x_16gf", "y_3_2gf", "y_8gf")
LARGE = ("x_32gf", "y_16gf", "y_32gf")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config; `arg` is one of `SMALL`, `MEDIUM` or `LARGE`."""
    size = arg or "y_400mf"
    if size not in SMALL + MEDIUM + LARGE:
        raise ValueError(f"{size!r}: use one of {', '.join(SMALL + MEDIUM + LARGE)}")
    config = config_lib.defaults()
    config.data.update(presets.IMAGENET)
    config.model.name = f"regnet_{size}"
    config.augment.random_resized_crop = True
    config.augment.flip = True

    # The rate follows the batch, but for the one net that did better with half of it.
    per_device, lr = (128, 0.8) if size in SMALL else (64, 0.4) if size in MEDIUM else (32, 0.2)
    config.model.batch_norm_group = per_device
    config.train.batch_size = 8 * per_device
    config.train.total_epochs = 100.0
    config.optim.name = "sgd"
    config.optim.lr = 0.4 if size == "y_400mf" else lr
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-5
    config.optim.no_decay = ""  # everything decays
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.warmup_factor = 0.1
    return config
