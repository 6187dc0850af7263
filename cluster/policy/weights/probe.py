"""An adapter that is loaded, before it is in use: does the deployment serve what PEFT means by it?"""

import hashlib
import importlib.util
import json
import logging
import math
import os
import random
import subprocess
import sys
import time
import urllib.error
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.api_requests import request_json
from cluster.policy.weights.adapter_config import CONFIG
from cluster.policy.weights.adapters import WEIGHTS
from cluster.policy.weights.served_model import ServedModel
from cluster.policy.weights.tensor_files import file_tensors, folder_tensors
from cluster.policy.weights.versions import VersionFolder
from workers.policy.versions import model_name

When: TypeAlias = Literal["first", "always", "off"]
"""`first`: compare with PEFT whatever adapter is of a new kind. `always`: every one. `off`: none."""
_TIMEOUT = 180.0
"""Seconds that a request of a probe, or PEFT's part of it, may take."""
_TEXTS, _GIVEN, _SAMPLED = 3, 8, 24
"""Of the compared tokens: sequences, and in each the ids that are given and those that are sampled."""
_MIN_TOLERANCE = 0.05
"""Nats a token by which two correct computations may always differ: vLLM may compute in bfloat16."""
_OF_NOISE, _OF_EFFECT = 3.0, 0.15
"""They may differ by this many times what they differ by without the adapter, or by this share of what the
adapter changes."""
_PEFT_MEMORY = 1 << 30
"""Bytes that PEFT's process takes beside the model."""
_KEYS_OUTSIDE_KIND = ("base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout")
_log = logging.getLogger(__name__)


