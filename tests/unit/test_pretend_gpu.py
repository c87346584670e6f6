"""Models on a pretend GPU: nothing is left on the CPU, a step does not wait, and what comes out is the CPU's."""

import pytest
from catalogue import TINY, settings_of, write_catalogue
from pretend_gpu import DEVICE, PretendMachine
from pretend_runs import adafactor, all_of_it, refusals

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.experiment.loading import trainer_class

NO_DROPOUT = {"dropout_rate": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "item_embedding_dropout": 0.0}
SMALL = {"train_batch_size": 8}  # windows of users; others are batches of examples
#: Model, settings, and what one training step waits for: values that the host reads, and values that it sends.
CASES = {
    "TIGER": ("TIGER", {"mask_seen_items": True}, 0, 0),
    "TIGER windows": ("TIGER", {"encoder_mask": "block_causal", "user_buckets": 7, "ema_decay": 0.9, **SMALL}, 0, 0),
    "TIGER extended": ("TIGER", {"recipe": "extended", **SMALL}, 2, 0),
    "TIGERTree": ("TIGERTree", SMALL, 3, 0),
    "P5": ("P5", {}, 2, 0),
    "SASRec": ("SASRec", {}, 2, 99),
}


@pytest.fixture(scope="module")
def machine():
    machine = PretendMachine()
    yield machine
    machine.stop()


def test_the_pretend_gpu_refuses_and_counts_what_cuda_does(machine):
    machine.run(refusals)


def test_adafactor_reads_nothing(machine):
    machine.run(adafactor)


@pytest.mark.parametrize("case", CASES)
def test_train_evaluate_save_resume_and_recommend(machine, workplace, case):
    write_catalogue(workplace / "data", n_users=40)
    model, changes, n_reads, n_uploads = CASES[case]
    toy = {**TINY, "data_path": str(workplace / "data"), "train_batch_size": 32, "beam_size": 10}
    settings = {**settings_of(model, toy, **NO_DROPOUT), **changes}
    here = machine.run(all_of_it, model, settings)
    assert here["devices"] == {DEVICE}
    assert len(here["reads"]) > 1
    for waits, most in ((here["reads"], n_reads), (here["uploads"], n_uploads)):
        assert len(max(waits, key=len)) <= most, max(waits, key=len)

    # The CPU, on other paths through the same model and without a stop, has the same losses; it opens the checkpoint.
    there = run_recbole_tiger(model, "toy", config_dict={**settings, "gpu_id": "", "epochs": 2})
    assert [r["train_loss"] for r in there["history"]] == pytest.approx(here["losses"], rel=1e-4)
    config, loaded, *_, test_data = load_data_and_model(here["checkpoint"])
    assert config["device"].type == "cpu"
    found = trainer_class(model)(config, loaded).evaluate(test_data, load_best_model=False)
    assert dict(found) == pytest.approx(here["test_result"], abs=1e-6)
