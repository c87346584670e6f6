"""What an import imports: the package alone almost nothing, its core no RecBole, and RecBole always our names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def run(program: str, cwd) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_the_package_and_decoding_import_nothing_heavy(tmp_path):
    heavy = {"recbole", "ray", "scipy", "sklearn", "tensorboard", "pandas"}
    program = f"""
BLOCKED = {heavy}
{BLOCK}
import recbole_tiger
assert not {{"torch", "numpy"}} & set(sys.modules)
assert recbole_tiger.__version__ and {{"Recommender", "run_recbole_tiger"}} <= set(dir(recbole_tiger))
try:
    recbole_tiger.nothing
except AttributeError as error:
    assert "'recbole_tiger' has no attribute 'nothing'" in str(error)
import recbole_tiger.decoding
"""
    run(program, tmp_path)


def test_the_core_works_without_recbole(tmp_path):
    """A tokenizer is trained, and a beam search over its IDs is that of all IDs, in plain torch and numpy."""
    program = f"""
BLOCKED = {{"recbole", "ray"}}
{BLOCK}
import numpy as np
import torch
import recbole_tiger.content.encoders, recbole_tiger.datasets
from recbole_tiger.decoding import PrefixTrie, beam_search, exact_topk
from recbole_tiger.nn import Seq2Seq, Seq2SeqStepDecoder, T5Config
from recbole_tiger.quantization import build_quantizer
from recbole_tiger.semantic_ids import SemanticIDTable

torch.manual_seed(0)
embeddings = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
sizes = {{"id_length": 2, "codebook_size": 4, "hidden_sizes": [8], "latent_dim": 4}}
rqvae = build_quantizer("rqvae", **sizes, epochs=2, random_state=0)
codes = rqvae.fit_transform(embeddings)
assert codes.shape == (40, 2) and codes.min() >= 0 and codes.max() < 4

table = SemanticIDTable.from_codes(codes, [str(i) for i in range(40)], [4, 4])
trie = PrefixTrie.from_codes(table.codes[1:], table.level_sizes)
ends = np.cumsum([1, *table.level_sizes])
levels = [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:])]
layers = {{"num_encoder_layers": 1, "num_decoder_layers": 1}}
t5 = T5Config(vocab_size=int(ends[-1]), d_model=16, d_kv=8, d_ff=32, num_heads=2, **layers)
model = Seq2Seq(t5).eval()
tokens = torch.randint(1, int(ends[-1]), (3, 6))
with torch.no_grad():
    mask = torch.ones(3, 6, dtype=torch.bool)
    memory = model.encode(tokens, mask)
    found = beam_search(Seq2SeqStepDecoder(model, memory, mask, levels, start_token=0), trie, beam_size=40, k=10)
    exact = exact_topk(Seq2SeqStepDecoder(model, memory, mask, levels, start_token=0), trie, k=10)
assert torch.equal(found.items, exact.items) and found.items.min() > 0 and found.scores.isfinite().all()
assert not {{"recbole", "ray"}} & set(sys.modules)
"""
    run(program, tmp_path)


FIRST = (
    "recbole recbole.config recbole.data.dataset recbole.trainer recbole.quick_start recbole_tiger.quick_start "
    "recbole_tiger.data.dataset recbole_tiger.data.prefixes recbole_tiger.distributed.collectives "
    "recbole_tiger.distributed.topology recbole_tiger.settings.validate recbole_tiger.training.sequential "
    "recbole_tiger.training.generative recbole_tiger.evaluation.evaluator recbole_tiger.experiment.loading "
    "recbole_tiger.model.tiger recbole_tiger.model.bert4rec_fixed recbole_tiger.recommend"
).split()


def test_recbole_finds_our_names_whoever_imports_it_first(tmp_path):
    """Each module in a process of its own, the first that imports RecBole; or RecBole before this package."""
    program = f"""
import importlib, os, sys, warnings
import pandas, scipy.sparse, sklearn.cluster, torch, torch.utils.tensorboard  # once for all of the forks below

warnings.simplefilter("ignore")
recbole_first = [("recbole.config", "recbole_tiger"), ("recbole.quick_start", "recbole_tiger")]
recbole_first += [("recbole.model.sequential_recommender", "recbole_tiger")]
for order in [(name, None) for name in {FIRST}] + recbole_first:
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, order
        continue
    try:
        if order[1] is None:
            import recbole_tiger
            assert not {{"recbole", "ray"}} & set(sys.modules)
        for name in filter(None, order):
            importlib.import_module(name)
        import recbole.data.dataset, recbole.trainer
        import recbole_tiger
        from recbole.utils import ModelType, get_model, get_trainer
        for name in ("TIGER", "TIGERTree", "P5", "Semantic_KNN", "BERT4RecFixed", "BSARec", "RPG"):
            module = get_model(name).__module__
            assert module == f"recbole_tiger.model.{{name.lower() if name[0] == 'P' else module.split('.')[-1]}}"
            assert get_trainer(ModelType.SEQUENTIAL, name).__module__.startswith("recbole_tiger.training."), name
        assert get_model("SASRec").__module__.startswith("recbole.model.")
        assert get_trainer(ModelType.SEQUENTIAL, "SASRec") is recbole.trainer.Trainer
        assert recbole.data.dataset.TIGERDataset.__module__ == "recbole_tiger.data.dataset"
        assert not hasattr(recbole.data.dataset, "SASRecDataset") and not hasattr(recbole.trainer, "SASRecTrainer")
        if "recbole.quick_start" in sys.modules:
            import recbole.quick_start.quick_start as module
            assert recbole.quick_start.load_data_and_model is module.load_data_and_model
            assert module.load_data_and_model.__wrapped__ is not module.load_data_and_model
        else:
            assert "ray" not in sys.modules
        assert not torch.is_anomaly_enabled()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""
    run(program, tmp_path)


@pytest.mark.parametrize("first", ["recbole_tiger", "recbole.config"])
def test_a_recbole_of_another_version_is_refused(tmp_path, first):
    program = f"""
import importlib.metadata
original = importlib.metadata.version
importlib.metadata.version = lambda name: "1.3.0" if name == "recbole" else original(name)
try:
    import {first}, recbole_tiger.plugin.register
    import recbole
except ImportError as error:
    print(error)
"""
    assert "extends RecBole 1.2.1, but RecBole 1.3.0 is installed" in run(program, tmp_path)
