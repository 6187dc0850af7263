"""The command `kumite`."""

import logging
import sys

from rich.logging import RichHandler
from rich.text import Text

from cluster.cli import export_commands, play_commands, read_commands, upkeep_commands
from cluster.cli.app import app, errors
from cluster.errors import ClusterError
from workers.collector import collect_seldom

__all__ = ["app", "export_commands", "main", "play_commands", "read_commands", "upkeep_commands"]
# The modules of commands add them to `app`, in the order in which the help has them.


def main() -> None:
    """Runs the command line; an error that a user can mend is one message and exit code 1."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(logging.WARNING, console=errors, show_path=False, show_time=False)],
    )
    try:
        with collect_seldom():
            app()
    except ClusterError as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)
