"""Values for a small CNN on the digits in few epochs, where most of the space trains badly.

Run       imgclass sweep configs/ablations/digits_search.py
Expected  docs/sweep.md has what came of it; benchmarks/tuning.py sets it beside random search
Needs     pip install 'imgclass[tune]'
"""

from imgclass.sweep import Search, choice, log_uniform, uniform


def get_sweep() -> Search:
    """Returns the search."""
    return Search(
        base="configs/cnn.py",
        space={
            "optim.lr": log_uniform(1e-4, 1.0),
            "optim.momentum": uniform(0.0, 0.99),
            "optim.weight_decay": log_uniform(1e-6, 1e-1),
            "optim.schedule": choice("constant", "cosine", "linear"),
            "loss.label_smoothing": uniform(0.0, 0.5),
            "model.dropout": uniform(0.0, 0.8),
            "train.batch_size": choice(16, 32, 64, 128),
        },
        trials=20,
        pruner="hyperband",
        always={
            "optim.name": "sgd",
            "data.image_size": (16, 16),
            "model.filters": (8,),
            "train.total_epochs": 6.0,
            "data.validation_fraction": 0.4,  # 577 pictures: one is worth 0.17%
            "log.tensorboard": False,
            "log.report": False,
        },
    )
