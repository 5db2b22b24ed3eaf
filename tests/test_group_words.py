"""Frames counted from either end, the group `text`, `intra_frame`, and rules of several ranges."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
import torch

from lmms_flow.claims.book import claim_arms
from lmms_flow.engine import sweep
from lmms_flow.engine.masks import keep_masks
from lmms_flow.flow import Flow, FlowError, Layout
from tests.support.engines import TOLERANCE, difference, run
from tests.support.layouts import random_layout
from tests.support.models import join, tiny

LAYERS = 6
TEXT = ("gap", "question", "tail", "last")


Cut = Callable[[Layout], np.ndarray]  # bool [query, key]


def members(layout: Layout, name: str) -> np.ndarray:
    """Whether each token is in a group, bool [token], by what docs/language.md says."""
    if name == "text":
        return np.any([members(layout, group) for group in TEXT], axis=0)
    if name.startswith("frame."):
        number = {"first": 0, "last": len(layout.frames) - 1}.get(name[6:])
        tokens = set(layout.frames[int(name[6:]) if number is None else number])
    else:
        tokens = {token for part in layout.groups[name] for token in part}
    return np.array([token in tokens for token in range(layout.num_tokens)])


def frame_of(layout: Layout) -> np.ndarray:
    """The number of each token's frame, -1 outside the video, [token]."""
    found = [[n for n, frame in enumerate(layout.frames) if t in frame] for t in range(layout.num_tokens)]
    return np.array([numbers[0] if numbers else -1 for numbers in found])


def pairs(source: str, target: str) -> Cut:
    return lambda layout: members(layout, target)[:, None] & members(layout, source)


def within(layout: Layout) -> np.ndarray:
    frame = frame_of(layout)
    return (frame[:, None] == frame) & (frame >= 0) & ~np.eye(layout.num_tokens, dtype=bool)


def across(layout: Layout) -> np.ndarray:
    frame = frame_of(layout)
    return (frame[:, None] > frame) & (frame >= 0)


blind = pairs("video", "text")


EVERYWHERE = set(range(1, LAYERS + 1))
# What is written, and its cuts: the layers, and which query's reading of which key is cut there.
WRITTEN: dict[str, list[tuple[set[int], Cut]]] = {
    "intra_frame": [(EVERYWHERE, within)],
    "intra_frame@2-3+cross_frame@-4": [({2, 3}, within), ({1, 2, 3, 4}, across)],
    "frame.last:last": [(EVERYWHERE, pairs("frame.last", "last"))],
    "frame.first:frame.last@5-": [({5, 6}, pairs("frame.0", "frame.last"))],
    "frame.-2:text": [(EVERYWHERE, pairs("frame.-2", "text"))],
    "video:frame.last": [(EVERYWHERE, pairs("video", "frame.last"))],
    "video:text@1-2/5": [({1, 2, 5}, pairs("video", "text"))],
    "cross_frame": [(EVERYWHERE, across)],
    "cross_frame@first_half": [({1, 2, 3}, across)],
    "cross_frame@second_half": [({4, 5, 6}, across)],
    "video:question": [(EVERYWHERE, pairs("video", "question"))],
    "video:last": [(EVERYWHERE, pairs("video", "last"))],
    "video:text": [(EVERYWHERE, blind)],
    "frame.last:text": [(EVERYWHERE, pairs("frame.last", "text"))],
    "frame.first:text": [(EVERYWHERE, pairs("frame.0", "text"))],
    "blind@second_half": [({4, 5, 6}, blind)],
    "text:last@3": [({3}, pairs("text", "last"))],
    "text:text@1/3/5-6": [({1, 3, 5, 6}, pairs("text", "text"))],
    "blind@4-": [({4, 5, 6}, blind)],
    "blind@first_half/6+frame.last:question": [
        ({1, 2, 3, 6}, blind),
        (EVERYWHERE, pairs("frame.last", "question")),
    ],
}


def naive(layout: Layout, text: str, layer: int) -> np.ndarray:
    """What is kept in a layer, bool [query, key]."""
    cuts = [cut(layout) for layers, cut in WRITTEN[text] if layer in layers]
    return np.tri(layout.num_tokens, dtype=bool) & ~np.any(
        [np.zeros((layout.num_tokens,) * 2, bool), *cuts], axis=0
    )


@pytest.mark.parametrize("text", WRITTEN)
def test_masks_and_counts_equal_a_naive_builder_on_random_layouts(text: str) -> None:
    compared, seeds = 0, count()
    while compared < 1000:
        layout = random_layout(seed := next(seeds))
        assert seed < 3000
        try:
            masks = keep_masks(Flow.load(text), layout, LAYERS).numpy()
        except FlowError:
            continue  # this prompt has nothing to cut there, or a token would be left without any key
        kept = 0
        for layer in range(1, LAYERS + 1):
            want = naive(layout, text, layer)
            assert np.array_equal(masks[layer - 1], want), (seed, layer)
            kept += int(want.sum())
        assert Flow.load(text).kept_edges(layout, LAYERS)[0] == kept, seed
        compared += 1


