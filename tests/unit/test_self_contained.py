"""The script for bare machines stops a run in time, tells that it did, and refuses what would lose or mix up runs."""

import sys

import pytest


@pytest.fixture(scope="module")
def script(benchmark_script):
    return benchmark_script("self_contained")


POLITE = (
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nprint('up')\ntime.sleep(60)"
)


def test_a_run_is_stopped_in_time_or_ends_by_itself(script, tmp_path):
    log = tmp_path / "log.txt"
    assert script.run_for([sys.executable, "-u", "-c", POLITE], 2, log, {}) == (143, True)
    assert script.run_for([sys.executable, "-c", "print('done')"], 60, log, {}) == (0, False)
    assert script.run_for([sys.executable, "-c", "raise SystemExit(5)"], 60, log, {}) == (5, False)
    assert log.read_text() == "up\ndone\n"


def test_a_run_that_does_not_stop_is_killed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "GRACE", 0.5)
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)"
    assert script.run_for([sys.executable, "-u", "-c", deaf], 2, tmp_path / "log.txt", {}) == (-9, True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output=new"], "after --"),
        (["--output=new", "--", "--model=Pop", "--leaderboard_dir=x"], "leave it out"),
        (["--output=old", "--", "--model=Pop"], "holds a run"),
        (["--output=new", "--state=empty", "--", "--model=Pop"], "holds no run"),
    ],
)
def test_mistakes_are_named(script, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old" / "board").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(script.NEEDED, "no_such_module", "no-such-package")
    with pytest.raises(SystemExit):
        script.main([f"--output={tmp_path / 'new'}", "--", "--model=Pop"])
    assert "missing packages: no-such-package;" in capsys.readouterr().err
    (tmp_path / "wheels").mkdir()
    with pytest.raises(SystemExit, match="holds no .whl"):
        script.main([f"--output={tmp_path / 'newer'}", f"--wheels={tmp_path / 'wheels'}", "--", "--model=Pop"])


def test_what_came_back_can_be_written_again(script, tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    file = folder / "run.json"
    file.write_text("{}")
    file.chmod(0o444)
    folder.chmod(0o555)
    script.make_writable(folder)
    assert file.stat().st_mode & 0o200 and folder.stat().st_mode & 0o200
