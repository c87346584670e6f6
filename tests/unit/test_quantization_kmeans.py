"""k-means against brute force and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from recbole_tiger.quantization import build_quantizer, kmeans


def blobs(n, dim, centers, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    middle = 4 * rng.standard_normal((centers, dim))
    return (middle[rng.integers(centers, size=n)] + spread * rng.standard_normal((n, dim))).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_brute_force(seed, monkeypatch):
    monkeypatch.setattr(kmeans, "ROWS", 37)
    rng = np.random.default_rng(seed)
    n, dim, k = int(rng.integers(1, 120)), int(rng.integers(1, 40)), int(rng.integers(1, 30))
    x, centroids = rng.standard_normal((n, dim)).astype(np.float32), rng.standard_normal((k, dim)).astype(np.float32)
    full = np.square(x[:, None].astype(np.float64) - centroids).sum(2)
    codes, distances = kmeans.nearest(torch.from_numpy(x), torch.from_numpy(centroids))
    np.testing.assert_array_equal(codes, full.argmin(1))
    np.testing.assert_allclose(distances, full.min(1), rtol=1e-4, atol=1e-4)
    every = kmeans.squared_distances(torch.from_numpy(x), torch.from_numpy(centroids))
    np.testing.assert_allclose(every, full, rtol=1e-4, atol=1e-4)


def test_nearest_of_nothing():
    codes, distances = kmeans.nearest(torch.zeros(0, 3), torch.ones(2, 3))
    assert codes.shape == distances.shape == (0,) and codes.dtype == torch.int64


def test_of_equal_centroids_only_the_first_is_chosen():
    rows = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    norms = kmeans.squared_norms(rows)
    assert norms.tolist() == [5.0, 10.0, float("inf"), 0.0, float("inf")]
    assert kmeans.nearest(rows, rows)[0].tolist() == [0, 1, 0, 3, 1]


def test_group_sums():
    rng = np.random.default_rng(0)
    x, codes = rng.standard_normal((200, 5)).astype(np.float32), rng.integers(9, size=200)
    codes[codes == 4] = 3  # an empty group
    expected = np.zeros((9, 5))
    np.add.at(expected, codes, x)
    sums, counts = kmeans.group_sums(torch.from_numpy(x), torch.from_numpy(codes), 9)
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(counts, np.bincount(codes, minlength=9))


def test_lloyd_is_scikit_learns():
    x = blobs(600, 12, 25, 3, spread=3.0)
    start = x[:20]
    theirs = KMeans(20, init=start, n_init=1, max_iter=300, tol=0).fit(x)
    ours = kmeans.kmeans(
        torch.from_numpy(x),
        20,
        np.random.default_rng(0),
        start=torch.from_numpy(start),
        max_iterations=300,
        tolerance=-1,
    )
    assert ours.n_iterations == 300  # a negative tolerance never stops
    np.testing.assert_array_equal(ours.codes, theirs.labels_)
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, rtol=1e-3, atol=1e-4)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4)


@pytest.mark.parametrize("shape", [(2000, 100, 64), (500, 8, 50)])
def test_seeding_is_as_good_as_scikit_learns(shape):
    n, dim, k = shape
    x = blobs(n, dim, k, 5)
    ours = np.mean(
        [kmeans.kmeans(torch.from_numpy(x), k, np.random.default_rng(s), max_iterations=30).inertia for s in range(4)]
    )
    theirs = np.mean([KMeans(k, n_init=1, max_iter=30, random_state=s).fit(x).inertia_ for s in range(4)])
    assert ours <= 1.05 * theirs
    at_random = np.mean(
        [KMeans(k, n_init=1, init="random", max_iter=30, random_state=s).fit(x).inertia_ for s in range(4)]
    )
    assert ours < 0.9 * at_random  # the test can tell good seeds from bad ones


def test_residual_kmeans_per_level_no_worse_than_minibatch_and_near_full_kmeans():
    x = blobs(3000, 48, 200, 6, spread=2.0)
    ours = build_quantizer("rkmeans", codebook_size=32).fit(x).history_["inertia"]
    for cls, factor in ((MiniBatchKMeans, 1.0), (KMeans, 1.04)):
        residual = x.copy()
        for level in range(3):
            found = cls(32, n_init=1, random_state=level).fit(residual)
            residual -= found.cluster_centers_[found.labels_]
            assert ours[level] <= factor * np.square(residual).sum(), (cls.__name__, level)


def test_inertia_is_that_of_the_result():
    x = torch.from_numpy(blobs(300, 6, 10, 0))
    found = kmeans.kmeans(x, 10, np.random.default_rng(0))
    assert found.inertia == pytest.approx((x - found.centroids[found.codes]).square().sum().item(), rel=1e-4)
    assert found.codes.shape == (300,) and set(found.codes.tolist()) == set(range(10))


def test_empty_clusters_take_far_rows():
    x = torch.from_numpy(blobs(400, 4, 8, 1))
    start = torch.full((8, 4), 100.0) + torch.arange(8)[:, None]  # all but one start with no row
    found = kmeans.kmeans(x, 8, np.random.default_rng(0), start=start, max_iterations=100)
    assert len(found.codes.unique()) == 8
    # without them seven clusters would stay empty and one centroid would be left, the mean
    assert found.inertia < 0.7 * (x - x.mean(0)).square().sum()


@pytest.mark.parametrize("seed", range(4))
def test_seeds_are_distinct_rows_while_there_are_any(seed, monkeypatch):
    monkeypatch.setattr(kmeans, "SEEDING_ROWS_PER_CENTROID", 20)
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((10, 80)).astype(np.float32)
    x = torch.from_numpy(rows[np.arange(300) % 10])
    picked = x[kmeans.seed_rows(x, 10, rng)]
    assert len(picked.unique(dim=0)) == 10
    more = kmeans.kmeans(x, 13, rng)  # fewer distinct rows than clusters
    assert more.inertia < 1e-6 and len(more.codes.unique()) == 10
