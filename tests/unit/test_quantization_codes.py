"""Codes of the tokenizers without network against slow, direct versions."""

import numpy as np
import pytest
import torch
from scipy import stats

from recbole_tiger.quantization import build_quantizer
from recbole_tiger.quantization.random_ids import row_hashes


def blobs(n, dim, centers, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    middle = 4 * rng.standard_normal((centers, dim))
    return (middle[rng.integers(centers, size=n)] + spread * rng.standard_normal((n, dim))).astype(np.float32)


# ---------------------------------------------------------------------- residual k-means


@pytest.mark.parametrize("seed", range(3))
def test_residual_kmeans_is_brute_force(seed):
    x, unseen = blobs(300, 10, 20, seed), blobs(50, 10, 20, seed + 100)
    quantizer = build_quantizer("rkmeans", codebook_size=[4, 8, 12], random_state=seed).fit(x)
    for item, codes in zip(unseen, quantizer.transform(unseen), strict=True):
        residual = item.copy()
        for level, codebook in enumerate(quantizer.codebooks_):
            distances = np.square(residual - codebook.numpy()).sum(1)
            assert codes[level] == distances.argmin()
            residual -= codebook.numpy()[codes[level]]
    codes = quantizer.transform(x)
    total = sum(codebook.numpy()[codes[:, level]] for level, codebook in enumerate(quantizer.codebooks_))
    np.testing.assert_allclose(quantizer.reconstruct(codes), total, rtol=1e-5, atol=1e-5)
    assert quantizer.history_["inertia"][-1] == pytest.approx(np.square(x - total).sum(), rel=1e-3)


# ---------------------------------------------------------------------- product quantization


@pytest.fixture(scope="module")
def correlated():
    """Much variance in few directions that are not the axes."""
    rng = np.random.default_rng(4)
    scales = 3.0 * 0.8 ** np.arange(18)
    turn, _ = np.linalg.qr(rng.standard_normal((18, 18)))
    return ((rng.standard_normal((900, 18)) * scales) @ turn + 5).astype(np.float32)


def test_rotation_is_orthogonal_and_helps(correlated):
    quantizer = build_quantizer("pq", id_length=4, codebook_size=16)
    quantizer.fit(correlated)
    rotation = quantizer.rotation_.double()
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(18, dtype=torch.float64), rtol=0, atol=1e-6)
    plain = build_quantizer("pq", id_length=4, codebook_size=16, rotation_iterations=0).fit(correlated)
    assert torch.equal(plain.rotation_, torch.eye(18))

    def error(q):
        return np.square(q.reconstruct(q.transform(correlated)) - correlated).sum()

    assert error(quantizer) < 0.8 * error(plain)
    assert error(quantizer) == pytest.approx(quantizer.history_["inertia"][-1], rel=1e-3)
    # each turn of codebooks and rotation improves on the one before
    inertia = np.array(quantizer.history_["inertia"])
    assert len(inertia) == 17 and (np.diff(inertia) < 1e-3 * inertia[0]).all() and inertia[-1] < inertia[0]


def test_product_codes_are_brute_force_per_part(correlated):
    quantizer = build_quantizer("pq", id_length=4, codebook_size=[4, 16, 8, 16]).fit(correlated)
    assert [codebook.shape for codebook in quantizer.codebooks_] == [(4, 5), (16, 5), (8, 4), (16, 4)]
    rotated = (correlated - correlated.mean(0)) @ quantizer.rotation_.numpy()
    parts = np.split(rotated, [5, 10, 14], axis=1)
    codes = quantizer.transform(correlated)
    for level, (part, codebook) in enumerate(zip(parts, quantizer.codebooks_, strict=True)):
        distances = np.square(part[:, None] - codebook.numpy()).sum(2)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(1))
    mean_only = quantizer.reconstruct(codes[:2], levels=0)
    np.testing.assert_allclose(mean_only, np.repeat(correlated.mean(0)[None], 2, 0), rtol=1e-5)


