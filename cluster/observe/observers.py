"""Who is told what becomes of a run's episodes."""

from typing import Protocol

from workers.records import EpisodeResult, EpisodeSpec


class Observer(Protocol):
    """An observer: it is told what becomes of each episode, as it happens."""

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """These episodes went to a worker."""
        ...

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """These episodes came back, for good or for another attempt."""
        ...

    def retried(self, episodes: int) -> None:
        """So many episodes get another attempt."""
        ...

    def cancelled(self, episodes: int) -> None:
        """So many episodes are no longer wanted: their group has enough."""
        ...

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """An episode is on record."""
        ...


class Observers:
    """Several observers as one.

    Args:
        observers: Those who are told, in this order.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def dispatched(self, specs: list[EpisodeSpec]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.dispatched(specs)

    def returned(self, specs: list[EpisodeSpec]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.returned(specs)

    def retried(self, episodes: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.retried(episodes)

    def cancelled(self, episodes: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.cancelled(episodes)

    def ended(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.ended(spec, result)
