"""Tables of runs written by hand: grouping, ordering, refusals, and which test is used when."""

import json
import math
import shutil

import numpy as np
import pytest

from imgclass import looks
from imgclass.compare import table
from imgclass.errors import UsageError, UserError
from tests.compare import made
from tests.compare.made import first

ADAM, SGD = {"optim.name": "adam"}, {"optim.name": "sgd"}


def three_seeds(root, name, counts, changes=None, **more):
    """Writes a run for each count of right pictures, of 20; seeds from 0."""
    return [
        made.make(root / f"{name}-{seed}", first(k), seed, changes, **more)
        for seed, k in enumerate(counts)
    ]


def test_groups_means_and_deviations_by_hand(tmp_path):
    # 0.7, 0.75, 0.8: mean 0.75, sd 0.05, half the t interval 4.30265 x 0.05 / sqrt(3) = 0.12421.
    runs = three_seeds(tmp_path, "a", (14, 15, 16), ADAM)
    runs += three_seeds(tmp_path, "b", (15, 17, 19), SGD)
    found = table.make(runs)
    assert (found.keys, found.examples) == (("optim.name",), 20)
    best, base = found.rows
    assert (best.settings, best.seeds) == (("sgd",), (0, 1, 2))
    assert best.mean == pytest.approx(0.85)
    assert best.deviation == pytest.approx(0.1)
    assert (base.verdict, base.test) == ("baseline", None)
    assert base.mean == pytest.approx(0.75)
    assert base.deviation == pytest.approx(0.05)
    assert (base.low, base.high) == pytest.approx((0.75 - 0.12421, 0.75 + 0.12421), abs=1e-5)
    # Differences 0.05, 0.1, 0.15: mean 0.1, t = 0.1 / (0.05 / sqrt(3)) = 3.4641, p = 0.07418
    # (for 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)).
    assert best.test.name == "paired t over seeds"
    assert best.test.difference == pytest.approx(0.1)
    assert best.test.p == best.corrected == pytest.approx(1 - math.sqrt(12 / 14))
    assert best.verdict == ""
    assert 0 < best.pictures[0] < 0.1 < best.pictures[1]


def test_a_difference_that_every_seed_has_is_marked_and_its_direction_told(tmp_path):
    runs = three_seeds(tmp_path, "a", (10, 12, 14, 11), ADAM)
    runs += three_seeds(tmp_path, "b", (16, 17, 19, 16), SGD)
    up = table.make(runs)
    assert [row.verdict for row in up.rows] == ["better", "baseline"]
    down = table.make(runs, baseline=runs[-1])
    assert [row.verdict for row in down.rows] == ["baseline", "worse"]
    assert down.rows[1].corrected < 0.05
    less = table.make(runs, metric="loss")  # of loss less is better
    assert [row.verdict for row in less.rows] == ["better", "baseline"]
    assert less.rows[0].mean < less.rows[1].mean


def test_single_runs_have_mcnemar_and_an_interval_over_pictures(tmp_path):
    # The first 12 right, against pictures 4 to 19: 4 only the one, 8 only the other.
    a = made.make(tmp_path / "a", first(12), 0, ADAM)
    b = made.make(tmp_path / "b", ~first(4), 0, SGD)
    found = table.make([a, b])
    row = found.rows[0]
    assert (row.test.name, row.over) == ("McNemar, exact", "pictures")
    assert row.test.difference == pytest.approx(0.2)
    # 2 P(X <= 4), X of Binomial(12, 1/2): 2 (1 + 12 + 66 + 220 + 495) / 4096.
    assert row.test.p == pytest.approx(2 * 794 / 4096)
    assert row.low < 0.8 < row.high
    assert math.isnan(row.deviation)
    assert any("nothing of other seeds" in note for note in found.notes)


