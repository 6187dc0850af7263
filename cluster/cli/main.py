"""The command `kumite`."""

import json
import logging
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.logging import RichHandler
from rich.text import Text

from cluster.config import RunConfig
from cluster.config.file import load_config, set_drain_seconds
from cluster.ending import EXIT_FAILED
from cluster.errors import ClusterError, ConfigError, RunError, RunStopped
from cluster.observe.printing import print_lines, terminal_width, wide_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.observe.summary import Summary


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kumite {metadata.version('kumite')}")
        raise typer.Exit()


app = typer.Typer(
    name="kumite",
    help="Episodes of LLM agents in Docker sandboxes, as datasets for reinforcement learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
images = typer.Typer(help="Sandbox images.", no_args_is_help=True)
app.add_typer(images, name="images")
policy_app = typer.Typer(help="The vLLM deployment that is kept between runs.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version, and end."),
    ] = False,
) -> None:
    """Episodes of LLM agents in Docker sandboxes, as datasets for reinforcement learning."""


_SET_HELP = (
    "Override a field: a.b=value. The value is YAML: 4, true, null, text, [a, b], {a: 1}; "
    "quote it for the shell."
)
_console = wide_console()
_errors = wide_console(stderr=True)


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="The run's config, a YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)] = None,
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
            help="Episodes that may fail: a count (20) or a share (0.1, 10%). With more, or if none "
            "finishes, the exit code is 3.",
        ),
    ] = "0.5",
    drain: Annotated[
        float | None,
        typer.Option(
            "--drain",
            metavar="SECONDS",
            help="How long Ctrl-C waits for the episodes in flight, in place of episode.drain_seconds.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show what the environment and its toolset print.")
    ] = False,
) -> None:
    """Play episodes and write them as a dataset.

    Exit codes: 0 done; 1 could not start; 3 nothing finished, more failed than --max-failed, or the run
    stopped by itself; 128 and a signal's number where that ended it.
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
        raise ConfigError("--out and --resume exclude each other: a run taken up again stays in its folder")
    if retry_failed and resume is None:
        raise ConfigError("--retry-failed goes with --resume RUN_DIR: a new run has no failed episodes")
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
        raise ConfigError("give a config, or --resume with a run's folder")
    else:
        target = Target.new(given, out)
    if drain is not None:
        given = set_drain_seconds(given, drain)
    if debug:
        show_episode_output(_console)
    stopped = None
    try:
        summary = run(given, target, _console)
    except RunStopped as error:
        stopped, summary = str(error), summarise_run(target.folder)
    except Interrupted as interrupted:
        _errors.print(str(interrupted), style="yellow", highlight=False, soft_wrap=True)
        raise typer.Exit(interrupted.exit_code) from None
    _console.print(render_summary(summary))
    _console.print(f"dataset: {target.name}", highlight=False, soft_wrap=True)
    complaint = stopped or most_failed.complaint(summary)
    if complaint is not None:
        _errors.print(Text.assemble(("error: ", "bold red"), complaint), soft_wrap=True)
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
                f"--resume {resume}: it is a matrix, which has its own config; leave CONFIG out"
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
        summaries = run_cells(cells, folder, _console, retry_failed)
    except Interrupted as interrupted:
        _errors.print(str(interrupted), style="yellow", highlight=False, soft_wrap=True)
        raise typer.Exit(interrupted.exit_code) from None
    except RunStopped as error:
        _errors.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from None
    print_lines(_console, render_matrix(cells, summaries, terminal_width(_console)))
    _console.print(f"datasets: {folder}/*", highlight=False, soft_wrap=True, markup=False)
    complaints = [
        f"{cell.name}: {complaint}"
        for cell, summary in zip(cells, summaries, strict=False)
        if (complaint := complaint_of(summary)) is not None
    ]
    if complaints:
        _errors.print(Text.assemble(("error: ", "bold red"), "; ".join(complaints)), soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    return True


@app.command()
def tasks(
    config: Annotated[Path, typer.Argument(help="The run's config, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, prompts in full.")] = False,
    validate: Annotated[
        bool,
        typer.Option("--validate", help="Play the oracle and an empty answer over them."),
    ] = False,
) -> None:
    """List the tasks that a config selects, without starting anything."""
    if validate:
        _print_validation(load_config(config, overrides or []), as_json)
        return
    from cluster.cli.matrix import has_matrix, load_cells
    from cluster.plan.tasks import render_cell_counts, render_selection, select_tasks

    if has_matrix(config, overrides or []):
        selections = {cell.name: select_tasks(cell.config) for cell in load_cells(config, overrides or [])}
        if as_json:
            print(json.dumps({name: each.model_dump() for name, each in selections.items()}, indent=2))
        else:
            print_lines(_console, render_cell_counts(selections, terminal_width(_console)))
        return
    selection = select_tasks(load_config(config, overrides or []))
    if as_json:
        print(selection.model_dump_json(indent=2))
    else:
        print_lines(_console, render_selection(selection, terminal_width(_console)))


def _print_validation(config: RunConfig, as_json: bool) -> None:
    from cluster.cli.validate import validate_tasks

    found = validate_tasks(config)
    bad = [task for task in found if task.complaint is not None]
    if as_json:
        print(json.dumps([task.model_dump() for task in found], indent=2))
    else:
        for task in bad:
            _console.print(Text(f"{task.task_id}: {task.complaint}", style="red"), soft_wrap=True)
        _console.print(f"{len(found) - len(bad)} of {len(found)} tasks tell the oracle from an empty answer")
    if bad:
        raise typer.Exit(1)


@app.command("init")
def write_example(
    kind: Annotated[str, typer.Argument(metavar="environment|toolset|task", help="Of what.")],
    name: Annotated[str, typer.Argument(help="What to call it.")],
) -> None:
    """Write a working example into this folder, beside a config that plays it."""
    from cluster.cli.init import write_example

    if kind not in ("environment", "toolset", "task"):
        raise ConfigError(f"init: got {kind!r}; give environment, toolset or task")
    paths, commands = write_example(kind, name, Path())
    for path in paths:
        _console.print(str(path), highlight=False, soft_wrap=True)
    _console.print("play it: " + ", or ".join(commands), highlight=False, soft_wrap=True)


@app.command("debug")
def debug_episode(
    config: Annotated[Path, typer.Argument(help="The run's config, a YAML file.")],
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="The task, as `kumite tasks` names it.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)] = None,
) -> None:
    """Play one episode in this process, without Ray: breakpoints work, messages are shown as they come.

    Tools run in child processes (`sandbox.backend: process`), unless the config says `docker`.
    """
    from cluster.cli.debug import play_debug_episode

    record = play_debug_episode(load_config(config, overrides or []), _console, task)
    if record.status == "failed":
        raise typer.Exit(EXIT_FAILED)


@app.command()
def show(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    episode: Annotated[
        str | None,
        typer.Argument(
            metavar="[EPISODE_ID]",
            help="Show this episode's conversation: its id, the beginning of the id, or its task.",
        ),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="List the failed episodes, with reasons.")] = False,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="EXPR",
            help="List the episodes for which this is so: `COLUMN OP VALUE`, joined by `and`, such as "
            "'reward < 0.5 and suite = slack'. OP: = != < <= > >= or ~ (contains). A metric's name is a "
            "column too.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show a run's summary, one of its episodes, or a list of episodes, from the run's files."""
    from cluster.dataset.remote import local_folder
    from cluster.observe.summary import summarise_run
    from cluster.observe.summary_view import render_summary

    if episode is not None and (failed or where is not None):
        raise ConfigError("EPISODE_ID shows one episode, --failed and --where list several; give one of them")
    if episode is not None or failed or where is not None:
        _print_episodes(folder, episode, failed, where, as_json)
        return
    summary = summarise_run(local_folder(folder))
    if as_json:
        print(summary.model_dump_json(indent=2))
    else:
        _console.print(render_summary(summary))


