"""`imgclass ensemble`, from its words to its figures."""

import json
import shutil

import pytest

from imgclass import looks, train
from imgclass.evaluate import outcomes, restore
from tests import tiny
from tests.tiny import ask


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of other seeds and steps 3 and 6."""
    root = tmp_path_factory.mktemp("runs")
    path = tiny.archive(root)
    for seed in (0, 1):
        config = tiny.config(path, {"seed": seed, "checkpoint.every_steps": 3})
        train.train_and_evaluate(config, root / f"seed{seed}")
    return root


def test_members_ensemble_and_soup_are_scored(capsys, runs):
    one, two = runs / "seed0", runs / "seed1"
    status, out, err = ask(capsys, "ensemble", one, f"{two}@3", "--split=test", "--soup", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out.splitlines()[-1])
    assert (found["split"], found["tta"], found["examples"]) == ("test", "none", 11)
    assert [(e["name"], e["run"], e["step"]) for e in found["members"]] == [
        (str(one), str(one), 6), (f"{two}@3", str(two), 3),
    ]  # fmt: skip
    # From each member's outcomes, worked out again.
    members = [restore.restore(one), restore.restore(two, "3")]
    data = outcomes.open_data(members[0])
    said = [outcomes.of_split(member, data, "test").probabilities for member in members]
    labels = [i % tiny.CLASSES for i in range(11)]
    rights = [(p.argmax(axis=1) == labels).mean() for p in [*said, (said[0] + said[1]) / 2]]
    scored = [*found["members"], found["ensemble"]]
    values = [entry["figures"]["accuracy"]["value"] for entry in scored]
    assert values == pytest.approx(rights, rel=1e-9)
    gains = [entry["gain"]["value"] for entry in found["members"]]
    assert gains == pytest.approx([rights[2] - rights[0], rights[2] - rights[1]], abs=1e-9)
    for entry in (*scored, found["soup"]):
        figure = entry["figures"]["accuracy"]
        assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
        assert entry["nll"] > 0
        assert 0 <= entry["ece"] <= 1
    # The verb and this test looked, at both runs, and at the soup, whose folder is the first's.
    assert [looks.count(run) for run in (one, two)] == [3, 2]
    last = json.loads((one / "test_looks.jsonl").read_text().splitlines()[0])
    assert (last["verb"], last["step"]) == ("ensemble", 6)


def test_a_member_counted_twice_changes_nothing(capsys, runs):
    one = runs / "seed0"
    status, out, _ = ask(capsys, "ensemble", one, one, "--soup", "--tta=flip")
    assert status == 0
    head, first, second, ensemble, soup, *_ = out.splitlines()
    assert head == "2 models, validation (flip), 13 pictures"
    figures = {line.split("accuracy")[1] for line in (first, second, ensemble, soup)}
    assert len(figures) == 1
    assert [line.split()[0] for line in (ensemble, soup)] == ["ensemble", "soup"]
    assert "+0.0000 [+0.0000, +0.0000]" in out


def test_a_folder_may_have_an_at_in_its_name(capsys, runs, tmp_path):
    copy = shutil.copytree(runs / "seed0", tmp_path / "run@6")
    status, out, _ = ask(capsys, "ensemble", copy, f"{copy}@3", "--json")
    assert status == 0
    assert [e["step"] for e in json.loads(out)["members"]] == [6, 3]


def test_refusals_are_a_line(capsys, runs, tmp_path):
    one = runs / "seed0"
    status, _, err = ask(capsys, "ensemble", one)
    assert (status, err) == (2, f"{one}: one run is no ensemble; give two or more\n")
    status, _, err = ask(capsys, "ensemble", one, tmp_path)
    assert status == 1
    assert "is not a run folder" in err
    status, _, err = ask(capsys, "ensemble", one, f"{one}@5")
    assert status == 2
    assert "no checkpoint '5'" in err
    copy = shutil.copytree(one, tmp_path / "other")
    stored = json.loads((copy / "data.json").read_text())
    del stored["digest"]  # a run of an older version, on other pictures
    stored["splits"]["test"]["fingerprint"] = "another"
    (copy / "data.json").write_text(json.dumps(stored))
    before = looks.count(one)
    status, out, err = ask(capsys, "ensemble", one, copy, "--split=test")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "(test differ)" in err
    assert looks.count(one) == before
