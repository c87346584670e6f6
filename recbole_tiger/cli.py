"""The one command line: ``[command] --key=value …`` with any key of RecBole or of this package.

Input: arguments. Output: a report on the screen and an exit status: 0 done, 1 failed, 2 a setting or a file that cannot
work, 130 and 143 stopped by Ctrl-C and SIGTERM. Nothing ends in a trace: see `_guarded`.
"""

from __future__ import annotations

import contextlib
import importlib
import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from time import strftime
from types import ModuleType
from typing import Any, NoReturn

from recbole_tiger.commands.options import COMMANDS, TRAIN, help_text, key_value_arguments
from recbole_tiger.errors import ConfigError, TrainingStopped, doing, is_explained, message_of, names_like
from recbole_tiger.models import ENTRY_POINTS
from recbole_tiger.signals import on_sigterm


def program_name() -> str:
    """How the user called this program, for help and messages."""
    called = Path(sys.argv[0]).name
    if called == "__main__.py":
        return "python -m recbole_tiger"
    return f"python {called}" if called.endswith(".py") else called or "recbole-tiger"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    named = arguments and not arguments[0].startswith("-") and "=" not in arguments[0]
    name = arguments.pop(0) if named else None
    if name is not None and name not in COMMANDS:
        close = names_like(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}."
        return _failed(2, f"'{name}' is not a command: {hint} A setting is written --key=value")
    if name is None and arguments == ["--version"]:
        print(f"recbole-tiger {_version()}")
        return 0
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"]
    return _guarded(lambda: _run(name, words), " ".join(filter(None, ["the command", name or "", *words])), debug)


def command_module(name: str | None) -> ModuleType:
    """The module of a command; None is training."""
    return importlib.import_module(f"recbole_tiger.commands.{(TRAIN if name is None else COMMANDS[name]).module}")


def _run(name: str | None, words: list[str]) -> int:
    words, own_help = _load_plugins(words)
    if name is None or COMMANDS[name].reads_words is None:
        if any(word in ("-h", "--help") for word in words):
            print(help_text(program_name(), name) + own_help, end="")
            return 0
    from recbole_tiger.settings.parse import parse_command_line  # help needs none of it

    function = None if name is None else COMMANDS[name].reads_words
    if function is not None:
        return int(getattr(command_module(name), function)(words) or 0)
    settings = parse_command_line(key_value_arguments(words, COMMANDS[name].flags if name else ()))
    if name is not None:
        _check_options(settings, name)
    outcome = command_module(name).run(settings)
    text, status = outcome if isinstance(outcome, tuple) else (outcome, 0)
    print(text)
    return int(status)


def _check_options(settings: Mapping[str, Any], name: str) -> None:
    """Raise for a key that is almost an option of the command, and no setting of the model."""
    options = [key for key, _, _ in COMMANDS[name].options]
    for key, value in settings.items():
        close = [] if key in options else names_like(key, options, n=1, cutoff=0.75)
        if not close:
            continue
        from recbole_tiger.settings.validate import known_keys, recbole_models  # imports RecBole

        model = settings.get("model", "TIGER")
        if model in recbole_models() and key not in known_keys(model):
            raise ConfigError(f"unknown key '{key}' (value {value!r}) for {name}; did you mean {close[0]}?")


def _load_plugins(words: Sequence[str]) -> tuple[list[str], str]:
    """Load what ``--plugin`` names, before any other word is read; the other words, and the help of what was added."""
    rest: list[str] = []
    plugins: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--plugin" and (name := next(left, None)):
            plugins.append(name)
        elif word.startswith("--plugin="):
            plugins.append(word.partition("=")[2])
        else:
            rest.append(word)
    if not plugins and not any(entry_points(group=f"recbole_tiger.{group}") for group in ENTRY_POINTS):
        return rest, ""
    from recbole_tiger import extension  # imports torch

    extension.load(plugins and ",".join(plugins))
    return rest, extension.help_text()


def _guarded(work: Callable[[], int], what: str, debug: bool) -> int:
    """The exit status of some work; whatever goes wrong is said in one sentence, `debug` shows the trace as well.

    An error without a sentence of ours gets one: what was being done (`what` where nothing closer is known), the
    library's own words, and where the trace was written.
    """
    try:
        with on_sigterm(_terminated), doing(what):
            return work()
    except TrainingStopped as stopped:
        print(str(stopped), file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:  # the last line of defence: what a library raises ends in a sentence too
        words, explained = message_of(error), is_explained(error)
        if debug:
            traceback.print_exc()
        elif not explained:
            words += f" ({_written_trace()}; --debug shows it)"
        return _failed(2 if isinstance(error, OSError) or (explained and isinstance(error, ValueError)) else 1, words)


def _terminated() -> NoReturn:
    """What SIGTERM does where nothing else is arranged: leave no temporary file and no lock behind."""
    print("stopped by SIGTERM", file=sys.stderr)
    raise SystemExit(128 + signal.SIGTERM)  # which no `except Exception` takes for a failure


def _failed(status: int, words: str) -> int:
    print(f"error: {words}", file=sys.stderr)
    return status


def _written_trace() -> str:
    """Write the trace of the current error to a file, here or among temporary files; says where it is."""
    name = f"error-{strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}.txt"
    for folder in (Path("log"), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(traceback.format_exc(), encoding="utf-8")
            return f"the full trace is in {folder / name}"
    return "the full trace could not be written"


def _version() -> str:
    try:
        return version("recbole-tiger")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
