"""TIGER, generative retrieval with Semantic IDs, as a plugin of RecBole.

Importing this package registers its models, datasets and trainers under RecBole's name look-ups, so that RecBole's own
``run_recbole(model="TIGER", ...)``, ``load_data_and_model`` and ``full_sort_topk`` find them.
"""

from recbole_tiger.plugin.register import register

__version__ = "0.1.0"

register()

from recbole_tiger.quick_start import load_data_and_model, objective_function, run_recbole_tiger  # noqa: E402

__all__ = ["Recommender", "__version__", "load_data_and_model", "objective_function", "register", "run_recbole_tiger"]


def __getattr__(name: str):
    if name == "Recommender":  # opened by few, so not imported by all
        from recbole_tiger.recommend import Recommender

        return Recommender
    raise AttributeError(f"module 'recbole_tiger' has no attribute '{name}'")