def test_every_cut_of_a_claim_is_among_them() -> None:
    """Pathways and the random control have such tests of their own (tests/test_flow.py)."""
    cuts = {arm.flow for arm in claim_arms() if Flow.load(arm.flow, checkpoint="flow-tiny").kind == "cuts"}
    assert len(cuts) > 8
    assert cuts <= set(WRITTEN)


def test_one_spelling_a_group() -> None:
    for one, other in (
        ("frame.first:last", "frame.0:last"),
        ("frame.-1:last", "frame.last:last"),
        ("video:last@1-2/3", "video:last@1-3"),
        ("blind@1-6", "blind"),
    ):
        assert Flow.load(one).bind(LAYERS).digest == Flow.load(other).bind(LAYERS).digest
    assert Flow.load("frame.-1:last").bind(LAYERS).digest != Flow.load("frame.-2:last").bind(LAYERS).digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text:video", "no token of 'video' ever reads 'text'"),
        ("frame.-1:frame.-2", "write frame.-2:frame.-1"),
        ("frame.-0:last", "did you mean 'frame.0'"),
        ("txt:last", "did you mean 'text'"),
        ("intraframe", "did you mean 'intra_frame'"),
        ("intra_frame:last", "write cross_frame, intra_frame or source:target"),
        ("blind+cross_frame", "write blind@all to join it"),
        ("blind@", "layers are missing after '@'"),
        ("video:last@1-2/", "layers '' are not a range"),
        ("video:last@1-2/9", "layer 9 does not exist, the model has layers 1-6"),
        ("frame.-9:last", "group 'frame.-9' does not exist: this prompt has 4 frames"),
        ("frame.last:frame.1", "no token of 'frame.1' ever reads 'frame.last'"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    _, make = tiny("llama", layers=1)
    with pytest.raises(FlowError) as error:
        Flow.load(text).bind(LAYERS).resolve(make(frames=4).layout)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_layout_is_not_given_what_follows_from_it() -> None:
    with pytest.raises(FlowError, match="no group 'text' to be given"):
        Layout(3, {"question": range(2), "text": range(3), "last": range(2, 3)})


@pytest.mark.parametrize(("family", "attention"), [("llama", "sdpa"), ("qwen2", "sdpa"), ("phi3", "eager")])
def test_both_engines_and_the_sweep_know_them(family: str, attention: str) -> None:
    model, make = tiny(family, layers=LAYERS, attn_implementation=attention)
    prompts = [make(frames=3 + i, system=2 + i, tail=2, seed=i) for i in range(2)]
    batch, layouts = join(prompts), [prompt.layout for prompt in prompts]
    for text in WRITTEN:
        flow = Flow.load(text)
        for tensors, layout in ((batch, layouts), (prompts[0].tensors, layouts[0])):
            dense = run(model, tensors, flow, layout, "dense", new=3)
            sparse = run(model, tensors, flow, layout, "sparse", new=3)
            for a, b in zip((dense[0], *dense[1].logits), (sparse[0], *sparse[1].logits), strict=True):
                assert difference(a, b) < TOLERANCE, text
    one = prompts[0]
    knockouts = ("intra_frame", "frame.last:last", "video:text", "text:last")
    swept = sweep(model, one.tensors, one.layout, knockouts, window=3)
    for place, knockout in enumerate(knockouts):
        for centre in range(1, LAYERS + 1):
            layers = f"{max(1, centre - 1)}-{min(LAYERS, centre + 1)}"
            logits = run(model, one.tensors, Flow.load(f"{knockout}@{layers}"), one.layout, "dense", new=1)[0]
            wanted = logits[0].softmax(-1)[int(swept.answer)]
            torch.testing.assert_close(
                swept.probabilities[place, centre - 1], wanted, rtol=1e-4, atol=TOLERANCE
            )


def test_cut_within_frames_a_token_still_reads_itself() -> None:
    """So that no row is left without keys, also in a prompt that begins with the video."""
    layout = Layout(
        10, {"video": range(8), "question": range(8, 9), "last": range(9, 10)}, [range(4), range(4, 8)]
    )
    (first, *_) = keep_masks(Flow.load("intra_frame+cross_frame"), layout, 1)
    assert torch.equal(first[:8, :8], torch.eye(8, dtype=torch.bool))
    assert Flow.load("intra_frame").leaks(layout, 2)[0].steps == (("video", 0), ("last", 1))
