"""What main.py's command line accepts, and what it says of what it does not."""

import logging
import pathlib
import re
import sys

import jax
import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from imgclass import arguments
from imgclass.errors import UserError

CNN = "--config=configs/cnn.py"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parent.parent)


def parse(*words):
    argv = ["main.py", *words]
    sys.modules.pop("config_config", None)  # ml_collections loads every file as this module
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, lock_config=True, sys_argv=argv
    )
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_bool("debug", False, "", flag_values=values)
    flags.DEFINE_integer("num_processes", 0, "", flag_values=values)
    return arguments.parse(argv, values)


def refused(*words):
    """Returns the lines said about words that have to be refused with status 2."""
    with pytest.raises(UserError) as caught:
        parse(*words)
    assert caught.value.exit_status == 2
    return str(caught.value).splitlines()


def experiment(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_config_comes_resolved_with_its_name():
    config, name = parse(CNN, "--config.optim.lr=0.5", "--config.train.total_steps=7")
    assert name == "cnn"
    assert config.optim.lr == 0.5
    assert (config.train.total_steps, config.train.total_epochs) == (7, None)


def test_the_argument_after_the_colon_reaches_the_file():
    config, name = parse("--config=configs/cnn.py:cifar10")
    assert (config.data.name, name) == ("cifar10", "cnn")


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("--config.optim.lr=1", "lr", 1.0),  # a whole number for a float
        ("--config.optim.lr=1e3", "lr", 1000.0),
        ("--config.optim.nesterov=False", "nesterov", False),
        ("--noconfig.optim.eps_hat", "eps_hat", False),
        ("--config.optim.step_at=(0.1,0.2,0.9)", "step_at", (0.1, 0.2, 0.9)),
        ("--config.optim.no_decay=", "no_decay", ""),
    ],
)
def test_overrides_of_every_type(word, key, value):
    config, _ = parse(CNN, "--config.optim.schedule=step", word)
    assert config.optim[key] == value
    assert type(config.optim[key]) is type(value)


def test_the_command_line_beats_the_file_whatever_the_unit(tmp_path):
    file = experiment(
        tmp_path,
        "from imgclass import config\n"
        "def get_config():\n"
        "    c = config.defaults()\n"
        "    c.train.total_steps = 7\n"
        "    return c\n",
    )
    assert parse(f"--config={file}")[0].train.total_steps == 7
    config, _ = parse(f"--config={file}", "--config.train.total_epochs=10")
    assert (config.train.total_steps, config.train.total_epochs) == (None, 10.0)
    # The same where another mistake sends it through the diagnosis.
    assert refused(f"--config={file}", "--config.train.total_epochs=10", "--config.a=1") == [
        "a: no such key"
    ]


def test_no_config():
    example = "--config is missing; for example python main.py --config=configs/cnn.py"
    assert refused() == [example]
    assert refused("--config.optim.lr=3", "x") == [example, "'x': not a flag; flags start with --"]
    assert refused("--config=") == [example]


def test_config_without_a_value():
    assert "--config" in refused("--config")[0]


def test_an_override_before_the_config_is_refused_with_the_way_to_write_it():
    (line,) = refused("--config.optim.lr=0.5", CNN)
    assert line == "--config.optim.lr=0.5: has to stand after --config=configs/cnn.py"


