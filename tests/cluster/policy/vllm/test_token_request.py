from cluster.policy.vllm.token_request import TokenRequest


def test_prompts_that_begin_alike_in_token_ids_begin_alike_for_the_router():
    first = TokenRequest({"token_ids": [1, 55_296, 151_000]}).prompt
    later = TokenRequest({"token_ids": [1, 55_296, 151_000, 7]}).prompt
    other = TokenRequest({"token_ids": [2, 55_296, 151_000, 7]}).prompt
    assert later.startswith(first) and not other.startswith(first)
    assert len(first) == 3
    assert later.encode().decode() == later, "no id is half of a surrogate pair"
