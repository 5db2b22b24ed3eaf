"""One vision pass for all arms: the same features, encoded once, and the model as it was afterwards."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from lmms_flow.engine import intervene, one_vision_pass
from tests.support.models import VIDEO_FAMILIES, tiny


def generate(model: Any, tensors: dict[str, Any], **arguments: Any) -> Any:
    with torch.no_grad():
        return model.generate(
            **tensors,
            max_new_tokens=3,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **arguments,
        )


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True))


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_the_same_pixels_are_encoded_once(family: str) -> None:
    model, make_inputs = tiny(family, attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    alone = generate(model, prompt.tensors)
    begun = time.monotonic()
    with one_vision_pass(model) as passes:
        for flow in ("none", "video:last", "none"):
            with intervene(model, flow, prompt.layout):
                shared = generate(model, {name: tensor.clone() for name, tensor in prompt.tensors.items()})
    assert (passes.run, passes.saved) == (1, 2)
    assert 0 < passes.seconds < time.monotonic() - begun
    assert passes.flops == 0, "nobody asked for them"
    assert same(alone, shared)
    assert same(alone, generate(model, prompt.tensors))
    inner = model.model
    assert not {"get_image_features", "get_video_features"} & set(vars(inner)), "the class's methods are back"


def test_beams_do_not_change_what_is_kept() -> None:
    model, make_inputs = tiny("llava", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    alone = generate(model, prompt.tensors)
    with one_vision_pass(model) as passes:
        generate(model, prompt.tensors, num_beams=2)
        assert same(alone, generate(model, prompt.tensors))
    assert passes.saved == 1


def test_other_pixels_are_encoded() -> None:
    model, make_inputs = tiny("llava", attn_implementation="sdpa")
    first, second = (make_inputs(frames=4, seed=seed) for seed in (0, 1))
    alone = generate(model, second.tensors)
    with one_vision_pass(model) as passes:
        generate(model, first.tensors)
        assert same(alone, generate(model, second.tensors))
    assert (passes.run, passes.saved) == (2, 0)


def test_a_block_within_a_block_leaves_the_outer_one_as_it_was() -> None:
    model, make_inputs = tiny("llava", attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    with one_vision_pass(model) as outer:
        with one_vision_pass(model) as inner:
            generate(model, prompt.tensors)
        generate(model, prompt.tensors)
    assert (outer.run, outer.saved, inner.run) == (1, 1, 1)


def test_an_error_in_the_block_puts_the_model_back() -> None:
    model, _ = tiny("llava")
    with pytest.raises(RuntimeError, match="stop"), one_vision_pass(model):
        raise RuntimeError("stop")
    assert "get_image_features" not in vars(model.model)


def test_a_text_model_has_no_vision() -> None:
    model, make_inputs = tiny("llama")
    prompt = make_inputs(frames=4)
    with one_vision_pass(model) as passes:
        generate(model, prompt.tensors)
    assert (passes.run, passes.saved) == (0, 0)
