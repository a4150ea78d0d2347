"""Keys of `loss`, `augment` and `optim`: how a model is trained."""

from imgclass.schema.rules import (
    ANY,
    COUNT,
    NOT_EMPTY,
    TEXTS,
    Duration,
    Key,
    Rule,
    above,
    at_least,
    each,
    one_of,
    within,
)

LOSS: dict[str, Key | Duration] = {
    "name": Key(
        "cross_entropy",
        "What is minimised: 'cross_entropy' of the softmax, 'bce' (binary cross-entropy of each "
        "class's sigmoid) or 'focal', in nats. Evaluation reports cross_entropy whatever it is.",
        one_of("cross_entropy", "bce", "focal"),
    ),
    "label_smoothing": Key(
        0.0, "Share of the target spread evenly over classes.", within(0.0, 1.0, below=True)
    ),
    "bce_threshold": Key(
        0.0,
        "bce: above 0, (smoothed, mixed) targets above it become 1 and the others 0.",
        within(0.0, 1.0, below=True),
    ),
    "bce_sum": Key(False, "bce: sum over the classes, not their mean.", ANY),
    "focal_gamma": Key(
        2.0, "focal: power of 1 - p that a class's term is multiplied by.", at_least(0.0)
    ),
    "class_weights": Key(
        "none",
        "Weigh each row by its class: 'inverse' of the class's count in the training split, or of "
        "the 'effective' number. Scaled so that the mean over the split is 1.",
        one_of("none", "inverse", "effective"),
    ),
    "effective_beta": Key(
        0.9999,
        "class_weights='effective': n examples count as (1 - beta^n) / (1 - beta).",
        within(0.0, 1.0, below=True),
    ),
    "logit_adjust": Key(
        0.0,
        "cross_entropy: this (tau) times the log of the class's share of the training split is "
        "added to the logits in training; 1 aims at balanced accuracy.",
        at_least(0.0),
    ),
    "consistency": Key(
        0.0,
        "Above 0, a batch holds three views of each picture, the first only cropped and mirrored, "
        "and this times the Jensen-Shannon divergence of their predictions is added. AugMix has "
        "12. 0 is one view.",
        at_least(0.0),
    ),
    "teacher": Key("", "A run folder whose best weights teach this run; '' is none.", ANY),
    "distill_weight": Key(
        0.5,
        "teacher: share of the loss that is the distance to its predictions; the rest is the "
        "labels'.",
        within(0.0, 1.0),
    ),
    "distill_temperature": Key(4.0, "teacher: divides both models' logits.", above(0.0)),
    "distill_feature": Key(
        "",
        "teacher: also match its 'pooled' vector, 'last_map', or a stage by name; '' is none. The "
        "shapes have to be equal.",
        ANY,
    ),
    "distill_feature_weight": Key(
        1.0, "distill_feature: weight of the mean squared difference.", at_least(0.0)
    ),
}

