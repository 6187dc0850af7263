"""Each turn of an episode is drawn with noise of its own, and an episode played again with the same."""

from pathlib import Path
from typing import Any

from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, rollout_worker, rows, spec
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.policy.chat_template import ChatTemplate
from workers.policy.turn_seeds import turn_seed
from workers.settings import PolicyEndpoint

EXAMPLES = Path(__file__).parents[3] / "examples"


def seeds_of(policy: MockPolicy, seed: int | None = 5, **settings: Any) -> list[int | None]:
    endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url, **settings)
    before = len(policy.requests)
    with rollout_worker("countdown.py", policy=endpoint, search_path=EXAMPLES, seed=seed) as worker:
        played(worker, spec(rows(worker)[0]).model_copy(update={"episode_id": "0123456789abcdef"}))
    asked = policy.requests[before:]
    return [request.get("sampling_params", request).get("seed") for request in asked]


def test_turns_of_chat_completions_have_seeds_of_their_own():
    call: list[tuple[str, dict[str, Any] | str]] = [("add", {"a": 1, "b": 2})]
    script = [Reply(None, call), Reply(None, call), Reply("3")]
    with MockPolicy(*script, *script) as policy:
        first, again = seeds_of(policy), seeds_of(policy)
    assert first == again
    assert len(first) == len(set(first)) == 3
    seed = first[0]
    assert seed is not None
    assert first == [turn_seed(seed, turn) for turn in range(3)]
    assert all(isinstance(each, int) and 0 <= each < 2**31 for each in first)
    with MockPolicy(*script) as policy:
        assert set(seeds_of(policy, None)) == {None}


def test_turns_by_token_ids_have_the_same_seeds(tmp_path: Path):
    template = ChatTemplate(str(make_tokenizer(tmp_path)))
    call = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    texts = [call + END, call + END, "3" + END]
    script = [Reply(token_ids=(ids := template.encode(text)), logprobs=[-0.5] * len(ids)) for text in texts]
    chat = [Reply(None, [("add", {"a": 1, "b": 2})])] * 2 + [Reply("3")]
    with MockPolicy(*script) as policy:
        exact = seeds_of(policy, token_ids=True, tokens="exact", tokenizer=template.model)
    with MockPolicy(*chat) as policy:
        assert exact == seeds_of(policy)
    assert len(set(exact)) == 3
