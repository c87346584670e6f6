"""From raw values to cells of an atomic file: plain text, prices, years, category paths, identifiers, numbers.

Input: a value of any type. Output: a cell without tab, line break or control character, so that every reader sees the
same columns. A straight double quote at the start of a cell is written as a typographic one (and so is its partner):
RecBole's reader would otherwise take it for the start of a quoted cell and swallow what follows, up to several rows.
"""

from __future__ import annotations

import html
import html.entities
import math
import re
from collections.abc import Iterable
from datetime import date, datetime, timezone
from functools import lru_cache

from recbole_tiger.datasets.atomic_fields import PADDING_TOKEN
from recbole_tiger.datasets.bad_rows import shorten
from recbole_tiger.errors import RowError

# What pandas, and so RecBole, reads as "missing". As an id such a word would silently drop the row.
_MISSING = "#N/A;#N/A N/A;#NA;-1.#IND;-1.#QNAN;-NaN;-nan;1.#IND;1.#QNAN;<NA>;N/A;NA;NULL;NaN;None;n/a;nan;null"
WORDS_READ_AS_MISSING = frozenset(_MISSING.split(";"))
EARLIEST_CLOCK = 100_000_000  # smaller times are positions, not seconds since 1970
MILLISECONDS = 100_000_000_000  # larger times are milliseconds
UNKNOWN_TOKEN = "Unknown"  # for an empty token_seq cell: RecBole crashes on those under pandas 3

# One without an end tag goes to the end of the text if it is surely a tag: "<style 3>" is text.
_SCRIPT = re.compile(
    r"<(script|style)\b[^<>]*>.*?</\1\s*>|<(?:script|style)(?:\s[^<>]*=[^<>]*)?\s*>.*", re.IGNORECASE | re.DOTALL
)
# HTML also takes some names without a semicolon, such as those in "Do&not touch" and "salt&region".
_ENTITY = re.compile(r"&(?:#(?:\d{1,7}|x[0-9a-f]{1,6});?|[a-z][a-z0-9]{1,31};)", re.IGNORECASE)
_TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]*>", re.DOTALL)
# Control characters, line and paragraph separators, zero-width space, byte-order mark, lone surrogates.
_UNWANTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b\ufeff\ud800-\udfff]")
_AMOUNT = r"(?:[A-Z]{0,3}\s*[$€£¥₹]|[A-Z]{3})?\s*(\d[\d.,]*)\s*(?:[€£]|[A-Z]{3})?"
_PRICE = re.compile(rf"(?:from|ab)?\s*{_AMOUNT}(?:\s*(?:-|–|—|to)\s*{_AMOUNT})?", re.IGNORECASE)
_FREE = re.compile(r"free(?: to play| to use|)|kostenlos", re.IGNORECASE)
_TITLE_YEAR = re.compile(r"^(.*?)\s*\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\s*\)$")


def clean_text(value: object) -> str:
    """Any raw value as one line of plain text; `""` for a missing one.

    Entities are resolved (also doubly escaped ones), scripts, tags and control characters removed, every run of blanks
    becomes one space, lists are joined by spaces, a leading straight quote becomes typographic.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, tuple)):
        value = " ".join(clean_text(part) for part in value)
    text = str(value)
    text = resolve_entities(text)
    if "<" in text:
        text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    text = " ".join(_UNWANTED.sub(" ", text).split())
    if text.startswith('"'):
        text = "“" + text[1:].replace('"', "”", 1)
    return text


def resolve_entities(text: str, entity: re.Pattern[str] = _ENTITY) -> str:
    """A text without HTML entities, also those escaped twice: Amazon's titles hold `&amp;quot;`."""
    while "&" in text and (resolved := entity.sub(_character, text)) != text:
        text = resolved
    return text


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0]) if entity[0][1] == "#" else html.entities.html5.get(entity[0][1:], entity[0])


