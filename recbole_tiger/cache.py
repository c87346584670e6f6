"""The one cache helper: results that were expensive to compute, kept and read back only if they are whole.

Input: a name, a key made of all that a result depends on (`content_key`), and the function that computes it.
Output: the values, read from one `.npz` file per key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.errors import CacheFolderError, DamagedCacheError, reason_of
from recbole_tiger.io import atomic_file, file_checksum, file_lock

logger = logging.getLogger(__name__)

_FORMAT = 1
_META = "meta.json"
_MOST_DEFLATED = 1033  # bytes that one byte of a zip can stand for


def content_key(*parts: Any) -> str:
    """Name a result by all that it depends on: 32 hexadecimal digits (the first half of a SHA-256).

    The key is the same in every process and under every version of numpy and pandas: it is made of types,
    shapes and bytes, never of `hash()`, `repr()` or pickles.

    Args:
        *parts: None, bool, int, float, str, bytes, numpy scalars and arrays (dtype, shape and values count;
            arrays of strings count as the strings they hold), `Path` (the *content* of the file, or of all
            files of the folder with their relative names), and lists, tuples (same as lists) and dicts (in
            any order) of these.

    Raises:
        TypeError: for anything else, since its bytes might differ from one process to the next.
        FileNotFoundError: for a `Path` that does not exist.
    """
    digest = hashlib.sha256()
    _feed(digest, list(parts))
    return digest.hexdigest()[:32]


def _feed(digest: hashlib._Hash, value: Any) -> None:
    """Add `value` to `digest`, each piece with its type and length: ("ab", "c") and ("a", "bc") differ."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int)):
        _feed_bytes(digest, type(value).__name__, repr(value).encode())
    elif isinstance(value, float):
        _feed_bytes(digest, "float", struct.pack("<d", value))
    elif isinstance(value, str):
        _feed_bytes(digest, "str", str(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, (bytes, bytearray)):
        _feed_bytes(digest, "bytes", bytes(value))
    elif isinstance(value, Path):
        _feed_path(digest, value)
    elif isinstance(value, (list, tuple)) and value and all(type(entry) is str for entry in value):
        # One pass for the common long case, a catalogue's sentences: all lengths, then all bytes.
        encoded = [entry.encode("utf-8", "surrogatepass") for entry in value]
        _feed_bytes(digest, "texts", np.array([len(entry) for entry in encoded], dtype="<i8").tobytes())
        digest.update(b"".join(encoded))
    elif isinstance(value, (list, tuple)):
        _feed_bytes(digest, "list", str(len(value)).encode())
        for entry in value:
            _feed(digest, entry)
    elif isinstance(value, Mapping):
        _feed_bytes(digest, "dict", str(len(value)).encode())
        entries = []
        for name, entry in value.items():
            inner = hashlib.sha256()
            _feed(inner, name)
            entries.append((inner.digest(), entry))
        for name, entry in sorted(entries, key=lambda pair: pair[0]):
            digest.update(name)
            _feed(digest, entry)
    elif isinstance(value, np.ndarray):
        _feed_array(digest, value)
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"a cache key cannot be made of {kind}: give plain types, numpy arrays or paths")


def _feed_bytes(digest: hashlib._Hash, kind: str, data: bytes) -> None:
    digest.update(f"{kind}:{len(data)}:".encode())
    digest.update(data)


def _feed_array(digest: hashlib._Hash, array: NDArray[Any]) -> None:
    if array.dtype.kind in "USOT":  # how wide numpy stores text depends on the longest entry and on numpy's version
        _feed_bytes(digest, "text array", str(array.shape).encode())
        _feed(digest, array.ravel().tolist())
        return
    if array.dtype.kind not in "biufcmM":
        raise TypeError(f"a cache key cannot be made of an array of dtype {array.dtype}")
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    _feed_bytes(digest, "array", f"{array.dtype.str}{array.shape}".encode())
    digest.update(_bytes_of(array))


