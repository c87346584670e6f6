"""One contract for all tokenizers: shapes, seeds, threads, saving, strange inputs, clear errors."""

import inspect
import io
import warnings

import numpy as np
import pytest
import torch

from recbole_tiger.quantization import QUANTIZERS, base, build_quantizer, quantizer_from_state_dict
from recbole_tiger.testing import check_tokenizer

FAST = {"id_length": 3, "codebook_size": 8, "epochs": 4, "hidden_sizes": [48], "latent_dim": 33, "batch_size": 100}
FAST |= {"rotation_iterations": 3, "random_state": 5, "dead_code_restart": 2}
LEARNERS = [name for name, cls in QUANTIZERS.items() if cls.learns_codewords]

pytestmark = pytest.mark.parametrize("name", QUANTIZERS)


@pytest.fixture(scope="module")
def x():
    """Forty clusters in 40 dimensions, one of them constant."""
    rng = np.random.default_rng(1)
    centers = 3 * rng.standard_normal((40, 40))
    matrix = centers[rng.integers(40, size=300)] + rng.standard_normal((300, 40))
    matrix[:, 7] = 2.5
    return matrix.astype(np.float32)


def make(name, **changes):
    return build_quantizer(name, **(FAST | changes))


def test_codes(name, x):
    sizes = [4, 8, 16]
    quantizer = make(name, codebook_size=sizes)
    codes = quantizer.fit_transform(x)
    assert codes.shape == (300, 3) and codes.dtype == np.int64
    assert (codes >= 0).all() and (codes < sizes).all()
    assert quantizer.codebook_sizes_ == sizes
    assert (codes[:, 0].max(), len(np.unique(codes[:, 0]))) == (3, 4), "some first code is never used"
    np.testing.assert_array_equal(quantizer.transform(x), codes)
    np.testing.assert_array_equal(quantizer.transform(x[::-1])[::-1], codes)
    assert all(np.isfinite(curve).all() for curve in quantizer.history_.values())


def test_the_contract_that_others_can_import(name):
    accepted = inspect.signature(QUANTIZERS[name]).parameters
    check_tokenizer(QUANTIZERS[name], **{key: value for key, value in FAST.items() if key in accepted})


def test_another_seed_gives_other_codes(name, x):
    assert (make(name, random_state=6).fit_transform(x) != make(name).fit_transform(x)).any()


def test_same_codes_on_one_thread_and_on_two(name, x):
    before = torch.get_num_threads()
    codes = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            quantizer = make(name)
            codes[threads] = (
                quantizer.fit_transform(x),
                quantizer.transform(x[:7]),
                quantizer.last_level_costs(x, codes[1][0] if 1 in codes else quantizer.transform(x)),
            )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*codes.values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_saved_and_loaded(name, x):
    quantizer = make(name).fit(x)
    file = io.BytesIO()
    torch.save(quantizer.state_dict(), file)
    file.seek(0)
    loaded = quantizer_from_state_dict(torch.load(file, weights_only=True))
    assert type(loaded) is type(quantizer) and loaded.get_params() == quantizer.get_params()
    codes = quantizer.transform(x)
    np.testing.assert_array_equal(loaded.transform(x), codes)
    np.testing.assert_array_equal(loaded.last_level_costs(x, codes), quantizer.last_level_costs(x, codes))
    if quantizer.reconstruct(codes) is not None:
        np.testing.assert_array_equal(loaded.reconstruct(codes), quantizer.reconstruct(codes))
    assert loaded.history_ == quantizer.history_


def test_numpy_numbers_as_arguments_can_be_saved(name, x):
    quantizer = make(name, codebook_size=np.array([8, 4, 8]).tolist(), random_state=np.int64(5), id_length=np.int32(3))
    file = io.BytesIO()
    torch.save(quantizer.fit(x).state_dict(), file)
    file.seek(0)
    loaded = quantizer_from_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(loaded.transform(x), quantizer.transform(x))


def test_interrupted_fit_is_no_fit(name, x, monkeypatch):
    quantizer = make(name)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantizer, "_fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantizer.fit(x)
    with pytest.raises(ValueError, match="not fitted"):
        quantizer.transform(x)


def test_saved_before_fit(name, x):
    loaded = quantizer_from_state_dict(make(name).state_dict())
    np.testing.assert_array_equal(loaded.fit_transform(x), make(name).fit_transform(x))


def test_rows_that_must_not_be_written(name, x):
    locked = x.copy()
    locked.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of tensors that would write to them
        np.testing.assert_array_equal(make(name).fit_transform(locked), make(name).fit_transform(x))


def test_batches_and_float_types_do_not_change_codes(name, x, monkeypatch):
    quantizer = make(name).fit(x)
    codes = quantizer.transform(x)
    monkeypatch.setattr(base, "BATCH_ROWS", 64)
    np.testing.assert_array_equal(quantizer.transform(x), codes)
    np.testing.assert_array_equal(quantizer.transform(x.astype(np.float64)), codes)
    np.testing.assert_array_equal(quantizer.transform(np.asfortranarray(x)), codes)
    np.testing.assert_array_equal(np.concatenate([quantizer.transform(x[i : i + 1]) for i in range(20)]), codes[:20])
    assert quantizer.transform(x[:0]).shape == (0, 3)
    half = x.astype(np.float16)
    np.testing.assert_array_equal(quantizer.transform(half), quantizer.transform(half.astype(np.float32)))


def test_codes_are_nearest_at_the_last_level(name, x):
    quantizer = make(name).fit(x)
    codes = quantizer.transform(x)
    costs = quantizer.last_level_costs(x, codes)
    assert costs.shape == (300, 8) and costs.dtype == np.float32 and (costs >= 0).all() and np.isfinite(costs).all()
    if name == "random":
        assert len(np.unique(costs)) > 2000  # no preference, but no ties either
    else:
        np.testing.assert_array_equal(costs.argmin(1), codes[:, -1])


