"""EfficientNet on ImageNet: B0 by timm's recipe, V2 S and M by torchvision's.

Run       python main.py --config=configs/imagenet_efficientnet.py:b0         (or :v2_s, :v2_m)
          ... --config.data.name=FOLDER for other pictures
Published top-1 and top-5 on the validation pictures (torchvision's table of weights; B0 is timm's)
          :b0    77.692  93.532  trained and evaluated on 224x224 pictures
          :v2_s  84.228  96.878  trained on 300x300, evaluated on 384x384
          :v2_m  85.112  97.156  trained on 384x384, evaluated on 480x480
Source    B0: timm's documentation of its training commands, by M. Klachko. V2:
          references/classification in pytorch/vision
Tolerance 0.5, our guess: one run each
Ours      not run
Differs   B0: timm's RandAugment there is its older form, in which a higher magnitude posterizes
          and solarizes less and which is not here; the increasing form stands in. timm's RMSprop
          keeps the rate inside the momentum, ours outside. timm erases with normal noise, ours is
          uniform. V2: as imagenet_resnet50.py:v2. docs/recipes.md has the rest
"""

import ml_collections

from imgclass import config as config_lib
from imgclass import presets


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config; `arg` is 'b0', 'v2_s' or 'v2_m'."""
    size = arg or "b0"
    if size not in ("b0", "v2_s", "v2_m"):
        raise ValueError(f"{size!r}: use b0, v2_s or v2_m")
    config = config_lib.defaults()
    config.data.update(presets.IMAGENET)
    config.model.name = f"efficientnet_{size}"
    config.model.drop_path = 0.2
    config.augment.random_resized_crop = True
    config.augment.flip = True
    config.loss.label_smoothing = 0.1
    if size == "b0":
        _timm(config)
    else:
        _torchvision(config, size)
    return config


def _timm(config: ml_collections.ConfigDict) -> None:
    epochs, drop_every = 450, 2.4
    config.data.interpolation = "bicubic"
    config.model.dropout = 0.2
    config.model.batch_norm_group = 384  # a GPU's pictures
    config.augment.policy = "rand_increasing"
    config.augment.policy_ops = 2
    config.augment.policy_magnitude = 9.0
    config.augment.policy_std = 0.5
    config.augment.policy_fill = "mean"
    config.augment.erase = 0.2
    config.augment.erase_scale = (0.02, 1 / 3)
    config.augment.erase_ratio = (0.3, 1 / 0.3)
    config.augment.erase_with = "noise"

    config.optim.name = "rmsprop"
    config.optim.lr = 0.048
    config.optim.momentum = 0.9
    config.optim.rmsprop_decay = 0.9
    config.optim.rmsprop_tf = True
    config.optim.eps = 1e-3
    config.optim.weight_decay = 1e-5  # not of biases and norms, by default
    config.optim.warmup_epochs = 3.0  # timm's default at the time
    config.optim.warmup_factor = 1e-6 / 0.048
    config.optim.schedule = "step"
    config.optim.step_at = tuple(n * drop_every / epochs for n in range(1, 188))
    config.optim.step_factor = 0.97
    config.optim.ema_decay = 0.9999

    config.train.batch_size = 2 * 384
    config.train.total_epochs = float(epochs)


def _torchvision(config: ml_collections.ConfigDict, size: str) -> None:
    """The steps of configs/imagenet_resnet50.py:v2, at other sizes."""
    train, evaluated, dropout = {"v2_s": (300, 384, 0.2), "v2_m": (384, 480, 0.3)}[size]
    config.data.image_size = (evaluated, evaluated)
    config.data.load_size = (evaluated, evaluated)
    config.data.crop_fraction = 1.0
    config.model.dropout = dropout
    config.model.batch_norm_group = 32
    config.augment.sizes = (train,)
    config.augment.policy = "trivial_wide"
    config.augment.erase = 0.1
    config.augment.mixup_alpha = 0.2
    config.augment.cutmix_alpha = 1.0
    config.augment.repeats = 4

    config.optim.name = "sgd"
    config.optim.lr = 0.5
    config.optim.momentum = 0.9
    config.optim.weight_decay = 2e-5
    config.optim.no_decay = r"(^|/)bn/"  # norms
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.warmup_factor = 0.01
    config.optim.average_every = 32
    config.optim.ema_decay = 1 - (1 - 0.99998) * 1024 * 32 / 600  # see imagenet_resnet50.py
    config.optim.ema_start = 5 / 600

    config.train.batch_size = 4 * 8 * 32  # the weights were trained on four machines
    config.train.total_epochs = 600.0
