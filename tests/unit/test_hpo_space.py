"""Search spaces: what is read, what is refused, and what is drawn."""

import datetime
import itertools
import math

import numpy as np
import pytest

from recbole_tiger.errors import ConfigError
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.plan import plan
from recbole_tiger.hpo.space_files import SPACES, domain, read_space, space_from_dict, space_from_text
from recbole_tiger.settings.parse import read_yaml

CONDITIONAL = {
    "space": {
        "warmup_steps": {"choice": [10, 20, 30], "when": {"lr_scheduler": ["inverse_sqrt", "cosine"]}},
        "lr_scheduler": {"choice": ["constant", "inverse_sqrt"]},
        "dropout_rate": {"uniform": [0.1, 0.3]},
    }
}


def drawn(space, n=40, search="random", seed=0, **base):
    return [space.settings_of(sample, base) for sample in space.samples(search, n, seed, base)]


def test_every_kind_draws_from_its_domain():
    space = space_from_dict(
        {
            "space": {
                "a": {"choice": [1, "x", [2, 3]]},
                "b": {"uniform": [0.1, 0.2]},
                "c": {"loguniform": [1e-4, 1.0]},
                "d": {"randint": [2, 4]},
                "e": {"quniform": [0.1, 0.5, 0.2]},
            }
        }
    )
    rows = drawn(space, 400)
    assert len(rows) == 400
    assert {str(row["a"]) for row in rows} == {"1", "x", "[2, 3]"}
    assert all(0.1 <= row["b"] <= 0.2 for row in rows)
    assert {row["d"] for row in rows} == {2, 3, 4}  # both ends
    assert {row["e"] for row in rows} == {0.1, 0.3, 0.5}
    # uniform in the logarithm: a quarter of the draws in each of four decades
    decades = np.bincount([min(int(-math.log10(row["c"])), 3) for row in rows], minlength=4)
    assert decades.sum() == 400 and decades.min() > 70
    for parameter in space.parameters:
        assert all(parameter.domain.holds(row[parameter.key]) for row in rows)


def test_the_same_seed_draws_the_same_and_a_shorter_sweep_is_its_beginning():
    space = space_from_dict(CONDITIONAL)
    assert drawn(space, 12) == drawn(space, 12) != drawn(space, 12, seed=1)
    assert drawn(space, 12)[:5] == drawn(space, 5)


def test_conditions_hold_whatever_the_order_of_the_lines():
    rows = drawn(space_from_dict(CONDITIONAL), 60)
    assert {row["lr_scheduler"] for row in rows} == {"constant", "inverse_sqrt"}
    for row in rows:
        assert ("warmup_steps" in row) == (row["lr_scheduler"] == "inverse_sqrt")


def test_a_condition_may_look_at_a_fixed_setting():
    space = space_from_dict({"space": {"rqvae_beta": {"choice": [0.1, 0.2], "when": {"semantic_id": "rqvae"}}}})
    assert {row.get("rqvae_beta") for row in drawn(space, semantic_id="rqvae")} == {0.1, 0.2}
    assert drawn(space, semantic_id="pq") == [{}]


def test_alternatives_of_a_key_follow_their_conditions():
    space = space_from_dict(
        {
            "space": {
                "id_length": {"choice": [2, 3]},
                "codebook_size": [{"choice": [[64, 128]], "when": {"id_length": 2}}, {"choice": [64, 256]}],
            }
        }
    )
    rows = drawn(space)
    assert sorted(map(str, rows)) == sorted(
        map(
            str,
            [
                {"id_length": 2, "codebook_size": [64, 128]},
                {"id_length": 3, "codebook_size": 64},
                {"id_length": 3, "codebook_size": 256},
            ],
        )
    )


def test_a_grid_is_every_pair_once():
    space = space_from_dict(
        {"space": {"a": {"choice": [1, 2, 3]}, "b": {"randint": [5, 6]}, "c": {"quniform": [0, 1, 0.5]}}}
    )
    rows = drawn(space, None, "grid")
    expected = set(itertools.product([1, 2, 3], [5, 6], [0, 0.5, 1]))
    assert len(rows) == 18 and {(row["a"], row["b"], row["c"]) for row in rows} == expected
    assert len(drawn(space, 7, "grid")) == 7
    assert len(drawn(space, 100, "random")) == 18  # no more than there are