def _print_episodes(folder: str, episode: str | None, failed: bool, where: str | None, as_json: bool) -> None:
    """Prints one episode, or a list of those for which all conditions hold."""
    from cluster.dataset.conditions import Condition, matching_rows, parse_conditions
    from cluster.dataset.episodes import find_record
    from cluster.dataset.remote import local_folder
    from cluster.observe.conversation import render_episode
    from cluster.observe.episode_list import render_episode_list

    if episode is not None:
        record = find_record(local_folder(folder), episode)
        if as_json:
            print(record.model_dump_json(indent=2))
        else:
            print_lines(_console, render_episode(record))
        return
    conditions = parse_conditions(where) if where is not None else []
    if failed:
        conditions.append(Condition("status", "=", "failed"))
    rows = matching_rows(local_folder(folder), conditions)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for line in render_episode_list(rows, terminal_width(_console)):
        _console.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def compare(
    folders: Annotated[
        list[str], typer.Argument(metavar="RUN_DIR RUN_DIR…", help="Folders of runs, or URIs.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare runs of the same tasks with the first one, paired episode by episode."""
    from cluster.compare.comparison import compare_runs
    from cluster.compare.view import comparison_lines
    from cluster.dataset.remote import local_folder

    pairs = compare_runs([(folder, local_folder(folder)) for folder in folders])
    if as_json:
        print(json.dumps([pair.model_dump() for pair in pairs], indent=2))
    else:
        print_lines(_console, comparison_lines(pairs, terminal_width(_console)))


@app.command()
def verify(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy", metavar="URL", help="Deployment to score log-probabilities with again; or `kept`."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="The model's folder. Default: what the run's config says."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            help="How far a step's mean log-probability may be from the one computed again, in nats.",
        ),
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Recompute from a run's files alone whether they are what they claim; exit 1 if not."""
    from cluster.dataset.remote import local_folder
    from cluster.verify.checks import verify
    from cluster.verify.view import make_scorer, render_verification

    run = local_folder(folder)
    found = verify(run, tokenizer=tokenizer, rescore=make_scorer(run, policy), tolerance=tolerance)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        _console.print(render_verification(found))
    if found.violations:
        raise typer.Exit(1)


@app.command()
def sequences(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    advantage: Annotated[
        str, typer.Option("--advantage", help="grpo, dr_grpo (not divided by the deviation), rloo or none.")
    ] = "grpo",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Parquet file. Default: RUN_DIR/sequences/ADVANTAGE.parquet; of a URI, in the cache.",
        ),
    ] = None,
) -> None:
    """Write a run's sequences for training: ids, loss mask, log-probabilities, reward, advantage."""
    from cluster.dataset.remote import RemoteFolder, is_uri, local_folder
    from cluster.dataset.sequences import check_advantage, write_sequences

    kind = check_advantage(advantage)
    if out is None and is_uri(folder):
        out = RemoteFolder(folder).sequences / f"{kind}.parquet"
    path, written = write_sequences(local_folder(folder), kind, out)
    _console.print(written.describe(), highlight=False, soft_wrap=True)
    for warning in written.warnings():
        _errors.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    _console.print(f"sequences: {path}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def view(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN_DIR]…", help="Runs' folders, URIs, and folders of runs. Default: runs."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on; another than loopback is a risk.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0: a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page where there is a browser.")
    ] = True,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write an HTML file that opens without a server, and end.")
    ] = None,
    episodes: Annotated[
        list[str] | None,
        typer.Option("--episodes", metavar="FILTER", help="With --export: which, e.g. 'reward<1'."),
    ] = None,
) -> None:
    """Show runs and their episodes, turn by turn, in a browser."""
    if export is not None:
        from cluster.viewer.report import write_report

        count = write_report(places or ["runs"], export, episodes or [])
        _console.print(f"{count:,} episodes: {export}", highlight=False, soft_wrap=True)
        return
    if episodes:
        raise ConfigError("--episodes goes with --export FILE: the page has filters of its own")
    from cluster.viewer.view import serve_viewer

    def say(line: str) -> None:
        _console.print(line, highlight=False, soft_wrap=True, markup=False)

    serve_viewer(places or ["runs"], host=host, port=port, open_browser=browser, say=say)


