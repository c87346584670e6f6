"""What happens without a command: one model is trained and tested, or all models of a leaderboard.

Input: settings. Output: the report of the run, or the tables of the leaderboard.
"""

from __future__ import annotations

from recbole_tiger.commands import leaderboard
from recbole_tiger.leaderboard.plan import is_leaderboard
from recbole_tiger.quick_start import run_recbole_tiger
from recbole_tiger.report.run_text import report
from recbole_tiger.settings.parse import pop_config_files, read_config_files


def run(settings: dict) -> str | tuple[str, int]:
    """Train and test what the settings name; returns what to print, of a leaderboard with the exit status. Raises
    `ConfigError` for settings that cannot work, before any training."""
    if is_leaderboard({**read_config_files(pop_config_files(dict(settings))), **settings}):
        return leaderboard.make(settings)
    return report(run_recbole_tiger(command_line=settings))