AUGMENT: dict[str, Key | Duration] = {
    "flip": Key(False, "Mirror left-right, half the pictures.", ANY),
    "flip_alternate": Key(
        False,
        "Mirror each picture every other epoch, the first side drawn once; in place of flip.",
        ANY,
    ),
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
    "crop_on": Key(
        "device",
        "Where that crop is taken: on the 'device', out of pictures of data.load_size, or on the "
        "'host' by what decodes, out of the whole original (or of data.cache).",
        one_of("device", "host"),
    ),
    "policy": Key(
        "none",
        "Operations drawn for each picture: RandAugment as torchvision ('rand') or timm "
        "('rand_increasing') has it, TrivialAugmentWide, AutoAugment's three policies, AugMix.",
        one_of(
            "none",
            "rand",
            "rand_increasing",
            "trivial_wide",
            "auto_imagenet",
            "auto_cifar10",
            "auto_svhn",
            "augmix",
        ),
    ),
    "policy_ops": Key(2, "rand, rand_increasing: operations a picture.", COUNT),
    "policy_magnitude": Key(9.0, "rand: of 30. rand_increasing: of 10.", within(0.0, 30.0)),
    "policy_std": Key(
        0.0, "rand_increasing: deviation of the magnitude, drawn each time.", at_least(0.0)
    ),
    "policy_interpolation": Key(
        "bilinear", "Of shears, shifts and turns.", one_of("nearest", "bilinear")
    ),
    "policy_fill": Key(
        "black", "What they bring in from outside: black or data.mean.", one_of("black", "mean")
    ),
    "augmix_severity": Key(3.0, "augmix: greatest magnitude, of 10.", within(0.1, 10.0)),
    "brightness": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
    "contrast": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
    "saturation": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
    "hue": Key(0.0, "Shift drawn from [-x, x] of the colour circle.", within(0.0, 0.5)),
    "cutout": Key(0, "Side of a square blanked at random, pixels.", at_least(0)),
    "cutout_inside": Key(False, "cutout: only where the whole square is in the picture.", ANY),
    "erase": Key(0.0, "Share of the pictures that lose a random rectangle.", within(0.0, 1.0)),
    "erase_scale": Key(
        (0.02, 0.33), "Area of that rectangle, as a share.", each(within(0.0, 1.0), sizes=(2,))
    ),
    "erase_ratio": Key(
        (0.3, 3.3), "Height over width of that rectangle.", each(above(0.0), sizes=(2,))
    ),
    "erase_with": Key(
        "mean",
        "What it is filled with: data.mean, or noise drawn for each pixel.",
        one_of("mean", "noise"),
    ),
    "mixup_alpha": Key(0.0, "Beta(x, x) of mixup; 0 is off.", at_least(0.0)),
    "cutmix_alpha": Key(0.0, "Beta(x, x) of cutmix; 0 is off.", at_least(0.0)),
    "mix_probability": Key(1.0, "Share of the batches that are mixed.", within(0.0, 1.0)),
    "mix_switch": Key(0.5, "With mixup and cutmix both on: share of cutmix.", within(0.0, 1.0)),
    "mix_until": Duration("percent", 100.0, "Mixup and cutmix are off after this.", at_least(0)),
    "sizes": Key(
        (),
        "Heights of training pictures, pixels, one for each stage of the run; the width follows. "
        "() is data.image_size throughout.",
        each(COUNT),
    ),
    "size_at": Key(
        (),
        "sizes: where each stage after the first begins, as parts of the run.",
        each(within(0.0, 1.0)),
    ),
    "repeats": Key(
        1, "Rows running that hold one example, augmented apart; an epoch keeps its length.", COUNT
    ),
}

