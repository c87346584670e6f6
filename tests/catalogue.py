"""A small catalogue with a known next-item rule, as RecBole atomic files, and settings small enough for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

N_CYCLE = 24  # items of each of the two cycles below


def write_catalogue(
    root: Path, name: str = "toy", *, n_users: int = 150, shuffled: bool = False, clock: bool = False, seed: int = 0
) -> Path:
    """Write `<root>/<name>/<name>.inter` and `.item`.

    48 items in two cycles of 24: the item after i is i + 1 within its cycle, so the last item tells the next one. With
    `shuffled`, every user's items are drawn at random instead: there is nothing to learn. Times count each user's
    interactions; with `clock` they are hours of some months in which users come and go, equal ones among them.
    """
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        cycle, start, length = rng.integers(2), rng.integers(N_CYCLE), rng.integers(6, 13)
        steps = rng.integers(0, N_CYCLE, size=length) if shuffled else start + np.arange(length)
        times = 1_400_000_000 + np.arange(length)
        if clock:
            times = 1_400_000_400 + 3600 * (rng.integers(3000) + np.cumsum(rng.integers(0, 120, size=length)))
        rows += [f"u{user}\ti{cycle}_{step % N_CYCLE}\t{time}" for time, step in zip(times, steps, strict=True)]
    (folder / f"{name}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    kinds, makers = ["lotion", "soap", "perfume"], ["Acme", "Bolt", "Crest", "Dune"]
    rows = ["item_id:token\ttitle:token\tcategories:token_seq\tbrand:token"]
    for cycle in range(2):
        for step in range(N_CYCLE):
            kind, maker = kinds[step % 3], makers[step % 4]
            rows.append(
                f"i{cycle}_{step}\t{maker} {kind} number {step} line {cycle}\t"
                f"Beauty Care_{cycle} {kind.title()}\t{maker}"
            )
    (folder / f"{name}.item").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def write_inter(root: Path, rows, name: str = "mini") -> None:
    """Write `<root>/data/<name>/` with these rows of user, item, time and rating, and a title for each item."""
    folder = root / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\trating:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")
    items = sorted({row[1] for row in rows})
    table = ["item_id:token\ttitle:token"] + [f"{item}\tthing {i} of kind {i % 3}" for i, item in enumerate(items)]
    (folder / f"{name}.item").write_text("\n".join(table) + "\n")


def mini_settings(root: Path, **more) -> dict:
    """Settings for a TIGER on data of `write_inter`: IDs that need no content."""
    return {
        "data_path": str(root / "data"), "semantic_id": "random", "id_length": 2, "codebook_size": 4,
        "state": "WARNING", **more,
    }  # fmt: skip


#: Settings that train a TIGER of a few thousand parameters in about a second.
TINY = {
    "recipe": "tiny",
    "content_encoder": "tfidf_svd",
    "content_dim": 16,
    "content_components": None,
    "content_cooccurrence": 0.0,  # a new item with a known one's text has its codewords
    "semantic_id": "rkmeans",
    "id_length": 2,
    "codebook_size": 8,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "epochs": 2,
    "train_batch_size": 64,
    "beam_size": 20,
    "item_feature": "categories",
    "show_progress": False,
    "state": "WARNING",
}

#: The same for RecBole's models.
SMALL = {"hidden_size": 16, "inner_size": 32, "embedding_size": 16, "n_layers": 1, "pretrain_epochs": 1}

#: The paper's encoder and schedule, and every epoch validated, in place of the default recipe's.
PAPERS = {
    "eval_step": 1,
    "encoder_mask": "bidirectional",
    "cross_position_bias": False,
    "lr_scheduler": "inverse_sqrt",
    "warmup_steps": 2000,
}


def settings_of(model: str, toy: dict, **more) -> dict:
    """The tiny settings for a model, one epoch, less those that it does not know."""
    from recbole_tiger.settings.validate import keys_read

    own = PAPERS if model == "TIGER" else {}
    known = keys_read(model, more) - {"recipe"}
    return {key: value for key, value in {**toy, **SMALL, **own, "epochs": 1, **more}.items() if key in known}
