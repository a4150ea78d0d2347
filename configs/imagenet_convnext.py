"""ConvNeXt on ImageNet by torchvision's recipe.

Run       python main.py --config=configs/imagenet_convnext.py:tiny   (or :small, :base, :large)
          ... --config.data.name=FOLDER for other pictures
Published top-1 and top-5 on the validation pictures (torchvision, IMAGENET1K_V1), evaluated at 224
          from a short side fitted to each after training
          :tiny   82.520  96.146  236        :base   84.062  96.870  232
          :small  83.616  96.650  230        :large  84.414  96.976  232
Source    references/classification in pytorch/vision; rates of stochastic depth from its models
Tolerance 0.5, our guess: one run each
Ours      not run
Differs   the rate changes each step, torchvision's each epoch; docs/recipes.md has the rest
"""

import ml_collections

from imgclass import config as config_lib
from imgclass import presets

# Short side in evaluation, and stochastic depth.
SIZES = {"tiny": (236, 0.1), "small": (230, 0.4), "base": (232, 0.5), "large": (232, 0.5)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config; `arg` is one of `SIZES`."""
    size = arg or "tiny"
    if size not in SIZES:
        raise ValueError(f"{size!r}: use one of {', '.join(SIZES)}")
    short_side, drop_path = SIZES[size]
    config = config_lib.defaults()
    config.data.update(presets.IMAGENET)
    config.data.crop_fraction = 224 / short_side
    config.model.name = f"convnext_{size}"
    config.model.drop_path = drop_path
    config.loss.label_smoothing = 0.1

    config.augment.random_resized_crop = True
    config.augment.sizes = (176,)
    config.augment.flip = True
    config.augment.policy = "trivial_wide"
    config.augment.erase = 0.1
    config.augment.mixup_alpha = 0.2
    config.augment.cutmix_alpha = 1.0
    config.augment.repeats = 4

    config.optim.name = "adamw"
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.05
    config.optim.no_decay = r"(^|[/_])norm/"  # biases and layer scales decay
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.warmup_factor = 0.01
    config.optim.average_every = 32
    config.optim.ema_decay = 1 - (1 - 0.99998) * 1024 * 32 / 600  # see imagenet_resnet50.py
    config.optim.ema_start = 5 / 600

    config.train.batch_size = 2 * 8 * 64  # the weights were trained on two machines
    config.train.total_epochs = 600.0
    return config
