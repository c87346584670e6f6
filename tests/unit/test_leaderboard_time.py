"""How long a leaderboard still takes: `run._time_left` against sums by hand."""

from types import SimpleNamespace

from recbole_tiger.leaderboard.run import _time_left


def runs(*rows):
    return [SimpleNamespace(row=row) for row in rows]


def test_runs_left_take_as_long_as_those_of_their_row_or_as_all():
    taken = [("a", 100.0), ("a", 300.0), ("b", 20.0)]
    # a: 200, b: 20, c: the mean of all three, 140
    assert _time_left(taken, runs("a", "b", "c")).startswith("; 3 to go, about 6 min ")
    assert _time_left(taken, runs("b")).startswith("; 1 to go, about 20 s ")


def test_nothing_is_said_before_a_run_is_done_or_when_none_is_left():
    assert _time_left([], runs("a")) == _time_left([("a", 1.0)], []) == ""
