"""The application of the command `kumite`: its groups of commands, and where it prints."""

from importlib import metadata
from typing import Annotated

import typer

from cluster.observe.printing import wide_console


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kumite {metadata.version('kumite')}")
        raise typer.Exit()


app = typer.Typer(
    name="kumite",
    help="Play LLM agents in Docker sandboxes, and write the episodes as datasets for RL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
images = typer.Typer(help="Build sandbox images.", no_args_is_help=True)
app.add_typer(images, name="images")
policy_app = typer.Typer(
    help="Start, update and end the vLLM deployment that is kept between runs.", no_args_is_help=True
)
app.add_typer(policy_app, name="policy")


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Play LLM agents in Docker sandboxes, and write the episodes as datasets for RL."""


SET_HELP = (
    "Set a key of the config: a.b=value. The value is YAML: 4, true, null, text, \\[a, b], {a: 1}; "
    "quote it for the shell."
)
console = wide_console()
"""Standard output."""
errors = wide_console(stderr=True)
"""Standard error."""
