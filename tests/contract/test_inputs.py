"""Malformed settings, YAML files, spaces, command lines and run folders: one sentence, never a trace or a success.

Each table holds what a user can write and what the message must say; nothing of it may begin to train.
"""

import os
import re
import socket

import numpy as np
import pytest
import torch
from catalogue import SMALL, TINY, write_catalogue
from stored_runs import store

from recbole_tiger import cli, run_recbole_tiger
from recbole_tiger.errors import ConfigError, RecboleTigerError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.io import folder_lock
from recbole_tiger.settings.validate import keys_read
from recbole_tiger.training.checkpoint import save_checkpoint
from recbole_tiger.training.sequential import SequentialTrainer

KEYS = {**TINY, "data_path": "data", "dataset": "toy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A catalogue, kept for all inputs; none of them may change it."""
    root = tmp_path_factory.mktemp("inputs")
    write_catalogue(root / "data")
    (root / "a file").write_text("text\n")
    store(root / "runs", "SASRec", 1, np.arange(1, 12))
    broken = store(root / "damaged", "SASRec", 1, np.arange(1, 12))
    (broken / "result.json").write_text("{")
    (root / "taken").mkdir()
    (root / "taken" / "last.pth").write_bytes(b"x")
    (root / "empty").mkdir()
    save_checkpoint(root / "sasrec.pth", {"config": {"model": "SASRec"}, "state_dict": {}})
    torch.save({"state_dict": {}}, root / "foreign.pth")
    torch.save({"format": "recbole_tiger checkpoint", "format_version": 99}, root / "newer.pth")
    return root


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(SequentialTrainer, "fit", fit)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["run_recbole_tiger.py"])
    return folder


def typed(settings: dict, model: str = "TIGER") -> list[str]:
    """Settings as words of a command line, less those that the model does not know."""
    known = {*keys_read(model, settings), "model", "dataset"} - ({"recipe"} if model != "TIGER" else set())
    return [f"--{key}={value}" for key, value in settings.items() if key in known]


def refused(capsys, words, says):
    """The command ends with one error line that says so."""
    status = cli.main(words)
    shown = capsys.readouterr().err.strip()
    last = shown.splitlines()[-1] if shown else ""
    assert status in (1, 2) and last.startswith("error: ") and "Traceback" not in shown, (status, shown)
    assert re.search(says, last), last
    assert "training began" not in last


# ------------------------------------------------------------------------------------------------------------ settings

