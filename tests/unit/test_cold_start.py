"""Unseen items among the candidates, and data that knows nothing of them."""

import numpy as np
import pytest
import torch
from catalogue import write_catalogue

from recbole_tiger.analysis.cold_start import ColdStart, _mean, knn_candidates
from recbole_tiger.analysis.cold_start_data import write_cold_data
from recbole_tiger.analysis.runs import TestUsers
from recbole_tiger.decoding import BeamResult
from recbole_tiger.decoding.cold_start import UnseenItems, limit_unseen, most_unseen, with_unseen_items
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.report.analyses import cold_start_sections, cold_start_table
from recbole_tiger.semantic_ids import SemanticIDTable
from recbole_tiger.tokenization import embed_new_items, item_content, item_table, sentences_of_new_items

# Seen items 1..4; 1 and 2 share their learned codewords. Unseen: 5 joins 1 and 2, 6 joins 3, 7 and 8 are alone
# together.
SEEN = SemanticIDTable.from_codes(np.array([[0, 0], [0, 0], [0, 1], [1, 2]]), list("abcd"), [2, 4])
ALL = with_unseen_items(SEEN, np.array([[0, 0], [0, 1], [1, 3], [1, 3]]), list("wxyz"))


def ranked(*rows):
    items = torch.tensor(rows)
    return BeamResult(items, -torch.arange(items.shape[1]).float().expand_as(items))


def written(result):
    return [[item for item in row if item] for row in result.items.tolist()]


def test_a_table_with_unseen_items_leaves_the_seen_ones_alone():
    assert np.array_equal(ALL.codes[:5], SEEN.codes) and ALL.level_sizes == SEEN.level_sizes
    assert ALL.codes[5:].tolist() == [[0, 0, 0], [0, 1, 0], [1, 3, 0], [1, 3, 0]]
    assert ALL.items[1:].tolist() == list("abcdwxyz")


def test_unseen_items_follow_the_first_item_with_their_prefix():
    unseen = UnseenItems(ALL, 4)
    assert unseen.n_alone == 2
    found = unseen.candidates(ranked([4, 2, 3, 1], [1, 2, 0, 0]), at_most=4)
    assert written(found) == [[4, 2, 5, 3, 6, 1], [1, 5, 2]]
    scores = dict(zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True))
    assert scores[5] == scores[2] and scores[6] == scores[3] and scores[1] == -3


def test_a_predicted_unseen_id_stands_for_all_with_its_prefix():
    assert written(UnseenItems(ALL, 4).candidates(ranked([8, 7, 4]), at_most=4)) == [[7, 8, 4]]
    assert written(UnseenItems(ALL, 4).candidates(ranked([8, 7, 4]), at_most=1)) == [[7, 4]]


def test_a_shorter_prefix_joins_more():
    found = UnseenItems(ALL, 4, prefix_length=1).candidates(ranked([4, 3]), at_most=9)
    assert written(found) == [[4, 7, 8, 3, 5, 6]]
    with pytest.raises(ValueError, match="prefix_length=3"):
        UnseenItems(ALL, 4, prefix_length=3)


def test_the_cold_item_appears_above_epsilon_0_and_not_at_0():
    found = UnseenItems(ALL, 4).candidates(ranked([2, 3, 1, 4]), at_most=4)
    assert written(limit_unseen(found, 4, 4, 0.0)) == [[2, 3, 1, 4]]
    assert written(limit_unseen(found, 4, 4, 0.25)) == [[2, 5, 3, 1]]
    assert written(limit_unseen(found, 4, 4, 1.0)) == [[2, 5, 3, 6]]


def test_epsilon_is_a_share_of_k():
    assert [most_unseen(k, 0.1) for k in (5, 9, 10, 19, 20, 30)] == [0, 0, 1, 1, 2, 3]
    assert most_unseen(100, 0.29) == 29 and most_unseen(7, 1.0) == 7 and most_unseen(7, 0.0) == 0


