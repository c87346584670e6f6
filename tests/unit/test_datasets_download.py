"""Downloads from a local server that is slow, breaks off, redirects, lies or is not there."""

import hashlib
import io
import json
import os
import socket
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_server import send, serving

from recbole_tiger.datasets import download
from recbole_tiger.datasets.download import ensure_dataset, find_url, has_dataset, recbole_urls
from recbole_tiger.errors import DownloadError, PreparationError, WriteError

INTER = b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n"
ITEM = b"item_id:token\ttitle:token\n2\tTwo\n"


def make_zip(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


# Bytes that do not compress and so give the breaks room: the zip is some 200 kB.
ZIP = make_zip({"Made_Data.inter": INTER, "Made_Data.item": ITEM, "noise.user": os.urandom(200_000)})


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch, download) as server:
        yield server


def ranged(cut_first=()):
    """Serve ZIP with ranges; the answers to the first requests break off after so many bytes."""

    def answer(handler, number):
        begin = 0
        asked = handler.headers.get("Range")
        if asked and handler.headers.get("If-Range") == '"v1"':
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        rest = ZIP[begin:]
        kept = rest[: cut_first[number - 1]] if number <= len(cut_first) else rest
        extra = {"Content_Range": f"bytes {begin}-{len(ZIP) - 1}/{len(ZIP)}"} if begin else {}
        send(handler, kept, len(rest), 206 if begin else 200, ETag='"v1"', **extra)

    return answer


def ensure(server, folder, timeout=5.0, **options):
    return ensure_dataset("made", folder, server.url, timeout, progress=False, **options)


def assert_whole(folder):
    assert (folder / "made.inter").read_bytes() == INTER and (folder / "made.item").read_bytes() == ITEM
    for name, data in (("made.inter", INTER), ("made.item", ITEM)):
        assert (folder / f"{name}.sha256").read_text() == f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    source = json.loads((folder / "made.source.json").read_text())
    assert source["sha256"] == hashlib.sha256(ZIP).hexdigest() and source["bytes"] == len(ZIP)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["made"]


def assert_nothing(folder, parts=()):
    """No dataset folder; of hidden files only, where bytes arrived, the part to continue."""
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == set(parts)


PART = (".made.download/archive.zip.part", ".made.download/archive.zip.part.json")


def test_a_download_gives_renamed_files_with_checksums_and_is_done_once(server, tmp_path):
    server.answer = ranged()
    assert ensure(server, tmp_path) == tmp_path / "made"
    assert_whole(tmp_path / "made")
    assert (tmp_path / "made" / "noise.user").exists()
    assert ensure(server, tmp_path) == tmp_path / "made"
    assert len(server.requests) == 1


def test_a_break_is_continued_where_it_happened(server, tmp_path):
    server.answer = ranged(cut_first=(100_000, 50_000))
    ensure(server, tmp_path)
    assert_whole(tmp_path / "made")
    assert [headers.get("Range") for _, headers in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]


def test_a_later_call_continues_what_an_earlier_one_left(server, tmp_path):
    server.answer = lambda handler, number: (
        ranged((100_000,))(handler, number) if number == 1 else send(handler, b"gone", status=404)
    )
    with pytest.raises(DownloadError, match="404"):
        ensure(server, tmp_path)
    assert_nothing(tmp_path, PART)
    server.requests.clear()
    server.answer = ranged()
    ensure(server, tmp_path)
    assert server.requests[0][1]["Range"] == "bytes=100000-"
    assert_whole(tmp_path / "made")


def test_without_ranges_or_with_a_new_version_it_starts_again(server, tmp_path):
    server.answer = lambda handler, number: send(handler, ZIP[: 150_000 if number == 1 else None], len(ZIP))
    ensure(server, tmp_path / "a")
    assert_whole(tmp_path / "a" / "made")
    server.requests.clear()

    def new_version(handler, number):
        send(handler, ZIP[:1000] if number == 1 else ZIP, len(ZIP), ETag=f'"v{number}"')

    server.answer = new_version  # asked to continue v1, it sends all of v2, as If-Range asks
    ensure(server, tmp_path / "b")
    assert server.requests[1][1]["If-Range"] == '"v1"'
    assert_whole(tmp_path / "b" / "made")


def test_a_server_that_continues_at_the_wrong_place_is_not_believed(server, tmp_path):
    def answer(handler, number):
        if number == 1:
            send(handler, ZIP[:1000], len(ZIP), ETag='"v1"')
        elif number == 2:
            send(
                handler,
                ZIP[900:],
                status=206,
                ETag='"v1"',
                Content_Range=f"bytes 900-{len(ZIP) - 1}/{len(ZIP)}",
            )
        else:
            send(handler, ZIP, ETag='"v1"')

    server.answer = answer
    ensure(server, tmp_path)
    assert_whole(tmp_path / "made")
    assert len(server.requests) == 3


