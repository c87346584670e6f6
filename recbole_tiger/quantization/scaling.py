"""Scaling of content embeddings before they are quantized: a matrix comes in, a matrix goes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

SCALINGS = ("zscore", "pca", "whiten", "l2", "none")
BATCH_ROWS = 8192
_ARRAYS = ("mean_", "scale_", "components_", "beside_map_")


class Scaler:
    """Brings embeddings to a common scale.

    Args:
        mode: `zscore` (mean 0, standard deviation 1 per dimension), `pca` (principal components), `whiten`
            (principal components, each with standard deviation 1), `l2` (rows of length 1) or `none`.
        n_components: components kept by `pca` and `whiten`; None keeps all that vary.

    A dimension or component that does not vary stays at 0 instead of being divided by 0, and a zero row stays zero.

    Columns of another origin may come to stand beside the scaled ones (`fit_beside`). Rows that have none of their own, such
    as new items, get what a linear map from their scaled columns predicts.
    """

    beside_map_: np.ndarray | None = None  # [n scaled, n beside]
    beside_scale_ = 1.0

    def __init__(self, mode: str = "zscore", n_components: int | None = None) -> None:
        self.mode = mode
        self.n_components = n_components

    def fit(self, x: np.ndarray) -> Scaler:
        """Learns means and scales from `[n, dim]`, computed in float64.

        Raises:
            ValueError: an unknown mode, no matrix, NaN or infinity, or an impossible `n_components`.
        """
        if self.mode not in SCALINGS:
            raise ValueError(f"scaling {self.mode!r} is unknown: choose one of {', '.join(SCALINGS)}.")
        x = np.asarray(x)
        if x.ndim != 2 or len(x) == 0:
            raise ValueError(f"embeddings must be a matrix [n, dim] with at least one row, got {x.shape}.")
        dim = x.shape[1]
        rotates = self.mode in ("pca", "whiten")
        if self.n_components is not None and not rotates:
            raise ValueError(f"n_components={self.n_components} has no meaning for scaling {self.mode!r}.")
        if self.n_components is not None and not 1 <= self.n_components <= min(x.shape):
            raise ValueError(
                f"n_components={self.n_components} must lie between 1 and {min(x.shape)}, the lesser of "
                "items and dimensions."
            )
        self.dim_ = int(dim)
        self.mean_ = np.zeros(dim)
        self.scale_ = np.ones(dim)
        self.components_ = None
        if self.mode in ("l2", "none"):
            self._check_finite(x)
            return self
        total, squares = np.zeros(dim), np.zeros(dim)
        for batch in self._batches(x):
            total += batch.sum(0)
        self.mean_ = total / len(x)
        if not rotates:
            for batch in self._batches(x):
                squares += np.square(batch - self.mean_).sum(0)
            self.scale_ = _without_zeros(np.sqrt(squares / len(x)), np.abs(self.mean_))
            return self
        covariance = np.zeros((dim, dim))
        # one thread: the order of summation, and with it the last bits, must not depend on their number
        with threadpool_limits(1):
            for batch in self._batches(x):
                centered = batch - self.mean_
                covariance += centered.T @ centered
            variances, vectors = np.linalg.eigh(covariance / len(x))
        variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
        varying = int((variances > 1e-10 * max(variances[0], np.finfo(float).tiny)).sum())
        kept = self.n_components or max(varying, 1)
        vectors = vectors[:, :kept]
        # the sign of an eigenvector is free: make its largest entry positive
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(kept)])
        self.components_ = vectors * signs
        self.scale_ = np.ones(kept)
        if self.mode == "whiten":
            self.scale_ = np.sqrt(np.where(np.arange(kept) < varying, variances[:kept], 1.0))
        return self

    def fit_beside(self, scaled: np.ndarray, beside: np.ndarray, weight: float) -> np.ndarray:
        """Scaled rows with more columns: `[n, n scaled + n beside]`, for the rows that the map is learned from.

        Args:
            scaled: `[n, n scaled]`, as `transform` gave them.
            beside: `[n, n beside]` unit vectors, zero for a row that has none.
            weight: variance of what is added, relative to that of `scaled`.

        Raises:
            ValueError: if no row has any, or nothing varies.
        """
        own = beside.any(axis=1)
        x, y = scaled[own].astype(np.float64), beside[own].astype(np.float64)
        variance = float(y.var(0).sum()) if own.any() else 0.0
        if not variance > 1e-12:
            raise ValueError("there is nothing to stand beside the embeddings: no row has a vector that differs")
        self.beside_scale_ = float(np.sqrt(weight * scaled.astype(np.float64).var(0).sum() / variance))
        with threadpool_limits(1):  # as in fit
            products = x.T @ x
            ridge = 0.01 * np.trace(products) / len(products) + np.finfo(float).tiny
            self.beside_map_ = np.linalg.solve(products + ridge * np.eye(len(products)), x.T @ y)
        whole = self._with_beside(scaled)
        whole[own, scaled.shape[1] :] = self.beside_scale_ * beside[own]
        return whole

    def _with_beside(self, scaled: np.ndarray) -> np.ndarray:
        with threadpool_limits(1):
            predicted = scaled.astype(np.float64) @ self.beside_map_
        length = np.linalg.norm(predicted, axis=1, keepdims=True)
        predicted *= self.beside_scale_ / np.where(length > 0, length, 1.0)
        return np.concatenate([scaled, predicted], 1, dtype=np.float32)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Scaled embeddings (see `scale`), and what stands beside them."""
        scaled = self.scale(x)
        return scaled if self.beside_map_ is None else self._with_beside(scaled)

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Scaled embeddings, float32 `[n, dim]` (`[n, n_components]` for `pca` and `whiten`)."""
        if not hasattr(self, "dim_"):
            raise ValueError("the scaler is not fitted yet: call fit first.")
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.dim_:
            raise ValueError(f"embeddings must be [n, {self.dim_}] as in fit, got {x.shape}.")
        width = self.dim_ if self.components_ is None else self.components_.shape[1]
        out = np.empty((len(x), width), dtype=np.float32)
        start = 0
        for batch in self._batches(x):
            stop = start + len(batch)
            if self.mode == "none":
                out[start:stop] = batch
            elif self.mode == "l2":
                norms = np.linalg.norm(batch, axis=1, keepdims=True)
                out[start:stop] = batch / np.where(norms > 0, norms, 1.0)
            elif self.components_ is None:
                out[start:stop] = (batch - self.mean_) / self.scale_
            else:
                with threadpool_limits(1):
                    out[start:stop] = (batch - self.mean_) @ self.components_ / self.scale_
            start = stop
        return out

    def fit_transform(self, x: np.ndarray) -> np.ndarray:
        """`fit(x)` and then `transform(x)`."""
        return self.fit(x).transform(x)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only (`torch.load(weights_only=True)`)."""
        arrays = {key: getattr(self, key, None) for key in _ARRAYS}
        return {
            "mode": self.mode,
            "n_components": self.n_components,
            "dim_": getattr(self, "dim_", None),
            "beside_scale_": self.beside_scale_,
            **{key: None if value is None else torch.from_numpy(value.copy()) for key, value in arrays.items()},
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Scaler:
        """The scaler that `state_dict` came from."""
        scaler = cls(state["mode"], state["n_components"])
        if state["dim_"] is not None:
            scaler.dim_ = state["dim_"]
            scaler.beside_scale_ = state.get("beside_scale_", 1.0)
            for key in _ARRAYS:
                value = state.get(key)
                setattr(scaler, key, None if value is None else value.numpy())
        return scaler

    def _batches(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Checked batches in float64."""
        for start in range(0, len(x), BATCH_ROWS):
            batch = x[start : start + BATCH_ROWS].astype(np.float64)
            self._check_finite(batch, start)
            yield batch

    @staticmethod
    def _check_finite(x: np.ndarray, start: int = 0) -> None:
        finite = np.isfinite(x).all(axis=1)
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise ValueError(f"embeddings hold NaN or infinity (first in row {first}): clean or drop these items.")


def _without_zeros(deviations: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """Standard deviations with 1 in place of those that are zero but for rounding."""
    return np.where(deviations > 1e-6 * magnitudes, deviations, 1.0)