def test_every_problem_is_said_at_once():
    assert refused(
        CNN,
        "--config.optim.lr=nan",
        "--config.train.bach_size=3",
        "--config.train.lr=3",
        "--config.train.batch_size=1e3",
        "--config.data.image_size=64",
        "--config.data.resize=crp",
        "--config.log.progress=maybe",
        "--config.train.total_steps=5",
        "--config.train.total_epochs=5",
        "--wrkdir=x",
        "--num_processes=two",
        "stray",
    ) == [
        "train.bach_size: no such key; did you mean 'train.batch_size'?",
        "train.lr: no such key; did you mean 'optim.lr'?",
        "train.batch_size=1e3: must be a whole number",
        "log.progress=maybe: must be True or False",
        "--wrkdir: no such flag; did you mean 'workdir'?",
        "--num_processes=two: invalid literal for int() with base 10: 'two'",
        "'stray': not a flag; flags start with --",
        "data.image_size=(64,): must be 2 values, each a whole number, 1 or more",
        "data.resize='crp': must be one of stretch, crop, pad; did you mean 'crop'?",
        "optim.lr=nan: must be a finite number above 0.0",
        "train.total_*: give exactly one of train.total_steps, train.total_examples, "
        "train.total_epochs, train.total_percent; given: train.total_steps, train.total_epochs",
    ]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--config.optim.lr=-1", "optim.lr=-1.0: must be a finite number above 0.0"),
        ("--config.optim.lr=inf", "optim.lr=inf: must be a finite number above 0.0"),
        ("--config.optim.lr=fast", "optim.lr=fast: must be a number"),
        ("--config.train.batch_size=0", "train.batch_size=0: must be a finite number, 1 or more"),
        ("--config.train.batch_size=2.5", "train.batch_size=2.5: must be a whole number"),
        ("--config.log.every_steps=0", "log.every_steps=0: must be a finite number above 0"),
        ("--config.train.learning_rate=3", "train.learning_rate: no such key; did you mean "
         "'optim.lr'?"),
        ("--config.data.epochs=3", "data.epochs: no such key; did you mean 'train.total_epochs'?"),
        ("--config.eval.epochs=3", "eval.epochs: no such key; did you mean 'eval.every_epochs'?"),
        ("--config.optim.learning_rate=3", "optim.learning_rate: no such key; did you mean "
         "'optim.lr'?"),
        ("--config.optim=3", "optim: no such key; did you mean 'optim.lr'?"),
        ("--config.data.std=0.5,x", "data.std=('0.5,x',): must be 0 or 1 or 3 values, each a "
         "finite number above 0.0"),
        ("--config.optim.nesterov=True", "optim.nesterov needs optim.name='sgd' or 'muon', and "
             "a momentum"),
        ("--config.model.stem=cifar", "model.stem='cifar' is unused with model.name='cnn'"),
        ("--config.model.name=resnet19", "model.name='resnet19': no such model; see `imgclass "
         "models`; did you mean 'resnet18'?"),
        ("--nosuch", "--nosuch: no such flag"),
        ("stray", "'stray': not a flag; flags start with --"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line(word, line):
    assert refused(CNN, word) == [line]


def test_the_model_can_be_changed_over_a_file_that_sets_the_cnns_keys():
    cifar = "--config=configs/cifar10_cnn.py"
    config, _ = parse(cifar, "--config.model.name=resnet18", "--config.model.stem=cifar")
    assert (config.model.name, config.model.filters) == ("resnet18", (32, 64, 128))
    assert refused(
        cifar, "--config.model.name=resnet18", "--config.model.dropout=0.5", "--config.a=1"
    ) == ["a: no such key", "model.dropout=0.5 is unused with model.name='resnet18'"]
    config, _ = parse(CNN, "--config.optim.name=sgd")
    assert config.optim.eps_hat


def test_flags_after_a_stray_word_are_still_flags():
    # absl stops at the first word that is none.
    assert refused("stray", CNN, "--config.optim.lr=3") == [
        "'stray': not a flag; flags start with --"
    ]


def test_values_may_stand_apart_and_after_one_dash():
    config, _ = parse("--config", "configs/cnn.py", "--config.optim.lr", "0.25")
    assert config.optim.lr == 0.25
    assert refused("-config", "configs/cnn.py", "-config.optim.lr", "x", "--config.seed=-1") == [
        "optim.lr=x: must be a number",
        "seed=-1: must be from 0 to 9223372036854775807",
    ]


def test_a_file_that_is_not_there_names_the_nearest():
    (line,) = refused("--config=configs/cn.py")
    assert line == "--config=configs/cn.py: no such file; did you mean 'configs/cnn.py'?"
    assert refused("--config=/elsewhere/other.py", "--config.optim.lr=1", "stray") == [
        "--config=/elsewhere/other.py: no such file",
        "'stray': not a flag; flags start with --",
    ]


START = "from imgclass import config\n\ndef get_config(arg=None):\n    c = config.defaults()\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere_to_be"),
        ("x = 1\n", "has no attribute 'get_config'"),
        (START + "    raise ValueError('not today')\n", ", line 5: ValueError: not today"),
        (
            "from imgclass.errors import UsageError as E\n"
            + START
            + "    raise E('not like this')\n",
            ", line 6: not like this",
        ),
        (START + "    c.optim.lrr = 1\n", ", line 5: no such key 'lrr'; did you mean 'optim.lr'?"),
        (START + "    c.optim.lr = 'x'\n", ", line 5: TypeError: Could not override field 'lr'"),
        (START + "    return {'a': 1}\n", "get_config() has to return imgclass.config.defaults()"),
        (START, "get_config() has to return imgclass.config.defaults()"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_broken_file_is_one_line_that_names_it(tmp_path, monkeypatch, text, words, relative):
    file = experiment(tmp_path, text)
    if relative:
        monkeypatch.chdir(tmp_path)
        file = file.name
    (line,) = refused(f"--config={file}")
    assert line.startswith(str(file))
    assert words in line


def test_an_argument_the_file_does_not_know(tmp_path):
    file = experiment(
        tmp_path, START + "    if arg:\n        raise ValueError(f'unknown argument {arg!r}')\n"
    )
    (line,) = refused(f"--config={file}:fast")
    assert "ValueError: unknown argument 'fast'" in line


def test_a_bad_value_in_the_file_is_a_problem_as_on_the_command_line(tmp_path):
    file = experiment(tmp_path, START + "    c.optim.lr = -1.0\n    return c\n")
    assert refused(f"--config={file}") == ["optim.lr=-1.0: must be a finite number above 0.0"]
    assert refused(f"--config={file}", "--config.seed=-1") == [
        "seed=-1: must be from 0 to 9223372036854775807",
        "optim.lr=-1.0: must be a finite number above 0.0",
    ]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1", bool, True),
        ("false", bool, False),
        ("1e-3", float, 0.001),
        ("-4", int, -4),
        ("(1,2)", tuple, (1, 2)),
        ("[1, 2]", tuple, (1, 2)),
        ("1,2", tuple, (1, 2)),
        ("5", tuple, (5,)),
        ("a=b", str, "a=b"),
    ],
)
def test_parse_value(text, kind, value):
    assert arguments.parse_value(text, kind) == value


def test_guarded_prints_and_exits_with_the_errors_status(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py"])

    def fail():
        raise UserError("the disk is full")

    with pytest.raises(SystemExit) as caught:
        arguments._guarded(fail)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "the disk is full\n"
    monkeypatch.setattr("sys.argv", ["main.py", "--debug"])
    with pytest.raises(UserError, match="the disk is full"):
        arguments._guarded(fail)


def test_parsing_leaves_logging_alone():
    before = list(logging.getLogger().handlers)
    config, _ = parse(CNN)
    assert isinstance(config, ml_collections.ConfigDict)
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("Unable to allocate 9 TiB"), 1),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 1),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 1),
    ],
)
def test_running_out_of_memory_is_one_line(error, expected, capsys):
    def train(*_):
        raise error

    with pytest.raises(SystemExit) as stopped:
        arguments._guarded(train, None, "")
    assert stopped.value.code == expected
    assert re.fullmatch(r"out of memory: .*data\.feed=stream.*\n", capsys.readouterr().err)


def test_a_tuple_given_twice_is_not_joined():
    words = ("--config.model.filters=(8,)", "--config.model.filters=(4,)")
    assert refused(CNN, *words) == ["model.filters: given twice; give it once"]
