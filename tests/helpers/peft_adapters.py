"""LoRA adapters as PEFT itself writes them, with numbers that change what a model says."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


def write_tiny_llama(folder: Path, **config: Any) -> Path:
    """A random Llama of two layers, its embeddings untied unless the config says otherwise."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**TINY, **config})).save_pretrained(folder)
    return folder


def load_base(base: Path) -> Any:
    """A base model in single precision, for functions that would load it themselves otherwise."""
    loading: Any = AutoModelForCausalLM
    return loading.from_pretrained(base, dtype=torch.float32)


def write_peft_adapter(
    base: Path,
    folder: Path,
    *,
    strength: float = 0.05,
    embeddings: bool | str = "auto",
    loaded: Any = None,
    **settings: Any,
) -> Path:
    """An adapter of random numbers, saved by PEFT.

    Args:
        base: The base model's folder.
        folder: Where it is saved.
        strength: Standard deviation of lora_B.
        embeddings: PEFT's `save_embedding_layers`.
        loaded: The base model, which stays as it is. None: it is loaded.
        settings: Of `LoraConfig`.
    """
    torch.manual_seed(1)
    model: Any = load_base(base) if loaded is None else copy.deepcopy(loaded)
    chosen = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    adapted: Any = get_peft_model(model, LoraConfig(**{**chosen, **settings}))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                weight.normal_(0.0, strength)
    adapted.save_pretrained(folder, save_embedding_layers=embeddings)
    return folder


def score_with_peft(base: Path, adapter: Path | None, ids: list[int], loaded: Any = None) -> list[float]:
    """Log-probabilities of all ids but the first, as PEFT computes them."""
    model: Any = load_base(base) if loaded is None else copy.deepcopy(loaded)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        logprobs = torch.log_softmax(model.eval()(input_ids=torch.tensor([ids])).logits[0, :-1].float(), -1)
    return [float(logprobs[at, token]) for at, token in enumerate(ids[1:])]
