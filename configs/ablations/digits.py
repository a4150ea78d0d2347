"""What do five common changes do for a small CNN on the digits, alone, over five seeds?

Run       imgclass sweep configs/ablations/digits.py
Expected  the table and the plot in docs/sweep.md (run by us)
Time      30 runs, 6 minutes of processor time on 2 CPU cores
"""

from imgclass.sweep import Ablation


def get_sweep() -> Ablation:
    """Returns the ablation."""
    return Ablation(
        base="configs/cnn.py",
        changes={
            "plain": {},
            "dropout": {"model.dropout": 0.5},
            "batch-norm": {"model.batch_norm": True},
            "smoothing": {"loss.label_smoothing": 0.1},
            "crops": {"augment.pad_crop": 1},
            "cosine": {"optim.schedule": "cosine"},
        },
        seeds=5,
        always={
            "train.total_epochs": 5.0,
            "data.validation_fraction": 0.3,  # 433 pictures: one is worth 0.23%
            "log.tensorboard": False,
            "log.report": False,
        },
    )
