"""The command ``ids``: Semantic IDs of a dataset, made and reported on without training a recommender.

Comes in: the settings of a run, with one or several tokenizers. Goes out: the IDs as JSON, and a report on the screen, as
JSON and as one page. The IDs are those of a training run under the same settings, from the same cache.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from recbole.data import create_dataset
from recbole.utils import get_local_time, init_seed

from recbole_tiger.analysis.id_report import IDSet, format_report, id_report, write_html, write_json
from recbole_tiger.content.sentences import category_paths, item_titles
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import start_logging
from recbole_tiger.quantization import QUANTIZERS
from recbole_tiger.settings.parse import pop_config_files, read_config_files
from recbole_tiger.tokenization import (
    Company,
    Content,
    TokenizedCatalogue,
    item_content,
    item_file,
    item_table,
    prepare_semantic_ids,
    quantizer_input,
    scaler_of,
)

USAGE = (
    """Usage: python run_recbole_tiger.py ids --dataset=NAME [--semantic_id=rqvae,rkmeans,...] [--key=value ...]

Makes Semantic IDs without training a recommender, writes them as JSON {item_id: [codes]}, and reports what they are worth.

  --semantic_id=A,B,...      one or several of """
    + ", ".join((*QUANTIZERS, "file"))
    + """; several come out side by side
  --semantic_id_file=F       where to write the IDs (one tokenizer), or, with semantic_id=file, the files to read: F,G,...
  --output_dir=FOLDER        a folder that does not exist yet, for report.json, report.html and the IDs; by default one
                             in saved/
  --recipe=NAME              the settings of this TIGER recipe (tuned, paper, tiny)
  --any_key=value            every key of a TIGER run: --id_length=3 --codebook_size=256 --collision=append ...
"""
)


def run(settings: dict) -> str:
    """Make and report on the IDs that the settings ask for; returns the report as text.

    Raises:
        ValueError: for settings that cannot work, and for an output that exists.
    """
    settings = {**read_config_files(pop_config_files(settings)), **settings}
    dataset = settings.pop("dataset", "ml-100k")
    output = settings.pop("output_dir", None)
    methods = _listed(settings.pop("semantic_id", None))
    given = settings.pop("semantic_id_file", None)
    sources = _listed(given) if "file" in methods else []
    if "file" in methods and not sources:
        raise ConfigError("semantic_id=file needs --semantic_id_file=FILE.json, one or several separated by commas")
    target = Path(given) if given and not sources else None
    if target is not None and len(methods) > 1:
        raise ConfigError(
            f"semantic_id_file='{given}' is one file, but semantic_id names {len(methods)} tokenizers; leave it out: "
            "every set is written to output_dir"
        )
    wanted = [{"semantic_id": method} for method in methods if method != "file"] or [{}] * (not sources)
    wanted += [{"semantic_id": "file", "semantic_id_file": source} for source in sources]
    configs = [build_config("TIGER", dataset, None, {**settings, **each}) for each in wanted]
    folder = _new_folder(output, configs[0])

    start_logging(configs[0])
    init_seed(configs[0]["seed"], configs[0]["reproducibility"])
    loaded = create_dataset(configs[0])
    items = [str(item) for item in loaded.field2id_token[loaded.iid_field][1:]]
    company = loaded.sequences.training_company()
    prepared = [loaded.semantic_ids] + [prepare_semantic_ids(config, items, company) for config in configs[1:]]
    names = _names(configs)
    report = report_on(configs, prepared, names, items, company)
    report["dataset"] = dataset
    written = {}
    for name, ids in zip(names, prepared, strict=True):
        written[name] = target or folder / f"{_file_name(name)}.json"
        ids.table.to_file(written[name])
    write_json(report, folder / "report.json")
    write_html(report, folder / "report.html", title=f"Semantic IDs of {dataset}")
    seconds = "\n".join(
        f"{name}: "
        + ", ".join(
            f"{stage} {value:.1f} s{' (from cache)' if stage in ids.cached else ''}"
            for stage, value in ids.seconds.items()
        )
        for name, ids in zip(names, prepared, strict=True)
    )
    places = "\n".join(f"{name}: {path}" for name, path in written.items())
    return f"{format_report(report)}\n\n{seconds}\n\n{places}\nreport: {folder / 'report.json'}\npage: {folder / 'report.html'}"


def report_on(
    configs: Sequence,
    prepared: Sequence[TokenizedCatalogue],
    names: Sequence[str],
    items: Sequence[str],
    company: Company,
) -> dict:
    """The report on several ID sets of one catalogue (`id_report`), with all that the dataset tells about its items.

    Embeddings are those of the sets that were made from content; with none such (random, file) they are left out.
    """
    content: Content | None = None
    sets = {}
    for config, ids, name in zip(configs, prepared, names, strict=True):
        quantizer, reconstruct, target = ids.quantizer, None, None
        if quantizer is not None and config["semantic_id"] != "random":
            content = item_content(config, list(items))
            target = quantizer_input(config, scaler_of(config), content.embeddings, company)
            reconstruct = quantizer.reconstruct
        table = ids.table
        sets[name] = IDSet(
            table.codes[1:, : table.id_length],
            None if config["semantic_id"] == "file" else table.level_sizes[: table.id_length],
            reconstruct=reconstruct,
            target=target,
        )
    config, titles, categories = configs[0], None, None
    if item_file(config).is_file():
        text = item_table(config)
        titles = item_titles(text, items, config["ITEM_ID_FIELD"], seq_separator=config["seq_separator"])
        if config["item_feature"] in text.columns:
            categories = category_paths(
                text, items, config["ITEM_ID_FIELD"], config["item_feature"], seq_separator=config["seq_separator"]
            )
    return id_report(
        sets,
        embeddings=None if content is None else np.asarray(content.embeddings),
        categories=categories,
        titles=titles,
        progress=bool(config["show_progress"]),
    )


def _listed(value) -> list[str]:
    """Names separated by commas, each once."""
    parts = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return list(dict.fromkeys(part.strip() for part in map(str, parts) if part.strip()))


def _names(configs: Sequence) -> list[str]:
    """What to call each set: its tokenizer, or the name of its file."""
    names = [
        Path(config["semantic_id_file"]).stem if config["semantic_id"] == "file" else config["semantic_id"]
        for config in configs
    ]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _new_folder(output: str | None, config) -> Path:
    """The folder for the outputs, made now, so that nothing is computed in vain."""
    name = f"ids-{config['dataset']}-{get_local_time()}-{secrets.token_hex(3)}"
    folder = Path(str(output)) if output else Path(config["checkpoint_dir"]) / name
    try:
        folder.mkdir(parents=True, exist_ok=False)
    except FileExistsError as error:
        raise ConfigError(f"output_dir='{folder}' exists already; name a folder that does not") from error
    return folder
