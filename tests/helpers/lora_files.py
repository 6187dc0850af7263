"""Base models and LoRA adapters as files: shapes that fit, and ones that do not."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

MODULE = "model.layers.0.self_attn.q_proj"


def write_base(folder: Path, shape: tuple[int, int] = (6, 4)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"{MODULE}.weight": np.zeros(shape, np.float32)}, folder / "model.safetensors")
    return folder


def write_adapter(
    folder: Path, *, rank: int = 2, outputs: int = 6, inputs: int = 4, module: str = MODULE
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"base_model.model.{module}"
    weights = {
        f"{name}.lora_A.weight": np.zeros((rank, inputs), np.float32),
        f"{name}.lora_B.weight": np.zeros((outputs, rank), np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "peft_type": "LORA"}))
    return folder