def test_a_run_that_has_all_right_is_not_certain(tmp_path):
    # Wilson's interval of 20 of 20: 20 / (20 + 1.959964^2) = 0.83887 to 1.
    run = made.make(tmp_path / "a", first(20))
    for _ in ("outcomes", "their number"):
        (row,) = table.make([run]).rows
        assert (row.low, row.high) == pytest.approx((0.83887, 1.0), abs=1e-5)
        (run / "predictions-validation.npz").unlink(missing_ok=True)


def test_a_figure_that_is_no_number_is_said(tmp_path):
    run = made.make(tmp_path / "a", first(14))
    path = run / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"best": result["best"] | {"auroc": None}}))
    found = table.make([run], metric="auroc")
    assert f"{run} has no finite auroc: its group has no mean, and is last." in found.notes


def test_seeds_that_do_not_match_are_not_paired(tmp_path):
    runs = three_seeds(tmp_path, "a", (14, 15, 16), ADAM)
    runs += [made.make(tmp_path / f"b{s}", first(12 + s), s, SGD) for s in (1, 2, 3, 4)]
    assert table.make(runs).rows[1].test.name == "Welch t over seeds"


def test_one_seed_against_several_is_tested_over_pictures(tmp_path):
    runs = three_seeds(tmp_path, "a", (14, 15, 16), ADAM)
    runs.append(made.make(tmp_path / "b", first(5), 0, SGD))
    assert table.make(runs).rows[1].test.name == "paired t over pictures"
    (tmp_path / "b/predictions-validation.npz").unlink()
    found = table.make(runs)  # the run has no checkpoint to score
    assert found.rows[1].test is None
    assert found.rows[1].low < 0.25 < found.rows[1].high  # from how many were right
    assert any(note.startswith("No outcomes of single pictures") for note in found.notes)


def test_more_comparisons_need_more(tmp_path):
    runs = three_seeds(tmp_path, "base", (10, 12, 14, 11), ADAM)
    runs += three_seeds(tmp_path, "b", (13, 14, 17, 13), SGD)
    alone = table.make(runs).rows[0]
    for i, name in enumerate(("lion", "lars", "lamb")):
        runs += three_seeds(tmp_path, name, (11 + i, 11, 13, 12), {"optim.name": name})
    rows = {row.settings[0]: row for row in table.make(runs).rows}
    assert rows["sgd"].corrected == pytest.approx(4 * alone.test.p)


def test_by_averages_over_the_rest_and_pairs_by_it(tmp_path):
    runs = []
    for name, extra in (("adam", 0), ("sgd", 2)):
        for lr, k in ((0.1, 10), (0.01, 14)):
            for seed in (0, 1):
                changes = {"optim.name": name, "optim.lr": lr}
                folder = tmp_path / f"{name}-{lr}-{seed}"
                runs.append(made.make(folder, first(k + extra + seed * extra), seed, changes))
    found = table.make(runs, by=("optim.name",))
    assert found.keys == ("optim.name",)
    assert [len(row.values) for row in found.rows] == [4, 4]
    assert found.rows[0].test.name == "paired t over seeds"
    # 2 and 4 more of 20: mean 3 of 20.
    assert found.rows[0].test.difference == pytest.approx(0.15)
    assert "Differs within groups, and is averaged over: optim.lr." in found.notes
    unequal = table.make(runs[:-1], by=("optim.name",))
    assert any("not paired" in note for note in unequal.notes)
    assert table.make(runs).keys == ("optim.lr", "optim.name")


@pytest.mark.parametrize("by", [("lr",), ("optim.learning_rate",), ("seed",)])
def test_by_takes_keys_of_the_config_but_no_seed(tmp_path, by):
    run = made.make(tmp_path / "a", first(3))
    with pytest.raises(UsageError, match=r"--by="):
        table.make([run], by=by)


def test_what_moves_no_figure_makes_no_group(tmp_path):
    a = made.make(tmp_path / "a", first(12), 0, {"log.tensorboard": True, "data.threads": 1})
    b = made.make(tmp_path / "b", first(14), 1, {"log.tensorboard": False, "data.threads": 2})
    found = table.make([a, b])
    assert (found.keys, len(found.rows)) == ((), 1)
    assert found.label(found.rows[0]) == str(a)


