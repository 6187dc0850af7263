# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
"""Loads model configs as transformers does: `python -m cluster.policy.models.load_configs`, JSON in and out.

A process of its own, since transformers brings torch, which a driver has no use for.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, cast


def load_full_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """A config with all that transformers fills in, renames and drops; None if it does not know the model.

    No code that comes with a model is run.
    """
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            loaded: Any = AutoConfig.from_pretrained(scratch, trust_remote_code=False)
            text = cast(str, loaded.to_json_string(use_diff=False))
            return json.loads(text)
        except Exception:  # noqa: BLE001 - whatever it is: transformers does not load it
            return None


if __name__ == "__main__":
    json.dump([load_full_config(config) for config in json.load(sys.stdin)], sys.stdout)
