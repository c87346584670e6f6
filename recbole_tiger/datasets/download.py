"""Downloads of RecBole's dataset zips, complete or absent.

Input: a dataset's name. Output: its folder with the atomic files under that name and a checksum beside each. RecBole's
own downloader leaves half-written folders behind and crashes after the download (RecBole #1989, #2050).
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import queue
import re
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from recbole_tiger.datasets.atomic_writer import check_dataset_name, dataset_folder
from recbole_tiger.errors import DownloadError, PreparationError, names_like
from recbole_tiger.io import file_checksum, file_lock, make_folder, writing

BLOCK_BYTES = 1 << 16
FIRST_PAUSE = 0.5  # seconds before the second attempt; doubled for each further one
MOST_ATTEMPTS_WITHOUT_PROGRESS = 6
FIRST_BYTE = 8.0  # seconds for the first byte: a missing network is reported within 15 seconds, Python's start included
RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
RANGE_NOT_SATISFIABLE = 416
ATOMIC_SUFFIXES = (".inter", ".item", ".user", ".kg", ".link", ".net")


def recbole_urls() -> dict[str, str]:
    """RecBole's dataset zips by dataset name, read from the installed package without importing it."""
    import yaml

    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        raise PreparationError("RecBole is not installed, so its list of downloads is missing: give a url.")
    listing = Path(spec.origin).parent / "properties" / "dataset" / "url.yaml"
    return dict(yaml.safe_load(listing.read_text(encoding="utf-8")))


def find_url(dataset: str) -> str:
    """The address of a dataset's zip; a `PreparationError` with similar names where RecBole has none of this name."""
    urls = recbole_urls()
    if dataset not in urls:
        similar = names_like(dataset, urls, n=3) or sorted(urls)[:3]
        raise PreparationError(
            f"dataset={dataset!r} is not among RecBole's {len(urls)} downloads (similar: "
            f"{', '.join(similar)}): check the name, prepare your own data with dataset_prep, or give a url."
        )
    return urls[dataset]


def has_dataset(data_path: str | Path, dataset: str) -> bool:
    """Whether `<data_path>/<dataset>/` holds `<dataset>.inter`, or `<dataset>.<part>.inter` if split."""
    return any(path.name.startswith(f"{dataset}.") for path in (Path(data_path) / dataset).glob("*.inter"))


def ensure_dataset(
    dataset: str, data_path: str | Path, url: str | None = None, timeout: float = 15, progress: bool = True
) -> Path:
    """The folder of a dataset, downloaded first if it is not there.

    What arrived of a download that was cut off is kept in `<data_path>/.<dataset>.download/` and continued where the
    server allows it, also by a later call. Several processes may ask at once: one downloads, the others wait.

    Args:
        dataset: a name of RecBole's list (`amazon-beauty`, …), or any name together with a url.
        data_path: the folder of datasets, as in RecBole.
        url: address of a zip with atomic files; None takes RecBole's.
        timeout: give up when no new byte has arrived for so many seconds, all attempts together; before the first
            byte at most `FIRST_BYTE`.
        progress: show a bar.

    Returns:
        `<data_path>/<dataset>`, with `<file>.sha256` beside each file and `<dataset>.source.json`.

    Raises:
        PreparationError: an unknown name, or a folder of that name that holds something else.
        DownloadError: no network, a refusal, or a file that is no such zip. The folder is then not there.
    """
    check_dataset_name(dataset)
    data_path = Path(data_path)
    folder = data_path / dataset
    if has_dataset(data_path, dataset):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PreparationError(
            f"{folder} exists but holds no {dataset}.inter: put the file there, or remove the folder to download it."
        )
    url = url or find_url(dataset)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise PreparationError(f"url={url!r} must begin with http:// or https://.")
    work = data_path / f".{dataset}.download"
    make_folder(data_path)
    with writing(data_path), file_lock(data_path / f".{dataset}.lock", on_wait=lambda: None):
        if has_dataset(data_path, dataset):  # another process was faster
            return folder
        work.mkdir(exist_ok=True)  # here, since another process may have removed it
        archive = work / "archive.zip"
        try:
            fetch(url, archive, timeout, progress)
            try:
                install(archive, url, dataset, data_path)
            finally:
                archive.unlink(missing_ok=True)  # used, or found to be wrong: never to be continued
        except (OSError, zipfile.BadZipFile) as error:
            if not any(work.iterdir()):
                work.rmdir()
            reason = str(error) or type(error).__name__
            raise DownloadError(
                f"The dataset {dataset!r} could not be downloaded from {url}: {reason}. Try again with a "
                f"network, or put {dataset}.inter and {dataset}.item into {folder.resolve()} (the files of "
                "that zip, downloaded elsewhere and renamed)."
            ) from None
        shutil.rmtree(work, ignore_errors=True)
    return folder


