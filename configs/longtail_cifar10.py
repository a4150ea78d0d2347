"""CIFAR-10 with a long tail, 5,000 of the first class down to 50 of the last, and a small CNN.

Run       python main.py --config=configs/longtail_cifar10.py            (or :10, another ratio)
          python -m benchmarks.imbalance --data=cifar10                  (the methods side by side)
Expected  docs/recipes.md has the table; the small net has no published figure
Data      cifar10 prepared for tfds (see README, "CIFAR-10 and ImageNet"); 12,406 of its training
          pictures are kept (Cui et al. 2019), and all of the test set
"""

import ml_collections

from imgclass import config as config_lib
from imgclass import presets


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config; `arg` is the first class's size over the last's."""
    config = config_lib.defaults()
    config.data.update(presets.CIFAR10)
    config.data.long_tail = float(arg or 100)
    config.data.validation_split = ""  # as published: all 50,000, then the tail; the last epoch

    config.model.filters = (32, 64, 128)
    config.model.padding = "SAME"
    config.model.batch_norm = True
    config.model.head = "average"

    config.augment.flip = True
    config.augment.pad_crop = 4

    config.optim.name = "sgd"
    config.optim.lr = 0.1
    config.optim.nesterov = True
    config.optim.weight_decay = 5e-4
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 2.0

    config.train.batch_size = 128
    config.train.total_epochs = 25.0
    config.eval.best_metric = "balanced_accuracy"
    config.eval.every_epochs = 0.0
    config.eval.final_test = True
    config.checkpoint.every_epochs = 0.0
    return config
