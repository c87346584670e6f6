"""Sentence encoders such as the paper's Sentence-T5 (section 4.1.3): sentences in, their embeddings out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.cache import content_key
from recbole_tiger.content.encoders.base import Encoder, examples, versions
from recbole_tiger.content.encoders.hub import WAYS_OUT, FoundModel, find_model, hub_revision
from recbole_tiger.errors import HubUnreachableError
from recbole_tiger.io import atomic_file, has_screen

logger = logging.getLogger(__name__)

#: Sentences after which the embeddings of a large catalogue are kept, so that a killed process resumes.
_PART = 16384


class SentenceTransformerEncoder(Encoder):
    """A model of the library sentence-transformers.

    Args:
        model: a folder, or a name that is looked for in the `offline` extra, in the local cache and on the hub, in
            this order.
        batch_size: sentences at a time.
        device: as torch names it, or `auto`.
    """

    name = "sentence_transformers"

    def __init__(self, model: str, batch_size: int | None = None, device: str | None = None) -> None:
        self.model = model
        self.batch_size = batch_size
        self.device = device

    def fingerprint(self) -> dict[str, Any]:
        found = find_model(self.model)
        return {
            "encoder": self.name,
            "model": [found.name, found.revision] if found.revision else content_key(found.folder),
            "batch_size": self.batch_size,
            "device": None if self.device is None else str(self.device).split(":")[0],
            "versions": versions("sentence-transformers", "transformers", "torch"),
        }

    def _encode(
        self, sentences: list[str], item_ids: list[str], progress: bool, checkpoint: Path | None
    ) -> NDArray[np.float32]:
        embeddings = self._embed(sentences, progress, checkpoint)
        bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(bad):
            raise ValueError(
                f"content_model={self.model!r} gave NaN or infinite embeddings for {len(bad)} of {len(item_ids)} "
                f"items (such as {examples([item_ids[row] for row in bad])}): use another model"
            )
        return embeddings

    def _embed(self, sentences: list[str], progress: bool, checkpoint: Path | None) -> NDArray[np.float32]:
        """Embeddings as the model gives them."""
        found = find_model(self.model)  # first of all: importing the library alone takes seconds
        batch_size = 32 if self.batch_size is None else self.batch_size
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
        device = _torch_device("auto" if self.device is None else str(self.device))
        bars = progress and has_screen()
        with _quiet_loading(bars):
            network = self._load(found, lambda name: SentenceTransformer(name, device=device))
        network = network.float()  # some are stored in half precision, which a CPU is slow and inexact in
        options = {"batch_size": batch_size, "show_progress_bar": bars, "convert_to_numpy": True}
        try:
            return _in_parts(sentences, checkpoint, lambda part: network.encode(part, **options))
        except torch.cuda.OutOfMemoryError as error:
            raise ValueError(
                f"content_batch_size={batch_size} is too much for the memory of {device}: lower it"
            ) from error

    def _load(self, found: FoundModel, load: Callable[[str], Any]) -> Any:
        """Load a model from where it was found; one whose download broke off is completed from the hub."""
        name = found.name if found.folder is None else str(found.folder)
        logger.info("Loading content_model=%s from %s", self.model, name)
        try:
            try:
                return load(name)
            except Exception:
                if found.folder is None or found.revision is None or hub_revision(found.name, self.model) is None:
                    raise
                return load(found.name)
        except HubUnreachableError:
            raise
        except Exception as error:
            # Every layer below has its own exceptions for missing files, unknown architectures and broken weights.
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"content_model={self.model!r} cannot be loaded ({reason}): {WAYS_OUT}") from error


def _in_parts(sentences: list[str], folder: Path | None, encode: Callable[[list[str]], Any]) -> NDArray[np.float32]:
    """What `encode` gives for all sentences, `_PART` of them at a time; the parts of a large catalogue are kept."""
    if folder is None or len(sentences) <= _PART:
        return np.ascontiguousarray(encode(sentences), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    embeddings, started, n_new = None, perf_counter(), 0
    for start in range(0, len(sentences), _PART):
        part, file = sentences[start : start + _PART], folder / f"{start}.npy"
        found = _read_part(file, len(part))
        if found is None:
            found = np.asarray(encode(part), dtype=np.float32)
            with atomic_file(file) as opened:
                np.save(opened, found)
            n_new, n_left = n_new + len(part), len(sentences) - start - len(part)
            minutes = (perf_counter() - started) / n_new * n_left / 60
            logger.info("Encoded %d of %d sentences, %.0f min left", start + len(part), len(sentences), minutes)
        if embeddings is None:
            embeddings = np.empty((len(sentences), found.shape[1]), dtype=np.float32)
        embeddings[start : start + len(part)] = found
    assert embeddings is not None
    return embeddings


def _read_part(file: Path, n: int) -> NDArray[np.float32] | None:
    """The embeddings of `n` sentences that a process has kept; None if it has not."""
    try:
        found: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == n else None


def _torch_device(device: str) -> str:
    import torch  # here, as above

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a device of torch: use cpu, cuda, cuda:0 or auto") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch finds no such device here; use cpu or auto")
    return device


@contextlib.contextmanager
def _quiet_loading(bars: bool) -> Iterator[None]:
    """Keep transformers from drawing its bar where no bars are wanted."""
    from transformers.utils import logging as transformers_logging  # here, as above

    if bars or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
