"""Keys of `model`: the architecture."""

from imgclass.schema.rules import (
    ANY,
    COUNT,
    NOT_EMPTY,
    Duration,
    Key,
    at_least,
    each,
    one_of,
    within,
)

MODEL: dict[str, Key | Duration] = {
    "name": Key(
        "cnn", "Which architecture: cnn, resnet50, ...; `imgclass models` lists all.", NOT_EMPTY
    ),
    "pretrained": Key(
        "",
        "Weights to begin with: a file (.safetensors, .pth, .weights.h5), a run folder, or a name "
        "on the Hugging Face Hub ('timm/resnet50.a1_in1k'); '' is none.",
        ANY,
    ),
    "dtype": Key(
        "float32",
        "Arithmetic of convolutions and dense layers; parameters stay float32.",
        one_of("float32", "bfloat16"),
    ),
    "batch_norm_momentum": Key(
        0.0,
        "Share of the old running statistics kept each step; 0 is the architecture's own, mostly "
        "0.9.",
        within(0.0, 1.0, below=True),
    ),
    "batch_norm_epsilon": Key(
        0.0,
        "Added to the variance; 0 is the architecture's own, mostly 1e-5.",
        at_least(0.0),
    ),
    "batch_norm_group": Key(
        0,
        "Rows that share batch statistics; 0 is the whole global batch, "
        "batch_size/devices gives each device its own.",
        at_least(0),
    ),
    "filters": Key((32,), "cnn: filters of each block.", each(COUNT, shortest=1)),
    "depth": Key(1, "cnn: convolutions in a block.", at_least(1)),
    "kernel_size": Key(3, "cnn: side of the kernel, pixels.", at_least(1)),
    "stride": Key(1, "cnn: stride of a block's first convolution, pixels.", at_least(1)),
    "padding": Key("VALID", "cnn: convolution padding.", one_of("VALID", "SAME")),
    "pool": Key("max", "cnn: pooling that ends a block.", one_of("max", "avg", "none")),
    "pool_window": Key(2, "cnn: side of the pooling window, pixels.", at_least(1)),
    "pool_stride": Key(2, "cnn: stride of the pooling window, pixels.", at_least(1)),
    "activation": Key(
        "relu",
        "cnn: after each convolution.",
        one_of(
            "relu", "relu6", "gelu", "silu", "hard_swish", "elu", "tanh", "sigmoid", "hard_sigmoid"
        ),
    ),
    "batch_norm": Key(False, "cnn: batch norm after each convolution.", ANY),
    "dropout": Key(
        0.0,
        "Rate before the last dense layer; in VGG after both hidden ones, in WRN inside blocks.",
        within(0.0, 1.0, below=True),
    ),
    "drop_path": Key(
        0.0,
        "Stochastic depth: rate at which the last residual branch is dropped, rising linearly "
        "from 0; MobileNet and EfficientNet stop one block short of it, as published.",
        within(0.0, 1.0, below=True),
    ),
    "hidden": Key((), "cnn: widths of dense layers before the last.", each(COUNT)),
    "head": Key(
        "flatten",
        "cnn: 'flatten' the last feature map, or 'average' it over positions.",
        one_of("flatten", "average"),
    ),
    "stem": Key(
        "imagenet",
        "resnet, resnetv2, densenet: 'imagenet' (7x7 stride 2, max-pool) or 'cifar' (3x3 stride "
        "1).",
        one_of("imagenet", "cifar"),
    ),
    "zero_init_residual": Key(
        True,
        "resnet, resnext, wide_resnet, seresnet, seresnext: start each block's last batch-norm "
        "scale at 0.",
        ANY,
    ),
}
