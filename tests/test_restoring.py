"""Edges given back in a corrupt run: the walk against one plain dense forward a number, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lmms_flow.engine import UnsupportedModelError, intervene, restore
from lmms_flow.flow import FlowError
from tests.support.models import Prompt, tiny
from tests.support.naive_maps import kept, window
from tests.support.naive_restoring import naive_restoration

TOLERANCE = 1e-5  # of a probability, fp32
KNOCKOUTS = ("cross_frame", "video:question", "video:last", "question:last", "last:last", "stem:true_option")
FAMILIES = ("llama", "qwen2_5_vl", "gemma2", "mistral", "internvl", "qwen3_vl")


def two_runs(family: str, layers: int = 4) -> tuple[Any, Prompt, dict[str, Tensor], dict[str, Tensor]]:
    """A model, a prompt, its inputs, and the same with the video backwards: pixels, or what stands for them."""
    attention = "eager" if family == "gemma2" else "sdpa"
    model, make_inputs = tiny(family, attn_implementation=attention, layers=layers)
    prompt = make_inputs(frames=4)
    clean = dict(prompt.tensors)
    pixels = [name for name, value in clean.items() if value.is_floating_point()]
    if not pixels:  # ordinary tokens stand for the video
        backwards = clean["input_ids"].clone()
        video = prompt.groups["video"]
        backwards[:, video.start : video.stop] = backwards[:, video.start : video.stop].flip(1)
        embed = model.get_input_embeddings()
        clean = {"inputs_embeds": embed(clean["input_ids"]).detach()}
        return model, prompt, clean, {"inputs_embeds": embed(backwards).detach()}
    return model, prompt, clean, clean | {name: clean[name].flip(0) * -1.5 for name in pixels}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_is_that_of_a_plain_forward(family: str) -> None:
    """In every style, also where a window is wider than the model or reaches no layer."""
    model, prompt, clean, corrupt = two_runs(family)
    with torch.no_grad():
        before = model(**clean).logits[0, -1].softmax(-1)
        after = model(**corrupt).logits[0, -1].softmax(-1)
    answer = int(before.argmax())
    worst = 0.0
    for style, width in (("center", 1), ("center", 3), ("inverse", 3), ("from_layer", 3), ("to_layer", 13)):
        found = restore(
            model,
            clean,
            corrupt,
            prompt.layout,
            KNOCKOUTS,
            window=width,
            style=style,  # type: ignore[arg-type]
            layers=(1, 3),
            candidates=[12],
        )
        assert (found.answer, found.layers) == (answer, (1, 3))
        assert found.clean == pytest.approx(float(before[answer]), rel=TOLERANCE)
        assert found.corrupt == pytest.approx(float(after[answer]), rel=1e-4)
        for k, knockout in enumerate(KNOCKOUTS):
            edges = torch.ones(prompt.num_tokens, prompt.num_tokens, dtype=torch.bool).tril() & ~kept(
                prompt, knockout
            )
            for place, centre in enumerate((0, 2)):
                logits = naive_restoration(model, clean, corrupt, edges, window(centre, 4, width, style))
                expected = logits.softmax(-1)
                worst = max(worst, abs(float(found.probabilities[k, place] - expected[answer])))
                worst = max(worst, abs(float(found.candidates[k, place, 0] - expected[12])))
                assert int(found.predictions[k, place]) == int(expected.argmax())
    print(f"{family}: largest difference {worst:.1e}")
    assert worst < TOLERANCE
    assert float((found.probabilities - found.corrupt).abs().max()) > 100 * TOLERANCE


def test_all_edges_of_the_video_given_back_bring_the_whole_answer_back() -> None:
    """What reads the video reads the clean one, in every layer: nothing is left of the corrupt run."""
    model, prompt, clean, corrupt = two_runs("llama")
    video = prompt.layout.groups["video"][0]
    behind = prompt.groups | {"system": range(video.start), "gap": range(video.stop, prompt.num_tokens - 1)}
    layout = type(prompt.layout)(
        prompt.num_tokens,
        {name: behind[name] for name in ("system", "video", "gap")}
        | {"last": range(prompt.num_tokens - 1, prompt.num_tokens)},
        prompt.frames,
    )
    through_text = restore(model, clean, corrupt, layout, ["video:gap"], window=9, style="from_layer")
    assert (
        abs(float(through_text.probabilities[0, 0] - through_text.clean)) > 1e-4
    )  # last reads the video itself
    assert through_text.brought_back.shape == (1, 4)
    points = [100 * (float(each) - through_text.corrupt) for each in through_text.probabilities[0]]
    assert through_text.brought_back[0].tolist() == pytest.approx(points, abs=1e-4)
    one = restore(model, clean, clean, layout, ["video:gap"], window=9)
    assert one.probabilities.numpy() == pytest.approx(one.clean, abs=TOLERANCE)


def test_less_memory_takes_more_walks_and_changes_nothing() -> None:
    model, prompt, clean, corrupt = two_runs("qwen2_5_vl")
    asked = model, clean, corrupt, prompt.layout, KNOCKOUTS
    whole, small = restore(*asked, window=3), restore(*asked, window=3, max_memory=1)
    torch.testing.assert_close(whole.probabilities, small.probabilities, rtol=1e-5, atol=1e-7)


def other_length(prompt: Prompt, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:, 1:] for name, value in inputs.items()}


REFUSED: dict[str, tuple[Any, str]] = {
    "another length": (lambda c: {"inputs_embeds": c["inputs_embeds"][:, 1:]}, "tokens and the corrupt one"),
    "other words": (
        lambda c: c | {"position_ids": torch.arange(5)[None]},
        "differ in position_ids: they may differ in their pixels alone",
    ),
    "a cache": (lambda c: c | {"past_key_values": object()}, "leave past_key_values out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_two_runs_that_dont_belong_together_are_refused_in_one_line(name: str) -> None:
    change, message = REFUSED[name]
    model, prompt, clean, corrupt = two_runs("llama")
    with pytest.raises(FlowError, match=message) as caught:
        restore(model, clean, change(corrupt), prompt.layout, ["video:last"])
    assert "\n" not in str(caught.value)


def test_rows_that_cant_be_run_apart_are_refused() -> None:
    model, prompt, clean, corrupt = two_runs("llama")
    handle = model.model.layers[1].register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedModelError, match="other people's hooks stand on it"):
        restore(model, clean, corrupt, prompt.layout, ["video:last"])
    handle.remove()
    flat, flat_prompt, flat_clean, flat_corrupt = two_runs("qwen3_vl", layers=2)
    with pytest.raises(UnsupportedModelError, match="visual features are added behind its last layer"):
        restore(flat, flat_clean, flat_corrupt, flat_prompt.layout, ["video:last"])
    with (
        intervene(model, "video:last", prompt.layout),
        pytest.raises(FlowError, match="inside a block of intervene"),
    ):
        restore(model, clean, corrupt, prompt.layout, ["video:last"])
