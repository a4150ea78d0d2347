"""The experiments of ImageNet beside a table of what was published, typed from the sources.

Sources: references/classification/README.md in pytorch/vision (commands, GPUs and pictures a GPU),
pytorch.org's article on ResNet-50's second recipe, MMPretrain's resnet50_8xb256-rsb-*.py, timm's
documentation of training commands, and torchvision's tables of weights (short side and crop).
"""

import importlib
import itertools
import re

import jax
import pytest

from imgclass import config as config_lib
from imgclass import models, optim
from imgclass.optim import masks
from tests.configs.everything import EXPERIMENTS, experiment

# What torchvision's train.py does unless told otherwise. 'batch' is GPUs times pictures a GPU;
# 'statistics' the pictures that share batch statistics, a GPU's; 'decays' what the README says is
# decayed: everything, all but norms, or (timm, MMPretrain) all but norms and biases.
TORCHVISION = {
    "model": "resnet50", "epochs": 90, "batch": (8, 32), "statistics": 32,
    "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "decay": 1e-4, "decays": "everything",
    "schedule": "step", "drops": {30: 0.1, 60: 0.01}, "warmup": (0, None), "end": 0.0,
    "loss": "cross_entropy", "smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0,
    "policy": "none", "erase": 0.0, "repeats": 1, "ema": None, "drop_path": 0.0, "dropout": 0.0,
    "train": 224, "short": 256, "crop": 224, "filter": "bilinear",
}  # fmt: skip
LR = TORCHVISION | {
    "batch": (8, 128), "statistics": 128, "lr": 0.5, "schedule": "cosine", "drops": {},
    "warmup": (5, 0.005),
}  # fmt: skip
# --model-ema-decay 0.99998 --model-ema-steps 32, of 600 epochs of batches of 1,024: the article and
# train.py's `adjust = world_size * batch_size * model_ema_steps / epochs`, here 54.6133.
EMA = {"decay": 1 - 0.00002 * 54.613333, "every": 32, "from_epoch": 5}
RESNET50 = {"v1": TORCHVISION}
for step, change in {
    "lr": LR,
    "trivial": {"policy": "trivial_wide"},
    "long": {"epochs": 600},
    "erase": {"erase": 0.1},
    "smooth": {"smoothing": 0.1},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "decay": {"decay": 2e-5, "decays": "all but norms"},
    "fixres": {"train": 176},
    "ema": {"ema": EMA},
    "resize": {"short": 232},
    "v2": {"repeats": 4},
}.items():
    RESNET50[step] = RESNET50[list(RESNET50)[-1]] | change
V2 = RESNET50["v2"]

RSB = TORCHVISION | {
    "batch": (8, 256), "statistics": 0, "optimizer": "lamb", "lr": 5e-3, "decay": 0.02,
    "decays": "kernels", "schedule": "cosine", "drops": {}, "warmup": (5, 5e-7), "end": 1e-6,
    "loss": "bce", "mixup": 0.1, "cutmix": 1.0, "policy": ("rand_increasing", 2, 7, 0.5),
    "repeats": 3, "drop_path": 0.05, "short": 236, "filter": "bicubic",
}  # fmt: skip
MOBILENET_V3 = TORCHVISION | {
    "epochs": 600, "batch": (8, 128), "statistics": 128, "optimizer": "rmsprop", "lr": 0.064,
    "decay": 1e-5, "drops": {2 * n: 0.973**n for n in range(1, 300)}, "policy": "auto_imagenet",
    "erase": 0.2, "dropout": 0.2,
}  # fmt: skip
EFFICIENTNET_B0 = TORCHVISION | {
    "model": "efficientnet_b0", "epochs": 450, "batch": (2, 384), "statistics": 384,
    "optimizer": "rmsprop", "lr": 0.048, "decay": 1e-5, "decays": "kernels",
    "drops": {2.4 * n: 0.97**n for n in range(1, 188)}, "warmup": (3, 1e-6), "smoothing": 0.1,
    "policy": ("rand_increasing", 2, 9, 0.5), "erase": 0.2, "dropout": 0.2, "drop_path": 0.2,
    "ema": {"decay": 0.9999, "every": 1, "from_epoch": 0}, "filter": "bicubic",
}  # fmt: skip
EFFICIENTNET_V2 = V2 | {"batch": (32, 32), "statistics": 32, "drop_path": 0.2}
CONVNEXT = V2 | {
    "batch": (16, 64), "statistics": 0, "optimizer": "adamw", "lr": 1e-3, "decay": 0.05,
    "warmup": (5, 1e-5),
}  # fmt: skip
REGNET = LR | {"epochs": 100, "decay": 5e-5}

