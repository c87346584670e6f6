"""The command ``latency``: time and memory of a recommendation, beside an exact and an approximate inner product.

Input: the settings of the command. Output: a table on the screen, ``latency.json`` and ``latency.html``.
"""

from __future__ import annotations

from dataclasses import asdict

from recbole_tiger.analysis.latency import LatencySettings, latency
from recbole_tiger.commands.shared import new_folder, pop_number, pop_numbers, publish, text_table
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.report.analyses import latency_sections, latency_table

USAGE = """Usage: python run_recbole_tiger.py latency [--n_items=12000,100000,1000000] [--beams=50,10,20] [--key=value ...]

Times TIGER beside SASRec with an exact inner product and with an ANN index, on synthetic catalogues.

  --n_items=A,B,...          sizes of the catalogues (12000,100000,1000000)
  --beams=A,B,...            (50,10,20) the first of this and the next two is the base; the others vary one of them
  --id_lengths=A,B,...       learned codewords per item (3,4,6); the collision token comes on top
  --codebook_sizes=A,B,...   (256,64)
  --k=10, --batch=64         length of the lists; users at once for the queries per second
  --repeats=7                rounds; in each, all take their turn, and the median counts
  --threads=2                of torch and of the ANN index
  --ann=NAME                 faiss or hnswlib; by default the one that is installed (extra 'ann'), or neither
  --output_dir=FOLDER        a folder that does not exist yet, for latency.json and .html
  --any_key=value            any key of TIGER's tuned recipe: --d_model=..., --num_decoder_layers=..., --scoring=exact
"""


def run(settings: dict) -> str:
    """Measure, write, and return the table.

    Raises:
        ValueError: for settings that cannot work, and for an output that exists.
    """
    lists = {
        key: pop_numbers(settings, key, getattr(LatencySettings, key), low=low, kind=int, ordered=False)
        for key, low in (("beams", 1), ("id_lengths", 1), ("codebook_sizes", 2))
    }
    numbers = {
        key: pop_number(settings, key, getattr(LatencySettings, key), low=1, kind=int)
        for key in ("k", "batch", "repeats", "threads")
    }
    sizes = pop_numbers(settings, "n_items", LatencySettings.n_items, low=2, kind=int)
    wanted = LatencySettings(n_items=sizes, ann=settings.pop("ann", None), **lists, **numbers)
    output = settings.pop("output_dir", None)
    config = build_config("TIGER", "ml-100k", None, {"recipe": "tuned", **settings})
    sasrec = build_config("SASRec", "ml-100k", None, {"MAX_ITEM_LIST_LENGTH": config["MAX_ITEM_LIST_LENGTH"]})
    folder = new_folder(output, "latency", config)
    found = latency(wanted, config, sasrec)
    result = {"about": found.about, **asdict(found)}
    text = [text_table(*latency_table(found))]
    return publish(folder, "latency", "Latency and memory", result, latency_sections(found), text)