def fetch(url: str, target: Path, timeout: float, progress: bool = True) -> None:
    """Download an address to a file, continuing what `<target>.part` holds of the same version.

    Raises:
        OSError: no new byte for `timeout` seconds (for the first, `FIRST_BYTE` at most), a connection that keeps
            breaking, or an answer that will not change, such as 404.
    """
    part, note = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    clock = _Clock(timeout)
    farthest = part.stat().st_size if part.exists() else 0
    attempts, pause = 0, FIRST_PAUSE
    hidden = None if progress else True
    with tqdm(unit="B", unit_scale=True, desc=target.parent.name, leave=False, disable=hidden) as bar:
        while True:
            try:
                _attempt(url, part, note, clock, bar)
                break
            except urllib.error.HTTPError as error:
                problem: OSError = OSError(f"the server answers {error.code} {error.reason}")
                if error.code not in (*RETRIED_STATUS, RANGE_NOT_SATISFIABLE):
                    raise problem from None
                if error.code == RANGE_NOT_SATISFIABLE:  # what we have is not a beginning of what they have
                    part.unlink(missing_ok=True)
            except (OSError, http.client.HTTPException) as error:
                problem = OSError(f"{getattr(error, 'reason', None) or error or type(error).__name__}")
            size = part.stat().st_size if part.exists() else 0
            attempts = 1 if size > farthest else attempts + 1
            pause = FIRST_PAUSE if size > farthest else pause * 2
            farthest = max(farthest, size)
            if attempts >= MOST_ATTEMPTS_WITHOUT_PROGRESS or clock.left() <= pause:
                raise problem
            time.sleep(pause)
    os.replace(part, target)
    note.unlink(missing_ok=True)


