"""What every encoder shares: one sentence per item in, a float32 matrix `[n_items, dim]` in the same order out.

An encoder's constructor stores its arguments untouched; libraries such as torch are imported only when it encodes.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class Encoder(ABC):
    """Base of all encoders."""

    name: ClassVar[str]

    def encode(
        self,
        sentences: Sequence[str],
        item_ids: Sequence[str],
        progress: bool = False,
        checkpoint: Path | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of a catalogue.

        Args:
            sentences: n sentences (not looked at by `precomputed`).
            item_ids: the n ids, in the same order.
            progress: show a bar (only ever at a terminal).
            checkpoint: a folder for what an encoder that takes long has done, from which a killed process resumes; the
                caller removes it.

        Returns:
            float32 `[n, dim]`, finite.

        Raises:
            HubUnreachableError: the model is neither here nor to be had.
            ValueError: naming the key that is to be changed.
        """
        if len(sentences) != len(item_ids):
            raise ValueError(f"{len(sentences)} sentences for {len(item_ids)} items")
        if not len(item_ids):
            raise ValueError("there are no items to encode: the dataset is empty after filtering")
        return self._encode(list(sentences), [str(item) for item in item_ids], progress, checkpoint)

    def encode_new(
        self, sentences: Sequence[str], item_ids: Sequence[str], known: Sequence[str] | None, progress: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings of unseen items in the space of the catalogue, whose sentences `known` are for an encoder that
        learns from them (`tfidf_svd`); otherwise as `encode`.
        """
        return self.encode(sentences, item_ids, progress)

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """All that embeddings depend on beside the sentences and ids, as plain values for a cache key.

        A folder or file counts by its content, a model from the hub by its name and commit; batch size and device
        count, since they change the last digits. Raises as `encode` would, before any work is done.
        """

    @abstractmethod
    def _encode(
        self, sentences: list[str], item_ids: list[str], progress: bool, checkpoint: Path | None
    ) -> NDArray[np.float32]:
        """Embeddings `[n, dim]` of at least one item."""


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each package."""
    return {package: importlib.metadata.version(package) for package in packages}


def examples(items: Sequence[str]) -> str:
    """The first few items, for a message."""
    return ", ".join(items[:3])
