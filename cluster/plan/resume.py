"""Whether a run can be taken up again: its config must ask for the same data, and find the same tasks."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, cast

from cluster.config import OraclePolicy, RunConfig, VllmPolicy
from cluster.config.file import load_config
from cluster.dataset.dataset import Dataset
from cluster.dataset.manifest import TasksDigest, load_manifest, manifest_path
from cluster.dataset.run_folder import CHAT_TEMPLATE, ENVIRONMENT, PACKAGES
from cluster.dataset.run_record import NAME as RUN_RECORD
from cluster.dataset.run_record import load_run_record
from cluster.errors import ConfigError
from cluster.plan.plan import Plan
from cluster.policy.models import packaged_model
from cluster.policy.models.description import describe_run
from workers.settings import PackageLock, Split

_log = logging.getLogger(__name__)
_MAX_NAMED = 5
"""Tasks of each kind of change that an error names."""
CHANGEABLE_KEYS = (
    "name",
    "output",
    "upload_seconds",
    "environment.folder",
    "environment.wheels",
    "workers",
    "ray",
    "episode",
    "observe",
    "sandbox.memory_mb",
    "sandbox.cpus",
    "sandbox.pids",
    "sandbox.start_timeout",
    "policy.keep_alive",
    "policy.start_timeout",
    "policy.request_timeout",
    "policy.replicas",
    "policy.max_replicas",
    "policy.cpu_kv_cache_gb",
    "policy.base_url",
    "policy.api_key_env",
    "policy.versions_folder",
    "policy.price",
)
"""Fields that may change between a run and its resumption: how and where, but not what. All keys of a section
may change where the section is named."""


def resumable_config(folder: Path, config: RunConfig | None, *, loop: bool = False) -> RunConfig:
    """The config with which to take a run up again.

    Args:
        folder: The run's folder.
        config: One given anew; None for the run's own.
        loop: Whether it is a trainer's loop that takes it up.

    Raises:
        ConfigError: There is no run, it is a trainer's loop's and this is none, or the other way round, or
            the given config asks for other data; names the fields.
        ManifestError: The run's folder is of another version, or damaged.
    """
    manifest = load_manifest(folder)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"--resume {folder}: there is no config.yaml in it, with which the run began; put it back (at a "
            "URI, beside its manifest.json), go on with it on the machine where it began, or begin a new run"
        )
    if manifest.loop is not None and not loop:
        raise ConfigError(
            f"--resume {folder}: a trainer's loop has played it, and only one can go on with it: "
            f"RolloutEngine(config, {str(folder)!r}, resume=True)"
        )
    if manifest.loop is None and loop:
        raise ConfigError(
            f"resume: the run in {folder} is none of a trainer's loop; `kumite run --resume {folder}` goes "
            "on with it"
        )
    before = load_config(folder / "config.yaml")
    if config is None:
        _check_environment(folder, before)
        _check_chat_template(folder, before)
        _check_model_files(folder, before, loop)
        return before
    differing = _find_differences(before.model_dump(mode="json"), config.model_dump(mode="json"))
    if (folder / CHAT_TEMPLATE).is_file() and _read_chat_template(config) is not None:
        differing = [difference for difference in differing if difference[0] != "policy.chat_template"]
    if differing:
        listed = "\n".join(f"  {name}: was {was!r}, is {now!r}" for name, was, now in differing)
        raise ConfigError(
            f"--resume {folder}: these keys may not change when a run is resumed:\n{listed}\n"
            f"These keys may change: {', '.join(CHANGEABLE_KEYS)}. "
            "For anything else, begin a new run with --out."
        )
    _check_environment(folder, config)
    _check_chat_template(folder, config)
    _check_model_files(folder, config, loop)
    return config


def order_seed(folder: Path, config: RunConfig) -> str | None:
    """What seeds the order of a run's tasks where its config has no `seed`: its name, or what did before.

    Args:
        folder: The run's folder; it need not be there yet.
        config: The run's.

    Returns:
        None for the run's id, as in a run that was begun before the name was taken for it.
    """
    if not manifest_path(folder).exists():
        return config.name
    manifest = load_manifest(folder)
    has_begun = manifest.planned is not None or bool(manifest.tasks)
    return manifest.shuffled_by if has_begun else config.name


def check_tasks(folder: Path, split: Split, plan: Plan, *, loop: bool = False) -> None:
    """Sees that the tasks of a split are those that a run began with. What is no run yet began with none.

    Args:
        folder: The run's folder.
        split: Whose tasks.
        plan: What there is to play of it now.
        loop: Whether a trainer's loop takes the run up, which goes on at a place in their order.

    Raises:
        ConfigError: They are others; names some of them.
    """
    if not manifest_path(folder).exists():
        return
    manifest = load_manifest(folder)
    before, now = manifest.tasks.get(split), plan.task_list.digest
    if before is None:
        if manifest.planned is not None and not manifest.tasks:
            _log.warning(
                "%s was begun by a version that did not note the run's tasks: whether they are still the "
                "same was not compared",
                folder,
            )
        return
    if before.content == now.content and None not in (before.info, now.info) and before.info != now.info:
        _log.warning(
            "%s: the `info` of tasks is not what it was when the run began, though their prompts and answers "
            "are: if rewards are computed from it, those of a group may be of two kinds",
            folder,
        )
    if loop and before.content == now.content and before.order != now.order:
        _log.warning("%s: the tasks come in another order than before; the round goes on in it", folder)
    _refuse_other_tasks(folder, split, plan, before, loop)


def _refuse_other_tasks(
    folder: Path, split: Split, plan: Plan, before: TasksDigest | None, loop: bool
) -> None:
    if before is None or before.content == plan.task_list.digest.content:
        return
    changes = plan.task_list.changes(folder, split, before)
    if changes is None:
        what = f"there were {before.tasks}, there are {len(plan.task_list)}, and not all of them are the same"
    else:
        what = "; ".join(f"{kind}: {_name_some_tasks(ids)}" for kind, ids in changes.items() if ids)
    raise ConfigError(
        f"{'resume' if loop else f'--resume {folder}'}: the tasks (environment.split {split}) are not those "
        f"that the run in {folder} began with: {what}. A group would hold samples of two tasks. Give the "
        "environment the data, modules and arguments that it had (a seed, where it makes them by chance), or "
        f"begin a new run. To mix them all the same, take {split!r} out of `tasks` in "
        f"{manifest_path(folder)}"
    )


def begun_packages(folder: Path, config: RunConfig) -> PackageLock | None:
    """The environment's own packages with which a run began; they are installed again as they were.

    Args:
        folder: The run's folder; it need not be there yet.
        config: The run's.

    Returns:
        None where there is no run yet, or it has none.

    Raises:
        ConfigError: The run's note of them is gone or damaged.
    """
    if config.environment.requirements is None or not manifest_path(folder).exists():
        return None
    if not (folder / PACKAGES).exists() and load_manifest(folder).planned is None:
        return None  # it has played nothing
    try:
        lock = PackageLock.model_validate_json((folder / PACKAGES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--resume {folder}: {folder / PACKAGES} says which packages the run began with, and cannot be "
            f"read ({type(error).__name__}); put it back, or begin a new run"
        ) from error
    return lock.model_copy(update={"wheels": config.environment.wheels})


def check_image(folder: Path, tag: str, image_id: str | None) -> None:
    """Sees that an image that `sandbox.image` names is the one that a run began with, not just called alike.

    Args:
        folder: The run's folder; it need not be there yet.
        tag: What the config calls the image.
        image_id: Its id on this machine; None where that is not known.

    Raises:
        ConfigError: It is another.
    """
    try:
        record = load_run_record(folder)
    except ValueError:
        return
    before = next((s.image_id for s in reversed(record.sessions) if s.image_id), None) if record else None
    if before is not None and image_id is not None and before != image_id:
        raise ConfigError(
            f"--resume {folder}: sandbox.image {tag!r} is {image_id} now, and the run was played with "
            f"{before}: name that one so again, `docker tag {before} {tag}`, or begin a new run. "
            f"To mix them all the same, take `image_id` out of {folder / RUN_RECORD}"
        )


async def note_tasks(dataset: Dataset, split: Split, plan: Plan, *, loop: bool = False) -> None:
    """Notes in a run's folder which tasks it plays, for `check_tasks`.

    Raises:
        ConfigError: It has begun with others.
        RunFolderError: It could not be written.
    """
    digest, before = plan.task_list.digest, dataset.manifest.tasks.get(split)
    if before == digest:
        return
    await asyncio.to_thread(_refuse_other_tasks, dataset.run_dir, split, plan, before, loop)
    await dataset.set_tasks(split, digest, plan.task_list.write, plan.shuffled_by)


def _name_some_tasks(ids: list[str]) -> str:
    named = ", ".join(repr(task_id) for task_id in ids[:_MAX_NAMED])
    return named + (f" and {len(ids) - _MAX_NAMED:,} more" if len(ids) > _MAX_NAMED else "")


def _check_environment(folder: Path, config: RunConfig) -> None:
    """Sees that an environment that is a file is the one that the run began with, wherever it is now."""
    if not config.environment.id.endswith(".py"):
        return
    file, begun_with = Path(config.environment.id), folder / ENVIRONMENT
    if not file.is_file():
        raise ConfigError(
            f"--resume {folder}: the environment's file is no longer at {file}; give a config whose "
            f"environment.id says where it is (the run began with what is in {begun_with})"
        )
    if begun_with.is_file() and begun_with.read_bytes() != file.read_bytes():
        raise ConfigError(
            f"--resume {folder}: {file} is not what the run began with, which is {begun_with}; to go on "
            "with the new one nonetheless, copy it there"
        )


def _read_chat_template(config: RunConfig) -> Path | None:
    return config.policy.chat_template if isinstance(config.policy, VllmPolicy) else None


def _check_chat_template(folder: Path, config: RunConfig) -> None:
    """Sees that a chat template says what it said when the run began, wherever its file is now."""
    file, begun_with = _read_chat_template(config), folder / CHAT_TEMPLATE
    if file is None or not begun_with.is_file():
        return
    if not file.is_file():
        raise ConfigError(
            f"--resume {folder}: policy.chat_template is {str(file)!r}, and there is no such file here; say "
            f"where it is, or take the run's own copy: --set policy.chat_template={begun_with}"
        )
    if begun_with.read_bytes() != file.read_bytes():
        raise ConfigError(
            f"--resume {folder}: policy.chat_template {file} is not what the run began with, which is "
            f"{begun_with}: --set policy.chat_template={begun_with} takes that one"
        )


def _check_model_files(folder: Path, config: RunConfig, loop: bool) -> None:
    """Sees that a model's own files, which keep their name, are those that the run began with.

    The weights that a trainer's loop goes on from are the trainer's to choose. The packaged model is written
    anew on each machine, and is the same whatever its files look like.
    """
    try:
        before = load_run_record(folder)
    except ValueError:
        return
    policy = config.policy
    if before is None or isinstance(policy, OraclePolicy):
        return
    if isinstance(policy, VllmPolicy) and policy.model == packaged_model.NAME:
        return
    now = describe_run(config, before.model, {})
    compared = {"tokenizer_sha256": "tokenizer"}
    if _read_chat_template(config) is None:
        compared["chat_template_sha256"] = "chat template"
    if not loop:
        compared["weights_digest"] = "weights"
    for name, what in compared.items():
        was, found = getattr(before, name), getattr(now, name)
        if was is None or found is None or was == found:
            continue
        named = policy.model if isinstance(policy, VllmPolicy) else policy.tokenizer
        raise ConfigError(
            f"--resume {folder}: the {what} of {named!r} changed since the run began, so that a group would "
            "hold samples of two models: put back what was there, or begin a new run. To mix them all the "
            f"same, set `{name}` to null in {folder / RUN_RECORD}"
        )


def _find_differences(before: Any, after: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if path in CHANGEABLE_KEYS or _is_same_value(before, after):
        return []
    if path == "environment.id" and str(before).endswith(".py") and Path(before).name == Path(after).name:
        return []
    if not (isinstance(before, dict) and isinstance(after, dict)) or path == "environment.args":
        return [(path, before, after)]
    was, now = cast(dict[str, Any], before), cast(dict[str, Any], after)
    return [
        difference
        for name in dict.fromkeys([*was, *now])
        for difference in _find_differences(was.get(name), now.get(name), f"{path}.{name}".strip("."))
    ]


def _is_same_value(before: Any, after: Any) -> bool:
    """Whether two values are the same to an environment, to which `true` is not 1, nor 1 the number 1.0."""
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
