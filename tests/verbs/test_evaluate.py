"""`imgclass evaluate`: what it prints, what it writes, and what it refuses."""

import json
import shutil
import tempfile

import pytest

from imgclass import cli, looks, run, train
from imgclass.verbs import evaluate
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(tiny.config(tiny.archive(root)), root / "run")
    return root / "run"


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def said(capsys):
    """Runs the verb; returns (status, JSON or lines, standard error)."""

    def run(folder, *words):
        status = cli.main(["evaluate", str(folder), *words])
        out, error = capsys.readouterr()
        lines = out.splitlines()
        return status, json.loads(lines[-1]) if "--json" in words else lines, error

    return run


def test_the_figures_are_those_that_training_wrote(folder, said):
    status, found, _ = said(folder, "--json")
    assert status == 0
    about = {"run": str(folder), "step": 6, "split": "validation", "tta": "none", "examples": 13}
    assert about.items() <= found.items()
    final = json.loads((folder / "result.json").read_text())["final"]
    for name in ("loss", "accuracy", "balanced_accuracy"):
        assert found[name] == pytest.approx(final[name], rel=1e-5)
        assert name == "loss" or found["intervals"][name][0] <= found[name]
    low, high = found["intervals"]["accuracy"]
    assert low <= found["accuracy"] <= high
    assert not (folder / "robustness.json").exists()


def test_lines_have_the_interval(folder, said):
    _, lines, _ = said(folder)
    assert lines[0] == f"{folder}, step 6, validation, 13 pictures"
    [accuracy] = [line for line in lines if line.startswith("  accuracy")]
    assert "  (95%: " in accuracy


def test_a_look_at_test_is_recorded(folder, said):
    before = looks.count(folder)  # training's own, if it looked
    said(folder)
    assert looks.count(folder) == before
    said(folder, "--split=test")
    assert looks.count(folder) == before + 1


@pytest.mark.parametrize("tta", ["flip", "flip_shift", "five_crop", "five-crop", "ten-crop"])
def test_tta_by_either_spelling(folder, said, tta):
    status, found, _ = said(folder, f"--tta={tta}", "--json")
    assert status == 0
    assert found["tta"] == tta.replace("-", "_")


def test_robustness_writes_what_it_says(folder, said):
    words = ("--robustness", "--corruptions=fog,jpeg-compression", "--epsilons=2/255", "--json")
    status, found, _ = said(folder, *words, "--examples=5")
    assert status == 0
    stored = json.loads((folder / "robustness.json").read_text())
    assert stored == {name: found[name] for name in ("corruptions", "attacks")}
    assert stored["corruptions"]["examples"] == 5
    assert list(stored["corruptions"]["by_corruption"]) == ["fog", "jpeg_compression"]
    assert [row["attack"] for row in stored["attacks"]["by_attack"]] == ["fgsm", "pgd"]
    assert stored["attacks"]["by_attack"][0]["epsilon"] == 2 / 255


def test_sections_that_are_not_asked_for_stay(folder, said):
    said(folder, "--robustness", "--corruptions=fog", "--epsilons=none")
    said(folder, "--robustness", "--corruptions=none", "--epsilons=0.1")
    stored = json.loads((folder / "robustness.json").read_text())
    assert stored.keys() == {"corruptions", "attacks"}


def test_against_beside_the_first(folder, said, tmp_path):
    root = tiny.folder(tmp_path / "other", "train", 12)
    for label in "012":
        (root / "train" / f"class{label}").rename(root / label)
    (root / "train").rmdir()
    status, lines, _ = said(folder, "--against", str(root))
    assert status == 0
    at = lines.index(f"{root}, 12 pictures")
    assert lines[at + 1].startswith("  accuracy ")
    assert lines[at + 2].startswith("  difference ")
    stored = json.loads((folder / "robustness.json").read_text())["shift"]
    assert stored["second"]["examples"] == 12
    assert stored["examples"] == 13


@pytest.mark.parametrize("words", [(), ("--robustness",)])
def test_a_second_source_is_refused_before_test_is_scored(folder, said, words):
    before = looks.count(folder)
    status, lines, error = said(folder, "--split=test", "--against=/nosuch", *words)
    assert (status, lines) == (2, [])
    assert error.startswith("--against: no such file or folder")
    assert looks.count(folder) == before


