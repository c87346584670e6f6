"""What the benchmark scripts share: sides take turns, goals that are not met are reported, the floor is right."""

import json

import numpy as np
import pytest

from recbole_tiger.nn import T5Config


@pytest.fixture(scope="module")
def common(benchmark_script):
    return benchmark_script("common")


def test_sides_take_turns_and_the_first_turn_is_not_counted(common):
    order = []
    times = iter([100.0, 3.0, 1.0, 2.0])
    sides = {"a": lambda: order.append("a"), "b": lambda: order.append("b") or next(times)}
    seconds = common.medians(sides, 3)
    assert order == ["a", "b"] * 4
    assert seconds["b"] == 2.0 and 0 <= seconds["a"] < 1


def test_goals_that_are_not_met_are_named_in_all_outputs(common, tmp_path, capsys):
    table = common.Table(tmp_path / "out.json", {"threads": 2})
    table.ratio("fast", 6.0, 2.0, 3)
    table.ratio("large", 6.0, 2.0, 2.9, at_least=False)
    table.ratio("no goal", 1.0, 2.0)
    assert table.verdict() == "not met: large"
    printed = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 1)[-1].strip() for line in printed[:2]] == ["met", "NOT MET"]
    assert [row.split(" | ")[-1].strip(" |") for row in table.markdown().splitlines()[2:]] == ["met", "NOT MET", ""]
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["threads"] == 2 and [line["met"] for line in saved["lines"]] == [True, False, None]


def test_the_floor_counts_every_matrix_product_once(common):
    config = T5Config(10, d_model=2, d_kv=3, d_ff=5, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
    encoder = 4 * (4 * 2 * 3 + 2 * 2 * 5) + 2 * 4 * 4 * 3  # projections, feed-forward, scores and their sums
    decoder = 4 * 2 * 2 * 3 + 2 * (4 * 2 * 3 + 2 * 2 * 3 + 2 * 2 * 5 + 2 * 4 * 3)
    assert common.t5_flops(config, np.array([4]), 2, 7) == 2 * (encoder + decoder + 7 * 2)
