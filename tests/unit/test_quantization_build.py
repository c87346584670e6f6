"""Choosing a tokenizer by name, and states that are none."""

import subprocess
import sys

import pytest

from recbole_tiger.quantization import QUANTIZERS, RQVAE_PAPER, RQVAE_TUNED, build_quantizer, quantizer_from_state_dict


def test_names():
    assert list(QUANTIZERS) == ["rqvae", "rkmeans", "vqvae", "pq", "hierarchical_kmeans", "lsh", "random", "letter"]
    assert all(cls.name == name for name, cls in QUANTIZERS.items())


def test_only_arguments_that_the_class_takes_are_passed():
    lsh = build_quantizer("lsh", id_length=2, codebook_size=4, epochs=3, device="cpu")
    assert lsh.get_params() == {"id_length": 2, "codebook_size": 4, "random_state": 0}
    assert build_quantizer("rqvae", epochs=3).epochs == 3


def test_defaults_of_the_paper():
    assert build_quantizer("lsh").get_params() == {"id_length": 4, "codebook_size": 256, "random_state": 0}
    assert build_quantizer("random").get_params() == {"id_length": 4, "codebook_size": 255, "random_state": 0}
    paper = build_quantizer("rqvae", **RQVAE_PAPER)
    assert {key: getattr(paper, key) for key in RQVAE_PAPER} == RQVAE_PAPER
    # section 4.1.3, word by word
    assert (paper.learner, paper.learning_rate, paper.batch_size, paper.epochs) == ("adagrad", 0.4, 1024, 20000)
    assert (paper.hidden_sizes, paper.latent_dim, paper.beta) == ([512, 256, 128], 32, 0.25)
    assert (paper.codebook_init, paper.codebook_update) == ("first_batch", "gradient")
    tuned = build_quantizer("rqvae").get_params()
    assert {key: tuned[key] for key in RQVAE_TUNED} == RQVAE_TUNED | {"hidden_sizes": (512, 256, 128)}


def test_unknown_name():
    with pytest.raises(
        ValueError, match="semantic_id='rq'.*rqvae, rkmeans, vqvae, pq, hierarchical_kmeans, lsh, random"
    ):
        build_quantizer("rq")


@pytest.mark.parametrize("state", [{}, [], {"quantizer": "rqvae", "params": {"colour": 1}, "learned": {}}])
def test_not_a_state(state):
    with pytest.raises(ValueError, match="not the state of a quantizer"):
        quantizer_from_state_dict(state)


def test_the_core_loads_no_framework():
    """Cached embeddings and Semantic IDs need none of these; only encoders and co-occurrence do, when they run."""
    code = """
import sys
import recbole_tiger.content, recbole_tiger.quantization, recbole_tiger.semantic_ids
names = ("recbole", "ray", "sklearn", "scipy", "transformers", "sentence_transformers", "recbole_tiger.settings")
print([name for name in names if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