def test_a_folder_that_cannot_be_written_is_found_out_before_the_work(folder, said, monkeypatch):
    def refused(**options):
        raise OSError(30, "Read-only file system", str(options["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    before = looks.count(folder)
    status, lines, error = said(folder, "--robustness", "--split=test")
    assert (status, lines) == (1, [])
    assert error == (
        f"{folder / 'robustness.json'}: cannot be written (Read-only file system); evaluate a "
        "copy of the run folder\n"
    )
    assert looks.count(folder) == before
    assert said(folder)[0] == 0  # which writes nothing


@pytest.mark.parametrize("text", ["[1]", '"abc"'])
def test_a_damaged_record_is_found_out_before_test_is_scored(folder, said, text):
    (folder / "robustness.json").write_text(text)
    before = looks.count(folder)
    status, lines, error = said(folder, "--robustness", "--split=test")
    assert (status, lines) == (1, [])
    assert error == f"{folder / 'robustness.json'} is not what evaluate writes; move it away\n"
    assert looks.count(folder) == before


def test_what_another_command_writes_meanwhile_stays(folder, said, monkeypatch):
    def work(*_):
        run.write_json(folder / "robustness.json", {"shift": {"theirs": 1}})
        return {"attacks": {"examples": 0, "accuracy": 0.0, "by_attack": []}}

    monkeypatch.setattr(evaluate, "_robustness", work)
    assert said(folder, "--robustness")[0] == 0
    stored = json.loads((folder / "robustness.json").read_text())
    assert stored["shift"] == {"theirs": 1}
    assert stored["attacks"]["examples"] == 0


def test_the_positive_class_is_named(said, tmp_path, capsys):
    data = tiny.folder(tmp_path / "two", "train", 30)
    for other in (data / "train").glob("class2/*"):
        other.unlink()
    (data / "train" / "class2").rmdir()
    changes = {"data.name": str(data), "data.validation_split": "auto", "data.test_split": ""}
    train.train_and_evaluate(tiny.config(data, changes), tmp_path / "run")
    capsys.readouterr()
    _, found, _ = said(tmp_path / "run", "--json")
    assert found["positive"] == "class1"
    _, lines, _ = said(tmp_path / "run")
    assert lines[-1] == "  the positive class is class1, the second of the two"


def test_the_mean_error_says_of_how_many():
    row = {"accuracy": [0.5] * 5, "error": 0.5, "extra": False}
    about = {"examples": 9, "constants": "cifar", "images_per_second": 1.0}
    about |= {"mean_error": 0.5, "mean_error_interval": [0.4, 0.6], "relative_error": 0.1}
    for count, words in ((2, "mean error of 2 0.5000"), (15, "mean error 0.5000")):
        rows = {str(i): row for i in range(count)} | {"spatter": row | {"extra": True}}
        lines = list(evaluate._lines({"corruptions": about | {"by_corruption": rows}}))
        assert f"  {words} (95%: 0.4000 to 0.6000)" in lines


def test_tables_for_people(folder, said):
    _, lines, _ = said(folder, "--robustness", "--corruptions=fog,spatter", "--examples=4")
    [fog] = [line for line in lines if line.startswith("  fog")]
    [spatter] = [line for line in lines if line.startswith("  spatter")]
    assert len(fog.split()) == 7
    assert spatter.endswith("(extra)")
    assert any(line.startswith("  pgd of 8/255, 10 steps") for line in lines)
    assert lines[-1] == f"written to {folder / 'robustness.json'}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--robustness", "--tta=flip"], "--robustness is of single views"),
        (["--robustness", "--corruptions=mist"], "--corruptions: no 'mist'; there are gaussian_"),
        (["--corruptions=fog"], "--corruptions: of no use here without --robustness"),
        (["--examples=3"], "--examples: of no use here without --robustness"),
        (["--epsilons=0.1"], "--epsilons: of no use here without --robustness"),
    ],
)
def test_wrong_words(folder, said, words, message):
    status, lines, error = said(folder, *words)
    assert (status, lines) == (2, [])
    assert error.startswith(message)


@pytest.mark.parametrize("text", ["2", "0", "-1/255", "x", "1/0", ""])
def test_wrong_bounds(folder, said, capsys, text):
    with pytest.raises(SystemExit) as caught:
        said(folder, "--robustness", f"--epsilons={text}")
    assert caught.value.code == 2
    assert "is not a number above 0, 1 at most" in capsys.readouterr().err