@app.command()
def check(
    config: Annotated[Path | None, typer.Argument(help="A config to check for; none: the defaults.")] = None,
) -> None:
    """Check each part that a run needs; for a part that is not ready, print the command that fixes it."""
    from cluster.cli.check import check_requirements, render_checks

    found = check_requirements(load_config(config) if config else None)
    _console.print(render_checks(found))
    if not all(part.ok for part in found):
        raise typer.Exit(1)


@images.command("build")
def build_images(
    name: Annotated[str | None, typer.Argument(help="Which image; none: all.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Base image with Python 3.11, instead of our choice.")
    ] = None,
) -> None:
    """Build sandbox images that are not there yet."""
    from sandbox_images.build import build_image, image_names
    from sandbox_images.bundle_volume import BUNDLE, ensure_volume
    from sandbox_images.host import ImageBuildError

    def say(line: str) -> None:
        _console.print(line, style="dim")

    if name is not None and name not in image_names():
        raise RunError(f"there is no image {name!r}; there are {', '.join(image_names())}")
    for image in [name] if name else image_names():
        try:
            tag = build_image(image, base=base, on_line=say)
            if image == BUNDLE:
                tag = ensure_volume(say)
        except ImageBuildError as error:
            raise RunError(str(error)) from error
        _console.print(tag, highlight=False)