def test_limited_lists_against_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        row = rng.permutation(30)[: rng.integers(1, 25)]  # 1..20 seen, 21..29 unseen, 0 nothing
        k, epsilon = int(rng.integers(1, 12)), float(rng.choice([0, 0.1, 0.25, 0.5, 1]))
        expected: list[int] = []
        for item in row.tolist():
            if item == 0 or (item > 20 and sum(i > 20 for i in expected) >= int(epsilon * k + 1e-9)):
                continue
            expected.append(item)
        got = limit_unseen(ranked(row.tolist()), 20, k, epsilon)
        assert got.items.shape == (1, k)
        assert written(got) == [expected[:k]]


def test_nearest_neighbours_against_a_loop():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(9, 4)).astype(np.float32)  # items 1..6 seen, 7..9 unseen
    history = torch.tensor([[1, 2, 0], [3, 4, 5]])
    users = TestUsers(torch.arange(2), history, torch.tensor([2, 3]), torch.tensor([6, 6]), None)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for mean in (False, True):
        found = knn_candidates(vectors, users, 6, 9, mean)
        for row, past in enumerate(([1, 2], [3, 4, 5])):
            query = unit[[i - 1 for i in (past if mean else past[-1:])]].sum(0)
            order = [int(i) + 1 for i in np.argsort(-(unit @ query)) if i + 1 not in past]
            assert written(found)[row] == order


# ------------------------------------------------------------------------------------------------------- no leak


@pytest.fixture()
def cold(toy, workplace):
    """The catalogue without some items, one of whom has a word of its own in its text."""
    config = build_config("TIGER", "toy", None, {**toy, "id_length": 1})
    data = write_cold_data(config, 0.2, 3, workplace / "out")
    return config, data


def test_nothing_of_an_unseen_item_is_in_the_data(cold, workplace):
    config, data = cold
    assert 7 <= len(data.unseen) <= 10 and data.targets  # a fifth of the test targets among the 48 items
    files = list((workplace / "out" / "data").rglob("toy-cold.*"))
    assert len(files) == 2
    for file in files:
        cells = {cell for line in file.read_text().splitlines() for cell in line.split("\t")}
        assert not cells & set(data.unseen)
        assert cells & {"i0_0", "i0_1", "i0_2", "i1_0"}  # while the others are there
    from recbole.data import create_dataset

    dataset = create_dataset(data.config)
    assert not set(data.unseen) & set(dataset.field2id_token["item_id"])
    assert not set(data.unseen) & set(dataset.semantic_ids.table.items)
    numbers = {f"number {item.split('_')[1]} line {item[1]}" for item in data.unseen}
    assert not any(number in sentence for number in numbers for sentence in dataset.semantic_ids.sentences)


def test_a_planted_word_reaches_nobody(workplace, toy):
    """The words of an unseen item change neither embeddings nor IDs of the seen ones: all is bit for bit the same."""
    found = []
    for name, word in (("plain", "soap"), ("planted", "zzyzx zzyzx")):
        folder = write_catalogue(workplace / "data", name)
        config = build_config("TIGER", name, None, toy)
        unseen = write_cold_data(config, 0.1, 0, workplace / f"draw-{name}").unseen
        lines = (folder / f"{name}.item").read_text().splitlines()
        lines = [f"{line}" if line.split("\t")[0] not in unseen else line.replace("number", word) for line in lines]
        (folder / f"{name}.item").write_text("\n".join(lines) + "\n")
        data = write_cold_data(config, 0.1, 0, workplace / f"out-{name}")
        assert data.unseen == unseen
        from recbole.data import create_dataset

        dataset = create_dataset(data.config)
        items = [str(item) for item in dataset.field2id_token["item_id"][1:]]
        found.append((items, item_content(data.config, items).embeddings, dataset.semantic_ids.table.codes))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1]) and np.array_equal(found[0][2], found[1][2])