class AdapterProbe:
    """Scores tokens by an adapter that replicas have loaded.

    Each time, it sees that the log-probabilities are finite. Where the base model's weights are on this
    machine, fit its memory, and PEFT is installed, it compares them with those that PEFT computes on the CPU.

    Args:
        base_url: Root of the deployment's API.
        model: What requests call its model.
        when: Which adapters are compared with PEFT's.
    """

    def __init__(self, base_url: str, model: str, when: When) -> None:
        self._base_url = base_url
        self._model = model
        self._when = when

    def check(self, versions: VersionFolder, adapter: Path, name: str, called: str) -> None:
        """Sees that an adapter is served as PEFT means it.

        Args:
            versions: The deployment's.
            adapter: The adapter's folder among them. It is loaded and not in use.
            name: What requests call it, after the colon of the model's name.
            called: What errors call it.

        Raises:
            UpdateRefused: It is not.
            PolicyUnavailable: The deployment does not answer.
        """
        if self._when == "off":
            return
        served = ServedModel.of_folder(versions.base_folder)
        texts = _random_texts(served)
        model = f"{self._model}:{name}"
        self._score_text(texts[0][:_GIVEN], model, called)
        kind = _adapter_kind(adapter)
        if self._when == "first" and kind in versions.current.proven:
            return
        base = versions.base_folder
        why = None if base is None else _why_not_comparable(base)
        if base is None or why is not None:
            why = why or "the base model's weights are not on this machine"
            _log.warning("%s is not compared with what PEFT computes: %s", called, why)
            return
        began = time.monotonic()
        below = model_name(self._model, versions.current.base)
        if not self._compare_with_peft(below, base, adapter, model, called, texts):
            return
        _log.info("%s was compared with what PEFT computes in %.1f s", called, time.monotonic() - began)
        if kind not in versions.current.proven:
            versions.set_proven(kind)

    def _compare_with_peft(
        self, below: str, base: Path, adapter: Path, model: str, called: str, texts: list[list[int]]
    ) -> bool:
        """Whether it could be compared.

        Raises:
            UpdateRefused: It is served as something else.
        """
        texts = [self._sample_continuation(text, model, called) for text in texts]
        with_it = [score for text in texts for score in self._score_text(text, model, called)]
        without = [score for text in texts for score in self._score_text(text, below, called)]
        meant = _score_with_peft(base, adapter, texts)
        if "adapter" not in meant:
            told = meant["error"]
            if meant.get("stage") == "adapter":
                raise UpdateRefused(f"{called}: PEFT does not load it: {told}")
            _log.warning("%s is not compared with what PEFT computes: %s", called, told)
            return False
        off = _mean_distances(with_it, meant["adapter"])
        noise, effect = (
            _mean(_mean_distances(without, meant["base"])),
            _mean(_mean_distances(meant["adapter"], meant["base"])),
        )
        allowed = max(_MIN_TOLERANCE, _OF_NOISE * noise, _OF_EFFECT * effect)
        told = (
            f"its log-probabilities differ from PEFT's by {_mean(off):.3f} nats a token on average, "
            f"{max(off):.3f} at worst (the base model's alone by {noise:.3f}; the adapter changes them by "
            f"{effect:.3f})"
        )
        if not _mean(off) <= allowed:
            raise UpdateRefused(
                f"{called} is not served as PEFT means it: {told}, and {allowed:.3f} are allowed"
            )
        _log.info("%s: %s", called, told)
        return True

    def _sample_continuation(self, text: list[int], model: str, called: str) -> list[int]:
        """A text with what the adapter samples after it: where it changes most, it is seen most."""
        body = {
            "model": model,
            "prompt": text[:_GIVEN],
            "max_tokens": _SAMPLED,
            "temperature": 1.0,
            "seed": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        sampled: list[int] = self._request_completion(body, called)["token_ids"]
        return [*text[:_GIVEN], *sampled]

    def _score_text(self, text: list[int], model: str, called: str) -> list[float]:
        """Log-probabilities of all ids but the first."""
        body = {
            "model": model,
            "prompt": text,
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 0,
        }
        given: list[Any] = self._request_completion(body, called)["prompt_logprobs"]
        scores = [
            float(entry[str(token)]["logprob"]) for token, entry in zip(text[1:], given[1:], strict=True)
        ]
        if not all(map(math.isfinite, scores)):
            raise UpdateRefused(f"{called}: the log-probabilities that it is served with are not finite")
        return scores

    def _request_completion(self, body: dict[str, Any], called: str) -> Any:
        try:
            return request_json(self._base_url, "completions", None, _TIMEOUT, body)["choices"][0]
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode(errors="replace")
            if "not JSON compliant" in said or "nan" in said.lower():
                raise UpdateRefused(
                    f"{called}: the log-probabilities that it is served with are not finite: {said}"
                ) from error
            raise PolicyUnavailable(f"{called} cannot be tried out ({error.code}): {said}") from error
        except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
            raise PolicyUnavailable(f"{called} cannot be tried out: {error}") from error


def _random_texts(served: ServedModel) -> list[list[int]]:
    config: dict[str, Any] = served.config or {}
    size = (config.get("text_config") or config).get("vocab_size")
    most = min(size, 30000) if isinstance(size, int) and size > 3 else 1000
    chance = random.Random(0)
    return [[chance.randrange(3, most) for _ in range(_GIVEN + _SAMPLED)] for _ in range(_TEXTS)]


def _adapter_kind(adapter: Path) -> str:
    """What adapters have in common that differ in their numbers alone: settings, names and shapes."""
    config: dict[str, Any] = json.loads((adapter / CONFIG).read_bytes())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    settings = {name: value for name, value in sorted(config.items()) if name not in _KEYS_OUTSIDE_KIND}
    shapes = {name: [tensor.shape, tensor.dtype] for name, tensor in file_tensors(adapter / WEIGHTS).items()}
    text = json.dumps([settings, sorted(shapes.items())])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _why_not_comparable(base: Path) -> str | None:
    """Why PEFT's part cannot be done on this machine; None if it can."""
    for package in ("peft", "transformers", "torch"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed (the extra `train`)"
    try:
        tensors = folder_tensors(base)
    except (OSError, ValueError) as error:
        return f"the base model's weights cannot be read: {error}"
    if not tensors:
        return "the base model's weights are not on this machine, or not as safetensors"
    needed, free = 2 * _count_numbers(base) + _PEFT_MEMORY, read_free_memory()
    if free < needed:
        return f"the base model takes {needed / 1e9:.1f} GB of memory here, and {free / 1e9:.1f} GB are free"
    return None


def _count_numbers(base: Path) -> int:
    return sum(math.prod(tensor.shape) for tensor in folder_tensors(base).values())


def read_free_memory() -> float:
    """Bytes of memory that this process could still take: the machine's, or its control group's."""
    free = math.inf
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = float(line.split()[1]) * 1024
        for limit, used in (
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            ),
        ):
            if Path(limit).is_file() and (most := Path(limit).read_text().strip()) != "max":
                free = min(free, float(most) - float(Path(used).read_text()))
    except (OSError, ValueError, IndexError):
        return free
    return free


def _score_with_peft(base: Path, adapter: Path, texts: list[list[int]]) -> dict[str, Any]:
    """Log-probabilities as PEFT computes them, from a process of its own."""
    wide = read_free_memory() > 4 * _count_numbers(base) + _PEFT_MEMORY
    asked = {"base": str(base), "adapter": str(adapter), "texts": texts, "wide": wide}
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.policy.weights.peft_scores"],
            input=json.dumps(asked),
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"PEFT took more than {_TIMEOUT:.0f} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": said[-1] if said else f"PEFT's process ended with code {done.returncode}"}
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def _mean_distances(some: list[float], others: list[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(some, others, strict=True)]


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)
