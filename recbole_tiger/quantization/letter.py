"""LETTER's tokenizer (Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024, section 3).

Input: content embeddings and, for each item, a collaborative one. Output: codes. It is RQ-VAE with two more losses: a
contrastive one that brings an item's quantized latent near its collaborative embedding, and one that spreads codewords
among clusters of equal rank, so that items spread over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from recbole_tiger.quantization.base import Embeddings, as_array, check_matrix
from recbole_tiger.quantization.kmeans import KMeansResult, group_sums, seed_rows, squared_distances
from recbole_tiger.quantization.rqvae import RQVAE
from recbole_tiger.quantization.rqvae.training import StepResult, Training


@dataclass(kw_only=True, eq=False)
class LETTER(RQVAE):
    """RQ-VAE with collaborative alignment and diversity of codewords.

    Other arguments as in `RQVAEParameters`; with `codebook_init=first_batch` the k-means of the start is constrained to
    balanced clusters. Both weights are relative to the reconstruction error per dimension, as in the authors' code.

    Args:
        alignment: weight of the contrastive loss (the paper's alpha).
        diversity: weight of the codewords' diversity (the paper's beta; here `beta` is the commitment's weight).
        clusters: number of clusters of a level's codewords, computed every epoch by constrained k-means.
    """

    name = "letter"
    aligns_items = True

    id_length: int = 4
    codebook_init: str = "first_batch"
    codebook_update: str = "gradient"
    alignment: float = 0.02
    diversity: float = 1e-4
    clusters: int = 10

    def fit(
        self,
        x: Embeddings,
        *,
        progress: bool = False,
        checkpoint: str | Path | None = None,
        collaborative: Embeddings | None = None,
    ) -> LETTER:
        """See `Quantizer.fit`.

        Args:
            collaborative: `[n, any]`; zero for an item of which nothing is known, which is not aligned.
                None: nothing is aligned.
        """
        self._aligned_to = None if collaborative is None else self._reduced(collaborative, len(x))
        super().fit(x, progress=progress, checkpoint=checkpoint)
        del self._aligned_to
        return self

    def _reduced(self, collaborative: Embeddings, n: int) -> NDArray[np.float32]:
        """Collaborative embeddings as unit vectors of the latent's width, by their principal directions."""
        vectors = as_array(collaborative)
        check_matrix(vectors)
        if len(vectors) != n:
            raise ValueError(f"there are {n} embeddings, but {len(vectors)} collaborative ones")
        if self.alignment and not vectors.any():
            raise ValueError("no item has a collaborative embedding other than zero: set alignment=0.")
        products = vectors.astype(np.float64).T @ vectors
        _, directions = np.linalg.eigh(products)
        kept = vectors @ directions[:, ::-1][:, : self.latent_dim]
        kept = np.pad(kept, ((0, 0), (0, self.latent_dim - kept.shape[1])))
        length = np.linalg.norm(kept, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (kept / np.where(length > 0, length, 1)).astype(np.float32)
        return unit

    def _check_arguments(self, dim: int) -> None:
        super()._check_arguments(dim)
        for key in ("alignment", "diversity"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} must not be negative.")
        if self.clusters < 1:
            raise ValueError(f"clusters={self.clusters} must be at least 1.")
        if self.diversity and self.codebook_update != "gradient":
            raise ValueError(
                f"diversity={self.diversity} needs gradients of the codewords, which codebook_update="
                f"{self.codebook_update} does not use: set codebook_update=gradient or diversity=0."
            )

    def _training(self, x: torch.Tensor) -> LETTERTraining:
        return LETTERTraining(self, x, self._aligned_to)

    def _fingerprint(self, x: NDArray[Any]) -> str:
        return super()._fingerprint(x if self._aligned_to is None else np.concatenate([x, self._aligned_to], 1))


class LETTERTraining(Training):
    """A training run with both losses.

    Attributes:
        collaborative: `[n, latent_dim]` unit vectors or zero, or None.
        members: for each level and codeword the codewords of its cluster, itself among them.
    """

    def __init__(self, model: LETTER, x: torch.Tensor, collaborative: NDArray[np.float32] | None) -> None:
        super().__init__(model, x)
        self.weights = (model.alignment * x.shape[1], model.diversity * x.shape[1])
        self.n_clusters = model.clusters
        self.collaborative = None if collaborative is None else torch.from_numpy(collaborative).to(x.device)
        self.members: list[list[torch.Tensor]] = []

    def _initial(self, inputs: torch.Tensor, size: int, rng: np.random.Generator) -> KMeansResult:
        if self.model.codebook_init != "first_batch":
            return super()._initial(inputs, size, rng)
        return balanced_kmeans(inputs, size, rng, *bounds(len(inputs), size))

    def run_epoch(self) -> None:
        if self.weights[1]:
            self.cluster_codewords()
        super().run_epoch()

    @torch.no_grad()
    def cluster_codewords(self) -> None:
        """Cluster the codewords of each level; a resumed run finds the same clusters."""
        self.members = []
        for level, codebook in enumerate(self.network.codebooks):
            k = max(1, min(self.n_clusters, len(codebook) // 2))
            rng = np.random.default_rng([self.model.random_state, self.epoch, level])
            codes = balanced_kmeans(codebook.detach().float(), k, rng, *bounds(len(codebook), k)).codes.cpu()
            self.members.append([(codes == code).nonzero()[:, 0] for code in codes])

    def backward(self, x: torch.Tensor, rows: torch.Tensor | None = None) -> StepResult:
        found = super().backward(x, rows)
        if self.weights[1]:
            for codebook, counts, positive in zip(self.network.codebooks, found.counts, self.positives(), strict=True):
                loss = self.weights[1] * diversity_loss(codebook, counts, positive.to(codebook.device))
                [gradient] = torch.autograd.grad(loss, codebook)
                assert codebook.grad is not None
                codebook.grad += gradient
        return found

    def positives(self) -> Iterator[torch.Tensor]:
        """For each level another codeword of each one's cluster, drawn at random; itself where it is alone."""
        for members in self.members:
            draws = torch.rand(len(members), generator=self.generator).tolist()
            chosen = []
            for code, (cluster, draw) in enumerate(zip(members, draws, strict=True)):
                others = cluster[cluster != code]
                chosen.append(int(others[int(draw * len(others))]) if len(others) else code)
            yield torch.tensor(chosen)

    def _pull(self, quantized: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        if self.collaborative is None or rows is None or not self.weights[0]:
            return None
        with torch.enable_grad():
            quantized = quantized.detach().requires_grad_()
            loss = self.weights[0] * alignment_loss(quantized, self.collaborative[rows])
            [gradient] = torch.autograd.grad(loss, quantized)
        return gradient


def bounds(n: int, k: int) -> tuple[int, int]:
    """Least and greatest size of k balanced clusters of n rows: half the mean, and four times that or what n needs."""
    least = n // (2 * k)
    return least, max(4 * least, -(-n // k))


def alignment_loss(quantized: torch.Tensor, collaborative: torch.Tensor) -> torch.Tensor:
    """InfoNCE between quantized latents `[b, d]` and collaborative embeddings `[b, d]`, with the batch as negatives.

    Gradients go to the latent straight through the quantization. Items without a collaborative embedding do not count.
    """
    known = collaborative.any(1).nonzero()[:, 0]
    if not len(known):
        return quantized.sum() * 0
    logits = quantized[known] @ collaborative[known].t()
    return F.cross_entropy(logits, torch.arange(len(known), device=logits.device))


def diversity_loss(codebook: torch.Tensor, counts: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Mean over a batch of what tells a codeword's `positive` from all codewords but itself, by inner products.

    Args:
        codebook: `[K, d]`.
        counts: `[K]` items of the batch that chose each.
        positive: `[K]` another codeword of its cluster; items on one that has none, its own number, are left out.
    """
    itself = torch.arange(len(codebook), device=codebook.device)
    products = codebook @ codebook.t()
    losses = products.masked_fill(itself[:, None] == itself, -torch.inf).logsumexp(1) - products[itself, positive]
    weight = counts / counts.sum().clamp(min=1) * (positive != itself)
    return (weight * losses).sum()


def assign_within(distances: NDArray[np.floating[Any]], least: int, most: int) -> NDArray[np.int64]:
    """Clusters `[n]` of least total distance, of `least` to `most` rows each; distances are `[n, k]`.

    Raises:
        ValueError: where no assignment keeps the bounds.
    """
    from scipy.optimize import linear_sum_assignment  # here: a run whose Semantic IDs are cached needs no scipy

    n, k = distances.shape
    if not 0 <= least * k <= n <= most * k:
        raise ValueError(f"{n} rows cannot be divided among {k} clusters of {least} to {most}")
    cost = np.repeat(distances.astype(np.float64), most, axis=1)  # a column for each of the `most` seats of a cluster
    reward = 1 + n * float(np.ptp(distances))  # more than anything else can save
    cost.reshape(n, k, most)[:, :, :least] -= reward  # so that the first `least` seats are taken
    clusters: NDArray[np.int64] = linear_sum_assignment(cost)[1] // most
    return clusters


def balanced_kmeans(
    x: torch.Tensor, k: int, rng: np.random.Generator, least: int, most: int, max_iterations: int = 10
) -> KMeansResult:
    """Constrained k-means (Bradley, Bennett & Demiriz 2000): Lloyd's with `assign_within`, from k-means++ seeds.

    The time grows with n cubed: for batches and codebooks, not for catalogues.

    Args:
        x: `[n, dim]` float32.
    """
    centroids = x[seed_rows(x, k, rng).to(x.device)]
    codes = torch.full((len(x),), -1, device=x.device)
    inertia, iterations = np.inf, 0
    while iterations < max_iterations:
        iterations += 1
        distances = squared_distances(x, centroids).cpu().numpy()
        found = assign_within(distances, least, most)
        inertia = float(np.take_along_axis(distances, found[:, None], 1).sum(dtype=np.float64))
        before, codes = codes, torch.from_numpy(found).to(x.device)
        if torch.equal(before, codes):
            break
        sums, counts = group_sums(x, codes, k)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
    return KMeansResult(centroids, codes, inertia, iterations)