SETTINGS = [
    ("epochs=2.5", "epochs=2.5 must be a whole number of at least 1"),
    ("epochs=nan", "epochs='nan' must be a whole number"),
    ("epochs=1e23", "epochs=9+[0-9]+ is too large"),
    ("train_batch_size=1e30", "train_batch_size=10+[0-9]+ is too large"),
    ("seed=x", "seed='x' must be a whole number"),
    ("seed=-1", "seed=-1 must be a whole number of at least 0"),
    ("seed=99999999999999999999", "seed=9+ is too large"),
    ("topk=0", "topk=0 must be"),
    ("topk=[5,x]", "topk=.* must be a whole number of at least 1 or a list"),
    ("topk=[]", "topk=.* must be"),
    ("metrics=[Foo]", "metrics: 'Foo' is not a metric; choose some of .*Recall"),
    ("metrics=[]", "metrics=.* must be"),
    ("metrics=[AUC]", "metrics: 'AUC' needs scores of all items"),
    ("valid_metric=AUC", "valid_metric='AUC' is not measured"),
    ("metric_decimal_place=-1", "metric_decimal_place=-1 must be"),
    ("eval_batch_size=0", "eval_batch_size=0 must be"),
    ("eval_args={'order':'RO'}", "eval_args order='RO' is refused"),
    ("eval_args={'group_by':'none'}", "eval_args group_by='none' is refused"),
    ("eval_args={'foo':1}", "eval_args foo=1 is refused"),
    ("eval_args={'mode':'uni100'}", "eval_args mode='uni100': sampled evaluation"),
    ("eval_args={'mode':{'valid':'pop5'}}", "eval_args mode=.*use mode: full"),
    ("eval_args={'mode':3}", "eval_args mode=3.*use mode: full"),
    ("eval_args={'split':{'RS':[0.8,0.1,0.1]}}", "eval_args split=.* is refused"),
    ("eval_args=x", "eval_args='x' must be a dictionary"),
    ("split=foo", "split='foo' is not possible"),
    ("split=temporal", "split=temporal needs times that users have in common"),
    ("temporal_cutoffs=0.8,0.9", "temporal_cutoffs=.* is for split=temporal"),
    ("learning_rate=inf", "learning_rate='inf' must be a number"),
    ("learner=foo", "learner='foo' is not possible"),
    ("lr_scheduler=foo", "lr_scheduler='foo' is not possible"),
    ("warmup_steps=-1", "warmup_steps=-1 must be"),
    ("max_steps=-1", "max_steps=-1 must be"),
    ("clip_grad_norm=3", "clip_grad_norm=3 must be a dictionary such as {max_norm"),
    ("clip_grad_norm={'nrm':1}", "clip_grad_norm=.* must be a dictionary such as"),
    ("clip_grad_norm={'max_norm':'x'}", "clip_grad_norm=.* must be a dictionary such as"),
    ("temperature=0", "temperature=0 must be a number above 0"),
    ("temperature=[1,1,1,1,1]", "temperature names 5 levels, but a semantic ID has 3"),
    ("rqvae_epochs=2.5", "rqvae_epochs=2.5 must be a whole number"),
    ("rescore_weight=-1", "rescore_weight=-1 must be"),
    ("beam_size=3", "beam_size=3 is smaller than the largest topk"),
    ("mask_seen_items=no", "mask_seen_items='no' must be True or False"),
    ("state=LOUD", "state='LOUD' is not possible; choose one of DEBUG"),
    ("precision=bf16", "precision=bf16 on device 'cpu'"),
    ("gpu_id=abc", "gpu_id='abc' must be empty for the CPU"),
    ("device=foo", "device='foo': gpu_id chooses the device"),
    ("nproc=0", "nproc=0 must be"),
    ("port=99999", "port=99999 must be"),
    ("run_dir=", "run_dir='' must not be empty"),
    ("checkpoint_dir=", "checkpoint_dir='' must not be empty"),
    ("cache_dir=a file/cache", "the cache folder .*a file/cache cannot be made"),
    ("checkpoint_dir=a file/saved", "cannot write 'a file/saved' .*Not a directory"),
    ("run_dir=a file/run", "cannot write 'a file/run' .*Not a directory"),
    ("run_dir=taken", "run_dir='taken' holds a run already .last.pth.*--resume"),
    ("resume=nowhere.pth", "no checkpoint at 'nowhere.pth'"),
    ("resume=data", "no checkpoint at 'data'"),
    ("resume=taken/last.pth", "the checkpoint 'taken/last.pth' is damaged"),
    ("resume=foreign.pth", "'foreign.pth' is not a checkpoint of recbole_tiger"),
    ("resume=newer.pth", "format version 99"),
    ("model=TIGR", "model='TIGR' .*did you mean TIGER"),
    ("model=BPR", "model='BPR' is not a sequential model"),
    ("dataset=none-such", "dataset='none-such' is not under data_path='data' .there: toy."),
    ("dataset=../../etc", "dataset='../../etc' "),
    ("data_path=nowhere", "dataset='toy' is not under data_path='nowhere'"),
    ("recipe=foo", "recipe='foo' is not a recipe of TIGER; choose one of"),
    ("semantic_id=foo", "semantic_id='foo' is not possible"),
    ("semantic_id=file", "semantic_id=file needs --semantic_id_file"),
    ("content_encoder=foo", "content_encoder='foo' is not possible"),
    ("content_encoder=precomputed", "content_file=None is not a file"),
    ("content_fields=[nope]", "content_fields: .*no column 'nope'"),
    ("content_template={nope}", "content_template='{nope}': there is no column 'nope'"),
    ("codebook_size=[1,2]", "codebook_size=.* must be a whole number of at least 2"),
    ("codebook_size=[2,2,2]", "codebook_size=.* names 3 levels, but id_length=2"),
    ("collision=foo", "collision='foo' is not possible"),
    ("USER_ID_FIELD=item_id", "ITEM_ID_FIELD='item_id' is not possible: the column of USER_ID_FIELD has that name"),
    ("ITEM_LIST_LENGTH_FIELD=item_id", "ITEM_LIST_LENGTH_FIELD='item_id' is not possible: the column of ITEM_ID"),
    ("POSITION_FIELD=item_id", "POSITION_FIELD='item_id' is not possible"),
    ("LIST_SUFFIX=", "LIST_SUFFIX='' is not possible: the column of ITEM_ID_FIELD"),
    ("TIME_FIELD=", "TIME_FIELD='' is not possible: a column needs a name"),
    ("load_col={'inter':3}", "load_col=.* must be .*columns by file"),
    ("load_col=3", "load_col=3 must be .*columns by file"),
    ("val_interval={'x':'[1,2'}", "val_interval x=.* must be an interval"),
    ("user_inter_num_interval=13", "user_inter_num_interval='13' must be an interval"),
    ("user_inter_num_interval=[1000,inf)", "no interactions are left"),
    ("train_neg_sample_args={'distribution':'uniform'}", "train_neg_sample_args: TIGER learns"),
    ("benchmark_filename=[a,b]", "benchmark_filename=.*files that are already split"),
    ("save_dataset=True", "save_dataset=True: RecBole's stored datasets"),
    ("transform=foo", "transform='foo' is not possible; choose one of mask_itemseq"),
    ("transform=crop_itemseq", "transform=crop_itemseq is not for TIGER"),
    ("shuffle=False", "shuffle=False is not for TIGER"),
    ("val_interval={'x':'[1,2]'}", "val_interval: the column 'x' is not loaded, but user_id, item_id, timestamp are"),
    ("val_interval={'timestamp':['3']}", "val_interval timestamp=.*of a float column give an interval"),
    ("val_interval={'item_id':[3]}", "val_interval item_id=.*of a token column give a list of texts"),
    ("normalize_field=[x]", "normalize_field: the column 'x' is not loaded"),
    ("unload_col={'inter':['x']}", "unload_col=.*load_col names the columns of '.inter'.*set load_col=None as well"),
    ("unused_col={'inter':['item_id']}", "unused_col={inter: .'item_id'.}: every model needs 'item_id'"),
    ("additional_feat_suffix=[x]", "loading dataset 'toy' .* failed: ValueError: Additional .*the full trace is in"),
    ("tail_ratio=0", "tail_ratio=0 must be a number above 0"),
    ("d_model=100000000", "d_model=100000000, .*TIGER would have more than 64,[0-9,]+ parameters, .*GB, but"),
    ("epohcs=3", "unknown key 'epohcs' .*did you mean epochs"),
    ("sample=no", "unknown key 'sample'"),
    ("config_files=nowhere.yaml", "cannot read 'nowhere.yaml' .No such file"),
    ("config_files='open", "config_files=.* close the quote"),
    ("config_files=['nowhere a.yaml']", "cannot read 'nowhere a.yaml'"),
    ("config_files=data", "cannot read 'data' .Is a directory"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "says"), SETTINGS, ids=[setting for setting, _ in SETTINGS])
