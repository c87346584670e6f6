"""TIGER learns what can be learned, and only that (oracle 4)."""

import pytest
from catalogue import write_catalogue

from recbole_tiger import run_recbole_tiger

LONGER = {
    "epochs": 20,
    "max_steps": 340,
    "learning_rate": 0.01,
    "lr_scheduler": "cosine",
    "warmup_steps": 20,
    "dropout_rate": 0.0,
    "MAX_ITEM_LIST_LENGTH": 3,
    "num_heads": 2,
    "eval_step": 100,
    "topk": [1, 5, 10],
}


def test_a_known_rule_is_learned(toy):
    result = run_recbole_tiger("TIGER", "toy", config_dict={**toy, **LONGER})
    assert result["test_result"]["recall@1"] >= 0.95


@pytest.mark.parametrize("recipe", ["tuned", "tiny", "extended"])
@pytest.mark.parametrize(("cooccurrence", "chance"), [(0.0, 10 / 48), (1.0, 10 / 24)])
def test_shuffled_sequences_are_not(toy, workplace, cooccurrence, chance, recipe):
    """Co-occurrence tells the two cycles apart, so that chance is among the 24 items of one."""
    write_catalogue(workplace / "data", "noise", shuffled=True)
    settings = {**toy, **LONGER, "max_steps": 120, "content_cooccurrence": cooccurrence, "recipe": recipe}
    result = run_recbole_tiger("TIGER", "noise", config_dict=settings)
    assert result["test_result"]["recall@1"] <= 0.15  # 1/48 by chance, and 24 items of one cycle can be told apart
    assert result["test_result"]["recall@10"] == pytest.approx(chance, abs=0.2)
