"""What of a sample's record depends on its prompt: frames, edges, costs, and what tells the question from others."""

from __future__ import annotations

import os
from functools import lru_cache

from loguru import logger

from lmms_flow.engine import find_decoder, ledger
from lmms_flow.engine.both_ways import edges_of, reads_both_ways
from lmms_flow.engine.windows import edges_in_window, kept_edges_in, layer_windows
from lmms_flow.errors import FlowError, UnsupportedModelError
from lmms_flow.harness.sample import Sample
from lmms_flow.inputs.groups import EncodedPrompt
from lmms_flow.records.fields import PromptFields
from lmms_flow.records.key import digest

from .loaded import LoadedModel
from .preparing import Asked


def fields_of(loaded: LoadedModel, one: Asked, vision: int) -> PromptFields:
    """The fields of a sample's record that depend on its prompt; `vision` are the FLOPs of its vision pass."""
    frames = one.question.frames
    num_tokens = len(one.question.prompt.input_ids)
    windows = layer_windows(find_decoder(loaded.model)) or (None,) * one.arm.bound.num_layers
    full = sum(edges_in_window(num_tokens, window) for window in windows)
    kept, total = kept_edges_in(one.resolved, windows) if one.resolved else (full, full)
    if reads_both_ways(loaded.model):  # its own masks say what there is
        ((kept, total),) = edges_of(
            loaded.model, loaded.batch([one.question.prompt], [one.question.tensors]), [one.resolved]
        )
    empty = one.resolved.empty if one.resolved else ()
    layout = num_tokens if one.resolved is None or one.groups is None else one.groups.layout
    try:
        cost = ledger(loaded.model, one.arm.flow, layout, loaded.args.engine, vision=vision)
    except (FlowError, UnsupportedModelError) as error:  # an answer is right without its cost
        _warn_once(f"no FLOPs are recorded: {error}")
        cost = None
    return {
        "frames": frames.displayed if frames else (),
        "unit": _unit(one.question.prompt) if frames else "",
        "reader": frames.reader if frames else "",
        "edges_kept": kept,
        "edges_total": total,
        "flops": cost.flops if cost else None,
        "flops_full": cost.flops_full if cost else None,
        "groups_rule": one.groups.rule if one.groups else "",
        "notes": (
            *(f"{rule} cuts nothing here: a group is empty" for rule in empty),
            *(frames.notes if frames else ()),
        ),
        "prompt_digest": digest(one.question.prompt.text)[:16],
        "data_digest": loaded.data_digest(one.sample),
        "clip": loaded.clip_digest(one.sample),
        "video": _video(loaded, one.sample),
    }


def _video(loaded: LoadedModel, sample: Sample) -> str:
    """Where the file of its frames is."""
    clip = loaded.clip(sample)
    return os.path.abspath(clip.path) if clip else ""


def _unit(prompt: EncodedPrompt) -> str:
    return "frame" if prompt.unit == 1 else f"{prompt.unit} frames"


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    """What is the same for every sample of a run."""
    logger.warning(text)