def test_users_keep_their_split(cold):
    config, data = cold
    from recbole.data.dataset import SequentialDataset

    from recbole_tiger.data.dataset import order_interactions

    def sequences(of):
        dataset = SequentialDataset(of)
        ordered = order_interactions(dataset)
        items, users = dataset.field2id_token["item_id"], dataset.field2id_token["user_id"]
        return {
            str(users[u]): [str(i) for i in items[ordered.items[ordered.start[u] : ordered.start[u + 1]]]]
            for u in range(1, len(users))
        }

    before, after = sequences(config), sequences(data.config)
    hidden, removed = set(data.unseen), 0
    for user, items in before.items():
        expected = [item for item in items[:-1] if item not in hidden] + items[-1:]
        removed += len(items) - len(expected)
        if len(expected) < 3:
            assert user not in after
            removed += len(expected)
            continue
        if expected[-1] in hidden:
            assert data.targets[user] == expected[-1]
            expected[-1] = expected[-2]
        else:
            assert user not in data.targets
        assert after[user] == expected
    assert removed == data.n_removed
    assert len(before) - len(after) == data.n_dropped_users


def test_a_group_without_users_has_no_recall():
    """Where all users of the unseen items were dropped, nothing was missed: 0 would say so."""
    assert _mean(torch.zeros(0, dtype=torch.bool)) is None
    run = {"share": 0.1, "seed": 1, "n_seen": 9, "n_unseen": 1, "n_unseen_with_own_prefix": [0], "n_removed": 2,
           "n_dropped_users": 1, "users": {"unseen": 0, "all": 4}, "points": [[5, 0.1]],
           "recall": {"TIGER": {"unseen": [None], "all": [0.25]}}}  # fmt: skip
    found = ColdStart(["TIGER"], [5], 0.1, [0.1], 5, [run, {**run, "seed": 2}], [])
    assert [row[-1] for row in cold_start_table(found)[1]] == ["-", "0.2500 ± 0.0000"]
    assert [len(figure.plot.data) for figure in cold_start_sections(found)[0].parts] == [0, 0, 1, 1]


def test_bad_shares(toy, workplace):
    config = build_config("TIGER", "toy", None, toy)
    with pytest.raises(ConfigError, match="cold_share=0.001"):
        write_cold_data(config, 0.001, 0, workplace / "out")


# ------------------------------------------------------------------------------------------ text of new items


def test_new_items_are_projected_onto_the_directions_of_the_known_ones(toy):
    """The known items themselves come back as they were, where no direction is left out."""
    config = build_config("TIGER", "toy", None, {**toy, "content_dim": 100})
    table = item_table(config)
    items = table["item_id"].tolist()
    content = item_content(config, items)
    again = embed_new_items(config, content.sentences[:7], items[:7], content.sentences)
    assert np.allclose(again, content.embeddings[:7], atol=1e-5)
    assert np.abs(content.embeddings[:7]).max() > 0.1


def test_columns_that_no_new_item_fills_are_left_out(toy, workplace):
    from recbole_tiger.tokenization import read_new_items

    config = build_config("TIGER", "toy", None, toy)
    file = workplace / "new.item"
    file.write_text("item_id:token\ttitle:token\tbrand:token\nn1\tAcme soap\t\nn2\tBolt lotion\t\n")
    table, items = read_new_items(file, config)
    assert sentences_of_new_items(table, items, config) == ["Title: Acme soap.", "Title: Bolt lotion."]
    file.write_text("item_id:token\ttitle:token\tbrand:token\nn1\tAcme soap\t\nn2\t\t\n")
    with pytest.raises(ValueError, match="n2"):
        sentences_of_new_items(*read_new_items(file, config), config)
    file.write_text("item_id:token\ttitle:token\nn1\t\n")
    with pytest.raises(ValueError, match="n1.*no text"):
        sentences_of_new_items(*read_new_items(file, config), config)
    file.write_text("title:token\nn1\n")
    with pytest.raises(ValueError, match="no column item_id"):
        read_new_items(file, config)