OPTIM: dict[str, Key | Duration] = {
    "name": Key(
        "adam",
        "Optimizer.",
        one_of("sgd", "adam", "adamw", "lamb", "lars", "lion", "rmsprop", "muon"),
    ),
    "lr": Key(1e-3, "Peak learning rate.", above(0.0)),
    "schedule": Key(
        "constant",
        "Learning rate after warm-up.",
        one_of("constant", "step", "cosine", "linear", "one_cycle"),
    ),
    "warmup": Duration("epochs", 0.0, "Linear warm-up.", at_least(0)),
    "warmup_factor": Key(
        0.0, "First rate of the warm-up / peak; 0 is 1 / its steps.", within(0.0, 1.0)
    ),
    "end_factor": Key(0.0, "cosine, linear: last rate / peak.", within(0.0, 1.0)),
    "step_at": Key(
        (0.5, 0.75), "step: where the rate drops, as parts of the run.", each(within(0.0, 1.0))
    ),
    "step_factor": Key(0.1, "step: what each drop multiplies by.", within(0.0, 1.0)),
    "momentum": Key(0.9, "sgd, lars, rmsprop, muon.", within(0.0, 1.0, below=True)),
    "nesterov": Key(False, "sgd, muon: Nesterov's form.", ANY),
    "sgd_momentum": Key(
        0.9, "muon: of the parameters that it leaves to sgd.", within(0.0, 1.0, below=True)
    ),
    "muon_params": Key(
        r"^(?!head/).*kernel$",
        "muon: regular expression on a kernel's path; matches are updated as matrices, the rest "
        "by sgd.",
        NOT_EMPTY,
    ),
    "muon_steps": Key(5, "muon: Newton-Schulz iterations.", within(1, 20)),
    "muon_dtype": Key(
        "float32", "muon: arithmetic of those iterations.", one_of("float32", "bfloat16")
    ),
    "muon_normalize": Key(
        False, "muon: before an update, scale its matrices to norm sqrt(outputs).", ANY
    ),
    "beta1": Key(0.9, "adam, adamw, lamb, lion.", within(0.0, 1.0, below=True)),
    "beta2": Key(0.999, "adam, adamw, lamb, lion.", within(0.0, 1.0, below=True)),
    "eps": Key(
        1e-8, "adam, adamw, lamb, rmsprop: added to the root of the second moment.", above(0.0)
    ),
    "eps_hat": Key(
        False, "adam, adamw: add eps before bias correction, as Keras and TensorFlow do.", ANY
    ),
    "rmsprop_decay": Key(0.9, "rmsprop: memory.", within(0.0, 1.0, below=True)),
    "rmsprop_tf": Key(
        False,
        "rmsprop: TensorFlow's form, with eps inside the root and a memory of 1 at first.",
        ANY,
    ),
    "lars_coefficient": Key(
        1e-3, "lars: share of its norm that an array moves at a rate of 1.", above(0.0)
    ),
    "weight_decay": Key(
        0.0,
        "sgd, adam, lars, rmsprop: L2 added to the gradient. adamw, lamb, lion, matrices of "
        "muon: decoupled.",
        at_least(0.0),
    ),
    "no_decay": Key(
        r"(^|/)(bias|scale|layer_scale|class_token|position_embedding)$",
        "Regular expression on a parameter's path; matches are not decayed. '' decays all.",
        ANY,
    ),
    "lr_factors": Key(
        (),
        "'REGEX=FACTOR' each, on parameters' paths, the first match counting: multiplies the "
        "gradient in sgd (decay stays as it is), the update elsewhere.",
        TEXTS,
    ),
    "layer_decay": Key(
        1.0,
        "Factor on the update from each layer to the one below it, the head's being 1.",
        Rule("above 0.0, to 1.0", lambda v: 0 < v <= 1),
    ),
    "freeze": Key(
        "", "Regular expression on a parameter's path; matches are not trained. '' trains all.", ANY
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
    "ema_warmup": Key(
        False, "ema_decay: begin with less, (1 + n) / (10 + n) at the n-th that is averaged.", ANY
    ),
    "ema_start": Key(
        0.0,
        "ema_decay: part of the run up to which the average is the newest weights.",
        within(0.0, 1.0),
    ),
    "swa_start": Key(
        1.0,
        "Part of the run after which all weights that follow are averaged equally, and the "
        "average evaluated; 1 is off.",
        within(0.0, 1.0),
    ),
    "average_every": Key(
        1, "Updates between those that the average (ema_decay, swa_start) takes in.", at_least(1)
    ),
    "schedule_free": Key(
        False,
        "sgd, adamw: average instead of lowering the rate; momentum or beta1 is where between the "
        "average and the newest weights gradients are taken.",
        ANY,
    ),
    "sam_rho": Key(
        0.0,
        "Take gradients this far up the slope, to find flat minima, at twice the cost; 0 is off.",
        at_least(0.0),
    ),
    "lookahead_steps": Key(
        0,
        "Updates after which weights and batch statistics are pulled back to their slow average; "
        "0 is never.",
        at_least(0),
    ),
    "lookahead_decay": Key(
        0.95,
        "lookahead_steps: the slow average keeps at most this, to the power of those steps.",
        within(0.0, 1.0),
    ),
    "lookahead_power": Key(
        3.0,
        "lookahead_steps: what is kept grows with this power of the part of the run done; 0 is "
        "constant.",
        at_least(0.0),
    ),
}
