"""What `kumite verify` prints, and where it finds a policy to score with."""

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.config import OraclePolicy, VllmPolicy
from cluster.config.file import load_config
from cluster.errors import ConfigError, PolicyUnavailable
from cluster.policy.vllm.kept_record import read_kept_policy
from cluster.verify.report import RULES, Verification
from cluster.verify.rescore import Scorer


def make_scorer(folder: Path, url: str | None) -> Scorer | None:
    """A scorer for a run.

    Args:
        folder: The run's folder.
        url: Root of the deployment's API, or `kept`: that of the kept one. None: none is asked.

    Raises:
        ConfigError: The run's policy was no model.
        PolicyUnavailable: It does not answer, or has another model; none is kept.
    """
    if url is None:
        return None
    if url == "kept":
        kept = read_kept_policy()
        if kept is None:
            raise PolicyUnavailable("--policy kept: no policy is kept; `kumite policy up` brings one up")
        url = kept.base_url
    policy = load_config(folder / "config.yaml").policy
    if isinstance(policy, OraclePolicy):
        raise ConfigError("--policy: the run was played by the oracle, which has no log-probabilities")
    name = Path(policy.model).name if isinstance(policy, VllmPolicy) and _is_folder(policy) else policy.model
    return Scorer(url.rstrip("/"), name, policy.sampling)


def render_verification(found: Verification) -> RenderableType:
    """A table with a row per rule, and what was found."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("rule", "checked", "violations", "not checked"):
        table.add_column(name, justify="right" if name in ("checked", "violations") else "left")
    for report in found.rules:
        table.add_row(
            report.rule,
            f"{report.checked:,}",
            Text(f"{report.violations:,}", style="red" if report.violations else ""),
            Text("; ".join(f"{count:,}: {reason}" for reason, count in report.not_checked.items())),
        )
    parts: list[RenderableType] = [
        Text.assemble((found.run_id, "bold"), f"  {found.episodes:,} episodes, {found.steps:,} steps"),
        table,
    ]
    if found.largest_difference is not None:
        mean, largest = found.mean_difference or 0.0, found.largest_difference
        said = f"log-probabilities computed again: mean difference {mean:.4f} nats, largest {largest:.4f}"
        parts.append(Text(said))
    for report in found.rules:
        if report.violations:
            parts.append(
                Text(f"{report.rule}: the rule is that {RULES[report.rule]}. It is broken here:", style="red")
            )
            parts += [Text(f"  {example}") for example in report.examples]
    return Group(*parts)


def _is_folder(policy: VllmPolicy) -> bool:
    return Path(policy.model).expanduser().is_dir()
