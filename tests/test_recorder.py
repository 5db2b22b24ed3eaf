"""Attention of chosen rows while SDPA runs: eager attention's weights in every family, or a refusal by name."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lmms_flow.engine import Baseline, UnsupportedModelError, intervene
from lmms_flow.engine.attention_rows import SdpaCall, pooled
from lmms_flow.engine.hooks import Hook
from lmms_flow.engine.recorder import states_in
from lmms_flow.errors import UserError
from lmms_flow.flow import PRESETS, Flow, FlowError
from lmms_flow.trace import VideoAttention, attention_to_video
from tests.support import odd_models
from tests.support.memory import Allocated
from tests.support.models import FAMILIES, tiny
from tests.support.odd_models import EXPERTS, LATENT, LAYOUT, text_model
from tests.support.readouts import both, eager_attention, rows_of, to_frames

EXACT = 1e-5  # of weights, fp32
TARGETS = ("question", "options", "last")
FLOW = "video:question@2-3+cross_frame@2-"


def compare(found: dict[str, Tensor], weights: Tensor, layout: Any, heads: str = "mean") -> float:
    """The largest difference from eager attention's weights [layer, head, query, key]."""
    over = (weights.mean(1) if heads == "mean" else weights.amax(1)).cpu()
    video = layout.groups["video"][0]
    worst = 0.0
    for target in TARGETS:
        rows = over[:, rows_of(layout, target)]
        worst = max(worst, float((found[f"attention.{target}"] - to_frames(rows, layout)).abs().max()))
        by_token = rows[..., video.start : video.stop].mean(1)
        assert found[f"attention.{target}.tokens"].dtype == torch.float16
        torch.testing.assert_close(
            found[f"attention.{target}.tokens"].float(), by_token, rtol=1e-3, atol=EXACT
        )
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_those_of_eager_attention(family: str) -> None:
    eager, fast, make_inputs = both(family)
    prompt = make_inputs(frames=4)
    weights = eager_attention(eager, prompt.tensors)
    for heads in ("mean", "max"):
        found = attention_to_video(fast, prompt.tensors, prompt.layout, heads=heads)
        assert compare(found, weights, prompt.layout, heads) < EXACT
    assert float(weights[..., : prompt.layout.groups["video"][0].stop].max()) > 0.1


