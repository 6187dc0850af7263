"""The commands that make something else of what runs have written."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.app import app, console, errors


@app.command()
def export(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    format_name: Annotated[
        str, typer.Option("--format", help="openai, sharegpt, trl, verl, inspect or verifiers.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; of verifiers a folder. Default: here, named by the run."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPR", help="Only episodes for which this is so; as in `show`."),
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option("--best-of", metavar="N", help="Of each task's first N samples the best only."),
    ] = None,
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Preference pairs of a task's samples, in place of conversations."),
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="With trl: exact token ids, in place of conversations.")
    ] = False,
) -> None:
    """Write a run's episodes in the format of another tool: to learn from, or to look at."""
    from cluster.dataset.conditions import parse_conditions
    from cluster.dataset.remote import local_folder
    from cluster.export.export import check_choice, default_path, export_run

    conditions = parse_conditions(where) if where is not None else []
    choice = check_choice(format_name, conditions, best_of, pairs, tokens)
    run = local_folder(folder)
    made = export_run(run, choice, out or default_path(run, choice))
    if made.warning is not None:
        errors.print(
            f"warning: {made.warning}", style="yellow", highlight=False, soft_wrap=True, markup=False
        )
    console.print(f"{made.rows:,} {made.what}: {made.path}", highlight=False, soft_wrap=True, markup=False)
