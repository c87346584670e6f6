"""From your own tables to recommendations: make a dataset of two CSV files, train TIGER on it, and recommend.

    python examples/own_data.py            # two minutes on two cores

The tables are synthetic: 300 customers of a shop whose next purchase mostly follows from the last one.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_tiger import Recommender, cli, run_recbole_tiger

KINDS, ROOMS, MAKERS = ("lamp", "chair", "desk", "shelf"), ("office", "kitchen", "bedroom"), ("Lumo", "Oakley", "Nord")


def write_tables(folder: Path, n_users: int) -> None:
    """Write orders.csv and products.csv."""
    rng = np.random.default_rng(0)
    names = [f"{maker} {room} {kind}" for room in ROOMS for kind in KINDS for maker in MAKERS]
    products = pd.DataFrame({"sku": [f"p{i:02}" for i in range(len(names))], "name": names})
    products["path"] = [f"Home > {name.split()[1].title()} > {name.split()[2].title()}s" for name in names]
    orders = []
    for user in range(n_users):
        item, day = int(rng.integers(len(names))), date(2024, 1, 1) + timedelta(days=int(rng.integers(200)))
        for _ in range(int(rng.integers(6, 12))):
            orders.append((f"customer-{user}", products["sku"][item], day.isoformat()))
            item = (item + 1) % len(names) if rng.random() < 0.8 else int(rng.integers(len(names)))
            day += timedelta(days=int(rng.integers(1, 20)))
    pd.DataFrame(orders, columns=["customer", "sku", "date"]).to_csv(folder / "orders.csv", index=False)
    products.to_csv(folder / "products.csv", index=False)


def main(n_users: int = 300, epochs: int = 60) -> pd.DataFrame:
    """Prepare, train and recommend; returns the recommendations."""
    write_tables(Path(), n_users)
    options = "--dataset=shop --interactions=orders.csv --user=customer --item=sku --time=date --time_format=%Y-%m-%d"
    options += " --items=products.csv --title=name --categories=path --user_core=3 --item_core=1"
    assert cli.main(["prepare", "table", *options.split(), "--category_separator=>"]) == 0

    settings = {"recipe": "tiny", "content_encoder": "tfidf_svd", "content_dim": 32, "semantic_id": "rkmeans"}
    settings |= {"codebook_size": 8, "epochs": epochs, "stopping_step": epochs}
    result = run_recbole_tiger("TIGER", "shop", config_dict=settings)
    print("TIGER:", result["test_result"])
    print("most popular items:", result["popularity"]["test"])

    recommender = Recommender.from_checkpoint(result["files"]["checkpoint"])
    histories = pd.DataFrame(
        {"user_id": ["ann", "ann", "bob"], "item_id": ["p03", "p04", "p20"], "timestamp": [1, 2, 1]}
    )
    lists = recommender.recommend(histories, k=5, exclude_seen=True).to_frame()
    print(lists.to_string(index=False))
    return lists


if __name__ == "__main__":
    main()