@policy_app.command("up")
def policy_up(
    config: Annotated[Path, typer.Argument(help="A run's config, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)] = None,
) -> None:
    """Bring up a config's deployment and keep it, for runs to use."""
    from cluster.observe.progress import Progress
    from cluster.policy.vllm.kept_policy import start_kept_policy

    with Progress(_console).stage("policy") as stage:
        stage.outcome = start_kept_policy(load_config(config, overrides or []), stage.say)


@policy_app.command("status")
def policy_status(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say which deployment is kept, if one is, and how it is."""
    from cluster.policy.vllm.kept_policy import read_policy_status

    found = read_policy_status()
    if as_json:
        print("null" if found is None else found.model_dump_json(indent=2))
    elif found is None:
        _console.print("no policy is kept")
    else:
        use = "in use" if found.in_use else "idle"
        line = f"{found.policy.model}, version {found.version}: {found.state}, {use}"
        line += f", up {found.uptime / 60:.0f} min"
        _console.print(f"{line}, at {found.policy.base_url}", highlight=False, soft_wrap=True)


@policy_app.command("update")
def policy_update(
    path: Annotated[str, typer.Argument(help="Folder, or URI, of a LoRA adapter or a full checkpoint.")],
    version: Annotated[int, typer.Option("--version", help="Its version, above the present one.")],
) -> None:
    """Give the kept deployment new weights, without a restart; runs in flight take them up."""
    from cluster.policy.vllm.kept_policy import update_kept_policy

    update_kept_policy(path, version)
    _console.print(f"the policy is at version {version}")


@policy_app.command("down")
def policy_down(
    force: Annotated[bool, typer.Option("--force", help="Even if a run is using it.")] = False,
) -> None:
    """End the kept deployment, and the local Ray cluster it lives on."""
    from cluster.policy.vllm.kept_policy import stop_kept_policy

    _console.print("ended" if stop_kept_policy(force) else "no policy is kept")


def main() -> None:
    """Runs the command line; an error that a user can mend is one message and exit code 1."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(logging.WARNING, console=_errors, show_path=False, show_time=False)],
    )
    try:
        app()
    except ClusterError as error:
        _errors.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)