def test_reconstruction_gets_better_with_every_level(name, x):
    quantizer = make(name, epochs=60).fit(x)
    codes = quantizer.transform(x)
    if name in ("lsh", "random"):
        assert quantizer.reconstruct(codes) is None
        return
    errors = [float(np.square(quantizer.reconstruct(codes, levels) - x).sum()) for levels in range(4)]
    assert quantizer.reconstruct(codes).shape == x.shape
    assert errors[3] < errors[0]
    if name in ("rkmeans", "pq", "hierarchical_kmeans"):  # the autoencoders are trained on all levels only
        assert errors == sorted(errors, reverse=True)
    for wrong in (codes[:, :2], codes[0], codes - 1, codes + 8):
        with pytest.raises(ValueError, match="codes must"):
            quantizer.reconstruct(wrong)
    with pytest.raises(ValueError, match="levels=4"):
        quantizer.reconstruct(codes, 4)


def test_duplicate_and_constant_rows(name):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5, 12)).astype(np.float32)
    which = rng.integers(5, size=200)
    which[:5] = range(5)
    codes = make(name).fit_transform(rows[which])
    for row in range(5):
        assert len(np.unique(codes[which == row], axis=0)) == 1, "the same embedding got several codes"
    if name != "lsh":
        assert len(np.unique(codes, axis=0)) == 5
    constant = make(name).fit_transform(np.ones((40, 12)))
    assert len(np.unique(constant, axis=0)) == 1


def test_random_shapes(name):
    rng = np.random.default_rng(8)
    for _ in range(6):
        id_length = int(rng.integers(1, 5))
        sizes = (2 ** rng.integers(1, 5, size=id_length)).tolist()
        shape = int(rng.integers(max(sizes), 80)), int(rng.integers(id_length, 20))
        matrix = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)
        codes = make(name, id_length=id_length, codebook_size=sizes).fit_transform(matrix)
        assert codes.shape == (shape[0], id_length) and (codes >= 0).all() and (codes < sizes).all()


def test_as_many_codes_as_items(name, x):
    codes = make(name, id_length=1, codebook_size=16, batch_size=16).fit_transform(x[:16])
    if name in ("rkmeans", "pq", "hierarchical_kmeans"):
        assert sorted(codes[:, 0]) == list(range(16))


def test_fewer_items_than_codes(name, x):
    quantizer = make(name, codebook_size=[8, 16, 8])
    if name in LEARNERS:
        with pytest.raises(ValueError, match=r"codebook_size=\[8, 16, 8\].*items \(15\).*codebook_size <= 15"):
            quantizer.fit(x[:15])
    else:
        assert quantizer.fit_transform(x[:15]).shape == (15, 3)


def test_one_item(name, x):
    quantizer = make(name)
    if name in LEARNERS:
        with pytest.raises(ValueError, match="codebook_size=8"):
            quantizer.fit(x[:1])
    else:
        assert quantizer.fit_transform(x[:1]).shape == (1, 3)
    with pytest.raises(ValueError, match="no embeddings"):
        quantizer.fit(x[:0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(name, x, bad):
    broken = x.copy()
    broken[123, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinity.*row 123"):
        make(name).fit(broken)
    with pytest.raises(ValueError, match="NaN or infinity.*row 123"):
        make(name).fit(x).transform(broken)


@pytest.mark.parametrize("scale", [1e39, 1e20])  # beyond float32, and with squares beyond it
def test_too_large_for_distances(name, x, scale):
    broken = x.astype(np.float64)
    broken[123] *= scale
    with pytest.raises(ValueError, match="no squared length in single precision .*row 123"):
        make(name).fit(broken)


def test_wrong_shapes(name, x):
    quantizer = make(name)
    for call in (quantizer.transform, lambda m: quantizer.last_level_costs(m, m)):
        with pytest.raises(ValueError, match=f"semantic_id={name} is not fitted"):
            call(x)
    with pytest.raises(ValueError, match="is not fitted"):
        quantizer.reconstruct(np.zeros((1, 3), dtype=int))
    for wrong in (x[0], x[None], x[:, :0]):
        with pytest.raises(ValueError, match="embeddings must"):
            quantizer.fit(wrong)
    with pytest.raises(ValueError, match="floating point"):
        quantizer.fit(np.ones((20, 3), dtype=int))
    quantizer.fit(x)
    with pytest.raises(ValueError, match=f"39 dimensions, {name} was fitted on 40"):
        quantizer.transform(x[:, 1:])
    with pytest.raises(ValueError, match="embeddings must be a matrix"):
        quantizer.transform(x[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id_length": 0}, "id_length=0"),
        ({"id_length": 2.5}, "id_length=2.5"),
        ({"codebook_size": [8, 8]}, "id_length=3"),
        ({"codebook_size": 1}, "codebook_size=1"),
        ({"codebook_size": [8, 8, 0]}, "at least 2"),
        ({"codebook_size": 8.0}, "codebook_size=8.0"),
        ({"codebook_size": True}, "codebook_size=True"),
    ],
)
def test_impossible_sizes(name, x, changes, message):
    with pytest.raises(ValueError, match=message):
        make(name, **changes).fit(x)


def test_all_arguments_are_given_by_name(name):
    parameters = inspect.signature(QUANTIZERS[name]).parameters
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())


def test_progress_is_quiet_without_a_terminal(name, x, capfd):
    make(name).fit(x, progress=True)
    assert capfd.readouterr() == ("", "")
