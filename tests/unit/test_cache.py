"""The cache helper: keys, one computation for many processes, damage, files that are whole or not there."""

import enum
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_tiger import cache, io
from recbole_tiger.cache import (
    ArrayCache,
    content_key,
)
from recbole_tiger.errors import CacheFolderError, DamagedCacheError
from recbole_tiger.io import atomic_file, atomic_torch_save, atomic_write_bytes, atomic_write_text

KEY = content_key("test")

# What another process runs: an empty package instead of recbole_tiger, whose own start brings torch and RecBole.
LOAD = f"""
import os, pathlib, sys, time, types
import numpy as np
sys.modules["recbole_tiger"] = types.ModuleType("recbole_tiger")
sys.modules["recbole_tiger"].__path__ = [{str(Path(cache.__file__).parent)!r}]
from recbole_tiger import cache
"""
VALUES = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "ids": np.array(["a", "ütf", ""]),
    "empty": np.zeros((0, 5), dtype=np.int64),
    "scalar": np.array(2.5),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "settings": {"size": [4, 16], "name": "x", "none": None, "rate": 0.1},
}


def assert_same(got, wanted=VALUES):
    assert sorted(got) == sorted(wanted)
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert got[name].dtype == value.dtype
            assert np.array_equal(got[name], value) and got[name].shape == value.shape
        else:
            assert got[name] == value


# ------------------------------------------------------------------------------------------------------- keys


def test_key_is_the_same_in_another_process_and_under_another_hash_seed():
    code = LOAD + (
        "print(cache.content_key('a', 1, 2.5, None, True, b'x', ['p', 'q'], {'k': [1, {'z': 'y'}]}, "
        "np.arange(6, dtype='i8').reshape(2, 3), np.array(['one', 'three'])))"
    )
    keys = set()
    for seed in ("1", "2"):
        process = start(code, env={**os.environ, "PYTHONHASHSEED": seed})
        keys.add(process.communicate()[0].strip())
    # Written down once: a change of this value makes every user's cache useless, so it needs a reason.
    assert keys == {"d0d169e8cd024c35eae938b2e18759e9"}


def test_keys_differ_wherever_the_values_do():
    a = np.arange(6, dtype=np.int64)
    different = [
        (),
        ("",),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (["a", "bc"],),
        (["ab", "c"],),
        ([["a"], "bc"],),
        (1,),
        (1.0,),
        (True,),
        ("1",),
        (b"1",),
        (None,),
        ({},),
        ([],),
        ({"a": 1, "b": 2},),
        ({"a": 2, "b": 1},),
        (a,),
        (a.reshape(2, 3),),
        (a.reshape(3, 2),),
        (a.astype(np.int32),),
        (a.astype(float),),
        (a[::-1],),
        (np.array(["1", "2"]),),
        (np.array([["1", "2"]]),),
    ]
    keys = [content_key(*parts) for parts in different]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)


def test_keys_agree_wherever_the_values_do():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert content_key(a) == content_key(np.asfortranarray(a)) == content_key(a.astype(">f4"))
    assert content_key(a) == content_key(np.repeat(a, 2, axis=1)[:, ::2])
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": (2,), "a": np.int64(1)})
    assert content_key(np.array(["x", "y"], dtype="U40")) == content_key(np.array(["x", "y"], dtype=object))
    assert content_key(np.str_("x"), np.float64(0.5)) == content_key("x", 0.5)


def test_key_of_a_path_is_that_of_its_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "f.txt").write_text("text")
        (tmp_path / name / "sub" / "g.txt").write_text("more")
    assert content_key(tmp_path / "one") == content_key(tmp_path / "two")
    assert content_key(tmp_path / "one" / "f.txt") == content_key(tmp_path / "two" / "f.txt")
    before = content_key(tmp_path / "two")
    (tmp_path / "two" / "sub" / "g.txt").write_text("mare")
    changed = content_key(tmp_path / "two")
    (tmp_path / "two" / "sub" / "g.txt").write_text("more")
    (tmp_path / "two" / "sub" / "g.txt").rename(tmp_path / "two" / "sub" / "h.txt")
    assert len({before, changed, content_key(tmp_path / "two")}) == 3


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, torch.zeros(2), lambda: 0, np.array([object()]), np.datetime64("2020-01-01"), 1j],
)
def test_what_has_no_stable_bytes_is_refused(value):
    with pytest.raises(TypeError, match="cache key"):
        content_key("a", [value])


