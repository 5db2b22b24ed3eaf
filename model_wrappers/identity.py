"""What a loaded checkpoint is, beyond its name: nothing that was answered by another may be served for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lmms_flow.harness.sample_key import digest

PLACES = re.compile(r'"(_name_or_path|name_or_path|_commit_hash)": [^,}]*')  # where settings were loaded from


def checkpoint_identity(
    name: str, model: Any, processors: Iterable[Any], vocabulary: Mapping[str, int]
) -> str:
    """Name, commit, and a hash of weights, configurations, processors and vocabulary.

    Of each weight the first 1,024 numbers are summed up: a training moves all of them.
    """
    here = (weight.detach() for weight in model.parameters() if not weight.is_meta)  # not offloaded
    marks = [float(weight.flatten()[:1024].float().sum()) for weight in here]
    parts = [model.config, getattr(model, "generation_config", None), *processors]
    told = json.dumps([part.to_dict() for part in parts if part is not None], default=str, sort_keys=True)
    commit = getattr(model.config, "_commit_hash", None) or ""
    return f"{name}:{commit}:{digest([marks, PLACES.sub('', told), dict(vocabulary)])}"
