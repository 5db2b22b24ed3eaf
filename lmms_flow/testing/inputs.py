"""Checks of what a wrapper hands to its model: tokens, pixels, times, groups and frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lmms_flow.errors import SampleError
from lmms_flow.flow.layout import BASE_GROUPS
from lmms_flow.inputs.forms import FORMS, question_text

from .case import OPTIONS, QUESTION, Case
from .findings import FailedError, NotTriedError, require

# Of normalised values: what two decoders make of one frame differs by less, but for one value in 200.
PIXELS_APART, FAR_APART = 0.25, 0.005


def token_ids(case: Case) -> str:
    """Token ids are those of the processor when it reads the file itself."""
    own, ours = case.own_reading, list(case.asked.prompt.input_ids)
    theirs = [int(token) for token in own["input_ids"][0]]
    if ours != theirs:
        place = next(
            (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
        )
        where = f"from token {place} on" if place is not None else "at the end"
        raise FailedError(f"{len(ours)} tokens here, {len(theirs)} there, other ones {where}")
    return f"{len(ours)} tokens"


def beside_the_tokens(case: Case) -> str:
    """Pixels, grids, seconds and token types are those of the processor when it reads the file itself."""
    own, ours = case.own_reading, case.asked.tensors
    given = {name for name in own if name not in ("input_ids", "attention_mask")}
    missing = sorted(given - ours.keys() - {"video_metadata", "text_replacement_offsets"})
    require(not missing, f"{', '.join(missing)} are not handed to the model")
    for name in sorted(given & ours.keys()):
        _compare(name, ours[name], torch.as_tensor(own[name]))
    return ", ".join(sorted(ours))


def _compare(name: str, ours: Tensor, theirs: Tensor) -> None:
    require(ours.shape == theirs.shape, f"{name} is {list(ours.shape)}, and {list(theirs.shape)} there")
    if theirs.numel() > 64 and theirs.is_floating_point():
        far = float(((ours.float() - theirs.float()).abs() > PIXELS_APART).float().mean())
        require(far < FAR_APART, f"{100 * far:.1f} % of {name} are other values")
    else:
        close = torch.allclose(ours.double(), theirs.double(), rtol=1e-4)
        require(close, f"{name} is {_shown(ours)}, and {_shown(theirs)} there")


def _shown(values: Tensor) -> str:
    return str([round(float(value), 3) for value in values.flatten()[:6]])


def times(case: Case) -> str:
    """A clip without a frame rate is refused where the prompt or the positions depend on it, and not made up for."""
    one, other = (_told(case, case.frames.fps * factor) for factor in (1.0, 2.0))
    needed = not _equal(one, other)
    try:
        without = _told(case, math.nan)
    except SampleError:
        require(needed, "a clip without a frame rate is refused, and nothing here depends on one")
        return "the model is told times; a clip without a frame rate is refused"
    require(not needed, "a clip without a frame rate is given one that nobody stated")
    require(_equal(one, without), "a clip without a frame rate is handed over otherwise")
    return "the model is told no times"


def _told(case: Case, fps: float) -> Mapping[str, Any]:
    asked = case.with_frames(replace(case.frames, fps=fps, shown=()))
    return {"ids": torch.tensor(asked.prompt.input_ids), **asked.tensors}


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def groups(case: Case) -> str:
    """The groups partition the prompt and hold their text; the frames partition the video."""
    asked = case.asked
    layout, decode = asked.layout, case.loaded.tokenizer.decode
    at = 0
    for name in BASE_GROUPS:
        for part in layout.groups.get(name, ()):
            require(part.start == at, f"the group {name} begins at token {part.start}, not at {at}")
            at = part.stop
    require(at == layout.num_tokens, f"the groups end at token {at} of {layout.num_tokens}")
    spans = [part for frame in layout.frames for part in _parts(frame)]
    video = list(layout.groups["video"])
    joined = [token for part in spans for token in part]
    require(joined == [token for part in video for token in part], "the frames don't partition the video")
    (question,) = layout.groups["question"]
    written = decode(list(asked.prompt.input_ids[question.start : question.stop])).split()
    text = question_text(FORMS[case.loaded.form], QUESTION, OPTIONS)
    wanted = text[: text.index(OPTIONS[-1]) + len(OPTIONS[-1])].split()
    require(written == wanted, f"the question's tokens say {' '.join(written)[:80]!r}")
    around = decode([token for part in video for token in asked.prompt.input_ids[part.start : part.stop]])
    require(QUESTION not in around, "the question stands in the video's group")
    return ", ".join(f"{name} {sum(map(len, layout.groups.get(name, ())))}" for name in BASE_GROUPS)


def _parts(frame: Any) -> tuple[range, ...]:
    return (frame,) if isinstance(frame, range) else tuple(frame)


def frame_borders(case: Case) -> str:
    """A frame's pixels change its own visual tokens and no others, and every visual token is some frame's."""
    asked = case.asked
    unit, spans = asked.prompt.unit, asked.prompt.frames
    before, seen, moved = case.states(asked), set(), []
    for number in range(len(spans)):
        own = range(number * unit, min((number + 1) * unit, len(case.frames.indices)))
        require(
            bool(own), f"there are {len(spans)} units of {unit} frames, of {len(case.frames.indices)} frames"
        )
        after = case.states(case.with_frames(case.with_other_pixels(own)))
        require(after.shape == before.shape, "other pixels make another number of tokens")
        changed = (after != before).any(-1).nonzero().flatten().tolist()
        moved.append(changed)
        seen |= set(changed)
        require(bool(changed), f"the pixels of unit {number} reach no token")
    if len(spans) > 1 and all(set(changed) == seen for changed in moved):
        raise NotTriedError("the vision tower mixes all frames")
    for number, (span, changed) in enumerate(zip(spans, moved, strict=True)):
        outside = [token for token in changed if token not in span]
        require(
            not outside, f"the pixels of unit {number} change token {outside[:1]}, which is another unit's"
        )
    require(unit * len(spans) >= len(case.frames.indices), f"{len(spans)} units of {unit} frames")
    _text_around(case, seen)
    told = f"{len(spans)} frames" if unit == 1 else f"{len(spans)} units of {unit} frames"
    return f"{told}, {len(seen)} visual tokens"


def _text_around(case: Case, visual: set[int]) -> None:
    """What closes the last frame closes the others too, and opens none: a border that is off by one would show."""
    ids, tokens = case.asked.prompt.input_ids, case.loaded.tokenizer.convert_ids_to_tokens
    around = []
    for span in case.asked.prompt.frames:
        places = [place for place in span if place in visual]
        outside = range(span.start, places[0]), range(places[-1] + 1, span.stop)
        around.append([_words(tokens([ids[place] for place in part])) for part in outside])
    closing = around[-1][1]
    for number, ((_, behind), (before, _)) in enumerate(pairwise(around)):
        require(
            behind == closing[: len(behind)],
            f"unit {number} ends with {' '.join(behind)!r}, and the last one with {' '.join(closing)!r}",
        )
        more = [*behind, *before[:1]]
        require(
            not before or more != closing[: len(more)],
            f"unit {number + 1} begins with {before[:1]}, which closes the last one",
        )


def _words(tokens: Sequence[str]) -> list[str]:
    """Tokens in which numbers are alike, however many digits they have."""
    words: list[str] = []
    for token in tokens:
        plain = "0" if token.strip(" \u2581\u0120").isdigit() else token
        if plain != "0" or words[-1:] != ["0"]:
            words.append(plain)
    return words
