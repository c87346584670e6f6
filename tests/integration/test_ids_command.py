"""The command `ids`: the same IDs as a training run, side by side, and their files."""

import json

import pytest

from recbole_tiger.cli import main
from recbole_tiger.quantization.rqvae.training import Training
from recbole_tiger.quick_start import run_recbole_tiger

KEYS = (
    *("content_encoder", "content_dim", "content_cooccurrence", "id_length", "codebook_size"),
    *("data_path", "item_feature", "recipe"),
)


def command(toy, *more):
    return main(["ids", "--dataset=toy", *(f"--{key}={toy[key]}" for key in KEYS), "--show_progress=False", *more])


def test_several_tokenizers_side_by_side(toy, workplace, capsys):
    published = workplace / "made elsewhere.json"
    items = [f"i{cycle}_{step}" for cycle in range(2) for step in range(24)]
    published.write_text(json.dumps({item: [n // 8, n % 8] for n, item in enumerate(items)}))
    others = [workplace / "made_elsewhere.json", workplace / "report.json"]  # names that the outputs have as well
    for number, other in enumerate(others):
        other.write_text(json.dumps({item: [number, n] for n, item in enumerate(items)}))
    status = command(
        toy,
        "--semantic_id=rkmeans,pq,random,file",
        f"--semantic_id_file={','.join(map(str, [published, *others]))}",
        "--output_dir=out",
        "--collision=none",
    )
    printed, errors = capsys.readouterr()
    assert status == 0, errors
    report = json.loads((workplace / "out" / "report.json").read_text())
    assert list(report["sets"]) == ["rkmeans", "pq", "random", "made elsewhere", "made_elsewhere", "report"]
    assert report["sets"]["made elsewhere"]["levels"][0]["used"] == 6
    assert report["sets"]["rkmeans"]["reconstruction"][-1] < 1 and report["sets"]["random"]["reconstruction"] is None
    page = (workplace / "out" / "report.html").read_text()
    assert all(name in page for name in report["sets"]) and "<script src=" not in page
    assert "variance left" in printed and str(workplace) not in page
    for name, path in zip(("made_elsewhere", "made_elsewhere_", "report_"), [published, *others], strict=True):
        assert json.loads((workplace / "out" / f"{name}.json").read_text()) == json.loads(path.read_text())


def test_ids_are_those_of_a_training_run_under_the_same_settings(toy, workplace):
    assert command(toy, "--semantic_id=rkmeans", "--semantic_id_file=ids.json") == 0
    result = run_recbole_tiger("TIGER", "toy", config_dict={**toy, "epochs": 1}, command_line={})
    trained = json.loads(open(result["files"]["semantic ids"]).read())
    made = json.loads((workplace / "ids.json").read_text())
    assert made == trained and len(made) == 48
    assert result["cached"] == ["embeddings", "semantic IDs"]


def test_the_last_of_several_config_files_wins(toy, workplace):
    (workplace / "first.yaml").write_text("semantic_id: pq\nid_length: 3\n")
    (workplace / "last.yaml").write_text("semantic_id: rkmeans\n")
    keys = [f"--{key}={toy[key]}" for key in KEYS if key != "id_length"]
    files = "--config_files=first.yaml last.yaml"
    assert main(["ids", "--dataset=toy", *keys, "--show_progress=False", files, "--output_dir=out"]) == 0
    report = json.loads((workplace / "out" / "report.json").read_text())
    assert list(report["sets"]) == ["rkmeans"] and report["sets"]["rkmeans"]["id_length"] == 3


def test_a_killed_tokenizer_goes_on_where_it_was(toy, workplace, monkeypatch):
    more = ("--semantic_id=rqvae", "--rqvae_epochs=10", "--rqvae_checkpoint_interval=2")
    original, epochs = Training.run_epoch, []

    def run_epoch(self):
        if len(epochs) == 5:
            raise KeyboardInterrupt
        epochs.append(self.epoch)
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", run_epoch)
        assert command(toy, *more) == 130
    assert len(list(workplace.glob("saved/cache/*.unfinished.pth"))) == 1
    epochs.clear()
    monkeypatch.setattr(Training, "run_epoch", lambda self: (epochs.append(self.epoch), original(self)))
    assert command(toy, *more, "--semantic_id_file=resumed.json") == 0
    assert epochs == list(range(4, 10))
    assert not list(workplace.glob("saved/cache/*.unfinished.pth"))
    assert command(toy, *more, "--semantic_id_file=whole.json", "--cache_dir=other") == 0
    assert (workplace / "resumed.json").read_text() == (workplace / "whole.json").read_text()


def test_colliding_ids_give_two_numbers(toy):
    result = run_recbole_tiger(
        "TIGER", "toy", config_dict={**toy, "collision": "none", "codebook_size": 3, "epochs": 3}, command_line={}
    )
    by_id, expected = result["id_level_test_result"], result["test_result"]
    assert result["semantic_ids"]["largest_group"] > 1
    assert by_id["recall@10"] == 1.0  # nine IDs in all
    assert 0 < expected["recall@10"] < 1
    assert all(by_id[name] >= expected[name] for name in by_id)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--semantic_id=rkmeans,pq", "--semantic_id_file=ids.json"),
            "is one file, but semantic_id names 2 tokenizers",
        ),
        (("--semantic_id=rkmeans,file",), "semantic_id=file needs"),
        (("--semantic_id=kmeans",), "semantic_id='kmeans' is not possible; choose one of rqvae"),
        (("--output_dir=data",), "exists already"),
    ],
)
def test_mistakes_are_named(toy, capsys, more, message):
    assert command(toy, *more) == 2
    assert message in capsys.readouterr().err