FACTS = {
    **{f"imagenet_resnet50:{step}": facts for step, facts in RESNET50.items()},
    "imagenet_rsb:a1": RSB | {"epochs": 600, "decay": 0.01, "smoothing": 0.1, "mixup": 0.2},
    "imagenet_rsb:a2": RSB | {"epochs": 300},
    "imagenet_rsb:a3": RSB | {
        "epochs": 100, "lr": 8e-3, "warmup": (5, 8e-7), "policy": ("rand_increasing", 2, 6, 0.5),
        "repeats": 1, "drop_path": 0.0, "train": 160,
    },
    "imagenet_mobilenet_v3:large": MOBILENET_V3 | {"model": "mobilenet_v3_large"},
    "imagenet_mobilenet_v3:small": MOBILENET_V3 | {"model": "mobilenet_v3_small"},
    "imagenet_efficientnet:b0": EFFICIENTNET_B0,
    "imagenet_efficientnet:v2_s": EFFICIENTNET_V2 | {
        "model": "efficientnet_v2_s", "train": 300, "short": 384, "crop": 384, "dropout": 0.2,
    },
    "imagenet_efficientnet:v2_m": EFFICIENTNET_V2 | {
        "model": "efficientnet_v2_m", "train": 384, "short": 480, "crop": 480, "dropout": 0.3,
    },
    "imagenet_convnext:tiny": CONVNEXT | {"model": "convnext_tiny", "short": 236, "drop_path": 0.1},
    "imagenet_convnext:small": CONVNEXT | {
        "model": "convnext_small", "short": 230, "drop_path": 0.4
    },
    "imagenet_convnext:base": CONVNEXT | {"model": "convnext_base", "drop_path": 0.5},
    "imagenet_convnext:large": CONVNEXT | {"model": "convnext_large", "drop_path": 0.5},
    **{
        f"imagenet_regnet:{size}": REGNET | {
            "model": f"regnet_{size}", "batch": (8, rows), "statistics": rows, "lr": lr,
            "warmup": (5, lr / 10),
        }
        for rows, lr, sizes in [
            (128, 0.8, "x_400mf x_800mf x_1_6gf y_800mf y_1_6gf"),
            (128, 0.4, "y_400mf"),
            (64, 0.4, "x_3_2gf x_8gf x_16gf y_3_2gf y_8gf"),
            (32, 0.2, "x_32gf y_16gf y_32gf"),
        ]
        for size in sizes.split()
    },
}  # fmt: skip


def test_there_are_facts_for_every_recipe():
    assert sorted(FACTS) == sorted(name for name in EXPERIMENTS if name.startswith("imagenet_"))
    assert len(RESNET50) == 13


@pytest.mark.parametrize("name", FACTS)
def test_it_is_as_published(name):
    config, facts = experiment(name), FACTS[name]
    data, loss, augment, o = config.data, config.loss, config.augment, config.optim
    model, devices_rows = config.model, facts["batch"]

    assert model.name == facts["model"]
    assert config.train.total_epochs == facts["epochs"]
    assert config.train.batch_size == devices_rows[0] * devices_rows[1]
    assert model.batch_norm_group == facts["statistics"]
    assert (model.drop_path, model.dropout) == (facts["drop_path"], facts["dropout"])
    assert (loss.name, loss.label_smoothing) == (facts["loss"], facts["smoothing"])

    assert data.mean == (0.485, 0.456, 0.406)
    assert data.std == (0.229, 0.224, 0.225)
    assert (data.resize, data.interpolation) == ("crop", facts["filter"])
    assert data.image_size == (facts["crop"], facts["crop"])
    # As decode.resize rounds: the short side whose middle is the crop.
    assert int(facts["crop"] / data.crop_fraction + 0.5) == facts["short"]
    heights = augment.sizes or data.image_size[:1]
    assert (*heights, augment.size_at) == (facts["train"], ())

    assert augment.random_resized_crop
    assert augment.flip
    assert (augment.crop_scale, augment.crop_ratio[0]) == ((0.08, 1.0), 3 / 4)
    assert augment.crop_ratio[1] == pytest.approx(4 / 3, abs=1e-4)
    policy = augment.policy
    if policy == "rand_increasing":
        policy = (policy, augment.policy_ops, augment.policy_magnitude, augment.policy_std)
    assert policy == facts["policy"]
    assert (augment.erase, augment.repeats) == (facts["erase"], facts["repeats"])
    assert (augment.mixup_alpha, augment.cutmix_alpha) == (facts["mixup"], facts["cutmix"])
    assert (augment.mix_probability, augment.mix_switch) == (1.0, 0.5)

    assert (o.name, o.lr, o.weight_decay) == (facts["optimizer"], facts["lr"], facts["decay"])
    if o.name in ("sgd", "rmsprop"):
        assert (o.momentum, o.nesterov) == (facts["momentum"], False)
    else:
        assert (o.beta1, o.beta2) == (0.9, 0.999)
    if facts["decays"] == "everything":
        assert o.no_decay == ""
    elif facts["decays"] == "kernels":  # what nothing else in config.optim has to say
        assert o.no_decay == config_lib.defaults().optim.no_decay
    if facts["ema"] is None:
        assert o.ema_decay == 0
    else:
        assert o.ema_decay == pytest.approx(facts["ema"]["decay"], abs=1e-9)
        assert o.average_every == facts["ema"]["every"]
        assert o.ema_start * facts["epochs"] == pytest.approx(facts["ema"]["from_epoch"])


