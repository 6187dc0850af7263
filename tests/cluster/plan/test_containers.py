import pytest

from cluster.errors import ConfigError
from cluster.plan.containers import check_container
from tests.cluster.plan.test_plan import FakeEnvironment, config
from workers.sandbox.base import ToolsetSpec


class Boxed(FakeEnvironment):
    api = "v1"
    toolset = ToolsetSpec(image="harness", toolset="t", taken_by_environment=True)


class Chat(FakeEnvironment):
    api = "v1"


def test_a_taskset_that_needs_containers_is_refused_where_there_are_none():
    said = r"sandbox\.backend: got `process`, and e needs containers: .* Give `docker`"
    with pytest.raises(ConfigError, match=said):
        check_container(config(sandbox={"backend": "process"}), Boxed(1))


@pytest.mark.parametrize("sandbox", [{}, {"backend": "process", "unsafe": True}])
def test_it_has_them_or_somebody_insists(sandbox):
    check_container(config(sandbox=sandbox), Boxed(1))


def test_what_runs_nothing_needs_none():
    check_container(config(sandbox={"backend": "process"}), Chat(1))
