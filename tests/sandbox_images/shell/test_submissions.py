"""Every bundled task against submissions that are wrong, near or far, and right ones of another shape."""

import asyncio

import pytest

from tests.helpers.submissions import judged, submissions
from workers.environments.shell.dataset import load_cards
from workers.sandbox.process import ProcessSandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

AT_ONCE = 3


@pytest.mark.parametrize("task", load_cards())
async def test_hidden_tests_tell_right_from_wrong(shells: ProcessSandbox, task: str) -> None:
    places = asyncio.Semaphore(AT_ONCE)
    found = submissions(task)
    solved = [submission.solved for submission in found]
    assert solved.count(False) >= 3 and solved.count(True) >= 2
    assert all(submission.solved or submission.fails for submission in found)
    assert len({submission.name for submission in found}) == len(found)

    async def misjudged(number: int) -> str | None:
        async with places:
            scores = await judged(shells, task, found[number], whole=solved[number])
        if scores.metrics["solved"] == float(solved[number]):
            return None
        return f"{found[number].name}: {scores.metrics['solved']}, {scores.details['failures']}"

    wrong = await asyncio.gather(*map(misjudged, range(len(found))))
    assert [each for each in wrong if each] == []
