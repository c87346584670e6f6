"""Runs side by side: a process that dies costs the others nothing, and a stop reaches all of them."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
from together import forked

from recbole_tiger.errors import TrainingStopped
from recbole_tiger.leaderboard.run import side_by_side


@pytest.fixture(autouse=True)
def forks():
    with forked():
        yield


def work(task):
    """What a process does, by the name of its task."""
    print("said by", task.name)
    if task.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.name == "waits":
        signal.signal(signal.SIGTERM, stopped)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    (task.folder / "done").touch()
    while task.name == "meets" and not (task.other / "done").is_file():
        time.sleep(0.01)


def stopped(*_):
    raise TrainingStopped("stopped by SIGTERM; continue with …")


def tasks(folder, *names):
    return [SimpleNamespace(name=name, folder=folder / str(number)) for number, name in enumerate(names)]


def test_a_process_that_dies_is_alone(tmp_path):
    ended = side_by_side(tasks(tmp_path, "dies", "works", "works"), work, 2)
    found = {task.folder.name: (death, seconds) for task, death, seconds in ended}
    assert found["0"][0].startswith("its process was killed by signal 9; often the machine is out of memory")
    assert found["1"][0] is found["2"][0] is None and all(seconds > 0 for _, seconds in found.values())
    assert (tmp_path / "1" / "done").is_file() and (tmp_path / "2" / "done").is_file()
    assert (tmp_path / "1" / "output.txt").read_text() == "said by works\n"


def test_sigterm_reaches_all_and_starts_no_other(tmp_path):
    ended = []
    with pytest.raises(TrainingStopped, match="the same command resumes from there"):
        ended.extend(task.name for task, *_ in side_by_side(tasks(tmp_path, "works", "waits", "works"), work, 1))
    assert not (tmp_path / "2").exists() and not (tmp_path / "1" / "done").exists()
    assert "stopped by SIGTERM" in (tmp_path / "1" / "output.txt").read_text()


def test_as_many_as_asked_for_work_at_once(tmp_path):
    """Each of two waits for the other's file; one after another they would wait for ever."""
    first, second = tasks(tmp_path, "meets", "meets")
    first.other, second.other = second.folder, first.folder
    assert [death for _, death, _ in side_by_side([first, second], work, 2)] == [None, None]
