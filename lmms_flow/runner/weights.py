"""Loads weights into transformers' native classes, all of them or none; no code of a repository runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from lmms_flow.errors import CheckpointError

BUFFERS = ("rotary_emb.inv_freq",)  # computed, not learnt; old checkpoints hold them
SHOWN = 3  # of the weights that an error names


def load_exactly(
    model_class: Any,
    source: str,
    loading: Mapping[str, Any],
    config: PreTrainedConfig | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Any:
    """A model of transformers with every one of its weights from the checkpoint.

    `from_pretrained` alone makes up what it does not find, and says so among its warnings.

    Args:
        model_class: of transformers.
        source: a repository id or a folder.
        loading: what `from_pretrained` takes.
        config: the native configuration, where the checkpoint tells its own in another form.
        renamed: patterns of the checkpoint's names for weights, and the native names. With these nothing may be left
            over either.

    Raises:
        CheckpointError: weights are missing, of another shape, or left over; it names them.
    """
    own = {} if config is None else {"config": config}
    model, report = model_class.from_pretrained(
        source,
        key_mapping=dict(renamed) if renamed else None,
        ignore_mismatched_sizes=True,  # they are named below
        output_loading_info=True,
        **own,
        **loading,
    )
    left_over = {name for name in report["unexpected_keys"] if not name.endswith(BUFFERS)}
    wrong_shape = {str(entry[0]) for entry in report["mismatched_keys"]}
    problems = {
        "missing": set(report["missing_keys"]) - wrong_shape,
        "not of this model": left_over if renamed or report["missing_keys"] else set(),
        "of another shape": wrong_shape,
    }
    found = [f"{_named(names)} {what}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"the weights don't fit {type(model).__name__}: {'; '.join(found)}")
    return model


def _named(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{shown}{more} {'are' if len(names) > 1 else 'is'}"