def test_a_setting_that_cannot_work(capsys, setting, says):
    key, _, value = setting.partition("=")
    refused(capsys, typed({**KEYS, key: value} if key in KEYS else KEYS) + [f"--{setting}"] * (key not in KEYS), says)


BASELINES = [
    ("SASRec", "hidden_size=0", "hidden_size=0 must be"),
    ("SASRec", "loss_type=xx", "loss_type='xx' is not possible"),
    ("SASRec", "hidden_size=1000000", "hidden_size=1000000, .*SASRec would have more than 4,[0-9,]+ parameters"),
    ("GRU4Rec", "embedding_size=4000000000", "GRU4Rec would have more than 196,000,000,000 parameters"),
    ("TIGERTree", "hidden_size=1000000", "TIGERTree would have more than 4,[0-9,]+ parameters"),
    ("TIGERTree", "n_heads=3", "hidden_size=16 cannot be divided among n_heads=3"),
    ("TIGERTree", "scoring=graph", "scoring=graph needs codewords that do not depend on each other"),
    ("RPG", "n_heads=3", "hidden_size=16 cannot be divided among n_heads=3"),
    ("RPG", "graph_steps=0", "graph_steps=0 must be"),
    ("FEARec", "n_layers=1", "n_layers=1: FEARec divides the frequencies among layers; set at least 2"),
    ("S3Rec", "reg_weight=x", "unknown key 'reg_weight'"),
    ("P5", "p5_checkpoint=empty", "p5_checkpoint='empty' is not a folder with a config.json"),
    ("FDSA", "item_feature=flavour", "item_feature='flavour' is not a column of toy.item"),
    ("FDSA", "selected_features=['flavour']", "selected_features=.'flavour'.: set --item_feature=COLUMN instead"),
    ("SASRec", "train_neg_sample_args={Distribution: popularity}", "train_neg_sample_args={'Distri.* must be a dict"),
    ("SASRec", "load_col={inter: [user_id], itme: [item_id]}", "load_col: nothing reads a file '.itme'; the endings"),
]