def test_a_run_counts_once(tmp_path):
    runs = three_seeds(tmp_path, "a", (14, 15, 16))
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    found = table.make([*runs, runs[1], tmp_path / "a-0" / ".." / "a-2", copy])
    assert len(found.rows[0].values) == 3
    assert found.notes[0] == f"Left out: {copy}: has the config and the seed of {runs[0]}."


def test_other_data_is_refused_and_named(tmp_path):
    a = made.make(tmp_path / "a", first(12))
    other = {r: made.split(n, r[0]) for r, n in (("train", 40), ("validation", 20), ("test", 20))}
    for role, fingerprint in (("validation", "w"), ("train", "u")):
        splits = other | {role: made.split(other[role]["examples"], fingerprint)}
        if role == "train":
            splits["test"] = made.split(20, "not compared")
        b = made.make(tmp_path / role, first(12), 1, splits=splits)
        with pytest.raises(UsageError, match=f"{b} cannot be ranked with {a}: its {role} split"):
            table.make([a, b])
    c = made.make(tmp_path / "c", first(12), 1, class_names=["dog", "cat"])
    with pytest.raises(UsageError, match="classes, or their order"):
        table.make([a, c])


def test_a_training_split_may_differ_where_that_is_compared(tmp_path):
    a = made.make(tmp_path / "a", first(12))
    less = {"train": made.split(20, "half"), "validation": made.split(20, "v"), "test": {}}
    b = made.make(tmp_path / "b", first(9), 0, {"data.train_split": "train[:50%]"}, splits=less)
    assert table.make([a, b]).keys == ("data.train_split",)


def test_unfinished_runs_are_left_out_and_named(tmp_path):
    runs = three_seeds(tmp_path, "a", (14, 15, 16))
    (runs[2] / "result.json").unlink()
    result = json.loads((runs[1] / "result.json").read_text())
    (runs[1] / "result.json").write_text(json.dumps(result | {"steps": made.STEPS - 1}))
    found = table.make(runs)
    assert found.rows[0].folders == (str(runs[0]),)
    assert [note for note in found.notes if note.startswith("Left out")] == [
        f"Left out: {runs[1]}: is not finished; its result is of step 9.",
        f"Left out: {runs[2]}: has no result.json, so it is not finished or has failed.",
    ]
    with pytest.raises(UserError, match="no finished run to compare"):
        table.make(runs[1:])
    with pytest.raises(UsageError, match="not one of the finished runs"):
        table.make(runs, baseline=runs[2])


def test_what_is_no_run_is_refused(tmp_path):
    run = made.make(tmp_path / "a", first(14))
    with pytest.raises(UserError, match="is not a run folder"):
        table.make([run, tmp_path])
    (run / "result.json").write_text("[]")
    with pytest.raises(UserError, match=r"is not what a run writes"):
        table.make([run])


def test_a_split_or_a_metric_that_a_run_lacks_is_refused(tmp_path):
    splits = {"train": made.split(40, "t"), "test": made.split(20, "s")}
    run = made.make(tmp_path / "a", first(14), test=first(3), splits=splits)
    with pytest.raises(UsageError, match="its data have no validation split"):
        table.make([run])
    assert table.make([run], split="test").rows[0].mean == pytest.approx(0.15)
    for metric in ("acuracy", "examples"):
        with pytest.raises(UsageError, match="it has accuracy, loss, top5"):
            table.make([run], split="test", metric=metric)


