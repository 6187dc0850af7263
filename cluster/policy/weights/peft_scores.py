# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportMissingImports=false
"""Log-probabilities by PEFT on the CPU: `python -m cluster.policy.weights.peft_scores`, JSON in and out.

A process of its own, since a driver has no use for torch, and the model's memory is given back at its end.
"""

import json
import sys
from typing import Any


def score_texts(base: str, adapter: str, texts: list[list[int]], wide: bool) -> dict[str, Any]:
    """Scores ids by a base model alone, and with an adapter.

    Args:
        base: The base model's folder.
        adapter: The adapter's.
        texts: Token ids.
        wide: Compute in float32; else in bfloat16.

    Returns:
        `base` and `adapter`, the log-probabilities of all ids but each text's first, one after the other; or
        an `error`, and the `stage` that it is of, `base` or `adapter`.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def scores(model: Any) -> list[float]:
        found: list[float] = []
        with torch.no_grad():
            for text in texts:
                ids = torch.tensor([text])
                logprobs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
                found += logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
        return found

    try:
        kind = torch.float32 if wide else torch.bfloat16
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=kind).eval()
        alone = scores(model)
    except Exception as error:  # noqa: BLE001 - whatever it is, the model cannot be computed with here
        return {"stage": "base", "error": f"{type(error).__name__}: {error}"}
    try:
        adapted = scores(PeftModel.from_pretrained(model, adapter).eval())
    except Exception as error:  # noqa: BLE001 - whatever it is, PEFT does not take the adapter
        return {"stage": "adapter", "error": f"{type(error).__name__}: {error}"}
    return {"base": alone, "adapter": adapted}


if __name__ == "__main__":
    print(json.dumps(score_texts(**json.load(sys.stdin))))