def test_grid_values_are_all_tried_while_others_are_drawn():
    space = space_from_dict({"space": {"a": {"grid": [1, 2, 3]}, "b": {"uniform": [0, 1]}}})
    rows = drawn(space, None)
    assert sorted(row["a"] for row in rows) == [1, 2, 3] and len({row["b"] for row in rows}) == 3
    assert sorted(row["a"] for row in drawn(space, 6)) == [1, 1, 2, 2, 3, 3]


def test_what_is_to_be_tried_first_is():
    space = space_from_dict({**CONDITIONAL, "first": [{"lr_scheduler": "inverse_sqrt", "warmup_steps": 20}]})
    first = drawn(space, 5)[0]
    assert (
        first["lr_scheduler"] == "inverse_sqrt" and first["warmup_steps"] == 20 and 0.1 <= first["dropout_rate"] <= 0.3
    )
    with pytest.raises(ConfigError, match="first: warmup_steps=40 is not a value of the space"):
        space_from_dict({**CONDITIONAL, "first": [{"warmup_steps": 40}]})


def test_recboles_text_form():
    space = space_from_text(
        "learning_rate loguniform -8,0\n"
        "# a comment\n\n"
        "embedding_size choice [64,96,128]\n"
        "mlp_hidden_size choice ['[64,64]','[128]']\n"
        "dropout_prob uniform 0.0,0.5\n"
        "nv quniform 2,8,2\n"
        "learner choice ['adam', 'sgd']\n"
    )
    domains = {parameter.key: parameter.domain for parameter in space.parameters}
    assert domains["learning_rate"].values == (math.exp(-8), 1.0)
    assert domains["embedding_size"].values == (64, 96, 128)
    assert domains["mlp_hidden_size"].values == ([64, 64], [128])
    assert domains["dropout_prob"].values == (0.0, 0.5)
    assert domains["nv"].choices == [2, 4, 6, 8]
    assert domains["learner"].values == ("adam", "sgd")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("learning_rate choice", "line 1 .*'key kind values'"),
        ("learning_rate normal 0,1", "line 1 .*kind one of choice"),
        ("a choice [1]\na choice [2]", "line 2.*'a' appears twice"),
        ("a choice [__import__('os')]", "cannot read the values"),
        ("a uniform 1,0", "empty: 1 is not below 0"),
    ],
)
def test_mistakes_in_the_text_form(line, match):
    with pytest.raises(ConfigError, match=match):
        space_from_text(line)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "'space' must hold"),
        ({"spce": {}}, "'spce' is not read"),
        ({"space": {"a": {"choice": []}}}, "a: choice: .. has no value"),
        ({"space": {"a": {"choice": 3}}}, "is not a list"),
        ({"space": {"a": {"choice": [1, 2, 1]}}}, "names a value twice"),
        ({"space": {"a": [1, 2]}}, "says no kind"),
        ({"space": {"a": {"normal": [0, 1]}}}, "normal given; give exactly one of"),
        ({"space": {"a": {"choice": [1], "uniform": [0, 1]}}}, "give exactly one of"),
        ({"space": {"a": {"uniform": [2, 2]}}}, "is empty"),
        ({"space": {"a": {"uniform": ["x", 2]}}}, "in finite numbers"),
        ({"space": {"a": {"loguniform": [0, 1]}}}, "lower end must lie above 0"),
        ({"space": {"a": {"randint": [0.5, 2]}}}, "whole numbers"),
        ({"space": {"a": {"quniform": [0, 1, 0]}}}, "step that does not lie above 0"),
        ({"space": {"a": {"choice": [1], "when": {"b": 1}}, "b": {"choice": [1], "when": {"a": 1}}}}, "wait for each"),
        ({"space": {"a": {"choice": [1], "when": {"b": []}}}}, "when must hold"),
        ({"space": {"dataset": {"choice": ["x"]}}}, "'dataset' cannot vary"),
        ({"space": {"a": {"choice": [1]}}, "settings": {"a": 2}}, "both varied and fixed"),
        ({"space": {"a": {"choice": [1]}}, "trials": 0}, "trials=0"),
        ({"space": {"a": {"choice": [1]}}, "trials": 10**9}, "space: trials=1000000000 must be .* at most 10000"),
        ({"space": {"a": {"choice": [1]}}, "search": "grit"}, "search='grit' is not possible"),
        (
            {"space": {"a": {"randint": [1, 10**12]}}},
            "has 1,000,000,000,000 values, more than the maximum of 1,000,000",
        ),
        ({"space": {"a": {"quniform": [0, 1, 1e-12]}}}, "has 1,000,000,000,001 values"),
        ({"space": {"a": {"randint": [10**30, 10**30 + 2]}}}, "whole numbers below 2"),
        ({"space": {"a": {"uniform": [math.nan, 1]}}}, "nan, 1. is not .low, high. in finite numbers"),
        ({"space": {"a": {"loguniform": [1, math.inf]}}}, "in finite numbers"),
        ({"space": {"a": {"uniform": [-1e308, 1e308]}}}, "in finite numbers"),
        ({"space": {"a": {"uniform": [2, 1]}}}, "is empty: 2 is not below 1"),
        ({"space": {"a": {"loguniform": [-1, 1]}}}, "lower end must lie above 0"),
        ({"space": {"a": {"choice": [1, math.nan]}}}, "finite numbers"),
        ({"space": {"a": {"choice": [datetime.date(2024, 1, 1)]}}}, "put dates in quotes"),
    ],
)
def test_mistakes_in_a_space(content, match):
    with pytest.raises(ConfigError, match=match):
        space_from_dict(content)


