"""Keys of `data`: where the pictures are, and how they reach the model."""

from imgclass.schema.rules import (
    ANY,
    COUNT,
    NOT_EMPTY,
    PIXELS,
    Duration,
    Key,
    Rule,
    above,
    at_least,
    each,
    one_of,
    within,
)

DATA: dict[str, Key | Duration] = {
    "name": Key(
        "digits",
        "'digits' (embedded), a tfds name ('cifar10', 'imagenet2012:5.1.0'), or a path: a "
        "folder of split/class/* or class/* pictures, a .csv or .tsv of path,label[,split], "
        "or a .npz of arrays.",
        NOT_EMPTY,
    ),
    "data_dir": Key("", "Where tfds keeps prepared sets; '' is tfds's own default.", ANY),
    "train_split": Key("train", "Training examples, in the tfds slicing language.", NOT_EMPTY),
    "validation_split": Key(
        "auto",
        "Validation examples. 'auto': the set's own validation split, or else a part carved "
        "out of train. '': none.",
        ANY,
    ),
    "test_split": Key(
        "auto",
        "Test examples. 'auto': the set's own test split; carved only from a source that has "
        "no splits at all. '': none.",
        ANY,
    ),
    "validation_fraction": Key(
        0.1, "Part of train carved out for validation, by class.", within(0.0, 0.9)
    ),
    "test_fraction": Key(
        0.1, "Part carved out for test where a source has no splits.", within(0.0, 0.9)
    ),
    "split_seed": Key(
        0,
        "Seeds the carving, apart from `seed`, so that runs over seeds share their splits.",
        within(0, 2**63 - 1),
    ),
    "group_by": Key(
        "",
        "A regular expression on an example's name; examples with the same match (group 1 if "
        "it has one) stay on one side when splits are carved: patients, video tracks.",
        ANY,
    ),
    "long_tail": Key(
        1.0,
        "Thin the training split out so that class sizes fall exponentially, the first class "
        "this many times the last; by split_seed. 1 is off.",
        at_least(1.0),
    ),
    "image_key": Key("", "The tfds feature that is the picture; '' finds it.", ANY),
    "label_key": Key("", "The tfds feature that is the class; '' finds it.", ANY),
    "image_size": Key((64, 64), "Height and width the model sees, in pixels.", PIXELS),
    "load_size": Key(
        (),
        "Height and width of training pictures before random crops, in pixels; () is image_size.",
        each(COUNT, sizes=(0, 2)),
    ),
    "channels": Key(3, "3 for colour, 1 for gray.", Rule("1 or 3", lambda v: v in (1, 3))),
    "resize": Key(
        "stretch",
        "How a picture of another shape becomes image_size: 'stretch' to it, 'crop' its "
        "middle, or 'pad' it to keep everything.",
        one_of("stretch", "crop", "pad"),
    ),
    "crop_fraction": Key(
        1.0, "With resize='crop': the part of each side kept by the crop.", within(0.1, 1.0)
    ),
    "interpolation": Key(
        "bilinear",
        "The resampling filter, antialiased ('nearest' has nothing to filter). 'bilinear_aliased' "
        "is not, as in tf.image.resize; with OpenCV, to resize then takes a quarter of the time.",
        one_of("nearest", "bilinear", "bicubic", "lanczos", "bilinear_aliased"),
    ),
    "pad_value": Key(0, "With resize='pad': the gray level of the border.", within(0, 255)),
    "standardize": Key(
        "none",
        "After scaling to [0,1]: 'none', 'given' (subtract mean, divide by std), or 'train' "
        "(the same with mean and std computed once from the training split).",
        one_of("none", "given", "train"),
    ),
    "mean": Key((), "Per channel, in [0,1].", each(within(0.0, 1.0), sizes=(0, 1, 3))),
    "std": Key((), "Per channel, in [0,1] units.", each(above(0.0), sizes=(0, 1, 3))),
    "bad_files": Key(
        "error",
        "A picture that cannot be decoded: 'error' stops and names it; 'skip' checks every "
        "file before training and leaves the bad ones out, named and counted.",
        one_of("error", "skip"),
    ),
    "max_pixels": Key(
        89_478_485,
        "A picture whose header claims more pixels is refused before it is decoded.",
        at_least(1),
    ),
    "feed": Key(
        "auto",
        "'resident' keeps the decoded set on the device; 'stream' decodes ahead with bounded "
        "memory; 'auto' is resident up to resident_mb.",
        one_of("auto", "resident", "stream"),
    ),
    "resident_mb": Key(
        1024,
        "Largest decoded training split that 'auto' keeps on the device, and evaluation split "
        "that 'auto' and 'resident' keep decoded in host memory, MiB.",
        at_least(0),
    ),
    "cache": Key(
        "",
        "Keep the training pictures decoded, at load_size, in the user's cache folder, for later "
        "epochs and runs: 'raw' bit for bit; 'jpeg' at quality 90, a tenth of the room and not the "
        "same bits. '': not.",
        Rule("'', 'raw' or 'jpeg'", lambda v: v in ("", "raw", "jpeg")),
    ),
    "sampling": Key(
        "uniform",
        "How often a class is trained on: 'uniform' over examples, as often as it occurs; "
        "'balanced', all classes equally often; 'sqrt', by the root of its count. An epoch keeps "
        "its length.",
        one_of("uniform", "sqrt", "balanced"),
    ),
    "threads": Key(0, "Threads that read and decode; 0 is one per core.", at_least(0)),
    "workers": Key(
        0,
        "Processes that read and decode the training pictures in place of threads, which take "
        "turns where Python runs; so many for each process that trains; 0 is none. They need the "
        "'stream' feed, which is then what data.feed='auto' means.",
        at_least(0),
    ),
    "prefetch": Key(
        0,
        "Batches decoded ahead, by the 'stream' feed and in evaluation, each by one "
        "thread or process; 0 is as many as those, at least 4.",
        at_least(0),
    ),
}
