"""The commands that look after what runs need: parts, sandbox images, a kept policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.app import SET_HELP, app, console, images, policy_app
from cluster.config.file import load_config
from cluster.errors import RunError

if TYPE_CHECKING:
    pass


@app.command()
def check(
    config: Annotated[
        Path | None, typer.Argument(help="The config to check for. Default: AgentDojo with vLLM, in Docker.")
    ] = None,
) -> None:
    """Check each part that a run needs; for a part that is not ready, print the command that fixes it."""
    from cluster.cli.check import check_requirements, render_checks

    found = check_requirements(load_config(config) if config else None)
    console.print(render_checks(found), markup=False)
    if not all(part.ok for part in found):
        raise typer.Exit(1)


@images.command("build")
def build_images(
    name: Annotated[str | None, typer.Argument(help="Name of the image. Default: all.")] = None,
    base: Annotated[str | None, typer.Option(help="Another base image; it must have Python 3.11.")] = None,
) -> None:
    """Build the sandbox images that do not exist yet."""
    from sandbox_images.build import build_image, image_names
    from sandbox_images.bundle_volume import BUNDLE, ensure_volume
    from sandbox_images.host import ImageBuildError

    def say(line: str) -> None:
        console.print(line, style="dim", markup=False)

    if name is not None and name not in image_names():
        raise RunError(f"there is no image {name!r}; there are {', '.join(image_names())}")
    for image in [name] if name else image_names():
        try:
            tag = build_image(image, base=base, on_line=say)
            if image == BUNDLE:
                tag = ensure_volume(say)
        except ImageBuildError as error:
            raise RunError(str(error)) from error
        console.print(tag, highlight=False, markup=False)


@policy_app.command("up")
def policy_up(
    config: Annotated[Path, typer.Argument(help="A run's config, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
) -> None:
    """Start a config's deployment and keep it for later runs."""
    from cluster.observe.progress import Progress
    from cluster.policy.vllm.kept_policy import start_kept_policy

    with Progress(console).stage("policy") as stage:
        stage.outcome = start_kept_policy(load_config(config, overrides or []), stage.say)


@policy_app.command("status")
def policy_status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show which deployment is kept, and its state."""
    from cluster.policy.vllm.kept_policy import read_policy_status

    found = read_policy_status()
    if as_json:
        print("null" if found is None else found.model_dump_json(indent=2))
    elif found is None:
        console.print("no policy is kept")
    else:
        use = "in use" if found.in_use else "idle"
        line = f"{found.policy.model}, version {found.version}: {found.state}, {use}"
        line += f", up {found.uptime / 60:.0f} min"
        console.print(f"{line}, at {found.policy.base_url}", highlight=False, soft_wrap=True, markup=False)


@policy_app.command("update")
def policy_update(
    path: Annotated[str, typer.Argument(help="Folder, or URI, of a LoRA adapter or a full checkpoint.")],
    version: Annotated[
        int, typer.Option("--version", help="Number of the new version, above the current one.")
    ],
) -> None:
    """Give the kept deployment new weights, without a restart. Running runs use them, too."""
    from cluster.policy.vllm.kept_policy import update_kept_policy

    update_kept_policy(path, version)
    console.print(f"the policy is at version {version}")


@policy_app.command("down")
def policy_down(
    force: Annotated[bool, typer.Option("--force", help="End it even if a run is using it.")] = False,
) -> None:
    """End the kept deployment, and the local Ray cluster that it runs on."""
    from cluster.policy.vllm.kept_policy import stop_kept_policy

    console.print("ended" if stop_kept_policy(force) else "no policy is kept")
