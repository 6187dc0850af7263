import re

import pytest

from cluster.config.file import load_config
from cluster.config.run_config import EndpointPolicy
from cluster.errors import ConfigError

GOOD = """
environment: {id: agentdojo}
policy: {kind: oracle}
"""


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_fill_what_a_config_leaves_out(config):
    loaded = load_config(config(GOOD))
    assert loaded.samples == 1
    assert loaded.sandbox.backend == "docker"


def test_set_overrides_a_nested_field_with_a_yaml_value(config):
    loaded = load_config(config(GOOD), ["workers.max=7", "environment.args.suites=[banking]"])
    assert loaded.workers.max == 7
    assert loaded.environment.args == {"suites": ["banking"]}


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (GOOD, ["samlpes=2"], "samlpes: there is no such key; did you mean samples?"),
        (GOOD, ["workers.mx=2"], "workers.mx: there is no such key; did you mean max?"),
        (GOOD, ["policy.kind=vlm"], "policy.kind: got 'vlm'; it must be vllm, endpoint or oracle"),
        (GOOD, ["samples=many"], "samples: input should be a valid integer"),
        (GOOD, ["samples=many"], "got 'many'"),
        (GOOD, ["samples=0"], "greater than 0; got 0"),
        (GOOD, ["sandbox.backend=podman"], "sandbox.backend: input should be 'docker' or 'process'"),
        (GOOD, ["workers={min: 3, max: 2}"], "workers.min is 3, but workers.max is only 2"),
        (GOOD, ["samples"], "--set needs a.b=value, got 'samples'"),
        (GOOD, ["name.first=x"], "name: input should be a valid string; got {'first': 'x'}"),
        ("policy: {kind: oracle}", [], "environment: is missing"),
        ("- a list", [], "must be a mapping, got list"),
        ("a: [", [], "is not YAML"),
        (
            GOOD,
            ["policy={kind: oracle, model: x}"],
            "policy.model: policy.kind `oracle` has no such key, only `endpoint` and `vllm`; leave it out",
        ),
        (GOOD, ["policy={kind: vllm, modle: x}"], "policy.modle: there is no such key; did you mean model?"),
        (GOOD, ["policy={kind: endpoint, model: m, base_url: ftp://x}"], "policy.base_url"),
    ],
)
def test_bad_config_names_the_field_what_was_given_and_what_is_right(config, text, overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(config(text), overrides)


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read: No such file"):
        load_config(tmp_path / "missing.yaml")


def test_a_file_that_is_no_text_is_no_config(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02PK")
    with pytest.raises(ConfigError, match=r"weights\.bin is not text in UTF-8: .* can't decode byte 0x80"):
        load_config(tmp_path / "weights.bin")


def test_every_complaint_is_made_at_once(config):
    with pytest.raises(ConfigError) as raised:
        load_config(config(GOOD), ["samples=0", "seed=x"])
    assert "samples:" in str(raised.value)
    assert "seed:" in str(raised.value)


def test_examples_are_good_configs():
    from pathlib import Path

    examples = sorted(Path(__file__).parents[3].glob("examples/*.yaml"))
    assert examples
    for example in examples:
        load_config(example)


def test_example_of_an_endpoint_asks_for_what_every_endpoint_has_unless_its_comments_are_taken_off(tmp_path):
    from pathlib import Path

    example = Path(__file__).parents[3] / "examples" / "endpoint.yaml"
    uncommented = tmp_path / "endpoint.yaml"
    uncommented.write_text(
        example.read_text().replace("  # api_key", "  api_key").replace("  # token", "  token")
    )
    policies = [load_config(path).policy for path in (example, uncommented)]
    asked = [(each.api_key_env, each.token_ids) for each in policies if isinstance(each, EndpointPolicy)]
    assert asked == [(None, False), ("OPENAI_API_KEY", True)]


def test_modules_of_ones_own_are_looked_for_beside_the_config_unless_it_says_where(config, tmp_path):
    path = config(GOOD)
    assert load_config(path).environment.folder == tmp_path
    assert load_config(path, ["environment.folder=mine"]).environment.folder == tmp_path / "mine"
    assert str(load_config(path, ["environment.folder=/elsewhere"]).environment.folder) == "/elsewhere"


def test_paths_among_an_environments_requirements_are_the_config_files(config, tmp_path):
    def requirements(given: str) -> object:
        text = f"environment: {{id: e, requirements: {given}, wheels: wheels}}\npolicy: {{kind: oracle}}\n"
        loaded = load_config(config(text))
        assert loaded.environment.wheels == tmp_path / "wheels"
        return loaded.environment.requirements

    assert requirements("requirements.txt") == str(tmp_path / "requirements.txt")
    assert requirements("['verifiers==0.4.0', ./mine, ../other]") == [
        "verifiers==0.4.0",
        str(tmp_path / "mine"),
        str(tmp_path.parent / "other"),
    ]
