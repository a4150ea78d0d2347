"""Keys of `train`, `eval`, `checkpoint` and `log`: how a run goes."""

from imgclass.schema.rules import ANY, Duration, Key, above, at_least, one_of

VIEWS = ("none", "flip", "flip_shift", "five_crop", "ten_crop")  # see data/views.py

TRAIN: dict[str, Key | Duration] = {
    "batch_size": Key(32, "Examples a step, over all devices and processes.", at_least(1)),
    "total": Duration("epochs", 10.0, "Length of the run.", above(0)),
    "steps_per_dispatch": Key(
        0,
        "Resident feed: steps run by one call; 0 is 1 on CPU (loops over convolutions are "
        "slow there) and 16 on accelerators.",
        at_least(0),
    ),
    "on_nonfinite": Key(
        "stop",
        "A loss or gradient that is not finite: 'stop' the run, or 'skip' the update.",
        one_of("stop", "skip"),
    ),
    "stall_seconds": Key(
        1800.0,
        "Without progress for so long, compiling included, the run ends with every thread's stack "
        "and exit status 70; 0 is never. Watched from the first state on: opening and preparing "
        "data may take longer.",
        at_least(0),
    ),
    "stop_seconds": Key(
        300.0,
        "A run that SIGTERM or Ctrl-C asked to save and stop, and that has not after so long, ends "
        "likewise; 0 is never.",
        at_least(0),
    ),
    "devices": Key(0, "Devices to use; 0 is all.", at_least(0)),
    "fsdp": Key(False, "Shard parameters and optimizer over devices, not only batches.", ANY),
}

EVAL: dict[str, Key | Duration] = {
    "batch_size": Key(256, "Examples a step, over all devices and processes.", at_least(1)),
    "every": Duration("epochs", 1.0, "Between validations; 0 is at the end only.", at_least(0)),
    "best_metric": Key(
        "accuracy",
        "What 'best' means, on validation.",
        one_of("accuracy", "balanced_accuracy", "loss", "top5", "auroc"),
    ),
    "final_test": Key(False, "Evaluate the test split once, at the end.", ANY),
    "tta": Key(
        "none",
        "final_test: also with the logits averaged over views of each picture: 'flip' is it and "
        "its mirror image, 'flip_shift' those, and both moved by a pixel two ways, 'five_crop' 7/8 "
        "of it from its corners and its middle, 'ten_crop' those and their mirror images.",
        one_of(*VIEWS),
    ),
}

CHECKPOINT: dict[str, Key | Duration] = {
    "every": Duration("epochs", 1.0, "Between saves; 0 is at the end only.", at_least(0)),
    "wait": Key(
        False,
        "Wait at each save until it is on disk. Otherwise training goes on while a thread writes, "
        "and what a kill loses counts from the last save that was finished.",
        ANY,
    ),
    "keep": Key(2, "Newest checkpoints kept, besides the best.", at_least(1)),
}

LOG: dict[str, Key | Duration] = {
    "every": Duration("steps", 50, "Between training records.", above(0)),
    "tensorboard": Key(True, "Write TensorBoard event files.", ANY),
    "wandb": Key("", "Also write to this Weights & Biases project; '' is not.", ANY),
    "mlflow": Key(
        "", "Also write to this MLflow tracking URI, such as 'sqlite:///runs.db'; '' is not.", ANY
    ),
    "images": Key(
        True, "Give each of those a sheet of augmented training pictures at the start.", ANY
    ),
    "histograms": Key(
        False, "Give each of them histograms of the parameters at every validation.", ANY
    ),
    "report": Key(True, "Write report.html and report.json at the end of the run.", ANY),
    "progress": Key(True, "A progress bar when on a terminal.", ANY),
}
