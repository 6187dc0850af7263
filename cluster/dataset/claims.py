"""Who may write a run at a URI: every take-up puts a manifest of its own there, and the last one counts."""

import re
import time
from collections.abc import Mapping
from typing import Any

from cluster.dataset.manifest import Manifest, manifest_text, parse_manifest
from cluster.errors import RunError

FOLDER = "manifests"
_NAME = re.compile(r"(\d+)-(w[0-9a-f]+)\.json")
_CLAIM_TIMEOUT = 5.0
"""Seconds that a take-up waits for another one, begun at the same moment, to go on or to give way."""
_POLL = 0.1


class RunTakenUp(RunError):
    """Another process has taken the run up; this one stops writing it."""


def name_manifest(manifest: Manifest) -> str:
    """The name of a writer's manifest at the URI; later take-ups have later names."""
    return f"{manifest.take_ups:06d}-{manifest.writer}.json"


def rank_manifest(name: str) -> tuple[int, str]:
    """What a manifest's name says: how many take-ups there had been, and the writer."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else (-1, "")


class Claims:
    """The manifests of a run at a URI, one for each time that it was taken up.

    No file system that fsspec knows need offer a comparison with a swap, so take-ups are told apart by names:
    each puts a manifest under a name that only it uses, and then looks at the others. What is put under
    `manifest.json` is a copy of the last one, for others to read.

    Args:
        file_system: The file system, as fsspec has it.
        root: The run's path there.
        uri: What the user calls the place.
    """

    def __init__(self, file_system: Any, root: str, uri: str) -> None:
        self._fs = file_system
        self._root = root
        self._uri = uri

    def names(self) -> list[str]:
        """Names of the manifests, the last one at the end."""
        self._fs.invalidate_cache()
        found = (str(path).rpartition("/")[2] for path in self._fs.find(f"{self._root}/{FOLDER}"))
        return sorted((name for name in found if _NAME.fullmatch(name)), key=rank_manifest)

    def last(self) -> bytes | None:
        """The manifest that counts; None if there is no run.

        Raises:
            FileNotFoundError: It has gone between two looks: its writer has given way.
        """
        names = self.names()
        path = f"{self._root}/{FOLDER}/{names[-1]}" if names else f"{self._root}/manifest.json"
        if not names and not self._fs.exists(path):
            return None
        return bytes(self._fs.cat_file(path))

    def claim(self, manifest: Manifest) -> None:
        """Takes the run up there, with a manifest that this process has made of the last one.

        Of several that do so at once, at most one goes on: first each puts its manifest there without
        `taken_over`, and then it looks for the others'. Once it has seen what there is, it puts the whole.

        Raises:
            RunTakenUp: Another process was first.
            OSError: The manifest could not be put there.
        """
        self.check(manifest)
        mine = name_manifest(manifest)
        self.put(manifest.as_claim())
        deadline = time.monotonic() + _CLAIM_TIMEOUT
        while others := self._strangers(manifest):
            # One that shows a later name, or has gone on already, goes before.
            is_beaten = any(rank_manifest(name) > rank_manifest(mine) for name in others)
            if is_beaten or any(map(self._has_gone_on, others)) or time.monotonic() > deadline:
                self.withdraw(manifest)
                raise self._taken_up(others[-1])
            time.sleep(_POLL)
        if manifest.taken_over is not None:
            self.put(manifest)

    def check(self, manifest: Manifest) -> None:
        """Sees that nobody has taken the run up whom this process has not seen.

        Args:
            manifest: This process's.

        Raises:
            RunTakenUp: Somebody has.
            OSError: The place could not be asked.
        """
        names, mine = self.names(), name_manifest(manifest)
        if mine in names:
            later = [name for name in names if rank_manifest(name) > rank_manifest(mine)]
        else:
            later = names[-1:]
        strangers = [name for name in later if rank_manifest(name)[1] not in manifest.writers]
        if strangers:
            raise self._taken_up(strangers[-1])
        found = None if names else self.last()  # of a run from before there were claims
        if found is not None and parse_manifest(found, self._uri).created != manifest.created:
            raise RunTakenUp(f"{self._uri} holds another run; give this one a place of its own")

    def put_beginning(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Puts there, under a name that only this writer uses, what it takes to take a new run up elsewhere.

        It comes before the claim: its writer may be killed between that and its first copy.
        """
        folder = self._beginning(str(manifest.writer))
        self._fs.makedirs(folder, exist_ok=True)
        for name, content in files.items():
            self._fs.pipe_file(f"{folder}/{name}", content)

    def beginning(self, manifest: Manifest) -> dict[str, bytes]:
        """What the run's first writer has put there for others to begin with, by the files' names."""
        if not manifest.writers:
            return {}
        paths = map(str, self._fs.find(self._beginning(manifest.writers[0])))
        return {path.rpartition("/")[2]: bytes(self._fs.cat_file(path)) for path in paths}

    def remove_beginning(self, manifest: Manifest) -> None:
        """Removes what `put_beginning` has put there."""
        self._fs.invalidate_cache()
        for path in self._fs.find(self._beginning(str(manifest.writer))):
            self._fs.rm_file(str(path))

    def _beginning(self, writer: str) -> str:
        return f"{self._root}/{FOLDER}/begun-{writer}"

    def holds(self, manifest: Manifest) -> bool:
        """Whether this writer's manifest is there."""
        return name_manifest(manifest) in self.names()

    def put(self, manifest: Manifest) -> None:
        """Writes a manifest under its writer's own name."""
        path = f"{self._root}/{FOLDER}/{name_manifest(manifest)}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, manifest_text(manifest))

    def withdraw(self, manifest: Manifest) -> None:
        """Takes this process's own manifest away again."""
        self._fs.rm_file(f"{self._root}/{FOLDER}/{name_manifest(manifest)}")

    def _strangers(self, manifest: Manifest) -> list[str]:
        """Manifests of others that have taken the run up as often, or more often, and have not been seen."""
        return [
            name
            for name in self.names()
            if rank_manifest(name)[0] >= manifest.take_ups and rank_manifest(name)[1] not in manifest.writers
        ]

    def _has_gone_on(self, name: str) -> bool:
        """Whether the process that put this manifest there has begun to write."""
        try:
            found = self._fs.cat_file(f"{self._root}/{FOLDER}/{name}")
        except FileNotFoundError:
            return False
        return parse_manifest(bytes(found), name).taken_over is not None

    def _taken_up(self, name: str) -> RunTakenUp:
        take_ups, writer = rank_manifest(name)
        return RunTakenUp(
            f"{self._uri} has been taken up by another process (take-up {take_ups}, writer {writer}); "
            "this one writes there no more"
        )
