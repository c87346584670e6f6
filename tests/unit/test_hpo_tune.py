"""The command ``tune``: what its arguments mean; a bad space or option ends it in one sentence, before any work."""

import dataclasses

import pytest

from recbole_tiger import cli
from recbole_tiger.commands.options import COMMANDS, key_value_arguments
from recbole_tiger.commands.tune import main, run
from recbole_tiger.errors import ConfigError
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.plan import plan
from recbole_tiger.hpo.resume import alone, opened
from recbole_tiger.hpo.space_files import read_space, shipped_spaces, space_from_dict
from recbole_tiger.hpo.tune import tune
from recbole_tiger.settings.parse import parse_command_line


class Planned(Exception):
    pass


@pytest.mark.parametrize(
    ("arguments", "options", "settings"),
    [
        (["--trials=3"], {"trials": 3}, {}),
        (["--trials", "3", "--search", "grid"], {"trials": 3, "search": "grid"}, {}),
        (["--resume"], {"resume": True}, {}),
        (["--resume", "--epochs", "2", "--dashboard"], {"resume": True, "dashboard": True}, {"epochs": 2}),
        (["--resume=False", "--dashboard", "True"], {"resume": False, "dashboard": True}, {}),
        (["--name=2024"], {"name": "2024"}, {}),
        (["--scheduler=none", "--address=None"], {"scheduler": None, "address": None}, {}),
        (["--learning_rate", "1e-3", "--topk=[5,10]"], {}, {"learning_rate": 1e-3, "topk": [5, 10]}),
        (["--config_files=own.yaml", "--epochs=2"], {}, {"epochs": 2, "seed": 7, "dataset": "toy"}),
    ],
)
def test_arguments_are_options_or_settings_of_the_runs(workplace, monkeypatch, arguments, options, settings):
    (workplace / "own.yaml").write_text("epochs: 9\nseed: 7\ndataset: toy\n")

    def planned(space, model, dataset, given, how):
        assert (model, dataset, given, how) == (None, None, settings, Options(**options))
        raise Planned

    monkeypatch.setattr("recbole_tiger.hpo.tune.plan", planned)
    with pytest.raises(Planned):
        run(parse_command_line(key_value_arguments(["--space=tiger", *arguments], COMMANDS["tune"].flags)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trials=3"], "cannot read the argument 'trials=3'"),
        (["--trials"], "--trials has no value"),
        (["--trials=3", "--trials=4"], "--trials is given twice, as 3 and as 4"),
        (["--space=nowhere"], "space='nowhere' is not a file"),
    ],
)
def test_mistakes_in_the_arguments(capsys, arguments, words):
    assert main(arguments) == 2 and cli.main(["tune", *arguments]) == 2
    assert capsys.readouterr().err.count(words) == 2


def test_the_help_names_every_option_and_the_program(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["hpo/run_tune.py"])
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("space", "model", "dataset", *(option.name for option in dataclasses.fields(Options))):
        assert f"--{name}" in shown, name
    assert "usage: python run_tune.py [--key=value ...]" in shown
    assert all(name in shown for name in ("(saved/tune)", "random|grid|optuna", *shipped_spaces()))


