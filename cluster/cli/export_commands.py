"""The commands that make something else of what runs have written."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.app import app, console, errors
from cluster.errors import ConfigError


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


@app.command()
def push(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="The dataset on the hub: OWNER/NAME.")],
    private: Annotated[
        bool, typer.Option("--private", help="If the dataset is new: only its owner sees it.")
    ] = False,
    licence: Annotated[
        str, typer.Option("--license", help="The licence, as the hub names it: mit, cc-by-4.0, …")
    ] = "unknown",
) -> None:
    """Put a run on the Hugging Face hub as a dataset, with a card that says what it is."""
    from cluster.dataset.remote import local_folder
    from cluster.export.push import push_run

    url = push_run(local_folder(folder), repo, private=private, licence=licence)
    console.print(url, highlight=False, soft_wrap=True, markup=False)


@app.command()
def rescore(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change an argument: environment.args.KEY=value."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="The new run's folder. Default: RUN_DIR-rescored.")
    ] = None,
) -> None:
    """Score a run's episodes again, without playing, as a new run that names the old one."""
    from cluster.dataset.remote import is_uri, local_folder
    from cluster.observe.summary_view import render_summary
    from cluster.rescore import rescore_run

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False, markup=False)

    if is_uri(folder) and out is None:
        raise ConfigError(f"rescore: {folder} is a URI; say with --out where the new run goes")
    place, summary = rescore_run(local_folder(folder), overrides or [], out, say)
    console.print(render_summary(summary))
    console.print(f"run: {place}", highlight=False, soft_wrap=True, markup=False)
