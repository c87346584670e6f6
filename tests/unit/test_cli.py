"""The command line before any work: forms of arguments, help, exit status, the last line of defence."""

import re
import signal
import sys
import types

import pytest

from recbole_tiger import cli
from recbole_tiger.commands.options import COMMANDS, TRAIN, help_text, key_value_arguments
from recbole_tiger.errors import ConfigError, ProcessLost, TrainingStopped
from recbole_tiger.io import atomic_file
from recbole_tiger.quantization.registry import QUANTIZERS


def test_almost_an_option_of_a_command_is_named(capsys):
    assert cli.main(["ids", "--output=x"]) == 2
    assert capsys.readouterr().err == "error: unknown key 'output' (value 'x') for ids; did you mean output_dir?\n"


def test_help_names_every_tokenizer():
    words = re.split(r"\W+", help_text("recbole-tiger", "ids"))
    assert set(QUANTIZERS) <= set(words)


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--a=1", "--b", "2"], ["--a=1", "--b=2"]),
        (["-m", "TIGER", "-d=ml-100k"], ["--model=TIGER", "--dataset=ml-100k"]),
        (["--threshold", "-1.5"], ["--threshold=-1.5"]),
        (["--history", "a, b", "--k="], ["--history=a, b", "--k="]),
        (["--x=a=b"], ["--x=a=b"]),
    ],
)
def test_arguments_become_one_form(words, joined):
    assert key_value_arguments(words) == joined


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=TIGER"], "'model=TIGER'"),
        (["--"], "'--'"),
        (["--=3"], "'--=3'"),
        (["-x", "3"], "'-x'"),
        (["--model"], "--model has no value: write --model=VALUE"),
        (["--model", "--dataset=a"], "--model has no value"),
        (["TIGER", "--a=1"], "'TIGER'"),
    ],
)
def test_other_forms_are_refused_by_name(words, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        key_value_arguments(words)


@pytest.mark.parametrize("name", [None, *(name for name, command in COMMANDS.items() if not command.reads_words)])
def test_help_lists_every_option(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run_recbole_tiger.py"])
    assert cli.main([*([name] if name else []), "--help"]) == 0
    shown = capsys.readouterr().out
    command = COMMANDS[name] if name else TRAIN
    assert all(f"--{key} {value}" in shown for key, value, _ in command.options) and len(command.options) >= 2
    assert "usage: python run_recbole_tiger.py" in shown
    assert name is not None or all(re.search(rf"^  {other} +\S", shown, re.M) for other in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_its_function(name):
    assert callable(getattr(cli.command_module(name), COMMANDS[name].reads_words or "run"))


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/bin/recbole-tiger", "recbole-tiger"),
        ("x/run_recbole_tiger.py", "python run_recbole_tiger.py"),
        ("y/recbole_tiger/__main__.py", "python -m recbole_tiger"),
    ],
)
def test_help_names_the_program_as_it_was_called(called, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert cli.program_name() == name and help_text(name, "ids").startswith(f"usage: {name} ids ")


def test_an_unknown_command_gets_a_suggestion(capsys):
    assert cli.main(["recomend"]) == 2
    assert "did you mean recommend?" in capsys.readouterr().err


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert re.match(r"recbole-tiger \S+\n$", capsys.readouterr().out)


def command_that(error):
    def run(settings):
        raise error

    return lambda name: types.SimpleNamespace(run=run)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigError("beam_size=3 is small"), 2, "error: beam_size=3 is small"),
        (FileNotFoundError("no such file: a"), 2, "no such file: a"),
        (ProcessLost("gone"), 1, "error: gone"),
        (TrainingStopped("continue with --resume=x"), 143, "continue with --resume=x"),
        (KeyboardInterrupt(), 130, "stopped"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 1, "RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_whatever_goes_wrong_is_one_sentence(error, status, says, capsys, monkeypatch, workplace):
    monkeypatch.setattr(cli, "command_module", command_that(error))
    assert cli.main(["report"]) == status
    shown = capsys.readouterr().err
    assert says in shown and "Traceback" not in shown and shown.count("\n") == 1


def test_the_trace_of_an_unforeseen_error_is_kept_and_debug_shows_it(capsys, monkeypatch, workplace):
    monkeypatch.setattr(cli, "command_module", command_that(RuntimeError("odd")))
    assert cli.main(["report"]) == 1
    file = re.search(r"the full trace is in (\S+);", capsys.readouterr().err).group(1)
    assert "RuntimeError: odd" in (workplace / file).read_text() and "Traceback" in (workplace / file).read_text()
    assert cli.main(["report", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_leaves_no_temporary_file(capsys, monkeypatch, workplace):
    """Wherever it comes: here within the write of a file, in code that goes on after any failure."""

    def run(settings):
        try:
            with atomic_file("cache.npz") as file:
                file.write(b"half")
                signal.raise_signal(signal.SIGTERM)
        except Exception:
            return "it went on"

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "command_module", lambda name: types.SimpleNamespace(run=run))
    with pytest.raises(SystemExit, match="143"):
        cli.main(["report"])
    assert capsys.readouterr().err == "stopped by SIGTERM\n" and not list(workplace.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_key_in_another_case_is_recognised(capsys):
    for words, says in (
        (["--EPOCHS=3"], "did you mean epochs"),
        (["--TopK=3"], "did you mean topk"),
        (["--model=tiger"], "did you mean TIGER"),
        (["Latency"], "did you mean latency?"),
        (["latency", "--Beams=3"], "did you mean beams?"),
    ):
        assert cli.main(words) == 2
        assert says in capsys.readouterr().err


def test_a_command_may_return_its_status(capsys, monkeypatch):
    monkeypatch.setattr(cli, "command_module", lambda name: types.SimpleNamespace(run=lambda settings: ("table", 1)))
    assert cli.main(["report"]) == 1 and capsys.readouterr().out == "table\n"