# ------------------------------------------------------------------------------------------------------ cache


def never():
    raise AssertionError("must be read from the cache")


def test_computed_once_then_read(tmp_path):
    store = ArrayCache(tmp_path / "new" / "folder")
    values, path, hit = store.get_or_compute("items", KEY, lambda: dict(VALUES))
    assert not hit and path == tmp_path / "new" / "folder" / f"items-{KEY}.npz"
    assert_same(values)
    values, again, hit = store.get_or_compute("items", KEY, never)
    assert hit and again == path
    assert_same(values)
    assert [f.name for f in path.parent.iterdir()] == [path.name]  # neither lock nor temporary file is left
    with np.load(path) as archive:  # an ordinary .npz for everybody else
        assert np.array_equal(archive["matrix"], VALUES["matrix"])


def test_first_and_later_calls_return_the_same_plain_values(tmp_path):
    def compute():
        return {"pair": (1, 2), "by_number": {1: "x"}, "count": np.int64(3)}

    first, *_ = ArrayCache(tmp_path).get_or_compute("n", KEY, compute)
    later, *_ = ArrayCache(tmp_path).get_or_compute("n", KEY, never)
    assert first == later == {"pair": [1, 2], "by_number": {"1": "x"}, "count": 3}


def test_other_key_other_file_and_names_are_made_safe(tmp_path):
    store = ArrayCache(tmp_path)
    store.get_or_compute("n", content_key(1), lambda: {"v": 1})
    values, path, hit = store.get_or_compute("n", content_key(2), lambda: {"v": 2})
    assert (values["v"], hit) == (2, False)
    assert store.path("../my set/x", KEY).parent == tmp_path
    with pytest.raises(ValueError, match="content_key"):
        store.path("n", "../../etc")


@pytest.mark.parametrize("value", [np.array([object()]), object(), {1, 2}, torch.zeros(1)])
def test_values_that_cannot_be_kept_are_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(TypeError, match="'v'.* cannot be cached"):
        ArrayCache(tmp_path).get_or_compute("n", KEY, lambda: {"v": value})
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_compute_is_passed_on_and_releases_the_lock(tmp_path):
    store = ArrayCache(tmp_path)

    def fail():
        raise OSError("the model's own trouble")

    with pytest.raises(OSError, match="own trouble") as caught:
        store.get_or_compute("n", KEY, fail)
    assert not isinstance(caught.value, CacheFolderError)
    assert store.get_or_compute("n", KEY, lambda: {"v": 1})[0] == {"v": 1}


# ----------------------------------------------------------------------------------------------------- damage


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    store = ArrayCache(tmp_path)
    values = {"a": np.arange(5), "setting": "x"}
    _, path, _ = store.get_or_compute("n", KEY, lambda: values)
    whole = path.read_bytes()
    noticed = 0
    for position in range(len(whole)):
        for bit in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            try:
                got, *_ = store.get_or_compute("n", KEY, never)
            except DamagedCacheError as error:
                assert str(path) in str(error) and "delete it" in str(error)
                noticed += 1
            else:
                assert_same(got, values)  # a byte that carries nothing, such as a time stamp of the archive
    data = whole.index(np.arange(5).tobytes())
    damaged = bytearray(whole)
    damaged[data] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedCacheError):
        store.get_or_compute("n", KEY, never)
    assert noticed > len(whole)


@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, -1])
def test_truncated_file_is_named(tmp_path, keep):
    store = ArrayCache(tmp_path)
    _, path, _ = store.get_or_compute("n", KEY, lambda: dict(VALUES))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DamagedCacheError, match="damaged.*delete it") as caught:
        store.get_or_compute("n", KEY, never)
    assert str(path) in str(caught.value)


def test_a_file_under_anothers_name_is_named(tmp_path):
    store = ArrayCache(tmp_path)
    _, path, _ = store.get_or_compute("n", KEY, lambda: {"v": 1})
    other = content_key("another")
    path.rename(store.path("n", other))
    with pytest.raises(DamagedCacheError, match=KEY):
        store.get_or_compute("n", other, never)


