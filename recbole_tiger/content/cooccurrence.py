"""Item co-occurrence: the users' training sequences in, a vector for each item out.

A vector is a row of the factorised matrix of positive pointwise mutual information of items in one history (Levy &
Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014), with the smoothed context distribution of
Levy, Goldberg & Dagan (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recbole_tiger.content.encoders.precomputed import read_embeddings

DIMENSIONS = 128
#: Items of a history at most so many positions apart co-occur; counted by one over the root of the distance.
WINDOW = 20
_LEAST_VALUE = 1e-6  # singular values, and lengths, below this share of the largest are rounding
_SMOOTHING = 0.75  # exponent of the context distribution


def cooccurrence_counts(items: NDArray[np.int64], user: NDArray[np.int64], n_items: int) -> Any:
    """How often items are near each other, nearer ones counting for more: symmetric, sparse [n_items, n_items].

    Args:
        items: [n] item of each interaction, from 0 on, in the order of user and time.
        user: [n] its user.
        n_items: number of items.
    """
    from scipy.sparse import csr_matrix  # here: a run whose Semantic IDs are cached needs no scipy

    counts = csr_matrix((n_items, n_items))
    for distance in range(1, min(WINDOW, len(items) - 1) + 1):
        one, other = items[:-distance], items[distance:]
        together = (user[:-distance] == user[distance:]) & (one != other)
        weight = np.full(int(together.sum()), distance**-0.5)
        counts = counts + csr_matrix((weight, (one[together], other[together])), shape=counts.shape)
    return counts + counts.T


def cooccurrence_vectors(items: NDArray[np.int64], user: NDArray[np.int64], n_items: int) -> NDArray[np.float32]:
    """A unit vector for each item, float32 [n_items, k], k at most `DIMENSIONS`; zero for one that co-occurs with none.

    The tenth of the items with the shortest vectors, about which the least is known, keep their difference in length.
    Arguments as for `cooccurrence_counts`. The result does not depend on the number of threads.
    """
    from scipy.sparse import diags  # here, as above
    from scipy.sparse.linalg import svds

    counts = cooccurrence_counts(items, user, n_items)
    k = min(DIMENSIONS, n_items - 1)
    total = np.asarray(counts.sum(1)).ravel()
    context = np.maximum(total, 1.0) ** _SMOOTHING
    ratio = diags(1 / np.maximum(total, 1.0)) @ counts @ diags(context.sum() / context)
    ratio.data = np.maximum(np.log(ratio.data), 0)
    ratio.eliminate_zeros()
    if k < 1 or ratio.nnz == 0:
        return np.zeros((n_items, max(k, 1)), dtype=np.float32)
    with threadpool_limits(1):  # the order of summation, and with it the last bits, must not depend on their number
        vectors, values, _ = svds(ratio, k, v0=np.random.default_rng(0).standard_normal(n_items))
    # Beyond the rank of the matrix the singular vectors are arbitrary.
    vectors = vectors * np.sqrt(np.where(values > _LEAST_VALUE * values.max(), values, 0))
    vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(k)])  # the sign of a singular vector is free
    length = np.linalg.norm(vectors, axis=1)
    alone = (np.asarray(ratio.sum(1)).ravel() == 0) | (length <= _LEAST_VALUE * length.max())
    shortest = np.quantile(length[~alone], 0.1)
    return np.where(alone[:, None], 0, vectors / np.maximum(length, shortest)[:, None]).astype(np.float32)


def collaborative_vectors(
    file: str | None, items: Sequence[str], interactions: tuple[NDArray[np.int64], NDArray[np.int64]] | None
) -> NDArray[np.float32]:
    """What a tokenizer such as LETTER aligns items to, `[n_items, k]`: the embeddings in a file, or else co-occurrence.

    Args:
        file: see `read_embeddings`.
        items: ids of all items.
        interactions: items and users, as for `cooccurrence_counts`; where there is a file, None will do.
    """
    if file:
        return read_embeddings(file, items, key="collaborative_file")
    assert interactions is not None, "without a file items are aligned by their interactions"
    return cooccurrence_vectors(*interactions, len(items))
