"""k-core: a slow version with sets is the oracle; then what makes it a core."""

from collections import Counter

import numpy as np
import pytest

from recbole_tiger.datasets.interactions import k_core
from recbole_tiger.errors import PreparationError


def slow_core(users, items, user_core, item_core):
    """Remove one offending user or item at a time."""
    rows = set(range(len(users)))
    while True:
        user_counts = Counter(users[row] for row in rows)
        item_counts = Counter(items[row] for row in rows)
        offender = next((u for u, n in user_counts.items() if n < user_core), None)
        if offender is not None:
            rows = {row for row in rows if users[row] != offender}
            continue
        offender = next((i for i, n in item_counts.items() if n < item_core), None)
        if offender is None:
            return np.array([row in rows for row in range(len(users))], dtype=bool)
        rows = {row for row in rows if items[row] != offender}


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_slow_version_is_a_fixed_point_and_ignores_the_order(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(0, 150))
    users, items = random.integers(0, 25, n), random.integers(0, 25, n)
    user_core, item_core = random.integers(0, 6, 2).tolist()
    mask = k_core(users, items, user_core, item_core)
    assert np.array_equal(mask, slow_core(users.tolist(), items.tolist(), user_core, item_core))
    assert k_core(users[mask], items[mask], user_core, item_core).all()
    order = random.permutation(n)
    assert np.array_equal(k_core(users[order], items[order], user_core, item_core), mask[order])


def test_a_chain_falls_apart_link_by_link():
    # User k and item k, user k and item k + 1: every removal leaves the next link with one interaction.
    links = np.arange(500)
    users, items = np.repeat(links, 2), np.stack([links, links + 1], 1).ravel()
    assert not k_core(users, items, 2, 2).any()
    assert k_core(users, items, 2, 1).all()


def test_negative_core():
    with pytest.raises(PreparationError, match="item_core=-1"):
        k_core(np.zeros(1, int), np.zeros(1, int), 1, -1)