def test_a_missing_space_names_the_shipped_ones():
    with pytest.raises(ConfigError, match="space='nowhere' is not a file, nor one of .*id_length_codebook.*tiger"):
        read_space("nowhere")
    with pytest.raises(ConfigError, match="--space is missing"):
        read_space(None)


@pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces_can_be_run(file, workplace):
    space = read_space(file.stem)
    sweep = plan(space, None, "ml-100k", {}, Options(storage=str(workplace / "tune"), trials=8))
    assert len(sweep.samples) == 8 and sweep.model.lower() in ("tiger", file.stem)
    comments = file.read_text(encoding="utf-8")
    assert comments.startswith("#") and read_yaml(file)["model"] == sweep.model


def test_the_papers_pairs_are_tried_first():
    space = read_space("id_length_codebook")
    pairs = [(row["id_length"], row["codebook_size"]) for row in drawn(space, 8)]
    assert pairs[:2] == [(3, 256), (6, 64)]
    assert len(set(pairs)) == 8 and {length for length, _ in pairs} == {2, 3, 4, 6}
    assert len(drawn(space, None, "grid")) == 35


def test_a_sample_survives_the_coding_for_a_searcher():
    space = space_from_dict(
        {**CONDITIONAL, "space": {**CONDITIONAL["space"], "x": {"randint": [1, 9]}, "y": {"choice": [[1], "b"]}}}
    )
    for sample in space.samples("random", 30, 0, {}):
        assert space.decode(space.encode(sample)) == sample


def test_listed_values_of_fractions_are_clean():
    assert domain("quniform", [0.0, 0.3, 0.1], "x").choices == [0.0, 0.1, 0.2, 0.3]
    assert domain("quniform", [1, 8, 3], "x").choices == [1, 4, 7]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scheduler": "pbt"}, "scheduler=pbt cannot work here: .*weights.*choose asha, median or none"),
        ({"scheduler": "hyperband"}, "scheduler='hyperband' is not possible"),
        ({"trials": 0}, "trials=0"),
        ({"trials": 10**9}, "trials=1000000000 must be a whole number of at least 1 and at most 10000"),
        ({"name": "../../x"}, "name='../../x' must be one folder name"),
        ({"name": ".."}, "name='..' must be one folder name"),
        ({"name": ""}, "name='' must not be empty"),
        ({"search": "grit"}, "search='grit' is not possible; choose one of random, grid, optuna"),
        ({"reduction_factor": math.nan}, "reduction_factor=nan"),
        ({"cpus_per_trial": None}, "cpus_per_trial=None"),
        ({"cpus_per_trial": 0}, "cpus_per_trial=0"),
        ({"gpus_per_trial": 1.5}, "give whole GPUs"),
        ({"grace_period": 1.5}, "grace_period=1.5"),
        ({"reduction_factor": 1}, "reduction_factor=1 "),
        ({"time_budget_minutes": "x"}, "time_budget_minutes='x'"),
        ({"resume": "saved/tune/x"}, "resume='saved/tune/x' must be True or False"),
    ],
)
def test_mistakes_in_the_options(options, match):
    with pytest.raises(ConfigError, match=match):
        Options(**options)