def test_a_range_that_the_server_does_not_have_starts_again(server, tmp_path):
    def answer(handler, number):
        if number == 1:
            send(handler, ZIP[:1000], len(ZIP), ETag='"v1"')
        elif number == 2:
            send(handler, b"", status=416)
        else:
            send(handler, ZIP)

    server.answer = answer
    ensure(server, tmp_path)
    assert_whole(tmp_path / "made")


def test_passing_trouble_of_the_server_is_waited_out(server, tmp_path):
    server.answer = lambda handler, number: send(handler, b"busy", status=503) if number < 3 else send(handler, ZIP)
    ensure(server, tmp_path)
    assert_whole(tmp_path / "made")


def test_a_slow_server_is_waited_for_as_long_as_bytes_come(server, tmp_path):
    def answer(handler, number):
        if number > 1:
            return ranged()(handler, number)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(ZIP)))
        handler.send_header("ETag", '"v1"')
        handler.end_headers()
        for begin in range(0, 160_000, 40_000):
            handler.wfile.write(ZIP[begin : begin + 40_000])
            handler.wfile.flush()
            time.sleep(0.45)

    server.answer = answer
    began = time.monotonic()
    ensure(server, tmp_path, timeout=1.5)
    # Longer than the timeout, and yet neither given up nor, after the break at the end, too late to go on.
    assert time.monotonic() - began > 1.5
    assert server.requests[1][1]["Range"] == "bytes=160000-"
    assert_whole(tmp_path / "made")


def test_the_first_byte_has_a_limit_of_its_own_and_the_others_have_the_timeout(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_BYTE", 0.2)
    silence = threading.Event()
    server.answer = lambda handler, _: silence.wait(60)
    began = time.monotonic()
    with pytest.raises(DownloadError, match="no answer within 0.2 seconds"):
        ensure(server, tmp_path, timeout=20)
    silence.set()
    assert time.monotonic() - began < 10  # half of the timeout, which is not for the first byte

    def answer(handler, number):
        if number > 1:
            return ranged()(handler, number)
        send(handler, ZIP[:1000], len(ZIP), ETag='"v1"')
        for more in (ZIP[1000:2000], b""):  # and then it breaks off
            handler.wfile.flush()
            time.sleep(0.6)  # longer than the first byte may take
            handler.wfile.write(more)

    server.requests.clear()
    server.answer = answer
    ensure(server, tmp_path, timeout=20)
    assert_whole(tmp_path / "made")
    assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=2000-"]


def test_a_server_that_falls_silent_is_given_up(server, tmp_path):
    silence = threading.Event()

    def answer(handler, number):
        send(handler, ZIP[:1000] if number == 1 else b"", len(ZIP), ETag='"v1"')
        silence.wait(60)

    server.answer = answer
    began = time.monotonic()
    with pytest.raises(DownloadError, match="'made' could not be downloaded .*: .*timed out"):
        ensure(server, tmp_path, timeout=0.6)
    silence.set()
    assert time.monotonic() - began < 30  # half of what the server would have been silent
    assert_nothing(tmp_path, PART)


def test_redirects_are_followed_but_not_for_ever(server, tmp_path):
    server.answer = lambda handler, number: (
        send(handler, b"", status=302, Location="/elsewhere/x.zip") if number == 1 else send(handler, ZIP)
    )
    ensure(server, tmp_path / "a")
    assert_whole(tmp_path / "a" / "made")
    server.answer = lambda handler, number: send(handler, b"", status=302, Location="/again")
    with pytest.raises(DownloadError, match="302"):
        ensure(server, tmp_path / "b")
    server.answer = lambda handler, number: send(handler, b"", status=302, Location="file:///etc/hostname")
    with pytest.raises(DownloadError, match="302"):
        ensure(server, tmp_path / "c")
    assert_nothing(tmp_path / "c")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_and_says_what_to_put_where(server, tmp_path, status):
    server.answer = lambda handler, _: send(handler, b"no", status=status)
    with pytest.raises(DownloadError) as error:
        ensure(server, tmp_path)
    assert len(server.requests) == 1
    message = str(error.value)
    assert str(status) in message and server.url in message
    assert f"put made.inter and made.item into {tmp_path / 'made'}" in message
    assert_nothing(tmp_path)


def corrupt(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<!DOCTYPE html><html>Log in to the hotel's network</html>", "not a zip file but a web page"),
        (b"\x1f\x8bsomething else", "not a zip file but b'"),
        (b"", "not a zip file but b''"),
        (corrupt(ZIP), "Bad CRC-32"),
        (make_zip({"readme.txt": b"x"}), r"holds no .inter file, only \['readme.txt'\]"),
        (make_zip({"../made.inter": INTER}), "path that leads outside: '../made.inter'"),
        (make_zip({"/tmp/made.inter": INTER}), "path that leads outside"),
        (make_zip({"a\\..\\..\\made.inter": INTER}), "path that leads outside"),
        (make_zip({"C:/made.inter": INTER}), "path that leads outside"),
        (make_zip({"a/x.inter": INTER, "b/x.inter": INTER}), "several files of one name"),
    ],
)
def test_wrong_content_is_refused_and_not_kept(server, tmp_path, content, message):
    server.answer = lambda handler, _: send(handler, content)
    with pytest.raises(DownloadError, match=message):
        ensure(server, tmp_path / "data")
    assert_nothing(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    server.answer = lambda handler, _: send(handler, ZIP)
    ensure(server, tmp_path / "data")  # the wrong content does not stand in the way
    assert_whole(tmp_path / "data" / "made")


def test_a_zip_that_does_not_fit_the_disk(server, tmp_path, monkeypatch):
    server.answer = lambda handler, _: send(handler, ZIP)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="GB free"):
        ensure(server, tmp_path)
    assert_nothing(tmp_path)


