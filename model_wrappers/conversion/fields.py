"""Configurations of checkpoints in their original form in the terms of transformers' own classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")


def known_fields(config_class: type[PreTrainedConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a native configuration has fields for; the rest steers training or its own code."""
    fields = {field.name for field in dataclasses.fields(config_class)} | set(ROPE)
    return {name: value for name, value in values.items() if name in fields}
