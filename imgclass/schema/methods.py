"""Keys of `loss`, `augment` and `optim`: how a model is trained."""

from imgclass.schema.rules import ANY, Duration, Key, above, at_least, each, one_of, within

LOSS: dict[str, Key | Duration] = {
    "name": Key("cross_entropy", "Softmax cross-entropy, in nats.", one_of("cross_entropy")),
    "label_smoothing": Key(
        0.0, "Share of the target spread evenly over classes.", within(0.0, 1.0, below=True)
    ),
}

AUGMENT: dict[str, Key | Duration] = {
    "flip": Key(False, "Mirror left-right, half the pictures.", ANY),
    "pad_crop": Key(0, "Pad by this many pixels, then crop at random.", at_least(0)),
    "pad_mode": Key(
        "constant",
        "What pad_crop pads with: 'constant' (black) or 'reflect'.",
        one_of("constant", "reflect"),
    ),
    "random_resized_crop": Key(False, "Crop a random area and shape, then resize.", ANY),
    "crop_scale": Key(
        (0.08, 1.0), "Area of that crop, as a share.", each(within(0.01, 1.0), sizes=(2,))
    ),
    "crop_ratio": Key(
        (0.75, 1.3333), "Width over height of that crop.", each(above(0.0), sizes=(2,))
    ),
    "brightness": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
    "contrast": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
    "saturation": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
    "hue": Key(0.0, "Shift drawn from [-x, x] of the colour circle.", within(0.0, 0.5)),
    "cutout": Key(0, "Side of a square blanked at random, pixels.", at_least(0)),
    "mixup_alpha": Key(0.0, "Beta(x, x) of mixup; 0 is off.", at_least(0.0)),
    "cutmix_alpha": Key(0.0, "Beta(x, x) of cutmix; 0 is off.", at_least(0.0)),
}

OPTIM: dict[str, Key | Duration] = {
    "name": Key("adam", "Optimizer.", one_of("sgd", "adam", "adamw", "lamb", "rmsprop")),
    "lr": Key(1e-3, "Peak learning rate.", above(0.0)),
    "schedule": Key(
        "constant",
        "Learning rate after warm-up.",
        one_of("constant", "step", "cosine", "linear", "one_cycle"),
    ),
    "warmup": Duration("epochs", 0.0, "Linear warm-up from near 0.", at_least(0)),
    "end_factor": Key(0.0, "cosine, linear: last rate / peak.", within(0.0, 1.0)),
    "step_at": Key(
        (0.5, 0.75), "step: where the rate drops, as parts of the run.", each(within(0.0, 1.0))
    ),
    "step_factor": Key(0.1, "step: what each drop multiplies by.", within(0.0, 1.0)),
    "momentum": Key(0.9, "sgd, rmsprop.", within(0.0, 1.0, below=True)),
    "nesterov": Key(False, "sgd: Nesterov's form.", ANY),
    "beta1": Key(0.9, "adam, adamw, lamb.", within(0.0, 1.0, below=True)),
    "beta2": Key(0.999, "adam, adamw, lamb.", within(0.0, 1.0, below=True)),
    "eps": Key(1e-8, "All but sgd: added to the root of the second moment.", above(0.0)),
    "eps_hat": Key(
        False, "adam, adamw: add eps before bias correction, as Keras and TensorFlow do.", ANY
    ),
    "rmsprop_decay": Key(0.9, "rmsprop: memory.", within(0.0, 1.0, below=True)),
    "weight_decay": Key(
        0.0,
        "sgd, adam, rmsprop: L2 added to the gradient. adamw, lamb: decoupled.",
        at_least(0.0),
    ),
    "no_decay": Key(
        r"(^|/)(bias|scale)$",
        "Regular expression on a parameter's path; matches are not decayed. '' decays all.",
        ANY,
    ),
    "clip_norm": Key(0.0, "Largest global gradient norm; 0 is off.", at_least(0.0)),
    "accumulate": Key(
        1, "Micro-batches a step is cut into, to fit memory; gradients averaged.", at_least(1)
    ),
    "ema_decay": Key(
        0.0,
        "Average the weights with this decay and evaluate the average; 0 is off.",
        within(0.0, 1.0, below=True),
    ),
}