def test_a_diverged_run_takes_its_group_to_the_end(tmp_path):
    runs = three_seeds(tmp_path, "a", (10, 11, 12), ADAM)
    runs += three_seeds(tmp_path, "b", (18, 19, 17), SGD)
    path = runs[4] / "result.json"
    result = json.loads(path.read_text())
    result |= {"best": None, "final": result["final"] | {"loss": None}}
    path.write_text(json.dumps(result))
    found = table.make(runs)
    assert [row.settings[0] for row in found.rows] == ["adam", "sgd"]
    assert math.isnan(found.rows[1].mean)
    assert found.rows[1].test is None
    assert f"{runs[4]} diverged: its group has no mean, and is last." in found.notes
    swapped = table.make(runs, baseline=runs[3])
    assert swapped.rows[0].test is None


def test_test_figures_that_are_written_down_are_not_scored_again(tmp_path):
    a = made.make(tmp_path / "a", first(14), 0, ADAM, test=first(11))
    b = made.make(tmp_path / "b", first(14), 0, SGD, test=first(17))
    found = table.make([a, b], split="test")
    assert found.rows[0].mean == pytest.approx(0.85)
    assert found.rows[0].test is None
    made.write_outcomes(a, "test", first(11))
    made.write_outcomes(b, "test", first(17))
    assert table.make([a, b], split="test").rows[0].test.p == pytest.approx(2 / 2**6)
    assert (looks.count(a), looks.count(b)) == (2, 2)  # one a table, though only read
    assert json.loads((a / looks.FILE).read_text().splitlines()[0])["verb"] == "compare"
    table.make([a, b])
    assert looks.count(a) == 2


def test_outcomes_stand_in_for_a_missing_test_figure(tmp_path):
    run = made.make(tmp_path / "a", first(14))
    made.write_outcomes(run, "test", first(5))
    row = table.make([run], split="test").rows[0]
    assert row.mean == pytest.approx(0.25)
    loss = table.make([run], split="test", metric="loss").rows[0]
    assert loss.mean == pytest.approx(-(5 * math.log(0.9) + 15 * math.log(0.1)) / 20)
    with pytest.raises(UsageError, match="it has accuracy, loss"):
        table.make([run], split="test", metric="top5")


def test_outcomes_of_another_checkpoint_are_not_used(tmp_path):
    a = made.make(tmp_path / "a", first(14), 0, ADAM)
    b = made.make(tmp_path / "b", first(16), 0, SGD)
    made.write_outcomes(b, "validation", first(20), step=made.STEP + 1)
    assert table.make([a, b]).rows[0].test is None


def test_pictures_are_paired_by_their_place_not_by_their_row(tmp_path):
    a = made.make(tmp_path / "a", first(12), 0, ADAM)
    b = made.make(tmp_path / "b", first(14), 0, SGD)
    path = b / "predictions-validation.npz"
    with np.load(path) as file:
        arrays = dict(file)
    turned = {k: v[::-1] if v.ndim else v for k, v in arrays.items()}
    np.savez(path, **turned)
    assert table.make([a, b]).rows[0].test.p == pytest.approx(0.5)  # 2 pictures, one way


def test_metrics_that_are_no_means_are_compared_over_seeds_only(tmp_path):
    runs = three_seeds(tmp_path, "a", (14, 15, 16), ADAM)
    runs += three_seeds(tmp_path, "b", (15, 17, 19), SGD)
    found = table.make(runs, metric="top5")
    assert found.rows[0].mean == 1.0
    assert math.isnan(found.rows[1].pictures[0])
    assert math.isnan(found.rows[1].test.p)  # all the same: nothing varies


def test_sixty_runs(tmp_path):
    random = np.random.default_rng(0)
    runs = [
        made.make(tmp_path / f"{lr}-{s}", random.random(50) < 0.8, s, {"optim.lr": lr},
                  splits={"train": {}, "validation": made.split(50, "v")} | _train())
        for lr in np.linspace(0.01, 0.12, 12).tolist()
        for s in range(5)
    ]  # fmt: skip
    found = table.make(runs)
    assert [len(row.values) for row in found.rows] == [5] * 12
    means = [row.mean for row in found.rows]
    assert means == sorted(means, reverse=True)
    assert any("(comparisons: 11)" in note for note in found.notes)


def _train():
    return {"train": made.split(40, "t")}
