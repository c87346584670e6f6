"""Every example runs, at a small size, and does what its first lines say."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "epochs": 1, "max_steps": 2, "lr_scheduler": "constant", "content_encoder": "tfidf_svd", "semantic_id": "rkmeans",
    "id_length": 2, "codebook_size": 8, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_encoder_layers": 1,
    "num_decoder_layers": 1, "beam_size": 10, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "state": "WARNING",
    "show_progress": False,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("registries")


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where a dataclass looks for its types
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    names = {path.stem for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]}
    assert names == {"own_data", "own_tokenizer", "own_model", "plain_torch", "leaderboard_and_plot",
                     "tiger_in_a_notebook"}  # fmt: skip


def test_own_data(workplace):
    lists = example("own_data").main(n_users=60, epochs=1)
    assert lists["user_id"].tolist() == ["ann"] * 5 + ["bob"] * 5
    assert not {"p03", "p04"} & set(lists["item_id"][:5]) and lists["title"].str.contains(" ").all()


def test_plain_torch(capsys):
    generated, found = example("plain_torch").main(n_items=40, epochs=1)
    assert generated == found and len(set(found[0])) == 5
    assert capsys.readouterr().out.startswith("user 0: item-")


def test_own_tokenizer(toy):
    rows = example("own_tokenizer").main("toy", data_path=toy["data_path"], **SMALL)
    assert set(rows["model"]) == {"TIGER[semantic_id=rkmeans]", "TIGER[semantic_id=quantiles]", "Pop"}


def test_own_model(toy):
    module = example("own_model")
    rows = module.main("toy", data_path=toy["data_path"], **SMALL)
    assert set(rows["model"]) == {"TIGER", "ItemDropout", "Pop"}
    assert set(module.recboles_own_way("toy", data_path=toy["data_path"], **SMALL)) == {
        "recall@5", "recall@10", "ndcg@5", "ndcg@10"}  # fmt: skip


def test_leaderboard_and_plot(toy, workplace):
    board = example("leaderboard_and_plot").main("toy", (1, 2), data_path=toy["data_path"], **SMALL)
    assert [row.label for row in board.table.rows] == board.to_frame()["model"].tolist() and not board.failures
    assert (workplace / "board.html").is_file() and Path(board.files["csv"]).is_file()


def test_the_cells_of_the_notebook_in_order(workplace):
    cells = json.loads((EXAMPLES / "tiger_in_a_notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace: dict = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "a notebook is committed without its outputs"
            exec(compile("".join(cell["source"]), "notebook", "exec"), namespace)
    assert len(namespace["epochs"]) >= 1 and namespace["epochs"][-1].valid
    assert namespace["recommender"].n_items == 1683 and len(namespace["lists"]) == 10
