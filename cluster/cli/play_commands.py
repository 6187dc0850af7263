"""The commands that play episodes, or say what would be played."""

import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cluster.cli.app import SET_HELP, app, console, errors
from cluster.config import RunConfig
from cluster.config.file import load_config, set_drain_seconds
from cluster.ending import EXIT_FAILED
from cluster.errors import ConfigError, RunStopped
from cluster.observe.printing import print_lines, terminal_width

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.observe.summary import Summary


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="The run's config, a YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="The run's folder, or URI. Default: <output>/<name>-<time>.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="RUN_DIR", help="Continue a run: play the episodes that are missing."
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: also play the failed episodes again.")
    ] = False,
    max_failed: Annotated[
        str,
        typer.Option(
            "--max-failed",
            metavar="COUNT|SHARE",
            help="How many episodes may fail: a count (20) or a share (0.1, 10%). If more fail, or none "
            "finishes, the exit code is 3.",
        ),
    ] = "0.5",
    drain: Annotated[
        float | None,
        typer.Option(
            "--drain",
            metavar="SECONDS",
            help="How long Ctrl-C waits for running episodes; replaces episode.drain_seconds.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show what the environment and its toolset print.")
    ] = False,
) -> None:
    """Play episodes and write them as a dataset.

    Exit codes: 0: done. 1: the run could not start. 3: no episode finished, more failed than --max-failed
    allows, or the run stopped by itself. 128 + N: the signal with number N ended it.
    """
    # Imported here, and not above, since Ray and verifiers take seconds that `kumite --help` need not wait.
    from cluster.dataset.run_folder import Target
    from cluster.ending import Interrupted
    from cluster.observe.outcome import FailureLimit
    from cluster.observe.printed import show_episode_output
    from cluster.observe.summary import summarise_run
    from cluster.observe.summary_view import render_summary
    from cluster.plan.resume import resumable_config
    from cluster.run import run

    if resume is not None and out is not None:
        raise ConfigError("give --out or --resume, not both: a resumed run stays in its folder")
    if retry_failed and resume is None:
        raise ConfigError("--retry-failed needs --resume RUN_DIR: a new run has no failed episodes")
    most_failed = FailureLimit(max_failed)
    if _run_matrix(config, overrides or [], out, resume, retry_failed, most_failed.complaint):
        return
    given = load_config(config, overrides or []) if config is not None else None
    if resume is not None:
        target = Target.resumed(resume, retry_failed)
        if given is None and overrides:
            given = load_config(target.folder / "config.yaml", overrides)
        given = resumable_config(target.folder, given)
    elif given is None:
        raise ConfigError("give a config, or --resume RUN_DIR")
    else:
        target = Target.new(given, out)
    if drain is not None:
        given = set_drain_seconds(given, drain)
    if debug:
        show_episode_output(console)
    stopped = None
    try:
        summary = run(given, target, console)
    except RunStopped as error:
        stopped, summary = str(error), summarise_run(target.folder)
    except Interrupted as interrupted:
        errors.print(str(interrupted), style="yellow", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(interrupted.exit_code) from None
    console.print(render_summary(summary))
    console.print(f"dataset: {target.name}", highlight=False, soft_wrap=True, markup=False)
    complaint = stopped or most_failed.complaint(summary)
    if complaint is not None:
        errors.print(Text.assemble(("error: ", "bold red"), complaint), soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def _run_matrix(
    config: Path | None,
    overrides: list[str],
    out: str | None,
    resume: str | None,
    retry_failed: bool,
    complaint_of: "Callable[[Summary], str | None]",
) -> bool:
    """Plays the runs of a matrix; False where there is none."""
    from cluster.cli.matrix import has_matrix, load_cells, read_cells, render_matrix, run_cells, write_cells

    if resume is not None:
        folder = Path(resume)
        cells = read_cells(folder, overrides)
        if cells is not None and config is not None:
            raise ConfigError(
                f"--resume {resume}: this folder holds a matrix with its own config; leave CONFIG out"
            )
    elif config is not None and has_matrix(config, overrides):
        cells = load_cells(config, overrides)
        first = cells[0].config
        folder = Path(out or f"{first.output.rstrip('/')}/{first.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        write_cells(cells, folder)
    else:
        return False
    if cells is None:
        return False
    from cluster.ending import Interrupted

    try:
        summaries = run_cells(cells, folder, console, retry_failed)
    except Interrupted as interrupted:
        errors.print(str(interrupted), style="yellow", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(interrupted.exit_code) from None
    except RunStopped as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from None
    print_lines(console, render_matrix(cells, summaries, terminal_width(console)))
    console.print(f"datasets: {folder}/*", highlight=False, soft_wrap=True, markup=False)
    complaints = [
        f"{cell.name}: {complaint}"
        for cell, summary in zip(cells, summaries, strict=False)
        if (complaint := complaint_of(summary)) is not None
    ]
    if complaints:
        errors.print(Text.assemble(("error: ", "bold red"), "; ".join(complaints)), soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    return True


@app.command()
def tasks(
    config: Annotated[Path, typer.Argument(help="The run's config, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with complete prompts.")] = False,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate",
            help="Play each task with the oracle and with an empty answer; the oracle must get more reward. "
            "A v1 taskset's tasks check themselves.",
        ),
    ] = False,
) -> None:
    """List the tasks that a config selects, without starting anything."""
    if validate:
        _print_validation(load_config(config, overrides or []), as_json)
        return
    from cluster.cli.matrix import has_matrix, load_cells
    from cluster.plan.tasks import render_cell_counts, render_selection, select_tasks

    if has_matrix(config, overrides or []):
        with _only_json_printed(as_json):
            cells = load_cells(config, overrides or [])
            selections = {cell.name: select_tasks(cell.config) for cell in cells}
        if as_json:
            print(json.dumps({name: each.model_dump() for name, each in selections.items()}, indent=2))
        else:
            print_lines(console, render_cell_counts(selections, terminal_width(console)))
        return
    with _only_json_printed(as_json):
        selection = select_tasks(load_config(config, overrides or []))
    if as_json:
        print(selection.model_dump_json(indent=2))
    else:
        print_lines(console, render_selection(selection, terminal_width(console)))


@contextmanager
def _only_json_printed(as_json: bool) -> Generator[None]:
    """Has what an environment prints meanwhile go to stderr, where stdout is to have JSON only."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def _print_validation(config: RunConfig, as_json: bool) -> None:
    from cluster.cli.validate import validate_tasks

    with _only_json_printed(as_json):
        found = validate_tasks(config)
    bad = [task for task in found if task.complaint is not None]
    passed = "reward the oracle more than an empty answer"
    if found[0].is_own_check:
        passed = "pass the taskset's own check"
    if as_json:
        print(json.dumps([task.model_dump() for task in found], indent=2))
    else:
        for task in bad:
            console.print(Text(f"{task.task_id}: {task.complaint}", style="red"), soft_wrap=True)
        console.print(f"{len(found) - len(bad)} of {len(found)} tasks {passed}")
    if bad:
        raise typer.Exit(1)


@app.command("init")
def write_example(
    kind: Annotated[str, typer.Argument(metavar="environment|toolset|task", help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
) -> None:
    """Write a working example, and a config that plays it, into this folder."""
    from cluster.cli.init import write_example

    if kind not in ("environment", "toolset", "task"):
        raise ConfigError(f"init: got {kind!r}; give environment, toolset or task")
    paths, commands = write_example(kind, name, Path())
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
    console.print("play it: " + ", or ".join(commands), highlight=False, soft_wrap=True, markup=False)


@app.command("debug")
def debug_episode(
    config: Annotated[Path, typer.Argument(help="The run's config, a YAML file.")],
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="The task, as `kumite tasks` names it.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
) -> None:
    """Play one episode in this process, without Ray: breakpoints work, and each message is shown at once.

    Tools run in child processes (`sandbox.backend: process`), unless the config sets `docker`.
    """
    from cluster.cli.debug import play_debug_episode

    record = play_debug_episode(load_config(config, overrides or []), console, task)
    if record.status == "failed":
        raise typer.Exit(EXIT_FAILED)
