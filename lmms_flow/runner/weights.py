"""Loads weights into transformers' native classes, all of them or none; no code of a repository runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

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
        CheckpointError: weights are missing, of another shape, left over, or in files outside of the folder; it names
            them.
    """
    _refuse_shards_elsewhere(source)
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


def _refuse_shards_elsewhere(source: str) -> None:
    """The list of a checkpoint's files names files beside it; transformers joins whatever it names to the folder."""
    index = Path(source) / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():  # a single file, or a repository, whose files are fetched by their names
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise CheckpointError(f"{index} does not say which file holds which weight") from None
    for name in named:
        if not isinstance(name, str) or PurePath(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which lies outside of the checkpoint's folder")


def _named(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{shown}{more} {'are' if len(names) > 1 else 'is'}"
