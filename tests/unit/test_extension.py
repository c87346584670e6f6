"""What others register: found by every look-up of a name, typed and checked like what is shipped, in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catalogue import TINY, write_catalogue
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.evaluator.register import metric_information
from recbole.model.sequential_recommender import GRU4Rec
from recbole.utils import get_model, get_trainer, init_seed

from recbole_tiger import (
    GenerativeRecommender,
    Recommender,
    StepFunction,
    cli,
    extension,
    load_data_and_model,
    run_recbole_tiger,
)
from recbole_tiger.commands.shared import of_semantic_ids
from recbole_tiger.decoding import DECODERS, BeamResult, beam_search
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import blank_argv, build_config
from recbole_tiger.leaderboard.plan import make_plan
from recbole_tiger.leaderboard.table import read_runs
from recbole_tiger.models import MODELS, model_spec
from recbole_tiger.quantization import LSH, QUANTIZERS
from recbole_tiger.quick_start import _settings_in_argv
from recbole_tiger.settings.field import Field
from recbole_tiger.settings.schema import FIELDS
from recbole_tiger.settings.validate import check_keys, known_keys, read_settings
from recbole_tiger.testing import check_decoder, check_tokenizer

PLUGIN = Path(__file__).resolve().parents[1] / "plugin_of_a_user.py"


pytestmark = pytest.mark.usefixtures("registries")


@pytest.fixture()
def plugin(registries):
    extension.load(str(PLUGIN))
    return next(iter(extension._PLUGINS.values()))


# ----------------------------------------------------------------------------------------------------------- tokenizer


def test_arguments_of_a_tokenizer_are_settings(plugin):
    assert FIELDS["quantiles_spread"] == Field("quantiles_spread", "float", scopes=frozenset(["tokenizer"]))
    assert FIELDS["quantiles_draw"].choices == ("normal", "uniform")
    assert FIELDS["quantiles_offsets"].type == "list of float" and FIELDS["quantiles_offsets"].optional
    assert FIELDS["quantiles_codebook_size"].type == "int or list of int"
    assert FIELDS["semantic_id"].choices[-2:] == ("quantiles", "file")
    check_keys({"quantiles_spread": 1, "quantiles_id_length": 2}, "TIGER")
    assert read_settings({"quantiles_spread": "1e-3", "quantiles_draw": "UNIFORM"}) == {
        "quantiles_spread": 1e-3,
        "quantiles_draw": "uniform",
    }
    with pytest.raises(ConfigError, match="quantiles_spread='wide' must be a number"):
        read_settings({"quantiles_spread": "wide"})
    with pytest.raises(ConfigError, match="unknown key 'quantiles_spred'.*did you mean quantiles_spread"):
        check_keys({"quantiles_spred": 1}, "TIGER")
    lines = extension.help_text().splitlines()
    assert "settings of semantic_id=quantiles:" in lines
    assert "  --quantiles_spread  (float) scale of the projections, which changes nothing." in lines
    assert "  --quantiles_draw  (normal|uniform) of the projections." in lines
    assert "  --loss_factor  (float) of the loss." in lines


def test_the_users_tokenizer_and_ours_keep_the_contract(plugin):
    check_tokenizer(plugin.Quantiles)
    check_decoder(plugin.no_repeats, widen=2)


def test_a_tokenizer_makes_the_ids_of_a_run_and_its_checkpoint_is_opened(toy, plugin, monkeypatch):
    settings = {**toy, "semantic_id": "quantiles", "quantiles_draw": "uniform", "epochs": 1}
    result = run_recbole_tiger("TIGER", "toy", config_dict=settings)
    assert result["config"]["quantiles_draw"] == "uniform" and result["config"]["plugin"] == [str(PLUGIN)]
    recommender = Recommender.from_checkpoint(result["files"]["checkpoint"])
    assert type(recommender.prepared.quantizer) is plugin.Quantiles
    assert recommender.prepared.quantizer.get_params()["draw"] == "uniform"
    assert len(recommender.recommend([["i0_3"]], 5)[0]) == 5
    # A process without the plugin says what is missing, and loads nothing by itself.
    del QUANTIZERS["quantiles"]
    with pytest.raises(ConfigError, match=f"semantic_id='quantiles' of this run is not registered.*--plugin={PLUGIN}"):
        Recommender.from_checkpoint(result["files"]["checkpoint"])
    with pytest.raises(ConfigError, match="semantic_id='quantiles' of this run"):
        load_data_and_model(result["files"]["checkpoint"])


def test_ids_are_made_anew_when_the_class_changes(toy, workplace):
    code = PLUGIN.read_text().replace("Quantiles", "Mine").replace('"quantiles"', '"mine"')
    file = workplace / "mine.py"
    cached = []
    for version in (code, code, code.replace("standard_normal", "random")):
        file.write_text(version.split("class Doubled")[0] + 'register_tokenizer("mine", Mine)\n')
        extension._PLUGINS.clear()
        sys.modules.pop("recbole_tiger_plugin_mine", None)
        settings = {**toy, "semantic_id": "mine", "plugin": str(file), "epochs": 1, "seed": 3}
        cached.append("semantic IDs" in run_recbole_tiger("TIGER", "toy", config_dict=settings)["cached"])
    assert cached == [False, True, False]
    assert extension.source_key(LSH) == extension.source_key(LSH)
    namespace: dict = {"__name__": "nowhere"}
    exec("class Unknown: pass", namespace)  # without a file, nothing says whether it has changed
    assert extension.source_key(namespace["Unknown"]) != extension.source_key(namespace["Unknown"])


class NoDefault(LSH):
    def __init__(self, *, width, id_length=3, codebook_size=256, random_state=0):
        pass


class Forgotten(LSH):
    width: int = 3


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("lsh", LSH, "semantic_id='lsh' is shipped"),
        ("file", LSH, "semantic_id='file' is shipped"),
        ("My IDs", LSH, "lower-case letters"),
        ("mine", dict, "is not a subclass of recbole_tiger.Quantizer"),
        ("mine", extension.Quantizer, "lacks _encode, _fit, _last_level_costs"),
        ("mine", NoDefault, "the argument 'width' of NoDefault must have a default"),
        ("mine", Forgotten, "width of Forgotten are not arguments of its constructor"),
        ("rqvae_x", type("Beta", (LSH,), {"__annotations__": {}}), None),
    ],
)
def test_tokenizers_that_cannot_be_registered(name, cls, message):
    if message is None:
        extension.register_tokenizer(name, cls)
        with pytest.raises(ConfigError, match=f"semantic_id='{name}' is registered already, by"):
            extension.register_tokenizer(name, type("Gamma", (LSH,), {}))
        extension.register_tokenizer(name, type("Beta", (LSH,), {}))  # the same class, defined again
        return
    with pytest.raises(ConfigError, match=message):
        extension.register_tokenizer(name, cls)


# --------------------------------------------------------------------------------------------------------------- model


class MyTIGER(get_model("TIGER")):
    def calculate_loss(self, interaction):
        return 3 * super().calculate_loss(interaction)


class MyGRU4Rec(GRU4Rec):
    default_settings = {"extra": 1}


@pytest.mark.parametrize("base", ["TIGER", "TIGERTree", "P5"])
def test_recboles_config_by_class_finds_dataset_trainer_and_settings(toy, base):
    """The way that RecBole's documentation teaches for one's own model."""
    cls = type(f"My{base}X", (get_model(base),), {})
    settings = {key: value for key, value in toy.items() if key not in ("recipe", "item_feature")}
    with blank_argv():
        config = Config(
            model=cls, dataset="toy", config_dict={**settings, "epochs": 1, "max_steps": 2, "lr_scheduler": "constant"}
        )
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    model = cls(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert type(trainer).__name__ == MODELS[base].trainer and type(dataset).__name__ == MODELS[base].dataset
    score, valid_result = trainer.fit(train, valid)
    assert score == valid_result["ndcg@10"]
    assert set(trainer.evaluate(test)) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    assert get_model(f"My{base}X") is cls


def test_a_model_by_class_trains_like_its_base_with_its_own_loss(toy):
    base = run_recbole_tiger("TIGER", "toy", config_dict={**toy, "epochs": 1})
    own = run_recbole_tiger(MyTIGER, "toy", config_dict={**toy, "epochs": 1})
    assert own["model"] == "MyTIGER" and own["recipe"] == base["recipe"] == "tiny"
    first, second = (each["history"][0]["train_loss"] for each in (base, own))
    assert second > 2.5 * first
    recommender = Recommender.from_checkpoint(own["files"]["checkpoint"])
    assert type(recommender.model) is MyTIGER
    del MODELS["MyTIGER"]
    with pytest.raises(ConfigError, match="model='MyTIGER' of this run is not registered"):
        Recommender.from_checkpoint(own["files"]["checkpoint"])


def test_a_model_of_recbole_is_extended(toy):
    settings = {"data_path": toy["data_path"], "epochs": 1, "embedding_size": 8, "hidden_size": 8, "extra": 5}
    result = run_recbole_tiger(MyGRU4Rec, "toy", config_dict={**settings, "state": "WARNING"})
    assert result["config"]["extra"] == 5 and result["config"]["num_layers"] == 1  # RecBole's default for GRU4Rec
    assert result["config"]["MAX_ITEM_LIST_LENGTH"] == 20  # and our protocol
    spec = model_spec("MyGRU4Rec")
    assert not spec.shares_batches and not spec.skips_padding  # nobody has shown it


class Popular(GenerativeRecommender):
    """The same logits for every user: each level's codewords by how often they come."""

    default_settings = {"encoder_mask": "bidirectional", "learning_rate": 0.1, "learner": "adam"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.trained_ids = dataset.semantic_ids
        self.levels = torch.nn.ParameterList(torch.zeros(size) for size in self.trained_ids.table.level_sizes)
        self._use_semantic_ids(self.trained_ids)

    def calculate_loss(self, interaction):
        codes = torch.from_numpy(self.trained_ids.table.codes[interaction[self.POS_ITEM_ID].numpy()])
        losses = (F.cross_entropy(own.expand(len(codes), -1), c) for own, c in zip(self.levels, codes.T, strict=True))
        return sum(losses)

    def step_decoder(self, users, history, lengths):
        def logits(prefixes):
            return self.levels[prefixes.shape[2]].expand(*prefixes.shape[:2], -1)

        return StepFunction(logits, n_users=len(lengths))


def test_a_generative_model_from_nothing(toy):
    own = {key: value for key, value in toy.items() if not key.startswith(("d_", "num_"))}
    result = run_recbole_tiger(Popular, "toy", config_dict=own)
    losses = [epoch["train_loss"] for epoch in result["history"]]
    assert losses[1] < losses[0] and result["parameters"] == 24
    recommender = Recommender.from_checkpoint(result["files"]["checkpoint"])
    first, second = recommender.recommend([["i0_3"], ["i1_7", "i1_8"]], 5)
    assert first == second and len(first) == 5


def test_models_that_cannot_be_registered():
    for wrong in (dict, "TIGER", 3):
        with pytest.raises(ConfigError, match="is not a sequential recommender"):
            extension.register_model(wrong)
    with pytest.raises(ConfigError, match="model='SASRec' is shipped"):
        extension.register_model(type("SASRec", (GRU4Rec,), {}))


# ------------------------------------------------------------------------------------------------- decoder and metric


def test_a_decoder_searches_in_training_and_in_evaluate(toy, plugin):
    seen = []

    def counting(decoder, trie, *, factor: int = 1, **options):
        seen.append((factor, options["beam_size"]))
        return beam_search(decoder, trie, **options)

    extension.register_decoder("counting", counting)
    own = {**toy, "epochs": 1, "seed": 5}
    base = run_recbole_tiger("TIGER", "toy", config_dict=own)
    found = run_recbole_tiger("TIGER", "toy", config_dict={**own, "scoring": "counting", "counting_factor": 4})
    assert found["test_result"] == base["test_result"] and set(seen) == {(4, 20)}
    seen.clear()
    runs = str(Path(base["run_dir"]).parent)
    assert cli.main(["evaluate", f"--runs={runs}", "--output=again", "--scoring=counting", "--counting_factor=7"]) == 0
    assert set(seen) == {(7, 20)}
    assert {run.result["config"]["scoring"] for run in read_runs("again")} == {"counting"}
    assert "counting_factor" in known_keys("TIGER") & known_keys("TIGERTree")
    assert "counting_factor" not in known_keys("SASRec")  # nothing reads it there, and no note of a table names it


def test_a_decoder_that_breaks_the_contract_is_named():
    def unsorted(decoder, trie, **options):
        found = beam_search(decoder, trie, **options)
        return BeamResult(found.items.flip(1), found.scores.flip(1))

    def forgetful(decoder, trie, *, excluded, **options):
        return beam_search(decoder, trie, excluded=None, **options)

    def greedy(decoder, trie, *, beam_size, k, **options):
        found = beam_search(decoder, trie, beam_size=1, k=1, **options)
        pad = (0, k - 1)
        return BeamResult(
            torch.nn.functional.pad(found.items, pad), torch.nn.functional.pad(found.scores, pad, value=-torch.inf)
        )

    for search, message in (
        (unsorted, "scores must not rise|between"),
        (forgetful, "excluded"),
        (greedy, "best items"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_decoder(search)
    check_decoder(greedy, exact=False)
    with pytest.raises(ConfigError, match="broken does not take excluded"):

        def broken(decoder, trie, *, k, beam_size, temperature, normalise):
            return None

        extension.register_decoder("broken", broken)


def test_a_metric_of_ones_own(toy, plugin):
    own = {**toy, "epochs": 1, "metrics": ["Recall", "NDCG", "FirstHit"]}
    result = run_recbole_tiger("SASRec", "toy", config_dict={"data_path": toy["data_path"], **{
        key: own[key] for key in ("epochs", "metrics", "state")}})  # fmt: skip
    assert 0 <= result["test_result"]["firsthit@5"] == result["test_result"]["firsthit@10"] <= 1
    with pytest.MonkeyPatch.context() as patch:  # as in a process that has not loaded the plugin
        patch.delitem(metric_information, "firsthit")
        with pytest.raises(ConfigError, match="metrics='FirstHit' of this run is not registered here.*--plugin="):
            load_data_and_model(result["files"]["checkpoint"])
    with pytest.raises(ConfigError, match="is not a subclass of recbole.evaluator.base_metric.AbstractMetric"):
        extension.register_metric(dict)


# -------------------------------------------------------------------------------------------------- plugins elsewhere


def test_rows_of_registered_names_have_keys_of_their_own(toy, workplace, plugin):
    rows = ["TIGER", "TIGER[semantic_id=quantiles,quantiles_spread=2]", "Doubled", "Pop"]
    plan = make_plan(rows, "toy", [1], settings={**toy})
    assert [task.settings["plugin"] for task in plan.tasks] == [[str(PLUGIN)]] * 4
    assert plan.tasks[1].settings["quantiles_spread"] == 2 and not plan.impossible
    keys = [task.row for task in plan.tasks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "source_key", lambda thing: "changed")
        again = [task.row for task in make_plan(rows, "toy", [1], settings={**toy}).tasks]
    assert [old == new for old, new in zip(keys, again, strict=True)] == [True, False, False, True]


def test_a_plugin_on_the_command_line_is_known_to_every_process(tmp_path):
    """In fresh processes, two of them for one run: a registered model with a registered tokenizer."""
    write_catalogue(tmp_path / "data")
    text = PLUGIN.read_text().replace("default_settings = {", "shares_batches = True\n    default_settings = {")
    (tmp_path / "own.py").write_text(text)
    settings = {**TINY, "data_path": "data", "epochs": 1, "semantic_id": "quantiles", "loss_factor": 1.5, "nproc": 2}
    words = [f"--{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "recbole_tiger", "--plugin=own.py", "--model=Doubled", "--dataset=toy", *words]
    environment = {**os.environ, "PYTHONPATH": str(PLUGIN.parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [file] = (tmp_path / "saved").rglob("result.json")
    result = json.loads(file.read_text())
    config = result["config"]
    assert result["environment"]["processes"] == 2 and config["plugin"] == [str(tmp_path / "own.py")]
    assert config["loss_factor"] == 1.5


def test_a_script_names_its_plugin_in_the_settings(registries, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py", "--loss_factor=3"])
    assert _settings_in_argv("Doubled", None, {"plugin": str(PLUGIN)}) == {"loss_factor": 3}


def test_a_plugin_is_named_in_every_form(registries, workplace, monkeypatch):
    """Text, path, list, several in one text; a value of another kind is an error that names the key."""
    for name in "abcd":
        Path(f"{name}.py").write_text("")
    files = [str(workplace / f"{name}.py") for name in "abcd"]
    for given, names in (("a.py, b.py", "ab"), (Path("c.py"), "abc"), (["d.py"], "abcd")):
        assert extension.load(given)[-len(names) :] == files[: len(names)]
    with pytest.raises(ConfigError, match="plugin=5 must be a list"):
        build_config("SASRec", "ml-100k", config_dict={"plugin": 5})
    extension._PLUGINS.clear()
    monkeypatch.setattr("sys.argv", ["script.py", "--plugin=a.py,b.py", "--epochs=3"])
    _settings_in_argv("SASRec", None, None)
    assert list(extension._PLUGINS) == files[:2]


def test_every_command_knows_the_model_of_a_plugin_that_a_config_file_names(registries, workplace):
    Path("own.yaml").write_text(f"plugin: {PLUGIN}\nmodel: Doubled\nepochs: 3\n")
    found = of_semantic_ids({"config_files": "own.yaml", "epochs": 2})
    assert found == {"plugin": str(PLUGIN), "model": "Doubled", "epochs": 2, "dataset": "ml-100k"}
    plan = make_plan("Doubled", "ml-100k", [1], ["own.yaml"])
    assert plan.tasks[0].settings["plugin"] == [str(PLUGIN)]
    with pytest.raises(ConfigError, match="model='SASRec' has no Semantic IDs; choose one of TIGER"):
        of_semantic_ids({"config_files": "own.yaml", "model": "SASRec"})


def test_keys_of_a_class_that_is_defined_again_are_known_at_once():
    for own in ("d_ff", "n_layers"):  # n_layers is no key of TIGER's
        again = type("Again", (MyTIGER,), {"default_settings": {own: 8}})
        assert own in known_keys(extension.register_model(again).__name__)
    assert "n_layers" not in known_keys("TIGER")


def test_help_names_the_settings_of_a_plugin(workplace, capsys):
    assert cli.main([f"--plugin={PLUGIN}", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--plugin A,B,..." in text and "settings of scoring=no_repeats:" in text
    assert "  --no_repeats_widen  (int) so many times the beams." in text
    words = "--model=Doubled --recipe=paper --semantic_id=quantiles --scoring=no_repeats".split()
    assert cli.main(["settings", f"--plugin={PLUGIN}", *words]) == 0
    text = capsys.readouterr().out
    for lines in (
        "dropout_rate=0.0\n    (float) Dropout.",  # TIGER's key with the model's own default
        "loss_factor=2.0\n    (float) of the loss.",
        "quantiles_draw=normal\n    (normal|uniform) of the projections.",
        "no_repeats_widen=1\n    (int) so many times the beams.",
    ):
        assert lines in text, text[-600:]


def test_plugins_that_cannot_be_loaded(workplace, capsys):
    Path("broken.py").write_text("import recbole_tiger\n\nvalue = 1 / 0\n")
    Path("syntax.py").write_text("a = = 1\n")
    Path("taken.py").write_text("from recbole_tiger import LSH, register_tokenizer\nregister_tokenizer('lsh', LSH)\n")
    for plugin, message in (
        ("missing.py", "plugin='missing.py': is not a file"),
        ("no_such_module_at_all", "plugin='no_such_module_at_all': is not a module that Python finds"),
        ("broken.py", "plugin='broken.py' failed with ZeroDivisionError: division by zero"),
        ("broken.py", f"{os.path.abspath('broken.py')}, line 3)"),
        ("syntax.py", "plugin='syntax.py' failed with SyntaxError"),
        ("taken.py", "plugin='taken.py': semantic_id='lsh' is shipped"),
    ):  # fmt: skip
        assert cli.main([f"--plugin={plugin}", "--model=Pop"]) == 2
        assert message in capsys.readouterr().err


class _EntryPoint:
    value = "package:Thing"

    def __init__(self, name, thing):
        self.name, self.thing = name, thing

    def load(self):
        if isinstance(self.thing, Exception):
            raise self.thing
        return self.thing


def test_installed_packages_register_by_entry_points(plugin, monkeypatch):
    groups = {
        "recbole_tiger.tokenizers": [_EntryPoint("planes", type("Planes", (LSH,), {}))],
        "recbole_tiger.decoders": [_EntryPoint("wide", plugin.no_repeats)],
        "recbole_tiger.models": [_EntryPoint("MyTIGER", MyTIGER)],
    }
    monkeypatch.setattr(extension, "entry_points", lambda group: groups[group])
    monkeypatch.setattr(extension, "_entry_points_are_loaded", False)
    extension.load()
    assert "planes" in QUANTIZERS and "wide" in DECODERS and MODELS["MyTIGER"].family == "TIGER"
    groups["recbole_tiger.models"] = [_EntryPoint("Bad", ImportError("no module named x"))]
    monkeypatch.setattr(extension, "_entry_points_are_loaded", False)
    with pytest.raises(ConfigError, match="entry point Bad = package:Thing .* failed with ImportError"):
        extension.load()


def test_a_tokenizer_that_breaks_the_contract_is_named():
    class Unseeded(LSH):
        def _fit(self, x, *, progress, checkpoint):
            self.random_state = int(np.random.randint(1000))
            super()._fit(x, progress=progress, checkpoint=checkpoint)

    class Shared(LSH):
        def _encode(self, x):
            return super()._encode(x - x.mean(0))

    for cls, message in ((Unseeded, "global random state"), (Shared, "depends on the other rows")):
        with pytest.raises(AssertionError, match=message):
            check_tokenizer(cls)