def test_right_crc_but_changed_array_is_named(tmp_path):
    """A file rewritten by another program has right CRCs; the checksum of the array still tells."""
    store = ArrayCache(tmp_path)
    _, path, _ = store.get_or_compute("n", KEY, lambda: {"a": np.arange(5)})
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["a.npy"] = members["a.npy"].replace(np.arange(5).tobytes(), np.arange(1, 6).tobytes())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(DamagedCacheError, match="checksum"):
        store.get_or_compute("n", KEY, never)


# -------------------------------------------------------------------------------------------- unusable folder


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CacheFolderError, match="cache_dir") as caught:
            ArrayCache(folder).get_or_compute("n", KEY, never)
        assert str(folder) in str(caught.value)
        assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


def test_read_only_folder(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)  # root may write in any folder of a real one
    with pytest.raises(CacheFolderError, match="Read-only file system.*cache_dir") as caught:
        ArrayCache(tmp_path).get_or_compute("n", KEY, never)
    assert str(tmp_path) in str(caught.value)


def test_a_shared_read_only_cache_can_still_be_read(tmp_path, monkeypatch):
    store = ArrayCache(tmp_path)
    store.get_or_compute("n", KEY, lambda: {"v": 1})
    monkeypatch.setattr(cache, "file_lock", lambda *_, **__: pytest.fail("a finished result needs no lock"))
    assert store.get_or_compute("n", KEY, never)[2]


def test_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(CacheFolderError, match=r"No space left on device.*cache_dir") as caught:
        ArrayCache(tmp_path).get_or_compute("n", KEY, lambda: {"a": np.zeros(3)})
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.filterwarnings("ignore:flock not supported")  # filelock's own, where it knows another way
def test_a_folder_without_locks_can_be_used(tmp_path, monkeypatch, code):
    def none(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", none)
    values, path, hit = ArrayCache(tmp_path).get_or_compute("n", KEY, lambda: {"v": 1})
    assert (values, hit) == ({"v": 1}, False) and ArrayCache(tmp_path).get_or_compute("n", KEY, never)[2]
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


# -------------------------------------------------------------------------------------------------- processes


RACE = """
folder, marks = map(pathlib.Path, sys.argv[1:])

def compute():
    (marks / f"computed-{os.getpid()}").touch()
    time.sleep(0.5)
    return {"pid": np.array(os.getpid())}

values, _, hit = cache.ArrayCache(folder).get_or_compute("n", "KEY", compute)
print(hit, int(values["pid"]))
"""

# As if killed in the middle of writing: the lock is held and a temporary file lies there.
HANG = """
folder, marks = map(pathlib.Path, sys.argv[1:])

def compute():
    (folder / ".n-KEY.npz.0123.tmp").write_bytes(b"half a file")
    (marks / "holding").touch()
    time.sleep(60)

cache.ArrayCache(folder).get_or_compute("n", "KEY", compute)
"""


def start(code, *arguments, env=None):
    code = code.replace("KEY", KEY)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=env
    )


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def test_processes_that_ask_at_once_share_one_computation(tmp_path):
    folder, marks = tmp_path / "cache", tmp_path / "marks"
    marks.mkdir()
    racers = [start(LOAD + RACE, folder, marks) for _ in range(4)]
    results = [racer.communicate(timeout=60)[0].split() for racer in racers]
    computed = [f.name for f in marks.iterdir()]
    assert len(computed) == 1
    assert sorted(hit for hit, _ in results) == ["False", "True", "True", "True"]
    assert {f"computed-{pid}" for _, pid in results} == set(computed)
    assert len(list(folder.iterdir())) == 1


