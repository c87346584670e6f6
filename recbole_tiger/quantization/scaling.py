"""Scaling of content embeddings before they are quantized: a matrix in, a matrix out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recbole_tiger.quantization.base import BATCH_ROWS, Embeddings, as_array, check_finite

SCALINGS = ("zscore", "pca", "whiten", "l2", "none")
_ARRAYS = ("mean_", "scale_", "components_", "beside_map_")


class Scaler:
    """Brings embeddings to a common scale.

    Args:
        mode: `zscore` (mean 0, standard deviation 1 per dimension), `pca` (principal components), `whiten`
            (principal components, each with standard deviation 1), `l2` (rows of length 1) or `none`.
        n_components: components kept by `pca` and `whiten`; None keeps all that vary.

    A dimension or component that does not vary stays at 0 instead of being divided by 0, and a zero row stays zero.

    Columns of another origin may stand beside the scaled ones (`fit_beside`). Rows that have none of their own, such as
    new items, get what a linear map from their scaled columns predicts.
    """

    beside_map_: NDArray[np.float64] | None = None  # [n scaled, n beside]
    beside_scale_ = 1.0

    def __init__(self, mode: str = "zscore", n_components: int | None = None) -> None:
        self.mode = mode
        self.n_components = n_components

    def fit(self, x: Embeddings) -> Scaler:
        """Learns means and scales from `[n, dim]`, computed in float64; nothing is kept of an earlier fit.

        Raises:
            ValueError: an unknown mode, no matrix, NaN or infinity, or an impossible `n_components`.
        """
        if self.mode not in SCALINGS:
            raise ValueError(f"scaling {self.mode!r} is unknown: choose one of {', '.join(SCALINGS)}.")
        x = as_array(x)
        if x.ndim != 2 or len(x) == 0:
            raise ValueError(f"embeddings must be a matrix [n, dim] with at least one row, got {x.shape}.")
        dim = x.shape[1]
        rotates = self.mode in ("pca", "whiten")
        if self.n_components is not None and not rotates:
            raise ValueError(
                f"n_components={self.n_components} has no effect with scaling {self.mode!r}: leave it out."
            )
        if self.n_components is not None and not 1 <= self.n_components <= min(x.shape):
            raise ValueError(
                f"n_components={self.n_components} (setting content_components) must lie between 1 and "
                f"{min(x.shape)}, the smaller of items and dimensions."
            )
        for name in ("dim_", "beside_map_", "beside_scale_"):
            vars(self).pop(name, None)
        self.mean_ = np.zeros(dim)
        self.scale_ = np.ones(dim)
        self.components_: NDArray[np.float64] | None = None
        if self.mode in ("l2", "none"):
            check_finite(x)
        else:
            self.mean_ = sum((batch.sum(0) for batch in self._batches(x)), start=np.zeros(dim)) / len(x)
        if rotates:
            self._fit_components(x)
        elif self.mode == "zscore":
            squares = (np.square(batch - self.mean_).sum(0) for batch in self._batches(x))
            deviations = np.sqrt(sum(squares, start=np.zeros(dim)) / len(x))
            # 1 in place of those that are zero but for rounding
            self.scale_ = np.where(deviations > 1e-6 * np.abs(self.mean_), deviations, 1.0)
        self.dim_ = int(dim)  # last: a fit that fails leaves no half-fitted scaler
        return self

    def _fit_components(self, x: NDArray[Any]) -> None:
        covariance = np.zeros((x.shape[1], x.shape[1]))
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

    def fit_beside(
        self, scaled: NDArray[np.float32], beside: NDArray[np.floating[Any]], weight: float
    ) -> NDArray[np.float32]:
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
            raise ValueError("the vectors to append are constant or all zero: append none")
        self.beside_scale_ = float(np.sqrt(weight * scaled.astype(np.float64).var(0).sum() / variance))
        with threadpool_limits(1):  # as in fit
            products = x.T @ x
            ridge = 0.01 * np.trace(products) / len(products) + np.finfo(float).tiny
            self.beside_map_ = np.linalg.solve(products + ridge * np.eye(len(products)), x.T @ y)
        whole = self._with_beside(scaled, self.beside_map_)
        whole[own, scaled.shape[1] :] = self.beside_scale_ * beside[own]
        return whole

    def _with_beside(self, scaled: NDArray[np.float32], beside_map: NDArray[np.float64]) -> NDArray[np.float32]:
        with threadpool_limits(1):
            predicted = scaled.astype(np.float64) @ beside_map
        length = np.linalg.norm(predicted, axis=1, keepdims=True)
        predicted *= self.beside_scale_ / np.where(length > 0, length, 1.0)
        return np.concatenate([scaled, predicted], 1, dtype=np.float32)

    def transform(self, x: Embeddings) -> NDArray[np.float32]:
        """Scaled embeddings (see `scale`), and what stands beside them."""
        scaled = self.scale(x)
        return scaled if self.beside_map_ is None else self._with_beside(scaled, self.beside_map_)

    def scale(self, x: Embeddings) -> NDArray[np.float32]:
        """Scaled embeddings, float32 `[n, dim]` (`[n, n_components]` for `pca` and `whiten`)."""
        if not hasattr(self, "dim_"):
            raise ValueError("the scaler is not fitted yet: call fit first.")
        x = as_array(x)
        if x.ndim != 2 or x.shape[1] != self.dim_:
            raise ValueError(f"embeddings must be [n, {self.dim_}] as in fit, got {x.shape}.")
        out = np.empty((len(x), len(self.scale_)), dtype=np.float32)
        for number, batch in enumerate(self._batches(x)):
            if self.mode == "l2":
                norms = np.linalg.norm(batch, axis=1, keepdims=True)
                batch = batch / np.where(norms > 0, norms, 1.0)
            else:
                batch = batch - self.mean_
                if self.components_ is not None:
                    with threadpool_limits(1):
                        batch = batch @ self.components_
                batch = batch / self.scale_
            out[number * BATCH_ROWS : number * BATCH_ROWS + len(batch)] = batch
        return out

    def fit_transform(self, x: Embeddings) -> NDArray[np.float32]:
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

    def _batches(self, x: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
        """Checked batches in float64."""
        for start in range(0, len(x), BATCH_ROWS):
            batch = x[start : start + BATCH_ROWS].astype(np.float64)
            check_finite(batch, start)
            yield batch
