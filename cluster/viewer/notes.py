"""Tags and notes that people give to episodes: a file beside the run, since a run is never written to."""

import json
import threading
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from cluster.cache import cache_dir
from cluster.dataset.durable import RunFolderError, replacing
from cluster.dataset.places import is_uri
from cluster.viewer.run_list import run_key
from workers.records import Record


class Note(Record):
    """What a person has noted of an episode."""

    tags: list[str] = Field(default_factory=list[str], max_length=50)
    """Words to find it by."""
    text: str = Field(default="", max_length=100_000)
    """Free text."""


class Notes:
    """The notes on one run.

    Args:
        place: The run's folder, or URI.
    """

    def __init__(self, place: str) -> None:
        if is_uri(place):
            self.path = cache_dir() / "notes" / f"{run_key(place)}.json"
        else:
            run = Path(place).resolve()
            self.path = run.parent / f"{run.name}.notes.json"
        self._lock = threading.Lock()

    def read(self) -> dict[str, Note]:
        """The notes by episode.

        Raises:
            RunFolderError: The file is damaged.
        """
        try:
            found: dict[str, Any] = json.loads(self.path.read_bytes())
            return {key: Note.model_validate(note) for key, note in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, ValidationError) as error:
            raise RunFolderError(
                f"the notes in {self.path} cannot be read: {error}; mend the file, or move it away"
            ) from error

    def write(self, episode_id: str, note: Note) -> None:
        """Puts a note in place of the one before; an empty one takes it away.

        Raises:
            RunFolderError: The file is damaged, or cannot be written.
        """
        with self._lock:
            notes = self.read()
            notes.pop(episode_id, None)
            if note.tags or note.text:
                notes[episode_id] = note
            text = json.dumps({key: own.model_dump() for key, own in notes.items()}, indent=2) + "\n"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self.path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
            except OSError as error:
                raise RunFolderError(f"{self.path} cannot be written: {error.strerror}") from error
