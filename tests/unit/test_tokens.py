"""The vocabulary and the encoder's input."""

import numpy as np
import pytest
import torch

from recbole_tiger.data.tokens import PAD, Vocabulary, encoder_input


def test_levels_and_users_have_blocks_of_their_own():
    vocabulary = Vocabulary((4, 16, 5), user_buckets=7)
    blocks = [range(s.start, s.stop) for s in map(vocabulary.level_slice, range(3))]
    blocks.append(range(vocabulary.user_offset, vocabulary.user_offset + 7))
    assert [token for block in blocks for token in block] == list(range(1, vocabulary.size))
    assert [len(block) for block in blocks] == [4, 16, 5, 7]


def test_the_papers_vocabulary():
    """1024 (256 x 4) codewords and 2000 user tokens (4.1.3), and padding."""
    assert Vocabulary((256,) * 4, 2000).size == 1 + 1024 + 2000


def test_item_tokens():
    codes = np.array([[-1, -1], [0, 0], [3, 15]])
    tokens = Vocabulary((4, 16), 0).item_tokens(codes)
    assert tokens.tolist() == [[PAD, PAD], [1, 5], [4, 20]]


def test_users_are_hashed_alike_in_every_process_and_use_all_buckets():
    vocabulary = Vocabulary((4,), 10)
    tokens = vocabulary.user_tokens([f"A{n}" for n in range(500)])
    assert vocabulary.user_tokens(["A1", "A2", "A3"]).tolist() == tokens[1:4].tolist()
    assert tokens.min() == vocabulary.user_offset and tokens.max() == vocabulary.size - 1
    assert vocabulary.user_tokens(["123456789"]).item() == 5 + 0xCBF43926 % 10  # CRC-32's published check value
    with pytest.raises(ValueError, match="user_buckets=0"):
        Vocabulary((4,), 0).user_tokens(["a"])


def test_encoder_input_is_user_then_items():
    item_tokens = torch.tensor([[0, 0], [1, 5], [2, 6], [3, 7]])
    tokens, mask = encoder_input(item_tokens, torch.tensor([[1, 2], [3, 0]]), torch.tensor([9, 8]))
    assert tokens.tolist() == [[9, 1, 5, 2, 6], [8, 3, 7, 0, 0]]
    assert mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]


def test_an_empty_history_is_one_position():
    item_tokens = torch.tensor([[0, 0], [1, 5]])
    tokens, mask = encoder_input(item_tokens, torch.zeros(2, 0, dtype=torch.long), None)
    assert tokens.tolist() == [[PAD], [PAD]] and mask.all()
    tokens, mask = encoder_input(item_tokens, torch.tensor([[1], [0]]), None)
    assert mask.tolist() == [[True, True], [True, False]]