ODD = {
    "one head of keys": ("Llama", "sdpa", {"num_key_value_heads": 1}),
    "a window": ("Mistral", "sdpa", {"sliding_window": 8}),
    "queries and keys normed": ("Qwen3Moe", "sdpa", EXPERTS),
    "latent attention": ("DeepseekV2", "sdpa", LATENT),
    "sinks and windows": ("GptOss", "eager", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    "a scale of its own": ("Granite", "sdpa", {"attention_multiplier": 0.3}),
    "fused projections": ("Phi3", "sdpa", {"sliding_window": None}),
}  # fmt: skip


def seeded(kind: str, attention: str, **sizes: Any) -> Any:
    torch.manual_seed(0)  # sinks start at random
    return text_model(kind, attention, **sizes)


@pytest.mark.parametrize("name", ODD)
def test_layouts_of_heads_windows_and_scales(name: str) -> None:
    kind, attention, sizes = ODD[name]
    inputs = odd_models.prompt()
    eager, fast = (seeded(kind, each, **sizes) for each in ("eager", attention))
    weights = eager_attention(eager, inputs)
    found = attention_to_video(fast, inputs, LAYOUT)
    assert compare(found, weights, LAYOUT) < EXACT


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2_5_vl", "llava_onevision"])
def test_under_a_flow_the_cut_edges_have_no_weight(family: str) -> None:
    """Both engines: the sparse one computes every row for a read-out."""
    eager, fast, make_inputs = both(family)
    prompt = make_inputs(frames=4)
    with intervene(eager, FLOW, prompt.layout, engine="dense"):
        weights = eager_attention(eager, prompt.tensors)
    baseline = Baseline.for_flows([Flow.load(FLOW).bind(4).resolve(prompt.layout)])
    with baseline.recording(fast), torch.no_grad():
        fast.generate(**prompt.tensors, max_new_tokens=1, do_sample=False)
    for options in ({"engine": "dense"}, {"engine": "sparse"}, {"engine": "sparse", "baseline": baseline}):
        with intervene(fast, FLOW, prompt.layout, **options):
            found = attention_to_video(fast, prompt.tensors, prompt.layout)
        assert compare(found, weights, prompt.layout) < EXACT
        assert not found["attention.question"][1:3].any()
        assert found["attention.question"][3].all()  # a window may hide the video in the first


GENERATION = ["llama", "qwen2_5_vl", "internvl", "gemma2"]


@pytest.mark.parametrize("family", GENERATION)
def test_rows_of_generated_tokens(family: str) -> None:
    eager, fast, make_inputs = both(family)
    prompt = make_inputs(frames=4)
    check_generated(eager, fast, prompt.tensors, prompt.layout)


def test_rows_of_generated_tokens_behind_a_window() -> None:
    """Its cache holds the latest keys alone: the video that it has let go of has no weight."""
    sizes = {"sliding_window": 16}
    eager, fast = (text_model("Mistral", attention, **sizes) for attention in ("eager", "sdpa"))
    weights = check_generated(eager, fast, odd_models.prompt(), LAYOUT)
    assert not weights[..., -1, 0].any()


def check_generated(eager: Any, fast: Any, inputs: dict[str, Tensor], layout: Any, new: int = 3) -> Tensor:
    """Rows of `new` generated tokens against those that eager decoding gives out."""
    with torch.no_grad():
        out = eager.generate(
            **inputs, max_new_tokens=new + 1, do_sample=False, output_attentions=True, return_dict_in_generate=True
        )  # fmt: skip
    rows = []
    for step, layers in enumerate(out.attentions[1:], 1):
        length = layout.num_tokens + step
        padded = [torch.nn.functional.pad(each[0, :, 0], (length - each.shape[-1], 0)) for each in layers]
        rows.append(to_frames(torch.stack(padded).mean(1), layout))
    expected = torch.stack(rows, 1).cpu()  # [layer, row, frame]
    found = attention_to_video(fast, inputs, layout, ["last", "generated"], new_tokens=new)
    assert found["attention.generated"].shape == (len(expected), new, len(layout.frames))
    assert float((found["attention.generated"] - expected).abs().max()) < EXACT
    assert found["generated.tokens"].tolist() == out.sequences[0, -new - 1 : -1].tolist()
    last = torch.stack([each[0, :, -1].mean(0) for each in out.attentions[0]]).cpu()
    assert float((found["attention.last"][:, 0] - to_frames(last, layout)).abs().max()) < EXACT
    return found["attention.generated"]


def test_generated_rows_under_a_flow_take_the_cuts_of_the_last_token() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    with intervene(model, "video:last@2-", prompt.layout, engine="dense"):
        found = attention_to_video(model, prompt.tensors, prompt.layout, ["generated"])
    assert not found["attention.generated"][1:].any()
    assert found["attention.generated"][0].all()


def test_rows_that_the_sparse_engine_drops_are_refused() -> None:
    model, make_inputs = tiny("llama", attn_implementation="sdpa")
    prompt = make_inputs(frames=3)
    with (
        intervene(model, "video:last@2-+video:question@2-+video:gap+video:tail", prompt.layout),
        pytest.raises(UserError, match="write engine='dense'"),
    ):
        attention_to_video(model, prompt.tensors, prompt.layout, ["generated"])
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward


def test_the_papers_prompt_takes_at_most_seven_megabytes_a_layer() -> None:
    """1,267 tokens, 32 heads of 128, half precision: what is computed for the targets' rows, and what is kept."""
    layout = PRESETS[0].layout()
    assert layout.num_tokens == 1267
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.randn(1, 32, layout.num_tokens, 128, generator=generator, dtype=torch.float32).bfloat16()
        for _ in range(2)
    )
    model = text_model()
    reader = VideoAttention()
    reader.begin(model, layout)
    with Allocated() as allocated, torch.no_grad():
        reader.attends(1, SdpaCall(query, key, None, 128**-0.5, True, None), 0)
    assert 1e6 < allocated.peak <= 7e6
    assert allocated.now < 2e5
    question = rows_of(layout, "question")
    whole = (query.float() @ key.float().mT * 128**-0.5).masked_fill(
        torch.ones(1267, 1267).triu(1).bool(), -torch.inf
    )
    expected = to_frames(whole[0].softmax(-1).mean(0)[question], layout)
    torch.testing.assert_close(reader._by_frame["question"][0][0], expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("sharing", [1, 4])
@pytest.mark.parametrize("mask", ["none", "bool", "added", "bias", "by head"])
def test_calls_of_sdpa_with_every_kind_of_mask(
    mask: str, sharing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the function itself, whose output for unit values is its weights; in chunks of one group of heads."""
    monkeypatch.setattr("lmms_flow.engine.attention_rows.CHUNK_BYTES", 1)
    generator = torch.Generator().manual_seed(1)
    heads, rows, width = 8, 7, 16
    query = torch.randn(1, heads, rows, width, generator=generator)
    key = torch.randn(1, heads // sharing, rows, width, generator=generator)
    value = torch.eye(rows)[None, None].expand(1, heads // sharing, rows, rows)
    keep = torch.rand(1, heads if mask == "by head" else 1, rows, rows, generator=generator) > 0.3
    keep |= torch.eye(rows, dtype=torch.bool)
    given: Any = {
        "bool": keep,
        "by head": keep,
        "added": torch.zeros(keep.shape).masked_fill(~keep, -torch.inf),
    }
    arguments: dict[str, Any] = {"scaling": 0.7}
    if mask == "bias":
        arguments["position_bias"] = torch.randn(1, heads, rows, rows, generator=generator)
    module: Any = torch.nn.Module()
    module.num_key_value_groups = sharing
    expected, _ = sdpa_attention_forward(module, query, key, value, given.get(mask), **arguments)
    call = SdpaCall.read(module, query, key, given.get(mask), arguments)
    chosen = torch.tensor([1, 4, 6])
    parts = list(call.of(chosen))
    assert len(parts) == heads // sharing
    torch.testing.assert_close(torch.cat(parts), expected[0].transpose(0, 1)[:, chosen])
    torch.testing.assert_close(pooled(call, chosen, "max"), torch.cat(parts).amax(0))


# What is refused, and that nothing stays behind


def registered(model: Any, name: str) -> Any:
    """The model under an attention function that somebody has registered."""
    AttentionInterface.register(name, lambda *args, **kwargs: sdpa_attention_forward(*args, **kwargs))
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)
    return model


def split(model: Any) -> Any:
    """An attention that calls the interface twice."""
    attention = model.model.layers[1].self_attn
    forward = attention.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        forward(*args, **kwargs)
        return forward(*args, **kwargs)

    attention.forward = twice
    return model


def past_the_interface(model: Any) -> Any:
    model.model.layers[1].self_attn.forward = lambda hidden_states, **kwargs: (hidden_states, None)
    return model


def trained(model: Any) -> Any:
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    return model.train()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "flex": (lambda: text_model(attn="flex_attention"), "'flex_attention': the weights of this attention can't be"),
    "own": (lambda: registered(text_model(), "lmms_flow_test_own"), "'lmms_flow_test_own': the weights"),
    "twice": (lambda: split(text_model()), "layer 2 of LlamaModel attends more than once"),
    "past": (lambda: past_the_interface(text_model()), r"layer 2 \(LlamaAttention\) does not attend through"),
    "dropout": (lambda: trained(text_model()), "under dropout"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_attention_that_cant_be_read_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    model = make()
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        attention_to_video(model, odd_models.prompt(), LAYOUT)
    assert "\n" not in str(caught.value)
    untouched(model)


def untouched(model: Any) -> None:
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward
    for part in model.modules():
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        assert not any(isinstance(hook, Hook) for hook in hooks)


def test_two_models_are_read_at_once_by_two_threads() -> None:
    """They share transformers' registry: each is told of its own calls, and the last one puts it back."""
    models = [text_model() for _ in range(2)]
    expected = attention_to_video(models[0], odd_models.prompt(), LAYOUT)["attention.last"]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for found in pool.map(
                lambda model: attention_to_video(model, odd_models.prompt(), LAYOUT), models
            ):
                assert torch.equal(found["attention.last"], expected)
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward


def test_a_read_out_inside_another_one_is_refused() -> None:
    model = text_model()
    once = model.model.layers[1].self_attn.register_forward_pre_hook(
        lambda *_: attention_to_video(model, odd_models.prompt(), LAYOUT)
    )
    with pytest.raises(FlowError, match="27 tokens were read behind the prompt at once"):
        attention_to_video(model, odd_models.prompt(), LAYOUT)
    once.remove()
    untouched(model)


def test_the_model_is_untouched_afterwards() -> None:
    model = text_model()
    before = odd_models.last(model)
    attention_to_video(model, odd_models.prompt(), LAYOUT)
    untouched(model)
    assert torch.equal(before, odd_models.last(model))
    assert model.config._attn_implementation == "sdpa"


PROMPT = odd_models.prompt()
MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a group that there isn't": ({}, {"targets": ["qestion"]}, "did you mean 'question'"),
    "a group for a list": ({}, {"targets": "question"}, r"write \['question'\]"),
    "pooling": ({}, {"heads": "men"}, "did you mean 'mean'"),
    "no new tokens": ({}, {"targets": ["generated"], "new_tokens": 0}, "1 or more"),
    "another length": ({"input_ids": PROMPT["input_ids"][:, 1:], "attention_mask": None}, {}, "26 tokens, its layout"),
    "a batch": ({"input_ids": PROMPT["input_ids"].repeat(2, 1), "attention_mask": None}, {}, "a batch of one"),
    "padding": ({"attention_mask": torch.tensor([[0] + [1] * 26])}, {}, "without padding"),
    "a cache": ({"past_key_values": object()}, {}, "leave past_key_values out"),
    "a loss": ({"labels": PROMPT["input_ids"]}, {}, "leave labels out"),
    "a mask of edges": ({"attention_mask": torch.ones(1, 1, 27, 27)}, {}, r"as \[batch, token\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(name: str) -> None:
    inputs, arguments, message = MISTAKES[name]
    with pytest.raises(FlowError, match=message) as caught:
        attention_to_video(text_model(), PROMPT | inputs, LAYOUT, **arguments)
    assert "\n" not in str(caught.value)


def test_states_are_the_first_of_what_a_decoder_gives_back() -> None:
    states = torch.zeros(1, 2, 3)
    assert states_in((states, None, ())) is states
    assert states_in(SimpleNamespace(last_hidden_state=states)) is states
    for nothing in ((), (None, states), SimpleNamespace(), None):
        with pytest.raises(UnsupportedModelError, match=f"gave a {type(nothing).__name__} back"):
            states_in(nothing)