def test_a_second_process_waits_for_the_first(tmp_path, caplog):
    """The race above may be won before the others start; here the others surely come while it is running."""
    folder, marks = tmp_path / "cache", tmp_path / "marks"
    marks.mkdir()
    first = start(LOAD + RACE.replace("time.sleep(0.5)", "time.sleep(1.5)"), folder, marks)
    while not list(marks.iterdir()):
        assert first.poll() is None
        time.sleep(0.01)
    with caplog.at_level("INFO", logger=cache.__name__):
        values, _, hit = ArrayCache(folder).get_or_compute("n", KEY, never, describe="the thing")
    assert "Another process is computing the thing: waiting for it" in caplog.messages
    assert hit and f"computed-{int(values['pid'])}" in [f.name for f in marks.iterdir()]
    assert first.wait(60) == 0


def test_failing_computations_run_one_after_the_other(tmp_path):
    """Each holder deletes the lock file; who waited for that file must not take it for the lock."""
    inside, seen = [], []

    def fail():
        inside.append(1)
        seen.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        raise RuntimeError("no result")

    def ask():
        for _ in range(4):
            with pytest.raises(RuntimeError, match="no result"):
                ArrayCache(tmp_path).get_or_compute("n", KEY, fail)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(ask) for _ in range(4)]:
            future.result(60)
    assert seen == [1] * 16


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_lock_of_a_killed_holder_is_free(tmp_path):
    folder, marks = tmp_path / "cache", tmp_path / "marks"
    marks.mkdir()
    holder = start(LOAD + HANG, folder, marks)
    wait_for(marks / "holding", holder)
    holder.kill()
    holder.wait(30)
    assert len(list(folder.iterdir())) == 2  # the lock file and the half-written file of the dead
    values, path, hit = ArrayCache(folder).get_or_compute("n", KEY, lambda: {"a": np.ones(2)})
    assert not hit and values["a"].tolist() == [1, 1]
    assert [f.name for f in folder.iterdir()] == [path.name]


# --------------------------------------------------------------------------------------------- atomic writing


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (lambda path, new: atomic_write_bytes(path, new.encode()), lambda path: path.read_bytes().decode()),
        (atomic_write_text, lambda path: path.read_bytes().decode()),
        (
            lambda path, new: atomic_torch_save(path, {"x": new}),
            lambda path: torch.load(path, weights_only=True)["x"],
        ),
    ],
    ids=["bytes", "text", "torch"],
)
def test_atomic_writers(tmp_path, monkeypatch, write, read):
    path = tmp_path / "file"
    write(path, "old\nline\r\n")
    write(path, "ünew\n")
    assert read(path) == "ünew\n"
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(io.os, name, lambda *_: (_ for _ in ()).throw(OSError("broken")))
            with pytest.raises(OSError, match="broken"):
                write(path, "newer")
        assert read(path) == "ünew\n"
        assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_interrupted_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "umask"), reason="POSIX permissions")
def test_permissions_are_those_of_any_new_file_and_links_stay_links(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    atomic_write_text(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode
    (tmp_path / "link").symlink_to("ordinary")
    atomic_write_text(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink() and ordinary.read_text() == "through"


# -------------------------------------------------------------------------------------------------------- locks


def test_a_lock_asks_before_it_waits(tmp_path):
    """What `on_wait` raises ends the attempt; the holder keeps its lock."""

    def refuse():
        raise RuntimeError("another process is there")

    with io.file_lock(tmp_path / "lock", never) as alone:
        assert alone
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="another process is there"):
            pool.submit(lambda: io.file_lock(tmp_path / "lock", refuse).__enter__()).result(60)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- plain values


def test_plain_values_are_what_json_can_hold():
    class Kind(enum.Enum):
        FIRST = 1

    value = {
        "kind": Kind.FIRST,
        3: (np.int64(1), np.float32(0.5), np.bool_(True), None),
        "text": np.str_("x"),
        "set": {"b", "a"},
        "deep": [{"n": np.float64(0.1)}],
    }
    plain = io.to_plain(value)
    assert plain == {"kind": "FIRST", "3": [1, 0.5, True, None], "text": "x", "set": ["a", "b"], "deep": [{"n": 0.1}]}
    assert json.loads(json.dumps(plain)) == plain
    assert [type(entry) for entry in (*plain["3"][:3], plain["text"])] == [int, float, bool, str]
    assert io.to_plain({"device": torch.device("cpu")}, other=str) == {"device": "cpu"}
    with pytest.raises(TypeError, match="Tensor"):
        io.to_plain([torch.zeros(1)])
