"""`kumite verify`: good runs of each kind of policy break no rule, and errors planted in them are found."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from cluster.verify.checks import Verification, verify
from tests.helpers.planted_errors import ERRORS, PlantedError
from tests.helpers.token_runs import template_in
from tests.helpers.verified_runs import RunKind, make_run
from workers.policy.chat_template import ChatTemplate

GoodRun = Callable[[RunKind], Path]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return template_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory, template: ChatTemplate) -> GoodRun:
    made: dict[RunKind, Path] = {}
    folder = tmp_path_factory.mktemp("runs")

    def run(kind: RunKind) -> Path:
        if kind not in made:
            made[kind] = make_run(folder / kind, kind, template)
        return made[kind]

    return run


def complaints(found: Verification) -> dict[str, list[str]]:
    return {report.rule: report.examples for report in found.rules if report.violations}


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(RunKind))
def test_a_good_run_breaks_no_rule(good_run: GoodRun, kind: RunKind):
    found = verify(good_run(kind))
    assert complaints(found) == {}
    checked = {report.rule for report in found.rules if report.checked}
    assert checked >= {
        "lengths",
        "finish",
        "steps",
        "tools",
        "usage",
        "episodes",
        "digests",
        "files",
        "counts",
    }
    if kind not in ("bare", "oracle"):
        assert checked >= {"prompts", "actions", "sequences"}
    assert found.episodes == 4


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.kind}: {error.name}")
def test_an_error_is_found_by_the_rule_that_should(good_run: GoodRun, tmp_path: Path, error: PlantedError):
    run = tmp_path / error.kind
    shutil.copytree(good_run(error.kind), run)
    error.plant(run)
    found = complaints(verify(run))
    assert error.rule in found, found
    assert all("breaks down" not in example for example in found[error.rule]), found


def test_no_error_is_planted_twice():
    planted = [(error.name, error.kind) for error in ERRORS]
    assert len(planted) == len(set(planted)) >= 40
