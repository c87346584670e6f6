"""The command ``cold-start``: how often cold-start (unseen) items are found.

Input: the settings of the command, among them those of a run. Output: tables on the screen, ``cold-start.json`` and
``cold-start.html``, and the data and runs without the unseen items.
"""

from __future__ import annotations

from dataclasses import asdict

from recbole_tiger.analysis.cold_start import ColdStartSettings, checked_settings, cold_start
from recbole_tiger.commands.shared import new_folder, pop_number, pop_numbers, pop_run, publish, text_table
from recbole_tiger.report.analyses import cold_start_facts, cold_start_sections, cold_start_table

USAGE = """Usage: python run_recbole_tiger.py cold-start [--dataset=NAME] [--cold_share=0.05,0.1,0.2] [--key=value ...]

Trains without some of the test items, gives them Semantic IDs afterwards, and measures how often they are found.

  --cold_share=A,B,...       share of the test items that become unseen (0.05); each is a run of its own
  --seeds=A,B,...            draws of unseen items, each with a run of its own (by default the run's seed)
  --k=5,10,15,20             lengths of the lists
  --epsilon=0.1              the largest share of unseen items in a list, for the picture over K
  --epsilons=0,0.05,...      the same, for the picture over epsilon (0,0.05,0.1,0.2,0.3,0.5,1)
  --epsilon_k=10             the length of the lists of that picture
  --prefix_length=A,B,...    codewords that an unseen item shares with a predicted ID (by default id_length); each is a
                             column of its own, of the same trained run
  --output_dir=FOLDER        a folder that does not exist yet, for cold-start.json and .html, the data and the runs
  --checkpoint=FILE          take the settings of this run; it is trained anew, without the unseen items
  --any_key=value            any key of a run: --model, --dataset, --epochs, ...
"""


def run(settings: dict) -> str:
    """Train the runs, evaluate, write, and return the tables.

    Raises:
        ValueError: for settings that cannot work, and for an output that exists.
    """
    wanted = ColdStartSettings(
        shares=pop_numbers(settings, "cold_share", ColdStartSettings.shares, low=1e-6, high=0.9),
        k=pop_numbers(settings, "k", ColdStartSettings.k, low=1, kind=int),
        epsilon=pop_number(settings, "epsilon", ColdStartSettings.epsilon, low=0.0, high=1.0),
        epsilons=pop_numbers(settings, "epsilons", ColdStartSettings.epsilons, low=0.0, high=1.0),
        epsilon_k=pop_number(settings, "epsilon_k", ColdStartSettings.epsilon_k, low=1, kind=int),
        prefix_lengths=pop_numbers(settings, "prefix_length", (), low=1, kind=int, ordered=False),
        seeds=pop_numbers(settings, "seeds", (), low=0, kind=int, ordered=False),
    )
    output = settings.pop("output_dir", None)
    config, _ = pop_run(settings)
    wanted = checked_settings(config, wanted)
    folder = new_folder(output, "cold-start", config)
    found = cold_start(config, wanted, folder)
    about = {key: config[key] for key in ("model", "recipe", "dataset")}
    recipe = f" ({about['recipe']})" if about["recipe"] else ""
    n_runs = f"{len(found.runs)} run{'s' if len(found.runs) > 1 else ''}"
    result = {
        "about": f"{about['model']}{recipe} on {about['dataset']}: {n_runs}, trained without the unseen items",
        **about,
        "prefix_length": wanted.prefix_lengths,
        **asdict(found),
    }
    text = (text_table(*cold_start_table(found)), text_table(*cold_start_facts(found)), "\n".join(found.choices))
    return publish(folder, "cold-start", "Cold start", result, cold_start_sections(found), text)
