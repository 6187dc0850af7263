"""The commands that read what runs have written."""

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.app import app, console, errors
from cluster.errors import ConfigError
from cluster.observe.printing import print_lines, terminal_width

if TYPE_CHECKING:
    pass


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
            help="List the episodes that meet a condition, such as 'reward < 0.5 and suite = slack'. A "
            "condition is `COLUMN OP VALUE`; join several with `and`. OP: = != < <= > >= or ~ (contains). "
            "The name of a metric is a COLUMN too.",
        ),
    ] = None,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens", help="With EPISODE_ID: its token ids, their texts, and log-probabilities of samples."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a run's summary, one of its episodes, or a list of episodes, from the run's files."""
    from cluster.dataset.remote import local_folder
    from cluster.observe.summary import summarise_run
    from cluster.observe.summary_view import render_summary

    if episode is not None and (failed or where is not None):
        raise ConfigError("EPISODE_ID shows one episode, --failed and --where list several; give one of them")
    if tokens and episode is None:
        raise ConfigError("--tokens shows the tokens of one episode: give its EPISODE_ID")
    if tokens and episode is not None:
        _print_tokens(folder, episode, as_json)
        return
    if episode is not None or failed or where is not None:
        _print_episodes(folder, episode, failed, where, as_json)
        return
    summary = summarise_run(local_folder(folder))
    if as_json:
        print(summary.model_dump_json(indent=2))
    else:
        console.print(render_summary(summary))


def _print_tokens(folder: str, episode: str, as_json: bool) -> None:
    """Prints the tokens of one episode."""
    from cluster.dataset.episodes import find_record
    from cluster.dataset.remote import local_folder
    from cluster.observe.token_lines import describe_tokens, render_tokens
    from cluster.observe.token_texts import TokenTexts, find_tokenizer_folder

    run = local_folder(folder)
    record = find_record(run, episode)
    texts = TokenTexts(find_tokenizer_folder(run))
    if as_json:
        print(json.dumps(describe_tokens(record, texts), ensure_ascii=False))
    else:
        print_lines(console, render_tokens(record, texts))


def _print_episodes(folder: str, episode: str | None, failed: bool, where: str | None, as_json: bool) -> None:
    """Prints one episode, or a list of those for which all conditions hold."""
    from cluster.dataset.conditions import Condition, matching_rows, parse_conditions
    from cluster.dataset.episodes import find_record
    from cluster.dataset.remote import local_folder
    from cluster.observe.conversation import render_episode
    from cluster.observe.episode_list import render_episode_list

    if episode is not None:
        from cluster.viewer.reasons import explain_score

        run = local_folder(folder)
        record = find_record(run, episode)
        if as_json:
            print(record.model_dump_json(indent=2))
        else:
            print_lines(console, chain(render_episode(record), explain_score(record, run)))
        return
    conditions = parse_conditions(where) if where is not None else []
    if failed:
        conditions.append(Condition("status", "=", "failed"))
    rows = matching_rows(local_folder(folder), conditions)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for line in render_episode_list(rows, terminal_width(console)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def compare(
    folders: Annotated[
        list[str], typer.Argument(metavar="RUN_DIR RUN_DIR…", help="Folders of runs, or URIs.")
    ],
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="Where the sampled tokens part, and how likely each run had them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare each run with the first one, episode by episode; the runs must have tasks in common."""
    if tokens:
        _compare_tokens(folders, as_json)
        return
    from cluster.compare.comparison import compare_runs
    from cluster.compare.view import comparison_lines
    from cluster.dataset.remote import local_folder

    pairs = compare_runs([(folder, local_folder(folder)) for folder in folders])
    if as_json:
        print(json.dumps([pair.model_dump() for pair in pairs], indent=2))
    else:
        print_lines(console, comparison_lines(pairs, terminal_width(console)))


def _compare_tokens(folders: list[str], as_json: bool) -> None:
    """Prints where the sampled tokens of each run part from those of the first one."""
    from cluster.compare.tokens import compare_tokens, token_comparison_lines
    from cluster.dataset.remote import local_folder

    if len(folders) < 2:
        raise ConfigError("compare: give two runs or more: `kumite compare RUN_A RUN_B --tokens`")
    first, *others = [(folder, local_folder(folder)) for folder in folders]
    found = [compare_tokens(first, other) for other in others]
    if as_json:
        print(json.dumps([each.model_dump() for each in found], indent=2))
        return
    for each in found:
        print_lines(console, token_comparison_lines(each, terminal_width(console)))


@app.command()
def verify(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="URL",
            help="Compute log-probabilities again, with this deployment; or `kept`.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="The model's folder, for its tokenizer. Default: the config's."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            help="With --policy: the mean difference that a step's log-probabilities may have, in nats.",
        ),
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a run's files are complete, unchanged and consistent; exit 1 if not."""
    from cluster.dataset.remote import local_folder
    from cluster.verify.checks import verify
    from cluster.verify.view import make_scorer, render_verification

    run = local_folder(folder)
    found = verify(run, tokenizer=tokenizer, rescore=make_scorer(run, policy), tolerance=tolerance)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        console.print(render_verification(found))
    if found.violations:
        raise typer.Exit(1)


@app.command()
def sequences(
    folder: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or URI.")],
    advantage: Annotated[
        str,
        typer.Option(
            "--advantage", help="grpo, dr_grpo (grpo without dividing by the deviation), rloo or none."
        ),
    ] = "grpo",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Parquet file. Default: RUN_DIR/sequences/ADVANTAGE.parquet; of a URI, in the cache folder.",
        ),
    ] = None,
) -> None:
    """Write a run's sequences for training: ids, loss mask, log-probabilities, reward, advantage."""
    from cluster.dataset.advantages import check_advantage
    from cluster.dataset.remote import RemoteFolder, is_uri, local_folder
    from cluster.dataset.sequences import write_sequences

    kind = check_advantage(advantage)
    if out is None and is_uri(folder):
        out = RemoteFolder(folder).sequences / f"{kind}.parquet"
    path, written = write_sequences(local_folder(folder), kind, out)
    console.print(written.describe(), highlight=False, soft_wrap=True)
    for warning in written.warnings():
        errors.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    console.print(f"sequences: {path}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def view(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_DIR]…", help="Folders of runs, URIs, or folders that contain runs. Default: runs."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on. A risk if it is not a loopback address.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port. 0: any free port.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser, if there is one.")
    ] = True,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Write an HTML file that opens without a server, and exit."),
    ] = None,
    episodes: Annotated[
        list[str] | None,
        typer.Option(
            "--episodes", metavar="FILTER", help="With --export: only these episodes, e.g. 'reward<1'."
        ),
    ] = None,
) -> None:
    """Show runs and their episodes, turn by turn, in a browser."""
    if export is not None:
        from cluster.viewer.report import write_report

        count = write_report(places or ["runs"], export, episodes or [])
        console.print(f"{count:,} episodes: {export}", highlight=False, soft_wrap=True, markup=False)
        return
    if episodes:
        raise ConfigError("--episodes needs --export FILE: the page has filters of its own")
    from cluster.viewer.view import serve_viewer

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    serve_viewer(places or ["runs"], host=host, port=port, open_browser=browser, say=say)