class _Clock:
    """Seconds that are left until the next byte has to be here."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.allowed = min(timeout, FIRST_BYTE)
        self._last = time.monotonic()

    def moved(self) -> None:
        self.allowed = self.timeout
        self._last = time.monotonic()

    def left(self) -> float:
        return self._last + self.allowed - time.monotonic()


def _attempt(url: str, part: Path, note: Path, clock: _Clock, bar: tqdm[Any]) -> None:
    """One request; appends to `part` what the server sends beyond it."""
    have = part.stat().st_size if part.exists() else 0
    version = _read_note(note)
    headers = {"User-Agent": "recbole-tiger", "Accept-Encoding": "identity"}
    if have and version.get("url") == url and version.get("tag"):
        headers |= {"Range": f"bytes={have}-", "If-Range": version["tag"]}
    else:
        have = 0
    response = _open(urllib.request.Request(url, headers=headers), clock)
    with response:
        length = response.headers.get("Content-Length")
        if response.status == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(have):
                part.unlink(missing_ok=True)
                raise OSError("the server continues at another position than requested")
        else:
            have = 0
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        note.write_text(json.dumps({"url": url, "tag": "" if tag.startswith("W/") else tag}))
        expected = have + int(length) if length is not None else None
        bar.total, bar.n = expected, have
        bar.refresh()
        with part.open("ab" if have else "wb") as stream:
            size = have
            while block := response.read1(BLOCK_BYTES):
                stream.write(block)
                size += len(block)
                bar.update(len(block))
                clock.moved()
        if expected is not None and size != expected:
            raise OSError(f"the connection broke after {size:,} of {expected:,} bytes")


def _read_note(note: Path) -> dict[str, str]:
    """Address and version tag of a part; nothing if there is no note, or only half of one."""
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _open(request: urllib.request.Request, clock: _Clock) -> http.client.HTTPResponse:
    """`urlopen` in a thread: looking up a name may hang for longer than any timeout that one can set."""
    results: queue.Queue[http.client.HTTPResponse | BaseException] = queue.Queue()
    left = max(clock.left(), 0.1)

    def work() -> None:
        try:
            results.put(urllib.request.urlopen(request, timeout=clock.timeout))
        except BaseException as error:  # carried over to the waiting thread, whatever it is
            results.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        result = results.get(timeout=left)
    except queue.Empty:
        raise TimeoutError(f"no answer within {clock.allowed:g} seconds") from None
    if isinstance(result, BaseException):
        raise result
    return result


def install(archive: Path, url: str, dataset: str, data_path: Path) -> None:
    """Unpack a zip's atomic files under the dataset's name, with checksums, into `<data_path>/<dataset>`.

    Raises:
        zipfile.BadZipFile: no zip, damaged, without an `.inter` file, or with paths that lead outside.
        OSError: not enough room.
    """
    if not zipfile.is_zipfile(archive):
        start = archive.read_bytes()[:40]
        what = "a web page" if start.lstrip().lower().startswith((b"<!doctype", b"<html")) else repr(start)
        raise zipfile.BadZipFile(f"the download is not a zip file but {what}")
    with zipfile.ZipFile(archive) as content, dataset_folder(data_path, dataset) as target:
        members = [member for member in content.infolist() if not member.is_dir()]
        paths = {member: PurePosixPath(member.filename.replace("\\", "/")) for member in members}
        for path in paths.values():
            if path.is_absolute() or ".." in path.parts or ":" in str(path).partition("/")[0]:
                raise zipfile.BadZipFile(f"the zip holds a path that leads outside: {str(path)!r}")
        chosen = {member: path.name for member, path in paths.items() if path.name.endswith(ATOMIC_SUFFIXES)}
        if not any(name.endswith(".inter") for name in chosen.values()):
            names = sorted(path.name for path in paths.values())
            raise zipfile.BadZipFile(f"the zip holds no .inter file, only {names[:5]}")
        needed, free = sum(member.file_size for member in chosen), shutil.disk_usage(data_path).free
        if needed > free:
            raise OSError(f"unpacked it needs {needed / 1e9:.1f} GB, but {data_path} has {free / 1e9:.1f} GB free")
        stem = _stem(list(chosen.values()), url)
        renamed = [re.sub(rf"^{re.escape(stem)}\.", f"{dataset}.", name) for name in chosen.values()]
        if len(set(renamed)) < len(renamed):
            raise zipfile.BadZipFile(f"the zip holds several files of one name: {sorted(renamed)}")
        if not any(name.startswith(f"{dataset}.") and name.endswith(".inter") for name in renamed):
            raise zipfile.BadZipFile(f"its files {sorted(renamed)} do not share one dataset name")
        for member, name in zip(chosen, renamed, strict=True):
            try:
                with content.open(member) as source, (target / name).open("wb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)  # checks the CRC at the end
            except (zlib.error, EOFError, RuntimeError) as error:  # damaged, encrypted, or packed in another way
                raise zipfile.BadZipFile(f"{name} in the zip cannot be unpacked ({error})") from error
            (target / f"{name}.sha256").write_text(f"{file_checksum(target / name)}  {name}\n")
        source_note = {"url": url, "bytes": archive.stat().st_size, "sha256": file_checksum(archive)}
        (target / f"{dataset}.source.json").write_text(json.dumps(source_note, indent=2) + "\n")


def _stem(names: list[str], url: str) -> str:
    """The old name of the dataset: that of the zip if an `.inter` bears it, else the first `.inter`'s."""
    inters = sorted(name for name in names if name.endswith(".inter"))
    of_zip = PurePosixPath(urllib.parse.urlsplit(url).path).stem
    return of_zip if of_zip and any(name.startswith(of_zip + ".") for name in inters) else inters[0].partition(".")[0]
