"""Play all tests in several processes, and the few that fail there once more, alone: `make test`.

Tests share the machine's cores with each other, with Ray and with vLLM. One that fails beside others and
passes alone has found a race, of the product or of the test. It does not fail the run; it is listed at the
end, to be looked into. More than `MOST_PLAYED_AGAIN` failures are no coincidence: none is played again then.

Arguments are pytest's.
"""

import re
import subprocess
import sys

import pytest

MOST_PLAYED_AGAIN = 3
_GROUP = re.compile(r"@[^\]]*$")
_LONGEST = 3600
"""Seconds for those that are played again, each of which has its own, shorter limit."""


class FailureRecorder:
    """The ids of failed tests, in the order of their failures, without pytest-xdist's names of groups."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.broken_modules = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = _GROUP.sub("", report.nodeid)
        if report.failed and test not in self.failed:
            self.failed.append(test)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.broken_modules |= report.failed


def play_again(failed: list[str]) -> int:
    """Play tests one after the other in a process of their own; returns pytest's exit code."""
    print(f"\nPlayed again, alone: {len(failed)} failed beside the others.", flush=True)
    done = subprocess.run([sys.executable, "-m", "pytest", *failed], timeout=_LONGEST)
    if done.returncode == pytest.ExitCode.OK:
        print("These failed beside others and passed alone. Look for the race:")
        print("\n".join(f"  {test}" for test in failed), flush=True)
    return done.returncode


def main(arguments: list[str]) -> int:
    """Play the tests that the arguments choose; returns an exit code of pytest's."""
    recorder = FailureRecorder()
    code = int(pytest.main(arguments, plugins=[recorder]))
    few = 0 < len(recorder.failed) <= MOST_PLAYED_AGAIN
    if code != pytest.ExitCode.TESTS_FAILED or recorder.broken_modules or not few:
        return code
    return play_again(recorder.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