def test_product_quantization_arguments():
    x = np.random.default_rng(0).standard_normal((30, 2))
    with pytest.raises(ValueError, match="id_length=3 parts .* 2 dimensions"):
        build_quantizer("pq", codebook_size=4).fit(x)
    for changes in ({"max_iterations": 0}, {"rotation_iterations": -1}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            build_quantizer("pq", id_length=2, codebook_size=4, **changes).fit(x)


# ---------------------------------------------------------------------- hierarchical k-means


def literal_path(tree, item):
    """From the root to the nearest child, level by level."""
    node, codes = 0, []
    for centroids, first_child in zip(tree.centroids_, tree.first_child_, strict=True):
        children = centroids[first_child[node] : first_child[node + 1]].numpy()
        code = int(np.square(item - children).sum(1).argmin())
        codes.append(code)
        node = int(first_child[node]) + code
    return codes


@pytest.mark.parametrize("sizes", [[4, 4, 4], [3, 30, 5], [2, 3, 200]])
def test_tree_paths_are_literal(sizes):
    x, unseen = blobs(400, 9, 30, 1), blobs(60, 9, 30, 2)
    tree = build_quantizer("hierarchical_kmeans", codebook_size=sizes).fit(x)
    assert tree.transform(unseen).tolist() == [literal_path(tree, item) for item in unseen]
    codes = tree.transform(x)
    for level in range(3):
        parents = np.unique(codes[:, :level], axis=0, return_inverse=True)[1].reshape(-1)
        for parent in range(parents.max() + 1):
            used = np.unique(codes[parents == parent, level])
            assert len(used) <= sizes[level]
        assert tree.first_child_[level].diff().max() <= sizes[level]
        assert len(tree.centroids_[level]) == tree.first_child_[level][-1]


def test_tree_branches_as_far_as_there_are_distinct_items():
    rng = np.random.default_rng(0)
    near, far = rng.standard_normal((3, 6)), 50 + rng.standard_normal((40, 6))
    x = np.concatenate([near, near[:1], far])  # 3 distinct items in one corner, one of them twice, 40 in another
    tree = build_quantizer("hierarchical_kmeans", codebook_size=[2, 8, 33]).fit(x)
    codes = tree.transform(x)
    corner = codes[:4]
    assert len(np.unique(codes[:, 0])) == 2 and (codes[4:, 0] != corner[0, 0]).all()
    assert corner[:, 1].tolist() == [0, 1, 2, 0] and (corner[:, 2] == 0).all()
    assert sorted(np.unique(codes[4:, 1])) == list(range(8))
    assert len(np.unique(codes, axis=0)) == 43
    np.testing.assert_allclose(tree.reconstruct(codes), x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tree.reconstruct(codes, 0)[0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(tree.reconstruct(codes, 1)[0], x[:4].mean(0), rtol=1e-4, atol=1e-5)
    # codes that no child has: free for `reassign`, at a price, and standing for the parent
    costs = tree.last_level_costs(x, codes)
    assert (costs[:4, 0] < 1e-6).all() and (costs[:4, 1:] >= 1).all()
    moved = corner.copy()
    moved[3, 2] = 5
    np.testing.assert_allclose(tree.reconstruct(moved)[3], x[3], rtol=1e-5, atol=1e-5)


def test_tree_items_lie_in_the_cluster_of_their_centroid():
    x = blobs(500, 5, 12, 3)
    tree = build_quantizer("hierarchical_kmeans", codebook_size=[5, 4, 3]).fit(x)
    codes = tree.transform(x)
    for depth in (1, 2, 3):
        _, groups = np.unique(codes[:, :depth], axis=0, return_inverse=True)
        groups = groups.reshape(-1)
        recon = tree.reconstruct(codes, depth)
        for group in range(groups.max() + 1):
            members = x[groups == group]
            assert len(np.unique(recon[groups == group], axis=0)) == 1
            # k-means stops when it gains next to nothing: the centroid is nearly the mean
            best = np.square(members - members.mean(0)).sum()
            assert np.square(members - recon[groups == group]).sum() <= 1.05 * best + 1e-3


# ---------------------------------------------------------------------- LSH


def test_lsh_bits_by_hand():
    quantizer = build_quantizer("lsh", id_length=2, codebook_size=[8, 2])
    quantizer.fit(np.zeros((1, 2)))
    quantizer.hyperplanes_ = [
        torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]], dtype=torch.float64),  # w1 = (1,0), w2 = (0,1), w3 = (1,-1)
        torch.tensor([[-1.0], [0.0]], dtype=torch.float64),
    ]
    x = np.array([[2.0, 1.0], [-1.0, 3.0], [1.0, -1.0], [0.0, 0.0], [-2.0, -3.0]])
    # bits (w1, w2, w3) are worth 1, 2, 4; on the plane counts as 0
    assert quantizer.transform(x).tolist() == [[1 + 2 + 4, 0], [2, 1], [1 + 4, 0], [0, 0], [4, 1]]
    costs = quantizer.last_level_costs(x, quantizer.transform(x))
    assert costs.tolist() == [[0, 4], [1, 0], [0, 1], [0, 0], [4, 0]]