def _feed_path(digest: hashlib._Hash, path: Path) -> None:
    if path.is_dir():
        files = sorted((f.relative_to(path).as_posix(), f) for f in path.rglob("*") if f.is_file())
        _feed_bytes(digest, "folder", str(len(files)).encode())
        for relative, file in files:
            _feed(digest, relative)
            _feed_path(digest, file)
        return
    _feed_bytes(digest, "file", bytes.fromhex(file_checksum(path)))


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order, without a copy where it already has that order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class ArrayCache:
    """A folder of results, one `<name>-<key>.npz` each, that several processes may share; made when first written."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def path(self, name: str, key: str) -> Path:
        """File of the result of this name and key, whether it is there or not."""
        if not re.fullmatch(r"[0-9A-Za-z]{8,128}", key):
            raise ValueError(f"not a key from content_key: {key!r}")
        return self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}-{key}.npz"

    def get_or_compute(
        self, name: str, key: str, compute: Callable[[], dict[str, Any]], *, describe: str | None = None
    ) -> tuple[dict[str, Any], Path, bool]:
        """Read a result, or compute and keep it; of processes that ask at once the first computes for all.

        A process that is killed meanwhile leaves neither a lock nor half a file behind.

        Args:
            name: for the file's name (anything but letters, digits, `.`, `_`, `-` becomes `_`).
            key: of all that the result depends on, from `content_key`.
            compute: returns a dict of numpy arrays (no object arrays) and of values that JSON can hold. The
                latter come back as JSON would return them (tuples as lists), on the first call as well.
            describe: the result in words, for the log.

        Returns:
            the values, the file they lie in, and True if they were read rather than computed.

        Raises:
            DamagedCacheError: the file is there but is not what was written.
            CacheFolderError: the folder cannot be used.
            TypeError: `compute` returned something that cannot be kept.
        """
        path = self.path(name, key)
        describe = describe or name
        if path.exists():
            return self._load(path, key, describe), path, True
        with self._usable("made"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with self._usable("written"):
                lock = file_lock(
                    path.with_name(f".{path.name}.lock"),
                    on_wait=lambda: logger.info("Another process is computing %s: waiting for it", describe),
                )
                alone = stack.enter_context(lock)
            if path.exists():  # another process was first
                return self._load(path, key, describe), path, True
            if alone:
                for orphan in self.folder.glob(f".{path.name}.*.tmp"):  # of a process killed while it wrote
                    orphan.unlink(missing_ok=True)
            else:  # nothing worse than lost time: each process writes a whole file
                logger.warning("%s has no file locks: %s may be computed twice", self.folder, describe)
            arrays, plain = _split(compute(), describe)
            with self._usable("written"), atomic_file(path) as file:
                _write(file, key, arrays, plain)
        logger.info("Saved %s to %s", describe, path)
        return {**arrays, **plain}, path, False

    def _load(self, path: Path, key: str, describe: str) -> dict[str, Any]:
        with self._usable("read"):
            file = open(path, "rb")
        with file:
            try:
                values = _read(file, key)
            except MemoryError:
                raise
            except Exception as error:  # zip, zlib, JSON and numpy each have their own for a broken file
                raise DamagedCacheError(
                    f"the cache file {path} is damaged ({str(error) or type(error).__name__}): delete it, "
                    "and it will be computed again"
                ) from error
        logger.info("Read %s from %s", describe, path)
        return values

    @contextlib.contextmanager
    def _usable(self, verb: str) -> Iterator[None]:
        """Name the folder where the operating system refuses to have it made, written or read."""
        try:
            yield
        except OSError as error:
            raise CacheFolderError(
                f"the cache folder {self.folder} cannot be {verb} ({reason_of(error)}): free space or fix permissions, "
                "or set cache_dir to another folder"
            ) from error


def _split(values: dict[str, Any], describe: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Separate what `compute` returned into arrays and JSON values, and refuse what neither can hold."""
    arrays: dict[str, NDArray[Any]] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise TypeError(f"{describe}: a cached value needs a plain name, not {name!r}")
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject or value.dtype.kind not in "biufcmMUS":
                raise TypeError(f"{describe}: array {name!r} of dtype {value.dtype} cannot be cached")
            arrays[name] = value
        else:
            try:
                plain[name] = json.loads(json.dumps(value, default=np.generic.item))
            except (TypeError, ValueError) as error:
                raise TypeError(f"{describe}: value {name!r} cannot be cached: {error}") from error
    return arrays, plain


def _write(file: IO[bytes], key: str, arrays: dict[str, NDArray[Any]], plain: dict[str, Any]) -> None:
    described = {
        name: {"dtype": a.dtype.str, "shape": list(a.shape), "sha256": hashlib.sha256(_bytes_of(a)).hexdigest()}
        for name, a in arrays.items()
    }
    meta = {"format": _FORMAT, "key": key, "arrays": described, "plain": plain}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_META, json.dumps(meta))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


def _read(file: IO[bytes], key: str) -> dict[str, Any]:
    """Read and check one cache file. Any exception means damage."""
    with zipfile.ZipFile(file) as archive:
        meta = json.loads(archive.read(_META))  # reading a member to its end checks its CRC
        if meta["format"] != _FORMAT:
            raise ValueError(f"format {meta['format']}, not {_FORMAT}")
        if meta["key"] != key:
            raise ValueError(f"it holds key {meta['key']}")
        if sorted(archive.namelist()) != sorted([_META, *(f"{name}.npy" for name in meta["arrays"])]):
            raise ValueError("its list of arrays is not the one written")
        values: dict[str, Any] = {}
        for name, written in meta["arrays"].items():
            array = read_member(archive, name)
            if [array.dtype.str, list(array.shape)] != [written["dtype"], written["shape"]]:
                raise ValueError(f"array {name!r} has another shape or type")
            if hashlib.sha256(_bytes_of(array)).hexdigest() != written["sha256"]:
                raise ValueError(f"the checksum of array {name!r} is wrong")
            values[name] = array
    return {**values, **meta["plain"]}


def read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of an `.npz`, read only if the file is as long as its header says: no flipped digit asks for a petabyte.

    Raises:
        ValueError: it is not, or the array holds objects, which only pickle could read.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        size, held = math.prod(shape) * dtype.itemsize, info.file_size - stream.tell()
    if not dtype.hasobject and (size != held or size > _MOST_DEFLATED * info.compress_size):
        raise ValueError(f"{name} says {list(shape)} of {dtype}, which is not what the file holds")
    with archive.open(info) as stream:  # anew: where a stream is set back, newer Pythons check no CRC
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