@pytest.mark.parametrize(("model", "setting", "says"), BASELINES)
def test_a_setting_that_cannot_work_for_another_model(capsys, model, setting, says):
    own = {**KEYS, **SMALL, "model": model}
    own.pop(setting.partition("=")[0], None)
    refused(capsys, [*typed(own, model), f"--{setting}"], says)


WITHOUT_EFFECT = [
    (
        "semantic_id_file=x.json",
        "semantic_id_file='x.json' has no effect with semantic_id=rkmeans: set semantic_id=file",
    ),
    ("content_file=x.npz", "content_file='x.npz' has no effect with content_encoder=tfidf_svd"),
    ("content_model=x", "content_model='x' has no effect with content_encoder=tfidf_svd"),
    ("content_components=3", "content_components=3 has no effect with content_standardize=.*set .*=pca or whiten"),
    ("rqvae_epochs=3", "rqvae_epochs=3 has no effect with semantic_id=rkmeans: set semantic_id=rqvae, or leave"),
    ("warmup_steps=3", "warmup_steps=3 has no effect with lr_scheduler=constant"),
    ("max_steps=3", "max_steps=3 has no effect with SASRec, which counts epochs: set epochs, max_seconds"),
]


@pytest.mark.parametrize(("setting", "says"), WITHOUT_EFFECT)
def test_a_setting_that_another_one_leaves_without_effect(caplog, setting, says):
    key, _, value = setting.partition("=")
    if "SASRec" in says:
        build_config("SASRec", "toy", config_dict={"data_path": KEYS["data_path"], key: value})
    else:
        build_config("TIGER", "toy", config_dict={**KEYS, "lr_scheduler": "constant", key: value})
    [warning] = [record.message for record in caplog.records if "no effect" in record.message]
    assert re.search(says, warning)


# ---------------------------------------------------------------------------------------------------------------- YAML