def category_tokens(value: object, separator: str = "|", paths: str = "all") -> list[str]:
    """A category path, coarse to fine, as tokens without blanks: `["Hair", "Dry Oil"]` -> `["Hair", "Dry_Oil"]`.

    Args:
        value: a list of names, a list of such paths (Amazon 2014), text in which `separator` divides the names, or a
            number, which is one name.
        separator: only for text; empty takes the text as one name.
        paths: `all` gives the first path and then, of the others, the names that have not yet been given; `first` gives
            the first path only. Either way the position of a token of the first path is its depth.
    """
    if isinstance(value, (str, int, float)):
        value = value.split(separator) if separator and isinstance(value, str) else [value]
    if not isinstance(value, (list, tuple)):
        return []
    nested = [path for path in value if isinstance(path, (list, tuple))] or [value]
    names = (clean_text(name) for path in (nested if paths == "all" else nested[:1]) for name in path)
    return list(dict.fromkeys(name.replace(" ", "_") for name in names if name))


def sequence_cell(tokens: Iterable[str]) -> str:
    """The cell of a token_seq column; `""` also where RecBole would read the whole cell as missing."""
    cell = " ".join(tokens)
    return "" if cell in WORDS_READ_AS_MISSING else cell


def parse_price(value: object) -> float | None:
    """A price in the units of its currency, or None where none can be understood.

    `"$5.99"` is 5.99, a range `"$5.99 - $12.00"` and `"from 5.99"` give the lower end, `"1,299.00"` is 1299,
    `"12,99 €"` is 12.99, `"Free To Play"` is 0.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) and value >= 0 else None
    text = clean_text(value)
    if _FREE.fullmatch(text):
        return 0.0
    match = _PRICE.fullmatch(text)
    if match is None:
        return None
    amounts = [_amount(part) for part in match.groups() if part is not None]
    known = [amount for amount in amounts if amount is not None]
    return min(known) if len(known) == len(amounts) else None


def _amount(digits: str) -> float | None:
    digits = digits.rstrip(".,")
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?|\d+(\.\d+)?", digits):
        return float(digits.replace(",", ""))
    if re.fullmatch(r"\d{1,3}(\.\d{3})+,\d+|\d+,\d{1,2}", digits):
        return float(digits.replace(".", "").replace(",", "."))
    return None


def price_cell(value: object) -> str:
    """The cell of a price: two decimals, or empty."""
    price = parse_price(value)
    return "" if price is None else f"{price:.2f}"


def split_title_year(value: object) -> tuple[str, str]:
    """`"Toy Story (1995)"` -> `("Toy Story", "1995")`; of `(1994-2004)` the first year, `""` without one."""
    text = clean_text(value)
    match = _TITLE_YEAR.match(text)
    return (match[1], match[2]) if match else (text, "")


def identifier(value: object, what: str) -> str:
    """A raw user or item id as text, `12.0` as `12`; a `RowError` for no id, neither a text nor a whole number, or a
    float that is too large to hold every digit of an id."""
    if type(value) is str:
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowError(f"no {what}")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{what} is not an identifier", shorten(value))


def check_identifier(text: str) -> str:
    """An id as it is written, outer blanks stripped; a `RowError` for one that RecBole would not read back as it is."""
    text = text.strip()
    if not text:
        raise RowError("empty id")
    if _UNWANTED.search(text):
        raise RowError("an id with a tab or another control character", shorten(text))
    if text.startswith('"'):
        raise RowError("an id that begins with a quote", shorten(text))
    if text in WORDS_READ_AS_MISSING or text == PADDING_TOKEN:
        raise RowError("an id that RecBole reads as missing", shorten(text))
    return text


def number(value: object, what: str) -> float:
    """A finite number from a number or its text; a `RowError` for anything else."""
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):  # float() takes both
            raise ValueError
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise RowError(f"{what} is not a number", shorten(value))
    return result


def timestamp(value: object, time_format: str | None, what: str) -> float:
    """A time as a number: numbers as they are, dates and texts of `time_format` as seconds since 1970 (UTC).

    A `RowError` for neither a number nor a text of that format."""
    if isinstance(value, date):  # a Parquet column of times
        value = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if time_format is None:
        return number(value, what)
    try:
        return _parse_time(str(value).strip(), time_format)
    except ValueError:
        raise RowError(f"{what} is not a time of the form {time_format}", shorten(value)) from None


@lru_cache(maxsize=1 << 14)  # days repeat, and parsing one takes longer than all the rest of a row
def _parse_time(text: str, time_format: str) -> float:
    moment = datetime.strptime(text, time_format)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
