"""What a model's own window hides no flow can cut: counted within it, and refused where nothing is left to cut."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from lmms_flow.engine import intervene, keep_masks, restore, sweep
from lmms_flow.engine.windows import edges_in_window, kept_edges_in, layer_windows
from lmms_flow.flow import Flow, FlowError
from tests.support.odd_models import LAYERS, LAYOUT, LENGTH, by_hand, last, off, prompt, text_model

WINDOW = 8


def windowed(attn: str = "sdpa", **sizes: Any) -> Any:
    return text_model("Mistral", attn, sliding_window=WINDOW, **sizes)


@pytest.mark.parametrize("flow", ["video:last", "system:last", "system:tail@2", "frame.0:question@1-3"])
@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_a_flow_whose_keys_the_window_hides_cuts_nothing(flow: str, engine: str) -> None:
    hides = pytest.raises(FlowError, match=r"cuts nothing in this prompt: .*window of 8 tokens")
    with hides, intervene(windowed(), flow, LAYOUT, engine=engine):
        pass
    with hides:
        sweep(windowed(), prompt(), LAYOUT, [flow.partition("@")[0]])


def test_one_that_cuts_in_the_full_layers_of_a_mixed_model_runs() -> None:
    model = text_model("Gemma2", "eager", sliding_window=WINDOW)
    kinds = layer_windows(model.model)
    assert set(kinds) == {WINDOW, None}
    full = kinds.index(None) + 1
    with intervene(model, f"video:last@{full}", LAYOUT):
        assert off(last(model), by_hand(model, f"video:last@{full}")) < 1e-5
    sliding = kinds.index(WINDOW) + 1
    with pytest.raises(FlowError, match="cuts nothing"), intervene(model, f"video:last@{sliding}", LAYOUT):
        pass


@pytest.mark.parametrize("text", ["blind", "video:question@2", "cross_frame", "random:0.2:seed1", "sham"])
@pytest.mark.parametrize("window", [1, 5, 8, 26, 27, 100])
def test_edges_are_counted_within_the_window(text: str, window: int) -> None:
    windows = (window, None, window, None)
    flow = Flow.load(text)
    seen = [LENGTH if each is None else each for each in windows]
    masks = keep_masks(flow, LAYOUT, LAYERS)
    kept = sum(int(mask.triu(1 - size).sum()) for mask, size in zip(masks, seen, strict=True))
    total = sum(edges_in_window(LENGTH, each) for each in windows)
    assert kept_edges_in(flow.bind(LAYERS).resolve(LAYOUT), windows) == (kept, total)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("memory", [2 << 30, 1])
def test_a_sweep_refuses_a_row_that_window_and_knockout_leave_without_keys(attn: str, memory: int) -> None:
    bare = pytest.raises(FlowError, match=r"leaves token \d+ without any key in layer 1: .*window")
    with bare:
        sweep(windowed(attn), prompt(), LAYOUT, ["video:video"], window=1, max_memory=memory)
    model = windowed(attn)
    with (
        intervene(model, "video:video@1", LAYOUT),
        pytest.raises(FlowError, match="without any key in layer 1"),
    ):
        last(model)


def test_a_window_is_the_papers_nine_layers_unless_said_otherwise() -> None:
    for function in (sweep, restore):
        assert inspect.signature(function).parameters["window"].default == 9