@pytest.mark.parametrize(
    ("space", "flags", "words"),
    [
        ("d_model: {randint: [1, 1000000000000]}", [], "has 1,000,000,000,000 values"),
        ("d_model: {choice: [64, 128]}", ["--trials=1000000000"], "trials=1000000000 must be a whole number"),
        ("d_model: {choice: [64, 128]}", ["--name=../../x"], "name='../../x' must be one folder name"),
        ("d_model: {choice: [64, 128], when: {semantic_di: rqvae}}", [], "when: unknown key 'semantic_di'"),
        ("dropout_rate: {uniform: [.nan, 1]}", [], ".nan is not a finite number (line 2)"),
        ("on: {choice: [1]}", [], "the key on is not text"),
        ("dropout_rate: {uniform: [0.5, 0.1]}", [], "is empty: 0.5 is not below 0.1"),
        ("learning_rate: {loguniform: [0, 1]}", [], "lower end must lie above 0"),
        ("d_model: {choice: []}", [], "has no value to choose"),
        (
            "d_model: {choice: [64]}\n  d_model: {choice: [128]}",
            [],
            "the key d_model is given twice; keep one (line 3)",
        ),
        ("d_model: {choice: [64], when: {id_length: 3, id_length: 4}}", [], "the key id_length is given twice"),
        ("d_model: {randint: [1, 999]}\n  d_ff: {randint: [1, 99]}", ["--search=grid"], "the grid has 98,901 points"),
        (
            "d_model: {randint: [1, 9999]}\n  d_ff: {randint: [1, 999]}",
            ["--search=grid", "--trials=5"],
            "the grid has 9,989,001 points, more than the maximum of 1,000,000",
        ),
    ],
)
def test_a_bad_space_ends_in_one_sentence_before_any_work(workplace, capsys, space, flags, words):
    (workplace / "space.yaml").write_text(f"space:\n  {space}\n")
    assert main(["--space=space.yaml", *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and words in errors and errors.count("\n") == 1
    assert [path.name for path in workplace.iterdir()] == ["space.yaml"]


def small_sweep(content=None, model=None, dataset=None, settings=None, **options):
    content = {"space": {"seed": {"choice": [1, 2]}}, **(content or {})}
    return plan(space_from_dict(content), model, dataset, settings or {}, Options(trials=2, name="s", **options))


def test_model_and_dataset_of_the_settings_are_those_of_the_trials(toy):
    """What is checked, named in the report and trained is the same, wherever it was named."""
    of_space = {"settings": {"model": "SASRec", "dataset": "toy", "data_path": toy["data_path"]}}
    for sweep in (small_sweep(of_space), small_sweep(None, None, None, of_space["settings"])):
        assert (sweep.model, sweep.dataset) == ("SASRec", "toy") and not {"model", "dataset"} & sweep.settings.keys()
    sweep = small_sweep(of_space, "GRU4Rec", settings={"dataset": "ml-100k"})
    assert (sweep.model, sweep.dataset) == ("GRU4Rec", "ml-100k")


def test_config_files_of_a_call_are_read_before_trials_work_elsewhere(toy, workplace, monkeypatch):
    (workplace / "own.yaml").write_text("model: SASRec\ndataset: toy\nepochs: 3\n")
    monkeypatch.setattr("recbole_tiger.hpo.tune.run_trials", lambda sweep: planned.append(sweep))
    planned = []
    settings = {"config_files": "own.yaml", "data_path": toy["data_path"]}
    found = tune({"space": {"seed": {"choice": [1, 2]}}}, config_dict=settings)
    assert not found.finished and (planned[0].model, planned[0].dataset, planned[0].max_epochs) == ("SASRec", "toy", 3)
    assert "config_files" not in planned[0].settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint_dir": "z"}, "use --storage"),
        ({"run_dir": "z"}, "every trial has its own folder"),
        ({"gpu_id": "3"}, "Ray assigns GPUs"),
        ({"resume": "last.pth"}, "continues from its own checkpoint"),
        ({"use_gpu": True}, "gpus_per_trial=0"),
        ({"config_files": "own.yaml"}, "name them on the command line"),
    ],
)
def test_a_setting_that_trials_would_not_read_is_refused_wherever_it_stands(settings, words):
    for given in ({"content": {"settings": settings}}, {"settings": settings}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))}.*{words}"):
            small_sweep(**given)


def test_values_of_a_space_have_the_type_of_their_key():
    space = space_from_dict(
        {
            "space": {
                "id_length": {"choice": ["3", "4"]},
                "semantic_id": {"choice": ["PQ"], "when": {"id_length": "3"}},
            },
            "first": [{"id_length": "4"}],
        }
    )
    assert [parameter.domain.values for parameter in space.parameters] == [(3, 4), ("pq",)]
    assert space.parameters[1].when == {"id_length": (3,)} and space.first == ({"id_length": 4},)


def test_a_space_that_is_no_text_is_named(workplace):
    (workplace / "best.pth").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="space='best.pth' is not a text in UTF-8"):
        read_space("best.pth")


def test_a_sweep_is_not_continued_on_other_data_or_with_another_plugin(toy, workplace, registries):
    (workplace / "own.py").write_text("import recbole_tiger\n")
    settings = {"data_path": toy["data_path"], "plugin": "own.py"}

    def begin(**options):
        with opened(small_sweep(None, "SASRec", "toy", settings, **options)) as _:
            pass

    begin()
    begin(resume=True)
    for file in (workplace / "own.py", workplace / "data" / "toy" / "toy.inter"):
        before = file.read_text()
        file.write_text(before + ("# changed\n" if file.suffix == ".py" else before.splitlines()[-1] + "\n"))
        with pytest.raises(ConfigError, match=f"different contents .{file.name}: "):
            begin(resume=True)
        file.write_text(before)
    begin(resume=True)


def test_a_process_that_is_kept_out_changes_nothing(toy):
    sweep = small_sweep(None, "SASRec", "toy", {"data_path": toy["data_path"]})
    with opened(sweep):
        before = (sweep.folder / "sweep.json").read_text()
        other = small_sweep(None, "SASRec", "toy", {"data_path": toy["data_path"], "epochs": 3})
        with pytest.raises(ConfigError, match="is in use by process"), opened(other):
            pass
        assert (sweep.folder / "sweep.json").read_text() == before


def test_a_second_process_is_kept_out(tmp_path):
    with alone(tmp_path):
        with pytest.raises(ConfigError, match="is in use by process .*another --name"), alone(tmp_path):
            pass
    with alone(tmp_path):
        pass
