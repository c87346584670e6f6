"""Scaling against scikit-learn and numpy."""

import io

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from recbole_tiger.quantization import Scaler, scaling


@pytest.fixture()
def x(monkeypatch):
    monkeypatch.setattr(scaling, "BATCH_ROWS", 33)  # several batches
    rng = np.random.default_rng(0)
    return (rng.standard_normal((150, 8)) @ rng.standard_normal((8, 8)) + 5 * rng.standard_normal(8)).astype(np.float32)


def test_zscore(x):
    np.testing.assert_allclose(Scaler().fit_transform(x), StandardScaler().fit_transform(x), atol=1e-4)


def test_zscore_of_constant_dimensions_is_zero(x):
    x[:, 2] = 7.3
    x[:, 5] = 0
    scaled = Scaler("zscore").fit_transform(x)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled[:, [2, 5]], 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(scaled, [2, 5], 1).std(0), 1, rtol=1e-4)
    # an unseen item may differ there, but is not blown up
    assert abs(Scaler().fit(x).transform(x[:1] + 1)[0, 5]) == 1


@pytest.mark.parametrize(("mode", "whiten"), [("pca", False), ("whiten", True)])
@pytest.mark.parametrize("n", [None, 3])
def test_pca(x, mode, whiten, n):
    ours = Scaler(mode, n_components=n).fit_transform(x)
    theirs = PCA(n, whiten=whiten, svd_solver="full").fit_transform(x.astype(np.float64))
    if whiten:
        theirs *= np.sqrt(150 / 149)  # theirs divides by n - 1
    assert ours.shape == theirs.shape == (150, n or 8)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-3)
    if whiten:
        np.testing.assert_allclose(np.cov(ours.T, bias=True), np.eye(n or 8), atol=1e-3)


def test_pca_drops_what_does_not_vary(x):
    x[:, 3] = x[:, 0] + x[:, 1]
    x[:, 4] = 1
    assert Scaler("whiten").fit_transform(x).shape == (150, 6)
    asked = Scaler("whiten", n_components=8).fit_transform(x)
    assert asked.shape == (150, 8) and np.abs(asked[:, 6:]).max() < 1e-2
    assert Scaler("pca").fit_transform(np.ones((5, 3))).shape == (5, 1)


def test_l2_and_none(x):
    x[4] = 0
    np.testing.assert_allclose(Scaler("l2").fit_transform(x), normalize(x), atol=1e-6)
    np.testing.assert_array_equal(Scaler("none").fit_transform(x), x)
    assert Scaler("none").fit_transform(x.astype(np.float16)).dtype == np.float32


@pytest.mark.parametrize("mode", scaling.SCALINGS)
def test_saved_and_loaded(x, mode):
    scaler = Scaler(mode).fit(x)
    file = io.BytesIO()
    torch.save(scaler.state_dict(), file)
    file.seek(0)
    loaded = Scaler.from_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(loaded.transform(x), scaler.transform(x))
    np.testing.assert_array_equal(scaler.transform(x[7:8]), scaler.transform(x)[7:8])
    assert Scaler.from_state_dict(Scaler(mode).state_dict()).mode == mode


def test_a_fit_keeps_nothing_of_an_earlier_one(x):
    scaler = Scaler().fit(x)
    scaler.fit_beside(scaler.transform(x), x[:, :2], 1.0)
    assert scaler.transform(x).shape == (150, 10)
    np.testing.assert_array_equal(scaler.fit(x + 1).transform(x), Scaler().fit(x + 1).transform(x))
    x[40, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        scaler.fit(x)
    with pytest.raises(ValueError, match="not fitted"):
        scaler.transform(x[:3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_tensors(x, dtype):
    tensor = torch.tensor(x, dtype=dtype, requires_grad=True)
    array = tensor.detach().double().numpy()
    np.testing.assert_array_equal(Scaler().fit(tensor).transform(tensor), Scaler().fit(array).transform(array))


@pytest.mark.parametrize("mode", scaling.SCALINGS)
def test_clear_errors(x, mode):
    with pytest.raises(ValueError, match="not fitted"):
        Scaler(mode).transform(x)
    scaler = Scaler(mode).fit(x)
    with pytest.raises(ValueError, match=r"\[n, 8\]"):
        scaler.transform(x[:, 1:])
    for wrong in (x[0], x[:0]):
        with pytest.raises(ValueError, match="matrix"):
            Scaler(mode).fit(wrong)
    x[40, 1] = np.nan
    for call in (Scaler(mode).fit, scaler.transform):
        with pytest.raises(ValueError, match="NaN or infinity.*row 40"):
            call(x)


def test_impossible_arguments(x):
    with pytest.raises(ValueError, match="'minmax' is unknown.*zscore, pca, whiten, l2, none"):
        Scaler("minmax").fit(x)
    with pytest.raises(ValueError, match="n_components=3 has no effect with scaling 'zscore'"):
        Scaler("zscore", 3).fit(x)
    for n in (0, 9):
        with pytest.raises(ValueError, match=f"n_components={n} .* must lie between 1 and 8"):
            Scaler("pca", n).fit(x)