@pytest.mark.parametrize("name", FACTS)
def test_the_rate_is_what_was_published_at_every_epoch(name):
    """In steps of 1/10 epoch, so that what falls at 2.4 epochs falls there."""
    config, facts = experiment(name), FACTS[name]
    epochs, (warm, first) = facts["epochs"], facts["warmup"]
    rate = optim.schedule(config.optim, 10 * epochs, 10 * warm)
    assert config.optim.warmup_epochs == warm
    if warm:
        # Of the peak float32 keeps a share of 1e-7, which may be all the error of a small start.
        assert float(rate(0)) == pytest.approx(first, rel=1e-5, abs=1e-7 * facts["lr"])
    within = [factor for at, factor in facts["drops"].items() if at <= warm]
    peak = facts["lr"] * [1.0, *within][-1]
    assert float(rate(10 * warm)) == pytest.approx(peak, rel=1e-5)
    assert config.optim.schedule == facts["schedule"]
    if facts["schedule"] == "cosine":
        middle = 10 * (warm + epochs) // 2
        halfway = (facts["lr"] + facts["end"]) / 2  # of a cosine
        assert float(rate(middle)) == pytest.approx(halfway, rel=2e-3)
        assert float(rate(10 * epochs)) == pytest.approx(facts["end"], abs=1e-9)
        return
    drops = {at: factor for at, factor in facts["drops"].items() if at > warm}
    for at in [*drops][:3] + [*drops][-2:]:
        before = [f for other, f in facts["drops"].items() if other < at]
        step = round(10 * at)
        assert float(rate(step)) == pytest.approx(facts["lr"] * drops[at], rel=1e-4)
        assert float(rate(step - 1)) == pytest.approx(facts["lr"] * [1.0, *before][-1], rel=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "imagenet_resnet50:v2",
        "imagenet_convnext:tiny",
        pytest.param("imagenet_efficientnet:v2_s", marks=pytest.mark.slow),
    ],
)
def test_all_but_the_norms_decay(name):
    config = experiment(name)
    model = models.create(config.model, 10, (64, 64, 3))
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    found: dict[str, set[bool]] = {}

    def note(path, decays):
        place = path.split("/")
        in_norm = len(place) > 1 and re.fullmatch(r"(.*_)?(bn\d*|norm)", place[-2])
        found.setdefault("norm" if in_norm else place[-1], set()).add(decays)

    masks.map_named(note, masks.decay_mask(params, config.optim.no_decay))
    assert FACTS[name]["decays"] == "all but norms"
    assert {"norm", "bias", "kernel"} <= found.keys()
    assert found == {kind: {kind != "norm"} for kind in found}


def test_each_of_the_twelve_steps_changes_something():
    steps = importlib.import_module("configs.imagenet_resnet50").STEPS
    assert list(steps) == list(RESNET50)
    changed = [
        config_lib.difference(
            experiment(f"imagenet_resnet50:{a}"), experiment(f"imagenet_resnet50:{b}")
        )
        for a, b in itertools.pairwise(steps)
    ]
    assert all(changed)
    assert [sorted(keys) for keys in changed[1:5]] == [
        ["augment.policy"], ["train.total_epochs"], ["augment.erase"], ["loss.label_smoothing"],
    ]  # fmt: skip
