"""Policies as far as they can be seen without starting one."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config import EndpointPolicy, OraclePolicy, RunConfig, VllmPolicy, check_sampling
from cluster.errors import ConfigError, ModelUnavailable, PolicyUnavailable, UpdateRefused
from cluster.policy import check_policy, open_policy, required_cpus
from cluster.policy.endpoint import EndpointPolicyClient
from cluster.policy.models import packaged_model
from cluster.policy.models.description import describe_run, tokenizer_digest
from cluster.policy.models.models import Model, check_template_shows_tools
from cluster.policy.vllm import application, kept_policy
from cluster.policy.vllm.client import _make_endpoint
from cluster.policy.vllm.cpu_precision import cpu_precision
from cluster.policy.vllm.engine_arguments import describe_unknown, known_arguments
from cluster.policy.vllm.failure import engine_error, last_error
from cluster.ray_session.session import RaySession
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.tiny_tokenizer import make_tokenizer
from workers.settings import SamplingSettings

NOWHERE = RaySession("", local=True, kept=False, logs=Path("/nowhere"))
MODEL = Model("m", "org/m", local=False)


def endpoint(base_url: str, **settings: Any) -> EndpointPolicy:
    return EndpointPolicy(kind="endpoint", base_url=base_url, model=settings.pop("model", "mock"), **settings)


def vllm(**settings: Any) -> VllmPolicy:
    return VllmPolicy(kind="vllm", **settings)


def test_the_oracle_needs_no_server():
    policy = open_policy(OraclePolicy(kind="oracle"), NOWHERE, print)
    assert policy.endpoint().kind == "oracle"
    assert policy.endpoint().base_url is None


def test_an_endpoint_that_answers_is_handed_to_the_workers():
    with MockPolicy() as server:
        config = endpoint(server.base_url + "/", token_ids=True, request_timeout=5)
        with open_policy(config, NOWHERE, print) as policy:
            reached = policy.endpoint()
    assert (reached.base_url, reached.model, reached.version) == (server.base_url, "mock", None)
    assert reached.token_ids and reached.request_timeout == 5
    assert not server.requests, "a model that is listed need not be tried"


def test_an_endpoint_that_refuses_is_named():
    with MockPolicy() as server:
        url = server.base_url
    with pytest.raises(
        PolicyUnavailable, match=rf"policy.base_url is '{url}', and nothing answers there: .*refused"
    ):
        check_policy(endpoint(url))


def test_a_model_that_is_not_listed_is_tried():
    with MockPolicy(Reply()) as server:
        check_policy(endpoint(server.base_url, model="alias"))
        assert server.requests[0]["model"] == "alias"
    unknown = pytest.raises(PolicyUnavailable, match=r"policy.model is 'alias'.*no such model")
    with MockPolicy(Fault(status=404, message="no such model")) as server, unknown:
        check_policy(endpoint(server.base_url, model="alias"))


def test_an_endpoint_below_which_there_is_nothing_is_named():
    with MockPolicy() as server, pytest.raises(PolicyUnavailable, match=r"no chat-completions route.*404"):
        check_policy(endpoint(server.base_url.removesuffix("/v1")))


def test_a_key_that_is_refused_or_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POLICY_KEY", "wrong")
    with MockPolicy() as server:
        server.api_key = "right"
        with pytest.raises(
            PolicyUnavailable, match=r"refuses the key \(401\); policy.api_key_env is 'POLICY_KEY'"
        ):
            check_policy(endpoint(server.base_url, api_key_env="POLICY_KEY"))
        with pytest.raises(PolicyUnavailable, match=r"policy.api_key_env is not set"):
            check_policy(endpoint(server.base_url))
        monkeypatch.delenv("POLICY_KEY")
        with pytest.raises(PolicyUnavailable, match=r"'POLICY_KEY', and no such variable"):
            check_policy(endpoint(server.base_url, api_key_env="POLICY_KEY"))


def test_workers_are_handed_the_key_which_no_text_of_theirs_shows(monkeypatch):
    monkeypatch.setenv("POLICY_KEY", "sesame")
    with MockPolicy() as server:
        server.api_key = "sesame"
        handed = EndpointPolicyClient(endpoint(server.base_url, api_key_env="POLICY_KEY")).endpoint()
    assert handed.api_key.get_secret_value() == "sesame"
    assert "sesame" not in f"{handed!r}{handed.model_dump_json()}"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"replicas": 3, "max_replicas": 2}, "policy.max_replicas is 2"),
        (
            {"adapters": {}, "engine": {"lora_target_modules": ["q_proj"]}},
            r"lora_target_modules is \['q_proj'\], by which vLLM leaves out",
        ),
        ({"chat_template": "/no/such.jinja"}, "policy.chat_template"),
        (
            {"engine": {"seed": 1, "max_num_seq": 8}},
            "policy.engine has 'max_num_seq', which is no .* vLLM's engine: did you mean 'max_num_seqs'",
        ),
        ({"engine": {"~": 1}}, "policy.engine has '~', .*: vLLM's documentation lists"),
        ({"model": "/no/such/folder"}, "policy.model is '/no/such/folder'"),
    ],
)
def test_a_vllm_policy_that_cannot_be_is_named_before_anything_starts(settings: dict[str, Any], said: str):
    pytest.importorskip("vllm")
    with pytest.raises(PolicyUnavailable, match=said):
        check_policy(vllm(**settings))


def test_a_tokenizer_that_the_engine_is_given_is_that_of_exact_tokens_and_of_the_record(tmp_path: Path):
    model, other = tmp_path / "model", tmp_path / "other"
    for folder, text in ((model, "model's"), (other, "other")):
        folder.mkdir()
        (folder / "tokenizer.json").write_text(text)
        (folder / "chat_template.jinja").write_text(text)
        (folder / "config.json").write_text("{}")
    config = vllm(model=str(model), engine={"tokenizer": str(other)})
    served = Model("model", str(model), local=True)
    assert _make_endpoint(config, served, None, 0).tokenizer == str(other)
    run = RunConfig.model_validate({"environment": {"id": "e"}, "policy": config.model_dump()})
    record = describe_run(run, "model", {})
    assert (record.chat_template, record.tokenizer_sha256) == ("other", tokenizer_digest(other))


def test_room_for_the_policy_counts_its_largest_size():
    assert required_cpus(OraclePolicy(kind="oracle")) == 0
    assert required_cpus(vllm()) == 3
    assert required_cpus(vllm(replicas=2, max_replicas=4)) == 10


def name(config: VllmPolicy) -> str:
    return application.application_name(config, MODEL, application.serving_args(config, MODEL, "cpu"))


def test_interchangeable_deployments_share_a_name():
    same = vllm(sampling={"temperature": 0.1}, keep_alive=True, start_timeout=5, request_timeout=5)
    assert name(same) == name(vllm())
    assert name(vllm()).startswith("kumite-m-")


@pytest.mark.parametrize(
    "other",
    [
        {"replicas": 2},
        {"max_model_len": 64},
        {"tool_parser": None},
        {"engine": {"seed": 1}},
        {"cpu_kv_cache_gb": 1},
    ],
)
def test_other_deployments_have_other_names(other: dict[str, Any]):
    assert name(vllm(**other)) != name(vllm())


def test_a_chat_template_counts_by_what_it_says(tmp_path: Path):
    template = tmp_path / "template.jinja"
    template.write_text("one")
    first = name(vllm(chat_template=template))
    template.write_text("two")
    assert name(vllm(chat_template=template)) != first


def test_engine_arguments_of_the_user_come_last():
    args = application.serving_args(vllm(engine={"dtype": "float16", "max_num_seqs": 8}), MODEL, "cpu")
    engine = args["llm_configs"][0]["engine_kwargs"]
    assert (engine["dtype"], engine["max_num_seqs"], engine["enforce_eager"]) == ("float16", 8, True)


AS_VLLM_HAS_IT = """
import dataclasses, json, sys
from ray.serve.llm import LLMConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs

def arguments(llm, engine):
    return [field.name for args in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(args)]

def shape(llm, engine):
    backend = engine.get_initialization_kwargs()["distributed_executor_backend"]
    replicas = llm.deployment_config["autoscaling_config"]["max_replicas"]
    return [engine.placement_bundles, engine.tensor_parallel_degree, backend, replicas]

def sampling(llm, engine):
    given = {**engine.get_initialization_kwargs(), "distributed_executor_backend": "uni"}
    model = AsyncEngineArgs(**given).create_model_config()
    return [model.get_diff_sampling_param(), model.try_get_generation_config()["eos_token_id"]]

for line in sys.stdin:
    asked, description = json.loads(line)
    llm = LLMConfig(**description)
    tell = {"shape": shape, "sampling": sampling, "arguments": arguments}[asked]
    answer = tell(llm, llm.get_engine_config())
    print("answer", json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def read_by_vllm() -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """What Ray and vLLM read in a description; in a process of its own: vLLM's imports leave traces."""
    with subprocess.Popen(
        [sys.executable, "-c", AS_VLLM_HAS_IT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def read(asked: str, description: dict[str, Any]) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([asked, description]) + "\n")
            process.stdin.flush()
            answer = next((line for line in process.stdout if line.startswith("answer ")), None)
            assert answer is not None, "the process has ended; its error is above"
            return json.loads(answer.removeprefix("answer "))

        yield read
        process.kill()


@pytest.mark.vllm
def test_ray_takes_the_description_of_a_gpu_deployment(read_by_vllm: Callable[[str, dict[str, Any]], Any]):
    config = vllm(model="org/m", accelerator="gpu", tensor_parallel=2, replicas=1, max_replicas=4)
    description = application.serving_args(config, MODEL, "gpu")["llm_configs"][0]
    assert read_by_vllm("shape", description) == [[{"GPU": 1}, {"GPU": 1}], 2, "ray", 4]


@pytest.mark.vllm
def test_arguments_of_the_engine_are_those_that_vllm_has(read_by_vllm: Callable[[str, dict[str, Any]], Any]):
    description = application.serving_args(vllm(), MODEL, "cpu")["llm_configs"][0]
    assert known_arguments() == set(read_by_vllm("arguments", description))


def test_arguments_that_vllm_has_elsewhere_are_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    assert known_arguments() is None
    assert describe_unknown(["whatever"]) is None


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("engine", "defaults"), [({}, {}), ({"generation_config": "auto"}, {"top_k": 20, "top_p": 0.95})]
)
def test_a_models_own_sampling_defaults_are_used_only_where_the_config_asks_for_them(
    read_by_vllm: Callable[[str, dict[str, Any]], Any],
    tmp_path: Path,
    engine: dict[str, Any],
    defaults: dict[str, Any],
):
    config = json.loads((packaged_model.folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = {"top_k": 20, "top_p": 0.95, "eos_token_id": [2, 0]}
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    model = Model("m", str(tmp_path), local=True)
    description = application.serving_args(vllm(engine=engine), model, "cpu")["llm_configs"][0]
    assert read_by_vllm("sampling", description) == [defaults, [2, 0]]


def test_the_reason_is_the_last_error_with_its_lines():
    said = """Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: an earlier one

The above exception was the direct cause of the following exception:

RuntimeError: Failed to create vLLM engine config: 1 validation error for SchedulerConfig
max_num_seqs
  Input should be greater than or equal to 1
    For further information visit https://errors.example/"""
    assert last_error(said) == (
        "RuntimeError: Failed to create vLLM engine config: 1 validation error for SchedulerConfig "
        "max_num_seqs Input should be greater than or equal to 1"
    )
    assert last_error("no traceback here") == "no traceback here"


def test_the_engines_own_log_tells_what_the_replica_does_not_know(tmp_path: Path):
    log = """:actor_name:ServeReplica:kumite-m-1:CpuServer:m
(EngineCore pid=7) ERROR 11-22 11:57:00 [core.py:1] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-22 11:57:00 [core.py:1] ValueError: Available memory is less than requested
(EngineCore pid=7) INFO 11-22 11:57:00 [core.py:1] bye
"""
    (tmp_path / "worker-a.out").write_text(log)
    assert engine_error(tmp_path, "kumite-m-1") == "ValueError: Available memory is less than requested"
    assert engine_error(tmp_path, "kumite-m-2") is None


def test_exact_tokens_of_an_endpoint_are_tried_before_anything_starts(tmp_path: Path):
    tokenizer = str(make_tokenizer(tmp_path))
    with MockPolicy(Reply(logprobs=[-0.5], token_ids=[4])) as server:
        config = endpoint(server.base_url, tokens="exact", tokenizer=tokenizer)
        reached = open_policy(config, NOWHERE, print).endpoint()
    assert (reached.tokens, reached.token_ids, reached.tokenizer) == ("exact", True, tokenizer)
    assert server.requests[0]["sampling_params"]["max_tokens"] == 1


@pytest.mark.parametrize(
    ("reply", "takes_tokens", "said"),
    [
        (Reply(), False, "no route /inference/v1/generate, as a vLLM server has; set policy.tokens to"),
        (Reply(logprobs=[], token_ids=[]), True, "it returns no token ids; set policy.tokens to `per_turn`"),
        (Fault(status=400, message="no ids"), True, "answers 400 to a request by token ids: .*no ids"),
        (Fault("garbage"), True, "does not take token ids"),
    ],
)
def test_an_endpoint_that_cannot_give_exact_tokens_is_an_error(
    reply: Reply | Fault, takes_tokens: bool, said: str
):
    with (
        MockPolicy(reply, takes_tokens=takes_tokens) as server,
        pytest.raises(PolicyUnavailable, match=rf"policy\.tokens is `exact`, and policy\.base_url .*{said}"),
    ):
        open_policy(endpoint(server.base_url, tokens="exact"), NOWHERE, print)


def test_exact_tokens_of_a_model_whose_template_has_no_tools_are_an_error(tmp_path: Path):
    bare = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    tokenizer = str(make_tokenizer(tmp_path, bare))
    with (
        MockPolicy() as server,
        pytest.raises(PolicyUnavailable, match=r"does not show the model its tools: set policy\.renderer"),
    ):
        open_policy(endpoint(server.base_url, tokens="exact", tokenizer=tokenizer), NOWHERE, print)


def test_exact_tokens_and_a_tool_choice_exclude_each_other():
    with pytest.raises(ValidationError, match=r"policy\.sampling\.tool_choice `required` .*: leave it out"):
        vllm(tokens="exact", sampling={"tool_choice": "required"})
    with pytest.raises(ConfigError, match=r"sampling: .*tool_choice `none` .*: leave it out"):
        check_sampling(vllm(tokens="exact"), SamplingSettings(tool_choice="none"))
    check_sampling(vllm(tokens="per_turn"), SamplingSettings(tool_choice="required"))


def test_weights_are_updated_only_where_the_deployment_was_made_for_it():
    with pytest.raises(UpdateRefused, match=r"takes no new weights; `policy\.kind: vllm` does"):
        open_policy(OraclePolicy(kind="oracle"), NOWHERE, print).update(Path("adapter"), 1)


def test_a_deployment_that_takes_adapters_is_another_deployment():
    plain = application.serving_args(vllm(), MODEL, "cpu")
    args = application.serving_args(vllm(adapters={"max_rank": 32, "live": 3}), MODEL, "cpu")
    engine = args["llm_configs"][0]["engine_kwargs"]
    assert (engine["enable_lora"], engine["max_lora_rank"], engine["max_loras"]) == (True, 32, 3)
    assert "enable_lora" not in plain["llm_configs"][0]["engine_kwargs"]


@pytest.mark.parametrize(
    ("adapters", "lag", "kept"),
    [({}, None, 32), ({}, 40, 41), ({"kept": 3}, 1, 3), ({"kept": 1, "live": 2}, 0, 2), (None, 3, None)],
)
def test_versions_are_kept_as_long_as_an_episode_may_act_with_them(
    adapters: dict[str, int] | None, lag: int | None, kept: int | None
):
    assert vllm(adapters=adapters, max_version_lag=lag).kept_versions == kept


def test_there_is_nothing_to_bring_up_or_to_update_where_no_policy_is_kumites_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path))
    config = RunConfig.model_validate({"environment": {"id": "e"}, "policy": {"kind": "oracle"}})
    with pytest.raises(ConfigError, match=r"policy\.kind is 'oracle', and there is nothing to bring up"):
        kept_policy.start_kept_policy(config, print)
    with pytest.raises(PolicyUnavailable, match="no policy is kept"):
        kept_policy.update_kept_policy(tmp_path, 1)


def test_a_model_that_would_not_hear_of_the_tools_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    with pytest.raises(ModelUnavailable, match="its own chat template has no `tools`"):
        check_template_shows_tools(str(tmp_path), None)
    (tmp_path / "chat_template.jinja").write_text("{{ tools }}{{ messages }}")
    check_template_shows_tools(str(tmp_path), None)
    bare = tmp_path / "bare.jinja"
    bare.write_text("{{ messages }}")
    with pytest.raises(ModelUnavailable, match=r"policy\.chat_template is '.*bare\.jinja' has no `tools`"):
        check_template_shows_tools(str(tmp_path), bare)
    snapshot = tmp_path / "models--org--m" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "chat_template.jinja"):
        (snapshot / name).write_text("{}")
    (tmp_path / "models--org--m" / "refs").mkdir()
    (tmp_path / "models--org--m" / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="'org/m', and this environment has tools"):
        check_template_shows_tools("org/m", None)
    check_template_shows_tools("smollm2-135m", None)
    check_template_shows_tools("org/on-the-hub", None)


@pytest.mark.parametrize(
    ("description", "precision"),
    [
        ("flags\t\t: fpu sse4_2 avx2 fma f16c", "float32"),
        ("flags\t\t: avx2 avx512f avx512_bf16 amx_tile", "bfloat16"),
        ("Features\t: fp asimd sve bf16 i8mm", "bfloat16"),
        ("", "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_has_instructions_for_it(
    description: str, precision: str
) -> None:
    assert cpu_precision(description) == precision
