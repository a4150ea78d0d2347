"""The `data` section of a config, for tests of what reads it."""

import ml_collections


def data_section(name, **changes) -> ml_collections.ConfigDict:
    """Returns the section with the defaults that matter to a source."""
    keys = {
        "name": str(name),
        "data_dir": "",
        "train_split": "train",
        "validation_split": "auto",
        "test_split": "auto",
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
        "split_seed": 0,
        "group_by": "",
        "long_tail": 1.0,
        "image_key": "",
        "label_key": "",
    }
    assert changes.keys() <= keys.keys()
    return ml_collections.ConfigDict(keys | changes)