YAML = [
    ("epochs: 3\nepochs: 4\n", "key epochs is given twice; keep one .line 2"),
    ("1: 2\n", "key 1 is not text"),
    ("null: 3\n", "key null is not text"),
    ("[1, 2]: 3\n", "key in brackets is not text"),
    ("'': 3\n", "unknown key ''"),
    ("learning_rate: .nan\n", ".nan is not a finite number"),
    ("temperature: [1.0, .inf]\n", ".inf is not a finite number"),
    ("- epochs\n", "must hold 'key: value' lines, but holds a list"),
    ("epochs\n", "must hold 'key: value' lines"),
    ("\tepochs: 3\n", "is not valid YAML: found character"),
    ("epochs: [1\n", "is not valid YAML"),
    ("state: !!python/name:os.system\n", "could not determine a constructor"),
    ("state: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ("warmup_steps: !!timestamp 3\n", "is not valid YAML"),
    ("warmup_steps: !!int x\n", "is not valid YAML"),
    ("state: !mine 3\n", "could not determine a constructor"),
    ("state: *x\n", "undefined alias 'x'"),
    ("---\nstate: INFO\n---\nstate: INFO\n", "another document"),
    (b"\xff\xfe\x00", "not a text in UTF-8"),
    (b"epochs: 3\x00", "special characters are not allowed"),
    ("topk: " + "[" * 600 + "\n", "nested too deeply"),
    ("eval_args: " + "{a: " * 600 + "\n", "nested too deeply"),
    ("topk: [[5]]\n", "topk=.* must be"),
    ("metrics: {Recall: 1}\n", "metrics=.* must be"),
    ("warmup_steps:\n", "warmup_steps=None must be"),
    ("max_steps: true\n", "max_steps=True must be a whole number"),
    ("seed: 2024-01-01\n", "seed=.* must be a whole number"),
    ("resume: {a: 1}\n", "resume=.* must be text"),
    ("gpu_id: [0, a]\n", "gpu_id=.* must be empty"),
    ("load_col: {inter: {a: b}}\n", "load_col=.* must be"),
    ("state: 3\n", "state='3' is not possible"),
    ("config_files: more.yaml\n", "names further files .'more.yaml'., which are not read"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), YAML, ids=[repr(text)[:40] for text, _ in YAML])
def test_a_yaml_file_that_cannot_work(capsys, here, text, says):
    (here / "my own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    settings = {key: value for key, value in KEYS.items() if key not in ("state", "epochs")}
    refused(capsys, [*typed(settings), "--config_files=my own.yaml"], says)


# -------------------------------------------------------------------------------------------------------------- spaces

SPACES = [
    ("", "'space' must hold at least one line"),
    ("x", "must hold 'key: value' lines"),
    ("space: {}\n", "'space' must hold at least one line"),
    ("space: [epochs]\n", "'space' must hold at least one line"),
    ("space: {epohcs: {choice: [1]}}\n", "unknown key 'epohcs'.*epochs"),
    ("space: {epochs: {choice: []}}\n", "has no value to choose"),
    ("space: {epochs: []}\n", "epochs: .. has no value to choose"),
    ("space: {epochs: {choice: 3}}\n", "is not a list"),
    ("space: {epochs: 3}\n", "says no kind"),
    ("space: {epochs: {foo: [1,2]}}\n", "foo given; give exactly one of"),
    ("space: {epochs: {randint: [1,1000000000000]}}\n", "has 1,000,000,000,000 values"),
    ("space: {learning_rate: {quniform: [0,1,1e-12]}}\n", "values, more than the maximum"),
    ("space: {epochs: {uniform: [2,1]}}\n", "is empty: 2 is not below 1"),
    ("space: {learning_rate: {loguniform: [0,1]}}\n", "has no logarithm"),
    ("space: {learning_rate: {uniform: [0,.nan]}}\n", "space: .*not a finite number"),
    ("space: {epochs: {choice: [1,1]}}\n", "names a value twice"),
    ("space: {epochs: {choice: [1], when: {foo: 3}}}\n", "when: unknown key 'foo'"),
    ("space: {epochs: {choice: [1], when: 3}}\n", "when must hold"),
    ("space: {epochs: {choice: [1], when: {epochs: 1}}}\n", "wait for each other"),
    ("foo: 3\nspace: {epochs: {choice: [1]}}\n", "'foo' is not read here"),
    ("trials: 1000000000\nspace: {epochs: {choice: [1]}}\n", "trials=1000000000 must be"),
    ("search: foo\nspace: {epochs: {choice: [1]}}\n", "search='foo' is not possible"),
    ("model: Foo\nspace: {epochs: {choice: [1]}}\n", "model='Foo' is not a sequential model"),
    ("settings: 3\nspace: {epochs: {choice: [1]}}\n", "'settings' must hold"),
    ("settings: {epochs: 3}\nspace: {epochs: {choice: [1]}}\n", "both varied and fixed"),
    ("first: 3\nspace: {epochs: {choice: [1]}}\n", "'first' must be a list"),
    ("first: [{epochs: 7}]\nspace: {epochs: {choice: [1]}}\n", "first: epochs=7 is not a value"),
    ("space: {topk: {choice: [[5]]}}\n", "'topk' cannot vary in a sweep"),
    ("space: {epochs: {choice: [1, x]}}\n", "offers epochs=x, which cannot work"),
    ("search: grid\nspace: {learning_rate: {uniform: [0,1]}}\n", "search=grid cannot list"),
    ("search: grid\nspace: {d_ff: {randint: [1,1000]}, d_model: {randint: [1,1000]}}\n", "grid has 1,000,000 points"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), SPACES, ids=[repr(text)[:60] for text, _ in SPACES])
def test_a_space_that_cannot_work(capsys, here, text, says):
    (here / "space.yaml").write_text(text)
    refused(capsys, ["tune", "--space=space.yaml", "--dataset=toy", "--data_path=data"], says)


HYPER = [
    ("epochs choice", "line 1 .* must read 'key kind values'"),
    ("epochs foo [1]", "the kind one of"),
    ("epochs choice [1", "line 1 .*cannot read the values"),
    ("epochs choice __import__('os')", "cannot read the values"),
    ("epochs choice [1]\nepochs choice [2]", "line 2 .*appears twice"),
]


@pytest.mark.parametrize(("text", "says"), HYPER)
def test_a_hyper_test_that_cannot_work(capsys, here, text, says):
    (here / "hyper.test").write_text(text)
    refused(capsys, ["tune", "--space=hyper.test", "--dataset=toy", "--data_path=data"], says)


# ------------------------------------------------------------------------------------------------------- command lines

COMMANDS = [
    ("epochs=3", "cannot read the argument|is not a command"),
    ("--epochs", "--epochs has no value"),
    ("--", "cannot read the argument '--'"),
    ("--=3", "cannot read the argument"),
    ("-x 3", "cannot read the argument '-x'"),
    ("--epochs=3 --epochs=4", "--epochs is given twice"),
    ("recomend", "did you mean recommend"),
    ("ids --foo=3", "unknown key 'foo'"),
    ("ids --semantic_id=foo --dataset=toy --data_path=data", "semantic_id='foo' is not possible"),
    ("ids --semantic_id=file", "semantic_id=file needs"),
    ("ids --model=SASRec", "model='SASRec' has no Semantic IDs"),
    ("ids --output_dir=empty --dataset=toy --data_path=data --recipe=tiny", "output_dir='empty' exists already"),
    ("recommend", "recommend needs --checkpoint"),
    ("recommend --checkpoint=x", "needs either --history"),
    ("recommend --checkpoint=x --history=a", "no checkpoint at 'x'"),
    ("recommend --checkpoint=sasrec.pth --history=a", "sasrec.pth"),
    ("recommend --checkpoint=x --histories=b", "--histories needs --output"),
    ("recommend --checkpoint=x --histories=b --output=x.txt", "must end in .csv or .parquet"),
    ("recommend --checkpoint=x --history=a --foo=3", "unknown key 'foo'"),
    ("recommend --checkpoint=x --history=a --exclude_seen=no", "exclude_seen='no' must be True or False"),
    ("recommend --checkpoint=x --history=a --k=2.5", "k=2.5 must be a whole number"),
    ("report --runs=empty", "runs='empty' holds neither"),
    ("report --runs=damaged", "damaged.*result.json"),
    ("report --foo=1", "unknown key 'foo'"),
    ("leaderboard --runs=empty", "no finished run below 'empty'"),
    ("leaderboard --runs=damaged", "result.json.* is damaged"),
    ("leaderboard --runs=runs --output=a@file/x", "cannot write 'a file/x'"),
    ("leaderboard --foo=1", "unknown key 'foo'"),
    ("evaluate", "evaluate needs --runs"),
    ("evaluate --runs=runs", "evaluate needs a setting"),
    ("evaluate --runs=runs --mask_seen_items=no", "mask_seen_items='no'"),
    ("evaluate --runs=runs --epochs=3", "epochs=3 is not a setting of evaluation"),
    ("evaluate --runs=runs --mask_seen_items=True --output=runs/x", "inside the folder of the runs"),
    ("latency --n_items=x", "n_items='x'"),
    ("latency --repeats=0", "repeats=0"),
    ("cold-start --cold_share=2", "cold_share=2"),
    ("cold-start --k=0", "k=0"),
    ("diversity --checkpoint=x --epochs=3", "--epochs cannot be combined with --checkpoint"),
    ("diversity --temperatures=0", "temperatures=0"),
    ("diversity --checkpoint=data", "no checkpoint at 'data'"),
    ("invalid-ids --k=x", "k='x'"),
    ("invalid-ids --model=SASRec", "has no Semantic IDs"),
    ("prepare check --dataset=foo", "foo.inter does not exist"),
    ("prepare table --dataset=a --interactions=nowhere --user=u --item=i --time=t", "nowhere is not a file"),
    ("prepare table --dataset=a --interactions=x --user=u --item=i --time=t --separator=abc", "separator='abc'"),
    ("prepare synthetic --dataset=a --n_users=-1 --n_items=3 --n_interactions=3", "n_users=-1"),
    ("prepare synthetic --dataset=../x --n_users=10 --n_items=30 --n_interactions=300", "dataset='../x'"),
    ("prepare synthetic --dataset=a --data_path=a@file/x --n_users=10 --n_items=30 --n_interactions=300",
     "cannot write 'a file/x/.*Not a directory"),
    ("prepare movielens --folder=nowhere --dataset=a", "none of the MovieLens layouts"),
    ("prepare download --dataset=nope", "dataset='nope' is not among"),
    ("prepare download --dataset=nope --url=file:///etc/passwd", "must begin with http"),
    ("tune", "--space is missing"),
    ("tune --space=nope", "space='nope' is not a file"),
    ("tune --space=sasrec --trials=1000000000", "trials=1000000000 must be"),
    ("tune --space=sasrec --name=../../x", "name='../../x' must be one folder name"),
    ("tune --space=sasrec --storage=", "storage='' must not be empty"),
    ("tune --space=sasrec --run_dir=x", "run_dir='x' cannot be set in a sweep"),
    ("tune --space=sasrec --model=TIGER", "is for model=SASRec"),
    ("tune --space=sasrec --config_files=nowhere", "cannot read 'nowhere'"),
    ("tune --space=tiger --learning_rate=1", "is fixed on the command line, but varies"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "says"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_command_line_that_cannot_work(capsys, line, says):
    refused(capsys, [word.replace("@", " ") for word in line.split()], says)


LEADERBOARDS = [
    ("TIGER,SASRec --seeds=x", "seeds=.* 'x' is not a whole number"),
    ("SASRec,Pop --seeds=-1", "seed=-1 must be"),
    ("SASRec,Pop --seeds=1.5", "1.5 is not a whole number"),
    ("SASRec --seeds=1,1", "names a seed twice"),
    ("SASRec --seeds=1 --seed=2", "are both given; leave seed out"),
    ("TIGER,TIGER", "the row 'TIGER' is given twice"),
    ("SASRec[ --seeds=1", "cannot read the row 'SASRec.'"),
    ("SASRec[foo=3]", "unknown key 'foo'"),
    ("SASRec[split=temporal]", "split cannot be set for the row"),
    (", --seeds=1", "no row is named"),
    ("SASRec,Foo", "model='Foo' is not a sequential model"),
    ("SASRec,Pop --run_dir=x", "run_dir='x' belongs to one run"),
    ("SASRec,Pop --epochs=x", "epochs='x' must be"),
    ("SASRec,Pop --published=True", "the paper has no numbers"),
    ("SASRec,Pop --jobs=0", "jobs=0 must be"),
    ("SASRec,Pop --jobs=2 --nproc=2", "jobs=2 with nproc=2: each of them starts processes"),
    ("SASRec,Pop --cpus_per_run=x", "cpus_per_run='x' must be a number"),
    ("SASRec,Pop --leaderboard_dir=", "leaderboard_dir='' must not be empty"),
    ("SASRec,Pop --leaderboard_dir=a@file/x", "cannot write '.*a file/x' .Not a directory"),
]


@pytest.mark.parametrize(("line", "says"), LEADERBOARDS, ids=[line for line, _ in LEADERBOARDS])
def test_a_leaderboard_that_cannot_work(capsys, line, says):
    rows, *words = [word.replace("@", " ") for word in line.split()]
    refused(capsys, [f"--model={rows}", "--dataset=toy", "--data_path=data", *words], says)


# ------------------------------------------------------------------------------------------------------- Python, files


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("SASRec", "toy", None, [("a", 1)]), "is not a dictionary of settings"),
        (("SASRec", "toy", None, {3: 4}), "unknown key '3'"),
        (("SASRec", "toy", None, {"config_files": "nowhere"}), "cannot read 'nowhere'"),
        (("SASRec", "toy", None, {"config_files": 3}), "config_files=3 must be"),
        (("SASRec", "toy", ["nowhere.yaml"], None), "cannot read 'nowhere.yaml'"),
        (("SASRec", "toy", "nowhere.yaml", None), "cannot read 'nowhere.yaml'"),
        ((["SASRec"], "toy", None, None), "is not a sequential model"),
        (("SASRec", 3.5, None, None), "dataset='3.5' is not under"),
        (("SASRec", ["toy"], None, None), "dataset=.* must be text"),
    ],
)
def test_arguments_of_python_that_cannot_work(arguments, says):
    with pytest.raises(ConfigError, match=says):
        run_recbole_tiger(*arguments, command_line={})


def test_explicit_arguments_stand_above_files_and_dictionary(here):
    (here / "other.yaml").write_text("model: Nothing\ndataset: nothing\nepohcs: 3\n")
    with pytest.raises(ConfigError, match="unknown key 'epohcs' .* for model SASRec"):
        run_recbole_tiger("SASRec", "toy", ["other.yaml"], {"model": "None"}, command_line={})
    with pytest.raises(ConfigError, match="model='Nothing' is not"):
        run_recbole_tiger(None, None, ["other.yaml"], command_line={})
    with pytest.raises(ConfigError, match="model='Typed' is not"):
        run_recbole_tiger("SASRec", "toy", ["other.yaml"], command_line={"model": "Typed"})


def test_a_script_of_ones_own_reads_config_files_and_warns_of_misspelt_settings(here, monkeypatch, caplog):
    (here / "own.yaml").write_text("topk: x\n")
    monkeypatch.setattr("sys.argv", ["own.py", "--config_files=own.yaml", "--lerning_rate=1", "--verbose=1", "rest"])
    with pytest.raises(ConfigError, match="topk='x' must be"):
        run_recbole_tiger("SASRec", "toy")
    [warning] = [record.message for record in caplog.records]
    monkeypatch.setattr("sys.argv", ["own.py", "--tag=a", "--tag=b", "--epochs=1", "--epochs=2"])
    with pytest.raises(ConfigError, match="--epochs is given twice, as 1 and as 2"):
        run_recbole_tiger("SASRec", "toy")
    assert warning.startswith("--lerning_rate=1 is not a setting of SASRec and is not read; did you mean learning_rate")


@pytest.mark.parametrize("words", ["--config_files=sub folder/a b.yaml", "--config_files='sub folder/a b.yaml' c.yaml",
                                   "--config_files=['sub folder/a b.yaml']"])  # fmt: skip
def test_paths_with_blanks_are_read(capsys, here, words):
    (here / "sub folder").mkdir(exist_ok=True)
    (here / "sub folder" / "a b.yaml").write_text("epochs: 2.5\n")
    (here / "c.yaml").write_text("seed: 1\n")
    refused(capsys, [words], "epochs=2.5 must be")


@pytest.mark.parametrize(
    "words", [["--model=SASRec", "--run_dir=held"], ["--model=SASRec,Pop", "--leaderboard_dir=held"]]
)
def test_a_folder_in_use_says_by_whom(capsys, here, monkeypatch, words):
    def load(*args):
        raise AssertionError("work began")

    monkeypatch.setattr("recbole_tiger.experiment.run.prepare_data", load)
    with folder_lock("held", "wait"):
        holder = f"process {os.getpid()} on {re.escape(socket.gethostname())}"
        says = rf"held' is in use by {holder}, since \d{{4}}-.*; wait"
        refused(capsys, [*words, "--dataset=toy", "--data_path=data"], says)
    assert not (here / "held").exists()


def test_a_log_folder_that_cannot_be_written(capsys, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").write_text("a file\n")
    refused(capsys, typed({**KEYS, "data_path": here / "data"}), "cannot write 'log'")


def test_every_class_of_error_survives_the_way_from_another_process():
    import pickle

    from recbole_tiger import errors

    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, RecboleTigerError):
            error = pickle.loads(pickle.dumps(value("what is wrong")))
            assert type(error) is value and str(error) == "what is wrong"
