"""Robustness of a tiny run: figures by hand, the same in any batch, less under attack."""

import numpy as np
import pytest

from imgclass import train
from imgclass.errors import UsageError
from imgclass.evaluate import outcomes, restore, robustness, shift
from imgclass.evaluate.corruptions import MAIN, corrupt
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run that has learnt to tell brightness."""
    root = tmp_path_factory.mktemp("run")
    changes = {"train.total_steps": 60, "optim.lr": 0.01}
    train.train_and_evaluate(tiny.config(tiny.archive(root), changes), root / "run")
    return restore.restore(root / "run")


@pytest.fixture(scope="module")
def split(found):
    return outcomes.open_data(found).splits["validation"]


@pytest.fixture(scope="module")
def said(found):
    return outcomes.of_split(found, outcomes.open_data(found), "validation")


def test_more_examples_hold_those_of_fewer():
    few, more = robustness.chosen(100, 10), robustness.chosen(100, 30)
    assert set(few) <= set(more)
    assert len(set(more)) == 30
    np.testing.assert_array_equal(robustness.chosen(5, 1000), np.arange(5))
    assert (np.diff(more) > 0).all()


def test_corrupted_scores_what_corrupt_makes(found, split):
    examples = np.array([1, 4, 5, 9, 12])
    right = robustness.corrupted(found, split, examples, ["gaussian_noise", "contrast"])
    assert list(right) == ["gaussian_noise", "contrast"]
    pictures = tiny.pictures(13, seed=1)[0][examples]
    spoiled = corrupt(pictures, "contrast", 4, robustness.SEED, examples)
    x = found.task.prepare.standardize(spoiled.astype(np.float32) / 255)
    logits = np.asarray(found.task.model.apply(found.variables, x)[0])
    np.testing.assert_array_equal(right["contrast"][3], logits.argmax(1) == examples % 3)


def test_the_batch_does_not_matter(found, split):
    whole = robustness.corrupted(found, split, np.arange(13), ["fog"])["fog"]
    assert whole.shape == (5, 13)
    part = robustness.corrupted(found, split, np.array([3, 11]), ["fog"])["fog"]
    np.testing.assert_array_equal(part, whole[:, [3, 11]])


def test_corruption_figures_by_hand():
    # Right on 3 of 4 as they are. Fog: 1 of 4 at every severity; snow: 2 of 4; one that is extra.
    clean = np.array([True, True, True, False])
    fog = np.tile([True, False, False, False], (5, 1))
    snow = np.tile([True, True, False, False], (5, 1))
    right = {"snow": snow, "fog": fog, "spatter": np.zeros((5, 4), bool)}
    found = robustness.corruption_figures(right, clean, (32, 32), True)
    assert found["constants"] == "cifar"
    assert found["accuracy"] == 0.75
    assert found["by_corruption"]["fog"] == {
        "accuracy": [0.25] * 5, "error": 0.75, "extra": False
    }  # fmt: skip
    assert found["by_corruption"]["spatter"]["extra"]
    assert found["mean_error"] == pytest.approx((0.75 + 0.5) / 2)
    low, high = found["mean_error_interval"]
    assert 0 <= low < 0.625 < high <= 1
    assert found["relative_error"] == pytest.approx(0.625 - 0.25)
    assert "mce" not in found  # not all fifteen


def test_alexnet_has_an_mce_of_one():
    # Of 1,000,000 pictures AlexNet would err on so many, to within half a picture.
    n = 1_000_000
    row = np.arange(n)[None, :]
    right = {name: row >= round(robustness.ALEXNET[name] * n) for name in MAIN}
    clean = row[0] >= round(robustness.ALEXNET_CLEAN * n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness.bootstrap, "of_mean", lambda values: (0.0, 1.0))
        found = robustness.corruption_figures(right, clean, (224, 224), True)
        other = robustness.corruption_figures(right, clean, (224, 224), False)
    assert found["mce"] == pytest.approx(1, rel=1e-5)
    assert found["relative_mce"] == pytest.approx(1, rel=1e-5)
    assert "mce" not in other


def test_alexnets_errors_are_the_means_of_those_published_by_severity():
    published = {
        "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
        "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
        "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
        "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
        "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    }
    for name, errors in published.items():
        assert robustness.ALEXNET[name] == pytest.approx(np.mean(errors), abs=1e-6)
    assert robustness.ALEXNET.keys() == set(MAIN)


def test_attacks_lower_accuracy_and_pgd_no_less(found, split, said):
    examples = np.arange(13)
    rows = robustness.attacked(found, split, examples, (0.001, 0.3))
    by = {(row["attack"], row["epsilon"]): row for row in rows}
    assert by.keys() == {("fgsm", 0.001), ("pgd", 0.001), ("fgsm", 0.3), ("pgd", 0.3)}
    assert said.right.mean() > 0.6
    assert by["fgsm", 0.3]["accuracy"] < said.right.mean() - 0.3
    assert by["pgd", 0.3]["accuracy"] <= by["fgsm", 0.3]["accuracy"]
    assert by["pgd", 0.3]["steps"] == 10
    assert by["pgd", 0.3]["step_size"] == pytest.approx(0.075)
    assert "steps" not in by["fgsm", 0.3]
    again = robustness.attacked(found, split, examples, (0.001, 0.3))
    assert again == rows


def other(root, names, seed=5):
    """Twelve pictures as those of the run, in folders of those names."""
    images, labels = tiny.pictures(12, seed=seed)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / names[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.png(image))
    return str(root)


def compared(found, said, name, examples, tta):
    second = shift.second_source(found, name)
    return shift.compared(found, said.right, second, examples, tta)


def test_shift_matches_classes_by_name(found, said, tmp_path):
    same = compared(found, said, other(tmp_path / "a", "012"), None, "none")
    # The same pictures under turned names: class 0 lies in folder '2', and 2 in '0'.
    turned = compared(found, said, other(tmp_path / "b", "210"), None, "none")
    assert same["examples"] == 12
    assert same["accuracy"] > 0.6
    assert turned["accuracy"] <= 1 / 3
    assert same["missing_classes"] == []
    assert same["difference"] == pytest.approx(same["accuracy"] - said.right.mean())
    low, high = same["difference_interval"]
    assert low <= same["difference"] <= high
    # A class that is not there is said, and the others keep their names.
    fewer = compared(found, said, other(tmp_path / "c", "221"), None, "none")
    assert fewer["missing_classes"] == ["0"]


def test_shift_takes_so_many(found, said, tmp_path):
    name = other(tmp_path / "a", "012")
    assert compared(found, said, name, 7, "flip")["examples"] == 7


def test_a_class_that_the_run_does_not_know_is_refused(found, said, tmp_path):
    name = other(tmp_path / "a", ("0", "1", "cat"))
    with pytest.raises(UsageError, match=r"knows no class 'cat'; it knows '0', '1', '2'$"):
        compared(found, said, name, None, "none")


def test_a_source_that_is_not_there_is_refused(found, said, tmp_path):
    with pytest.raises(UsageError, match="--against: no such file or folder"):
        compared(found, said, str(tmp_path / "none"), None, "none")


def test_a_source_of_a_test_split_alone(found, said, tmp_path):
    images, labels = tiny.pictures(9, seed=6)
    np.savez(tmp_path / "only.npz", x_test=images, y_test=labels)
    name = str(tmp_path / "only.npz")
    assert compared(found, said, name, None, "none")["examples"] == 9