def test_lsh_is_the_papers_formula():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 30)).astype(np.float32)
    quantizer = build_quantizer("lsh").fit(x)
    codes = quantizer.transform(x)
    assert codes.shape == (200, 4) and len(quantizer.hyperplanes_) == 4
    for level, planes in enumerate(quantizer.hyperplanes_):
        assert planes.shape == (30, 8)
        expected = [sum(2 ** (i - 1) * int(planes[:, i - 1].numpy() @ row > 0) for i in range(1, 9)) for row in x]
        assert codes[:, level].tolist() == expected
    costs = quantizer.last_level_costs(x, codes)
    projected = x.astype(np.float64) @ quantizer.hyperplanes_[-1].numpy()
    for item in range(5):
        for code in (0, 3, 100, 255):
            changed = [i for i in range(8) if (code >> i & 1) != (projected[item, i] > 0)]
            assert costs[item, code] == pytest.approx(np.square(projected[item, changed]).sum(), rel=1e-5, abs=1e-6)


def test_lsh_hyperplanes_are_standard_normal_and_independent():
    quantizer = build_quantizer("lsh", id_length=4).fit(np.zeros((1, 500)))
    planes = np.concatenate([level.numpy() for level in quantizer.hyperplanes_], 1)
    assert planes.shape == (500, 32)
    assert stats.kstest(planes.reshape(-1), "norm").pvalue > 1e-3
    correlations = np.corrcoef(planes.T) - np.eye(32)
    assert np.abs(correlations).max() < 0.25


@pytest.mark.parametrize("size", [255, [256, 256, 3, 256], 6])
def test_lsh_needs_powers_of_two(size):
    with pytest.raises(ValueError, match="codebook_size=.*powers of two"):
        build_quantizer("lsh", codebook_size=size).fit(np.zeros((300, 3)))


# ---------------------------------------------------------------------- random IDs


def test_random_ids_are_uniform_and_independent_of_each_other():
    x = np.random.default_rng(0).standard_normal((20000, 3)).astype(np.float32)
    codes = build_quantizer("random", codebook_size=[255, 255, 10, 7]).fit_transform(x)
    for level, size in enumerate([255, 255, 10, 7]):
        assert stats.chisquare(np.bincount(codes[:, level], minlength=size)).pvalue > 1e-4
    table = np.zeros((10, 7))
    np.add.at(table, (codes[:, 2], codes[:, 3]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4
    assert len(np.unique(codes[:, :2], axis=0)) > 0.8 * 255**2 * (1 - np.exp(-20000 / 255**2))


def test_random_ids_of_nearly_equal_rows_differ():
    rows = np.zeros((64, 33), dtype=np.float32)
    rows[np.arange(1, 64), np.arange(1, 64) % 33] = np.where(np.arange(1, 64) < 33, 1e-30, -1e-30)
    codes = build_quantizer("random").fit_transform(rows)
    assert len(np.unique(codes, axis=0)) == 64
    assert np.abs(np.diff(np.sort(codes[:, 0]))).max() < 40  # spread over the codes, not huddled


def test_row_hashes():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5000, 7)).astype(np.float32)
    hashes = row_hashes(x)
    assert hashes.dtype == np.uint64 and len(np.unique(hashes)) == 5000
    np.testing.assert_array_equal(row_hashes(x[::-1])[::-1], hashes)
    np.testing.assert_array_equal(
        row_hashes(np.array([[0.0, 1.0]], np.float32)), row_hashes(np.array([[-0.0, 1.0]], np.float32))
    )
    assert len(np.unique(row_hashes(x[:, ::-1]))) == 5000 and not np.isin(row_hashes(x[:, ::-1]), hashes).any()
