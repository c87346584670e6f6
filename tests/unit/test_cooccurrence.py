"""Item co-occurrence: counts and vectors as a slow loop has them, from training interactions alone, beside the text."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from catalogue import settings_of

from recbole_tiger import run_recbole_tiger
from recbole_tiger.content.cooccurrence import DIMENSIONS, WINDOW, cooccurrence_counts, cooccurrence_vectors
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data
from recbole_tiger.quantization.scaling import Scaler
from recbole_tiger.recommend import Recommender
from recbole_tiger.tokenization import prepare_semantic_ids


def sequences(seed, n_users=30, n_items=20, longest=40):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, n_users)
    return rng.integers(0, n_items, lengths.sum()), np.repeat(np.arange(n_users), lengths)


def slow_counts(items, user, n_items):
    counts = np.zeros((n_items, n_items))
    for i in range(len(items)):
        for j in range(len(items)):
            if i != j and user[i] == user[j] and items[i] != items[j] and abs(i - j) <= WINDOW:
                counts[items[i], items[j]] += 1 / np.sqrt(abs(i - j))
    return counts


def slow_vectors(counts):
    total = np.maximum(counts.sum(1), 1)
    smooth = total**0.75
    with np.errstate(divide="ignore"):
        ppmi = np.maximum(np.log(counts * smooth.sum() / (total[:, None] * smooth[None, :])), 0)
    u, s, _ = np.linalg.svd(ppmi)
    k = min(DIMENSIONS, len(counts) - 1)
    vectors = u[:, :k] * np.sqrt(s[:k])
    length = np.linalg.norm(vectors, axis=1)
    alone = counts.sum(1) == 0
    vectors /= np.maximum(length, np.quantile(length[~alone], 0.1))[:, None]
    vectors[alone] = 0
    return vectors


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_vectors_are_those_of_the_formula(seed):
    items, user = sequences(seed)
    n_items = 23  # the last three have no interaction
    counts = cooccurrence_counts(items, user, n_items).toarray()
    assert np.allclose(counts, slow_counts(items, user, n_items))
    vectors, slow = cooccurrence_vectors(items, user, n_items), slow_vectors(counts)
    assert vectors.dtype == np.float32 and not vectors[20:].any()
    # The basis is free; inner products are not.
    assert np.allclose(vectors @ vectors.T, slow @ slow.T, atol=1e-5)
    assert np.array_equal(vectors, cooccurrence_vectors(items, user, n_items))


def test_a_distance_at_which_no_two_items_differ_does_not_end_the_count():
    items, user = np.array([0, 1, 0, 1]), np.zeros(4, dtype=int)
    assert np.allclose(cooccurrence_counts(items, user, 2).toarray(), slow_counts(items, user, 2))


def test_no_cooccurrence_no_vector():
    assert not cooccurrence_vectors(np.array([0, 1, 2]), np.array([0, 1, 2]), 4).any()
    assert not cooccurrence_vectors(np.array([0]), np.array([0]), 1).any()
    assert not cooccurrence_vectors(np.array([], dtype=int), np.array([], dtype=int), 3).any()


def test_cooccurrence_stands_beside_text_with_its_weight_and_is_predicted_where_it_is_missing():
    rng = np.random.default_rng(0)
    text = rng.normal(size=(200, 6)) * [1, 2, 3, 4, 5, 6]
    beside = np.tanh(text[:, :3] + 0.1 * rng.normal(size=(200, 3)))
    beside /= np.linalg.norm(beside, axis=1, keepdims=True)
    beside[150:] = 0
    scaler = Scaler("zscore")
    scaled = scaler.fit(text).transform(text)
    whole = scaler.fit_beside(scaled, beside, 4.0)
    assert whole.dtype == np.float32 and np.array_equal(whole[:, :6], scaled)
    assert whole[:150, 6:].var(0).sum() == pytest.approx(4 * scaled.var(0).sum(), rel=1e-4)
    assert np.allclose(whole[:150, 6:], scaler.beside_scale_ * beside[:150])
    # A row without co-occurrence has what its text predicts: as long, and close to what its own vector would have been.
    there, truth = whole[150:, 6:], np.tanh(text[150:, :3])
    assert np.allclose(np.linalg.norm(there, axis=1), scaler.beside_scale_)
    cosine = (there * truth).sum(1) / np.linalg.norm(there, axis=1) / np.linalg.norm(truth, axis=1)
    assert np.median(cosine) > 0.9
    assert np.array_equal(scaler.transform(text[150:]), whole[150:])
    assert np.array_equal(scaler.scale(text), scaled)
    # Saved and loaded, it is the same; what was saved before there was such a thing is as it was.
    buffer = io.BytesIO()
    torch.save(scaler.state_dict(), buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    assert np.array_equal(Scaler.from_state_dict(state).transform(text), scaler.transform(text))
    plain = {key: value for key, value in Scaler("zscore").fit(text).state_dict().items() if "beside" not in key}
    assert np.array_equal(Scaler.from_state_dict(plain).transform(text), scaled)
    for wrong in (np.zeros((200, 3)), np.ones((200, 3)) / np.sqrt(3)):
        with pytest.raises(ValueError, match="constant or all zero"):
            scaler.fit_beside(scaled, wrong, 1.0)


def prepared(toy, **more):
    config = build_config("TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy, semantic_id="rkmeans", **more))
    return prepare_data(config).dataset


def rows_of(toy):
    """The interaction file: its path, header, the rows of each user in time order, and the column of the items."""
    path = Path(toy["data_path"]) / "toy" / "toy.inter"
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    user, item, time = (
        [name.split(":")[0] for name in header].index(name) for name in ("user_id", "item_id", "timestamp")
    )
    by_user = {}
    for row in sorted(rows, key=lambda row: float(row[time])):
        by_user.setdefault(row[user], []).append(row)
    return path, header, by_user, item


def write_rows(path, header, by_user):
    rows = [row for sequence in by_user.values() for row in sequence]
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")


def test_cooccurrence_is_that_of_training_interactions(toy):
    def seen():
        dataset = prepared(toy, content_cooccurrence=1.0)
        items, user = dataset.sequences.training_interactions()
        names = dataset.field2id_token["item_id"][1:]
        return [(str(dataset.field2id_token["user_id"][u]), str(names[i])) for i, u in zip(items, user, strict=True)]

    path, header, by_user, item = rows_of(toy)
    expected = [(user, row[item]) for user, sequence in by_user.items() for row in sequence[:-2]]
    assert sorted(seen()) == sorted(expected)
    for position, counts in ((-1, False), (-2, False), (-3, True)):
        path, header, by_user, item = rows_of(toy)
        sequences = list(by_user.values())
        items = [sequence[position][item] for sequence in sequences]
        for sequence, other in zip(sequences, [*items[1:], items[0]], strict=True):
            sequence[position][item] = other
        write_rows(path, header, by_user)
        assert (sorted(seen()) != sorted(expected)) == counts


def test_cooccurrence_changes_the_ids_and_what_they_are_cached_under(toy):
    text, one, more = (prepared(toy, content_cooccurrence=weight).semantic_ids for weight in (0.0, 1.0, 4.0))
    assert not np.array_equal(text.table.codes, one.table.codes)
    assert len({ids.files["semantic IDs"] for ids in (text, one, more)}) == 3
    config = build_config(
        "TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy, semantic_id="rkmeans", content_cooccurrence=0.0)
    )
    unread = prepare_semantic_ids(config, text.table.items[1:].tolist(), (np.array([0, 1]), np.array([0, 0])))
    assert unread.files == text.files  # interactions that nothing reads change no key
    again = prepared(toy, content_cooccurrence=1.0).semantic_ids
    assert again.cached and np.array_equal(again.table.codes, one.table.codes)
    path, header, by_user, _ = rows_of(toy)
    first = next(iter(by_user.values()))
    first[0], first[3] = first[3], first[0]
    for row, other in ((first[0], first[3]),):  # the times stay in order
        row[-1], other[-1] = other[-1], row[-1]
    write_rows(path, header, by_user)
    changed = prepared(toy, content_cooccurrence=1.0).semantic_ids
    assert changed.files["semantic IDs"] != one.files["semantic IDs"]


def test_a_run_with_cooccurrence_and_a_new_item(toy):
    chosen = settings_of("TIGERTree", toy, semantic_id="rkmeans", content_cooccurrence=1.0)
    result = run_recbole_tiger("TIGERTree", "toy", config_dict=chosen)
    recommender = Recommender.from_checkpoint(result["files"]["checkpoint"])
    scaler = recommender.prepared.scaler
    assert scaler.beside_map_ is not None
    embedding = np.zeros((1, scaler.dim_), dtype=np.float32)
    assert recommender.prepared.quantizer.transform(scaler.transform(embedding)).shape == (1, chosen["id_length"])


def test_a_dataset_without_cooccurrence_is_named(toy):
    path, header, by_user, item = rows_of(toy)
    for sequence in by_user.values():
        for row in sequence[:-2]:
            row[item] = sequence[0][item]
    write_rows(path, header, by_user)
    with pytest.raises(ConfigError, match="content_cooccurrence=1.0.*set it to 0"):
        prepared(toy, content_cooccurrence=1.0, codebook_size=4)


@pytest.mark.parametrize(("n_items", "n_trained"), [(129, 60), (300, 110)])
def test_what_lies_beyond_the_rank_of_the_matrix_is_no_cooccurrence(n_items, n_trained):
    """Singular vectors of zero are arbitrary: an item without co-occurrence must not get one of them."""
    items, user = sequences(3, n_items=n_trained)
    vectors = cooccurrence_vectors(items, user, n_items)
    bought = np.zeros(n_items, dtype=bool)
    bought[items] = True
    assert not vectors[~bought].any() and vectors[bought].any(1).mean() > 0.9
    assert np.isfinite(vectors).all()


def test_random_ids_need_no_cooccurrence(toy):
    """Unseen items of `cold-start` come with nothing but their number."""
    settings = settings_of("TIGERTree", toy, semantic_id="random", content_cooccurrence=1.0)
    made = prepare_data(build_config("TIGERTree", "toy", config_dict=settings)).dataset.semantic_ids
    assert made.quantizer.transform(np.zeros((1, 1))).shape == (1, 2)
