"""What an environment and its toolset print: in the run's log by episode, and on the terminal if asked."""

import logging

from rich.console import Console
from rich.text import Text

from workers.records import EpisodeResult

_log = logging.getLogger(__name__)
_debug: list[Console] = []
"""Where it is shown as well; nothing: nowhere."""


def show_episode_output(console: Console) -> None:
    """Shows what episodes print from now on on the console as well."""
    _debug[:] = [console]


def log_episode_output(result: EpisodeResult) -> None:
    """Logs what was printed in an attempt at an episode."""
    if not result.printed:
        return
    _log.info("printed: %s", result.printed.rstrip(), extra={"episode": result.episode_id})
    for console in _debug:
        for line in result.printed.rstrip().splitlines():
            console.print(Text.assemble((f"{result.episode_id} ", "dim"), line), soft_wrap=True)