def test_folders_inside_the_zip_and_split_datasets(server, tmp_path):
    server.answer = lambda handler, _: send(
        handler, make_zip({"x/Other.train.inter": INTER, "x/Other.test.inter": INTER, "x/": b""})
    )
    folder = ensure(server, tmp_path)
    assert {path.name for path in folder.glob("*.inter")} == {"made.train.inter", "made.test.inter"}
    assert has_dataset(tmp_path, "made") and ensure(server, tmp_path) == folder
    assert len(server.requests) == 1


def test_without_a_server_the_error_comes_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="could not be downloaded .*refused"):
        ensure_dataset("made", tmp_path, f"http://127.0.0.1:{port}/x.zip", progress=False)
    assert_nothing(tmp_path)


def test_a_name_server_that_hangs_does_not_hang_us(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60))
    began = time.monotonic()
    try:
        with pytest.raises(DownloadError, match="no answer within 0.5 seconds"):
            ensure_dataset("made", tmp_path, "http://made.invalid/x.zip", 0.5, progress=False)
    finally:
        released.set()
    assert time.monotonic() - began < 30
    assert_nothing(tmp_path)


def test_only_one_of_several_processes_downloads(server, tmp_path):
    def answer(handler, _):
        time.sleep(0.2)
        send(handler, ZIP)

    server.answer = answer
    threads = [threading.Thread(target=ensure, args=(server, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert_whole(tmp_path / "made")


def test_a_process_that_waited_downloads_where_the_first_one_failed(server, tmp_path):
    def answer(handler, number):
        time.sleep(0.2)  # the other one is waiting by now
        send(handler, *((b"no", 2, 404) if number == 1 else (ZIP,)))

    server.answer = answer
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ensure, server, tmp_path) for _ in range(2)]
    assert sorted(type(each.exception()).__name__ for each in asked) == ["DownloadError", "NoneType"]
    assert len(server.requests) == 2
    assert_whole(tmp_path / "made")


def test_a_data_path_that_is_no_folder(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write '.*file'.*choose another path"):
        ensure(server, tmp_path / "file")


def test_a_split_dataset_of_any_name_is_found(tmp_path):
    (tmp_path / "v[2]").mkdir()
    (tmp_path / "v[2]" / "v.train.inter").write_bytes(INTER)
    assert not has_dataset(tmp_path, "v[2]") and not has_dataset(tmp_path, "none")
    (tmp_path / "v[2]" / "v[2].train.inter").write_bytes(INTER)
    assert has_dataset(tmp_path, "v[2]")


def test_a_folder_in_the_way(server, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "notes.txt").write_text("mine")
    with pytest.raises(PreparationError, match="exists but holds no made.inter"):
        ensure(server, tmp_path)
    assert (tmp_path / "made" / "notes.txt").read_text() == "mine"
    (tmp_path / "made" / "notes.txt").unlink()
    server.answer = lambda handler, _: send(handler, ZIP)
    ensure(server, tmp_path)  # an empty folder, such as RecBole's crash leaves, is no obstacle
    assert_whole(tmp_path / "made")


def test_names_and_addresses(tmp_path):
    with pytest.raises(PreparationError, match="must be the name of one folder"):
        ensure_dataset("../made", tmp_path, "http://x/y.zip")
    with pytest.raises(PreparationError, match="must begin with http"):
        ensure_dataset("made", tmp_path, "file:///etc/passwd")


def test_recboles_list_is_read_from_the_installed_package():
    urls = recbole_urls()
    assert {"amazon-beauty", "amazon-sports-outdoors", "amazon-toys-games", "ml-100k"} <= set(urls)
    assert find_url("amazon-beauty") == urls["amazon-beauty"] and Path(find_url("amazon-beauty")).suffix == ".zip"
    with pytest.raises(PreparationError, match="dataset='amazon-beuty' .*similar: amazon-beauty"):
        find_url("amazon-beuty")
