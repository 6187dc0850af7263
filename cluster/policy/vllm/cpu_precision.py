"""The precision in which a CPU computes a model fastest."""

from pathlib import Path
from typing import Literal

_CPU = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of x86 and features of ARM: instructions that multiply numbers in bfloat16."""


def cpu_precision(description: str | None = None) -> Literal["bfloat16", "float32"]:
    """The precision to serve a model in on a CPU.

    A CPU without instructions for bfloat16 converts each number before it multiplies: torch 2.13 on an AVX2
    machine did 12 GFLOPS in bfloat16 on one core and 70 in float32, which takes twice the memory.

    Args:
        description: What Linux tells of the CPU; that of this machine if None.

    Returns:
        A name that torch and vLLM know.
    """
    if description is None:
        description = _CPU.read_text() if _CPU.is_file() else ""
    return "bfloat16" if _INSTRUCTIONS & set(description.split()) else "float32"
