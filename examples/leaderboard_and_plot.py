"""A leaderboard from Python, with a figure of quality against training time.

python examples/leaderboard_and_plot.py        # a few minutes; a second call reads the finished runs
"""

from __future__ import annotations

from typing import Any

import plotly.express as px

from recbole_tiger import LeaderboardResult, run_leaderboard


def main(dataset: str = "ml-100k", seeds: tuple[int, ...] = (2024, 2025), **settings: Any) -> LeaderboardResult:
    """Train three models, print the table and draw board.html; returns the leaderboard."""
    board = run_leaderboard("TIGER,SASRec,Pop", dataset, seeds, config_dict=settings)
    print(board)
    rows = board.to_frame()
    metric = board.table.main  # models were selected on it
    trained, popular = rows[rows["training_seconds"] > 0], rows[rows["model"] == "Pop"]
    labels = {"training_seconds": "seconds of training"}
    figure = px.scatter(
        trained, x="training_seconds", y=metric, error_y=f"{metric}_std", text="model", log_x=True, labels=labels
    )
    figure.add_hline(y=popular[metric].iloc[0], annotation_text="most popular items")
    figure.update_traces(textposition="top center")
    figure.write_html("board.html", include_plotlyjs="cdn")
    print(f"{rows['model'][0]} is first with {metric}={rows[metric][0]:.4f}; board.html has the figure")
    return board


if __name__ == "__main__":
    main(epochs=3)
