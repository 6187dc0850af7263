"""v1's runtime for an episode that runs nothing: the harness is a loop in the worker."""

from typing import Any, NoReturn

from verifiers.v1.errors import SandboxError
from verifiers.v1.runtimes import Runtime, SubprocessConfig

_Runtime: Any = Runtime


class NoRuntime(_Runtime):
    """A place without files and processes. A hook that asks for one fails, and is told so.

    Args:
        name: verifiers' name of it.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.config = SubprocessConfig()
        self.info = _info()

    async def start(self) -> None:
        """There is nothing to start."""

    async def alive(self) -> bool:
        """It does not die."""
        return True

    def cleanup(self) -> None:
        """There is nothing to free."""

    async def run(self, argv: list[str], env: dict[str, str]) -> NoReturn:
        """Refuses."""
        self._refuse(f"run {argv[0] if argv else 'a program'!r}")

    async def _read(self, path: str, max_bytes: int | None = None) -> NoReturn:
        self._refuse(f"read {path!r}")

    async def write(self, path: str, data: bytes) -> NoReturn:
        """Refuses."""
        self._refuse(f"write {path!r}")

    def _refuse(self, what: str) -> NoReturn:
        raise SandboxError(
            f"a hook of the task asked a runtime to {what}, and this episode has no container: only tasks "
            "get one whose hooks name `runtime` among their arguments, or whose class sets NEEDS_CONTAINER"
        )


def _info() -> Any:
    from verifiers.v1.runtimes.subprocess import SubprocessRuntimeInfo

    return SubprocessRuntimeInfo()
