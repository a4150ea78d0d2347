"""Imports flow one way, and a few other things that only the source can show."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "imgclass"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up. A module imports from rooms below its own, and within its own room.
LAYERS = [
    {"__init__", "process", "errors", "schema", "keys", "presets", "watchdog"},
    {"combinations", "files"},
    {"config"},
    {"plan", "signals", "peers"},
    {"watch"},
    {"data", "models"},
    {"explain"},
    {"losses", "metrics", "state", "teacher"},
    {"optim"},
    {"objective"},
    {"step", "parallel"},
    {"checkpoint"},
    {"run", "looks"},
    {"build"},
    {"feeds", "histograms"},
    {"curves", "seen", "tracking"},
    {"writers"},
    {"runlog", "trainer", "evaluate"},
    {"report"},
    {"pretrained", "progress"},
    {"scoring"},
    {"train"},
    {"arguments", "lr_range", "imported"},
    {"compare"},
    {"sweep"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Returns the full names of all modules that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            inside = node.module in ("imgclass", "imgclass.data", "imgclass.models",
                                     "imgclass.evaluate")  # fmt: skip
            names |= {f"{node.module}.{a.name}" for a in node.names} if inside else {node.module}
    return names


def rooms_imported(path):
    names = {n.split(".")[1] for n in imported(path) if n.startswith("imgclass.")}
    return {"__init__" if name == "__version__" else name for name in names}


def test_every_module_has_a_layer():
    assert {room_of(path) for path in FILES} == LEVEL.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_flow_one_way(path):
    room = room_of(path)
    for other in rooms_imported(path) - {room}:
        assert LEVEL[other] < LEVEL[room], f"{room} imports {other}"


def test_data_knows_no_model_and_models_know_no_data_and_no_optimizer():
    for path in FILES:
        if room_of(path) == "data":
            known = {"data", "errors", "files", "keys", "config", "schema"}
            assert rooms_imported(path) <= known, path
        if room_of(path) == "models":
            known = {"models", "errors", "files", "keys", "config", "process"}
            assert rooms_imported(path) <= known, path
            assert not {n for n in imported(path) if n.split(".")[0] == "optax"}, path


def test_only_models_know_linen():
    for path in FILES:
        if room_of(path) != "models":
            assert not {n for n in imported(path) if n.startswith("flax.linen")}, path


def calls(path):
    """Returns what a file calls by attribute, as ['saved.save', ...]."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        ast.unparse(node.func)
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def test_only_train_saves_checkpoints():
    # Rooms from `checkpoint` up; those below cannot know it. The one in `checkpoint` is Orbax's.
    above = [path for path in FILES if LEVEL[room_of(path)] >= LEVEL["checkpoint"]]
    saves = {
        (path.relative_to(PACKAGE).as_posix(), call)
        for path in above
        for call in calls(path)
        if call.endswith(".save")
    }
    pictures = {"curves.py", "evaluate/corruptions/digital.py", "report/pictures.py"}
    saves = {(path, call) for path, call in saves if path not in pictures | {"verbs/data.py"}}
    saves -= {("imported.py", "saved.save")}  # of weights that nothing trains
    assert saves == {("checkpoint.py", "self._saver.save"), ("train.py", "saved.save")}
    assert calls(PACKAGE / "train.py").count("saved.save") == 1


def test_evaluating_and_explaining_change_no_run():
    """`outcomes.write`, which keeps a run's predictions beside it, is the one that writes."""
    writers = {"write_json", "write_atomically", "write_text", "rmtree", "unlink", "rename"}
    for path in FILES:
        inside = room_of(path) in ("evaluate", "explain", "compare", "watch")
        if inside and path.name != "outcomes.py":
            assert not writers & {call.rpartition(".")[2] for call in calls(path)}, path


def test_tensorflow_is_not_imported():
    for path in FILES:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"tensorflow", "torch", "keras"}, path


def test_only_checkpoint_knows_orbax():
    users = {room_of(path) for path in FILES if any("orbax" in name for name in imported(path))}
    assert users == {"checkpoint"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_says_what_it_is_for_and_is_one_room(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    assert not text or ast.get_docstring(ast.parse(text))


def test_main_is_short():
    assert len((PACKAGE.parent / "main.py").read_text().splitlines()) < 60
