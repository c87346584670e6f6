"""The commands and their options as data, so that help needs none of what the commands import.

Input: nothing. Output: :data:`COMMANDS`, and parsers that describe them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_tiger.errors import ConfigError
from recbole_tiger.hpo.options import help_rows

#: RecBole's short forms.
SHORT = {"-m": "--model", "-d": "--dataset"}


@dataclass(frozen=True)
class Command:
    """One command of the program.

    Attributes:
        module: in `recbole_tiger.commands`, with ``run(settings) -> text to print``.
        summary: one line for the list of commands.
        description: what it does, for its own help.
        options: its own settings and those that are worth naming: key, what stands for the value, meaning.
        reads_words: the function of the module that takes the words after the command and returns the exit status,
            where that is not ``run(settings) -> text``.
        flags: options that mean True without a value.
    """

    module: str
    summary: str
    description: str = ""
    options: tuple[tuple[str, str, str], ...] = ()
    reads_words: str | None = None
    flags: tuple[str, ...] = ()


_FOLDER = "a folder that does not exist yet, for the results; by default one in saved/analysis/"
_CHECKPOINT = (
    "checkpoint",
    "FILE",
    "best.pth of a run; without it, --model, --dataset and any setting of a run to train first",
)
_ANY = ("any_key", "VALUE", "every other setting of a run")
_USERS = ("users", "N", "number of test users, drawn at random; by default all")

#: What happens without a command.
TRAIN = Command(
    "train",
    "train and test a model, or all models of a leaderboard",
    "Train and test sequential recommenders under one protocol: TIGER, RecBole's models, or several in a leaderboard.",
    (
        ("model", "NAME", "TIGER (default), TIGERTree, P5, SASRec or any sequential model of RecBole; several "
         "(TIGER,SASRec,Pop) make a leaderboard; 'SASRec[loss_type=BPR],SASRec' sets settings of one row"),
        ("dataset", "NAME", "a folder under data_path with NAME.inter and NAME.item, or ml-100k (default)"),
        ("data_path", "FOLDER", "folder of the dataset folders (dataset/)"),
        ("recipe", "NAME", "sizes, learning rates and tokenizer of TIGER: tuned (default), paper, quick, tiny "
         "(default on ml-100k), extended"),
        ("config_files", "FILE", "YAML files of settings; of several, separated by spaces, the last one wins"),
        ("resume", "FILE", "continue from a run's last.pth"),
        ("nproc", "N", "train and evaluate in N processes, one per GPU if there are GPUs"),
        ("seeds", "A,B,...", "leaderboards: train each row once per seed"),
        ("leaderboard_dir", "FOLDER",
         "leaderboards: folder of the runs; by default named by dataset, data and protocol"),
        ("split", "NAME", "leave_one_out (default), or temporal with --temporal_cutoffs=0.8,0.9 and --temporal_target"),
        ("published", "True",
         "leaderboards: the paper's figures for this dataset, in a separate table"),
        ("jobs", "N", "leaderboards: N runs at once, each in its own process with a share of the cores"),
        ("ray", "True", "leaderboards: each run is a Ray task, here or at --ray=ADDRESS, with --cpus_per_run and "
         "--gpus_per_run"),
        _ANY,
    ),
)  # fmt: skip

COMMANDS: dict[str, Command] = {
    "leaderboard": Command(
        "leaderboard",
        "tables and a page of the runs stored in a folder",
        "Tables and a page of stored runs; runs on different data or under different protocols get separate tables.",
        (
            ("runs", "FOLDER", "read every finished run below this folder (saved)"),
            ("rows", "FILE", "YAML file of rows with names, settings and seeds: train the missing runs, with any "
             "--key=value and the options of leaderboards"),
            ("published", "True", "the paper's figures for its datasets, in separate tables"),
            ("output", "FOLDER",
             "where leaderboard.html, .csv, .json, .md and .tex are written; by default the folder of the runs"),
        ),
    ),
    "evaluate": Command(
        "evaluate",
        "evaluate finished runs again with other settings of evaluation (mask, beams, list lengths)",
        "Evaluates the best checkpoints of finished runs again with other settings of evaluation, without training.",
        (
            ("runs", "FOLDER", "read every finished run below this folder"),
            ("output", "FOLDER", "folder of the results, which the leaderboard command can read; repeat the command to "
             "resume; by default beside the runs, named by the settings"),
            ("mask_seen_items", "True", "leave previously interacted items out of the lists"),
            ("topk", "5,10,...",
             "list lengths; also metrics, beam_size, scoring, temperature, likelihood, rescore_weight"),
        ),
    ),
    "ids": Command(
        "ids",
        "semantic IDs without training a recommender, and a report on them",
        "Makes semantic IDs without training a recommender, writes them as JSON {item_id: [codes]}, and reports on "
        "their quality.",
        (
            ("dataset", "NAME", "a folder under data_path with NAME.inter and NAME.item, or ml-100k (default)"),
            ("semantic_id", "A,B,...",
             "one or several tokenizers: rqvae, letter, rkmeans, hierarchical_kmeans, vqvae, pq, lsh, random, file"),
            ("semantic_id_file", "FILE",
             "file to write the IDs to (one tokenizer), or, with semantic_id=file, the files to read"),
            ("output_dir", "FOLDER", "a new folder for report.json, report.html and the IDs"),
            ("recipe", "NAME", "use the settings of this TIGER recipe"),
            _ANY,
        ),
    ),
    "settings": Command(
        "settings",
        "every setting of a model with its default, type and meaning",
        "Every setting that the property files of a model describe, RecBole's own first: default, type and meaning.",
        (
            ("model", "NAME", "TIGER (default), or any other model"),
            ("dataset", "NAME", "whose defaults; ml-100k (default) has TIGER's recipe tiny"),
            ("recipe", "NAME", "whose defaults; also semantic_id, item_text and scoring"),
            ("key", "NAME", "this setting alone"),
        ),
    ),
    "cold-start": Command(
        "cold_start",
        "how often cold-start (unseen) items are found",
        "Trains without some of the test items, gives them semantic IDs afterwards, and measures how often they are "
        "found.",
        (
            ("cold_share", "A,B,...", "share of the test items that become unseen (0.05); one training run each"),
            ("seeds", "A,B,...", "seeds of the draw of unseen items, one training run each; by default the run's seed"),
            ("k", "A,B,...", "list lengths (5,10,15,20)"),
            ("epsilon", "SHARE", "largest share of unseen items in a list, for Recall against K (0.1)"),
            ("epsilons", "A,B,...", "the same, for Recall against epsilon (0,0.05,0.1,0.2,0.3,0.5,1)"),
            ("epsilon_k", "K", "list length for Recall against epsilon (10)"),
            ("prefix_length", "A,B,...", "codewords that an unseen item shares with a predicted ID (id_length); each "
             "is a column, from the same trained run"),
            ("checkpoint", "FILE", "take the settings of this run; the model is trained again, without the unseen "
             "items"),
            ("output_dir", "FOLDER", _FOLDER + "; the same command resumes an interrupted one there"),
            _ANY,
        ),
    ),
    "diversity": Command(
        "diversity",
        "categories of recommendations sampled at several temperatures",
        "Samples recommendations at several temperatures and measures the entropy of their categories, and Recall.",
        (
            _CHECKPOINT,
            ("temperatures", "A,B,...", "temperatures (1.0,1.5,2.0)"),
            ("levels", "A,B,...", "apply the temperature to one level of the ID at a time, each of these in turn (1 is "
             "the first codeword); 0, the default, means all levels"),
            ("k", "A,B,...", "list lengths (10,20,50)"),
            ("category", "COLUMN", "category column of the .item file (item_feature)"),
            ("category_depth", "N", "number of names of a category path that form a category (2)"),
            _USERS,
            ("sample_seed", "N", "seed of the draws; by default the run's"),
            ("output_dir", "FOLDER", _FOLDER),
        ),
    ),
    "invalid-ids": Command(
        "invalid_ids",
        "how many IDs of unconstrained generation belong to no item",
        "Lets a trained model generate semantic IDs without constraint, counts those that belong to no item, and "
        "compares Recall with the constrained search.",
        (
            _CHECKPOINT,
            ("k", "K", "length of the longest list (50)"),
            ("search_beams", "N", "beams of both searches; by default the larger of k and beam_size"),
            _USERS,
            ("output_dir", "FOLDER", _FOLDER),
        ),
    ),
    "latency": Command(
        "latency",
        "time and memory of TIGER and of SASRec with an exact and an approximate inner product",
        "Times TIGER beside SASRec with an exact inner product and with an ANN index, on synthetic catalogues.",
        (
            ("n_items", "A,B,...", "catalogue sizes (12000,100000,1000000)"),
            ("beams", "A,B,...", "beams (50,10,20); the first value of this and the next two options is the base, the "
             "others vary one at a time"),
            ("id_lengths", "A,B,...", "learned codewords per item, without the collision token (3,4,6)"),
            ("codebook_sizes", "A,B,...", "codewords per level (256,64)"),
            ("k", "K", "list length (10)"),
            ("batch", "N", "users per batch for queries per second (64)"),
            ("repeats", "N", "interleaved rounds, of which the median is reported (7)"),
            ("threads", "N", "threads of torch and of the ANN index (2)"),
            ("ann", "NAME", "faiss or hnswlib; by default the installed one (extra 'ann'), or none"),
            ("output_dir", "FOLDER", _FOLDER),
            ("any_key", "VALUE",
             "every setting of TIGER's tuned recipe: --d_model, --num_decoder_layers, --scoring, ..."),
        ),
    ),
    "report": Command(
        "report",
        "one page with all runs and analyses in a folder",
        "Writes one page with all finished runs and all analyses below a folder.",
        (
            ("runs", "FOLDER", "the folder (saved)"),
            ("output", "FILE.html", "a new file; by default report.html in the folder"),
        ),
    ),
    "recommend": Command(
        "recommend",
        "recommendations from a trained checkpoint, for any history",
        "Prints recommendations for one history, or writes them for many users. Needs only the checkpoint.",
        (
            ("checkpoint", "FILE", "best.pth of a run"),
            ("history", "A,B,...", "titles or item ids as in the data, in time order"),
            ("user", "ID", "the user, for models with user tokens"),
            ("histories", "FILE", ".csv, .tsv, .inter or .parquet with one interaction per line, in columns of user "
             "and item: in time order, or in any order with a time column"),
            ("output", "FILE", "a new .csv or .parquet file"),
            ("k", "K", "items per history (10)"),
            ("exclude_seen", "True", "leave out the items of the history"),
            ("temperature", "T", "divides the logits; one number, or one per level"),
            ("sample", "True", "sample items at this temperature instead of taking the best, with --seed=N"),
            ("beam_size", "N", "beams; by default the larger of the run's and k"),
            ("new_items", "FILE", ".item file of items newer than the model, found through their semantic IDs"),
            ("epsilon", "SHARE", "largest share of new items in a list (1.0)"),
            ("unknown", "skip", "leave out unknown items of a history instead of stopping"),
        ),
    ),
    "prepare": Command(
        "prepare", "make a dataset from raw files (Amazon, MovieLens, Steam, S3-Rec, any table), or check one",
        reads_words="run"),
    "tune": Command(
        "tune",
        "a hyper-parameter sweep on Ray Tune",
        "Searches hyper-parameters on Ray Tune. Trials are compared on validation after each epoch (valid_metric); the "
        "test set is read once, for the winner, after all trials. The folder of the sweep then holds report.html, "
        "report.md, report.csv and best.yaml (for --config_files).",
        (
            ("space", "FILE", "a YAML file, RecBole's hyper.test, or a shipped space: id_length_codebook, tiger, "
             "semantic_ids, sasrec, bert4rec, gru4rec, caser"),
            ("model", "NAME", "by default the space's, or TIGER"),
            ("dataset", "NAME", "a folder under data_path (ml-100k)"),
            *help_rows(),
            _ANY,
        ),
        flags=("resume", "dashboard"),
    ),
}  # fmt: skip


def help_text(program: str, name: str | None) -> str:
    """What ``--help`` prints: for a command, or for the program as a whole.

    Args:
        program: how the user called it.
    """
    command = TRAIN if name is None else COMMANDS[name]
    is_program = name is None or name in program  # recbole-tiger-tune and run_tune.py are the command itself
    called = program if is_program else f"{program} {name}"
    parser = argparse.ArgumentParser(
        called,
        usage=f"{called} [--key=value ...]" + ("" if name else f"\n       {program} COMMAND [--key=value ...]"),
        description=command.description,
        epilog=None if name else _list_of_commands(),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for key, value, meaning in command.options:
        short = [letter for letter, word in SHORT.items() if word == f"--{key}"]
        parser.add_argument(*short, f"--{key}", metavar=value, help=meaning.replace("%", "%%"))
    if name is None:
        parser.add_argument("--version", action="store_true", help="print the version")
        meaning = "Python files or modules that register tokenizers, decoders, models or metrics (all commands)"
        parser.add_argument("--plugin", metavar="A,B,...", help=meaning)
        parser.add_argument("--debug", action="store_true", help="show the full trace of an error (all commands)")
    return parser.format_help()


def _list_of_commands() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "commands, each with its own --help:\n" + "\n".join(lines)


def key_value_arguments(arguments: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    """Arguments in the one form ``--key=value``; ``--key value``, a flag without a value and ``-m``, ``-d`` become it.
    Raises `ConfigError` for an argument of another form, or a key without a value."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        for letter, long in SHORT.items():
            if word == letter or word.startswith(f"{letter}="):
                word = long + word[len(letter) :]
        if not word.startswith("--") or not word[2:].partition("=")[0]:
            raise ConfigError(
                f"cannot read the argument '{word}': write --key=value or --key value, for example --dataset=ml-100k"
            )
        if "=" not in word:
            if not rest or (rest[0].startswith("-") and not _is_number(rest[0])):
                if word[2:] in flags:
                    joined.append(f"{word}=True")
                    continue
                raise ConfigError(f"{word} has no value: write {word}=VALUE")
            word = f"{word}={rest.pop(0)}"
        joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
