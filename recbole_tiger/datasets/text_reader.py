"""From a raw text file, gzipped or not, to numbered lines of text.

Input: a path. Output: `(line number, text)` for every line that is not empty, in bounded memory, with a progress bar
over the bytes of the file. Damage (a cut gzip stream, bytes that are not text) has a line number.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_tiger.datasets.bad_rows import BadRows, shorten
from recbole_tiger.errors import PreparationError, RowError, reason_of

BLOCK_BYTES = 1 << 20  # lines are split many at a time, which is twice as fast as one by one
MAX_LINE_BYTES = 1 << 26  # a longer "line" means that the file is not text; memory stays bounded
GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file; a clear error when there is no such file."""
    if not path.is_file():
        raise PreparationError(f"{path} is not a file: check the path.")
    try:
        with path.open("rb") as stream:
            return stream.read(16)
    except OSError as error:
        raise PreparationError(f"{path} cannot be read: {reason_of(error)}.") from None


def check_is_text(path: Path) -> bool:
    """Whether a file is gzipped; a `PreparationError` with the way out if it is not what its name says."""
    start = first_bytes(path)
    gzipped = path.suffix == ".gz"
    if gzipped and start and not start.startswith(GZIP_MAGIC):
        what = "a web page" if start.lstrip()[:1] == b"<" else f"something that begins with {shorten(start)}"
        raise PreparationError(f"{path} is named .gz but holds {what}: download it again or rename it.")
    if not gzipped and start.startswith(GZIP_MAGIC):
        raise PreparationError(f"{path} is a gzip file: give it a name that ends in .gz.")
    for magics, what in (
        ((b"pk\x03\x04",), "a zip archive: unpack it first"),
        ((PARQUET_MAGIC.lower(),), "a Parquet file: give it a name that ends in .parquet"),
        ((b"\xff\xfe", b"\xfe\xff"), "UTF-16 text: save it as UTF-8"),
        ((b"<!", b"<html"), "a web page, not data: download it again"),
    ):
        if start.lower().startswith(magics):
            raise PreparationError(f"{path} is {what}.")
    return gzipped


def read_lines(
    path: str | Path,
    bad: BadRows,
    encodings: Sequence[str] = ("utf-8",),
    notes: Counter[str] | None = None,
    progress: bool = True,
) -> Iterator[tuple[int, str]]:
    """Yield `(line number, text)` for the lines of a text file, plain or gzip (several members too).

    Args:
        path: the file; a name ending in `.gz` is read as gzip.
        bad: takes lines that cannot be decoded and the line at which a damaged gzip stream ends.
        encodings: tried in turn for each line, for files of mixed encodings; the use of any but the first is counted.
        notes: counts what was met and is no fault: empty lines, lines in a second encoding.
        progress: show a bar (quiet without a terminal).

    Lines end at `\\n`; a `\\r` before it is dropped, and so is a byte-order mark. Empty lines are left out, the numbers
    of the others stay true.
    """
    path = Path(path)
    notes = Counter() if notes is None else notes
    gzipped = check_is_text(path)
    number = 0
    size, hidden = path.stat().st_size, None if progress else True
    with (
        path.open("rb") as raw,
        tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=hidden) as bar,
    ):
        try:
            for number, line in enumerate(_split(raw, gzipped, path, bar), start=1):
                line = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip(b"\r")
                if not line or line.isspace():
                    notes["empty lines"] += 1
                    continue
                for encoding in encodings:
                    try:
                        text = line.decode(encoding)
                    except UnicodeDecodeError:
                        continue
                    if encoding != encodings[0]:
                        notes[f"lines in {encoding}"] += 1
                    yield number, text
                    break
                else:
                    bad.report(path, number, RowError(f"not {' or '.join(encodings)} text", shorten(line)))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            what = "the file ends inside the stream; download it again" if isinstance(error, EOFError) else str(error)
            bad.report(path, number + 1, RowError("damaged gzip stream, the rest cannot be read", what))


def _split(raw: BufferedReader, gzipped: bool, path: Path, bar: tqdm[Any]) -> Iterator[bytes]:
    """The lines of a file, unzipped; an error of the gzip module where the stream is damaged."""
    stream, rest = gzip.GzipFile(fileobj=raw) if gzipped else raw, b""
    while block := stream.read1(BLOCK_BYTES):
        bar.update(raw.tell() - bar.n)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            raise PreparationError(f"{path} has a line of more than {MAX_LINE_BYTES >> 20} MB: is it a text of lines?")
    if rest:
        yield rest
