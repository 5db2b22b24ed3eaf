"""Loads checkpoints that were released with code of their own into transformers' native classes.

Their configuration and the names of their weights are told in another form; no code of a repository runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from lmms_flow.errors import FlowError

ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
BUFFERS = ("rotary_emb.inv_freq",)  # computed, not learnt; old checkpoints hold them
SHOWN = 3  # of the weights that an error names


def known_fields(config_class: type[PreTrainedConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a native configuration has fields for; the rest steers training or the released code."""
    fields = {field.name for field in dataclasses.fields(config_class)} | set(ROPE)
    return {name: value for name, value in values.items() if name in fields}


def load_exactly(
    model_class: Any,
    source: str,
    config: PreTrainedConfig,
    loading: Mapping[str, Any],
    renamed: Mapping[str, str],
) -> Any:
    """The model with every weight of the checkpoint in its place.

    `renamed` maps patterns of released names to native ones. Raises FlowError that names the weights which are missing,
    left over or of another shape.
    """
    model, report = model_class.from_pretrained(
        source,
        config=config,
        key_mapping=dict(renamed),
        ignore_mismatched_sizes=True,  # they are named below
        output_loading_info=True,
        **loading,
    )
    left_over = {name for name in report["unexpected_keys"] if not name.endswith(BUFFERS)}
    wrong_shape = {str(entry[0]) for entry in report["mismatched_keys"]}
    problems = {
        "missing": set(report["missing_keys"]) - wrong_shape,
        "not of this model": left_over,
        "of another shape": wrong_shape,
    }
    found = [f"{_named(names)} {what}" for what, names in problems.items() if names]
    if found:
        raise FlowError(f"the weights don't fit {type(model).__name__}: {'; '.join(found)}")
    return model


def _named(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{shown}{more} {'are' if len(names) > 1 else 'is'}"
