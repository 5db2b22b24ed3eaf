"""The reference engine: what a flow cuts is cut in every layer, nothing else is changed, and nothing stays behind."""

from __future__ import annotations

import functools
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AttentionInterface

from lmms_flow import engine
from lmms_flow.engine import (
    UnsupportedModelError,
    decoder_layers,
    find_decoder,
    keep_masks,
    require_self_check,
    self_check,
)
from lmms_flow.errors import UserError
from lmms_flow.flow import Flow, FlowError, Layout
from tests.support.layouts import random_layout
from tests.support.models import (
    DEVICE,
    FAMILIES,
    FIRST_TEXT_TOKEN,
    TEXT_FAMILIES,
    Prompt,
    join,
    text_prompt,
    tiny,
)
from tests.support.own_attention import ByHand

intervene = functools.partial(engine.intervene, engine="dense")  # this file is about the reference
LAYERS = 4
PATHWAY = 'pathway: {cross_frame: 1-2, "video:question": 1-3, "question:last": 3-4}'
FLOWS = [
    "cross_frame",
    "cross_frame@1-2",
    "video:question",
    "video:question@2-3+video:last",
    "last:last",
    "question:last@first_half+frame.0:question@second_half",
    "true_option:last@2-+stem:options@-3",
    "blind",
    "random:0.2:seed1",
    "pathway.yaml",
    "closed.yaml",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Flow]:
    """The flows of these tests, the paper's two kinds of pathway over four layers among them."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "pathway.yaml").write_text(f"layers: 4\n{PATHWAY}\n")
    (folder / "closed.yaml").write_text(f"closed: true\n{PATHWAY}\n")
    return {text: Flow.load(folder / text if text.endswith(".yaml") else text) for text in FLOWS}


@functools.cache
def model_of(family: str, attn: str = "eager") -> tuple[Any, Any]:
    return tiny(family, layers=LAYERS, attn_implementation=attn)


def runs(*families: str) -> list[tuple[str, str]]:
    """Each family with both attentions, as far as transformers has them: Gemma 2's soft cap is not in sdpa."""
    return [(family, attn) for family in families for attn in ("eager", "sdpa")[: 1 + (family != "gemma2")]]


def random_prompt(make_inputs: Any, seed: int) -> Prompt:
    rng = random.Random(seed)
    sizes = {name: rng.randint(1, 4) for name in ("system", "frames", "gap", "stem", "tail")}
    return make_inputs(**sizes | {"frames": 2 * rng.randint(1, 2), "options": 4}, seed=seed)


@torch.no_grad()
def logits(model: Any, tensors: dict[str, Tensor], **extra: Any) -> Tensor:
    return model(**tensors, **extra).logits


def difference(a: Tensor, b: Tensor) -> float:
    """The largest one, relative to the largest magnitude."""
    return float((a - b).abs().max() / b.abs().max())


def by_hand(model: Any, tensors: dict[str, Tensor], masks: Tensor, kernel: str | None = None) -> Tensor:
    with ByHand(model, masks, kernel):
        return logits(model, tensors, use_cache=False)


# A flow in the attention weights: the paper's knockout, seen


@pytest.mark.smoke
def test_the_papers_knockout_sets_exactly_its_attention_weights_to_zero() -> None:
    """video -/-> question in layers 2 and 3 of a LLaVA (section 2.2)."""
    model, make_inputs = model_of("llava")
    prompt = make_inputs()
    with intervene(model, "video:question@2-3", prompt.layout), torch.no_grad():
        weights = model(**prompt.tensors, output_attentions=True).attentions
    question, video = prompt.groups["question"], prompt.groups["video"]
    for layer, attention in enumerate(weights, 1):
        block = attention[0, :, question.start : question.stop, video.start : video.stop]
        assert bool((block == 0).all()) == (layer in (2, 3))
        assert bool((block > 0).all()) == (layer not in (2, 3))
        assert torch.allclose(attention.sum(-1), torch.ones((), device=DEVICE))


def own_mask(model: Any, num_tokens: int) -> Tensor:
    """What the model itself lets each layer see, bool [layer, query, key]: all that is earlier, or a window of it."""
    config: Any = find_decoder(model).config
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * LAYERS
    near = causal.triu(1 - config.sliding_window) if "sliding_attention" in kinds else causal
    return torch.stack([near if kind == "sliding_attention" else causal for kind in kinds])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_attention_weights_are_zero_where_cut_and_positive_where_kept(
    family: str, flows: dict[str, Any]
) -> None:
    model, make_inputs = model_of(family)
    assert len(flows) > 5
    for seed, flow in enumerate(flows.values()):
        prompt = random_prompt(make_inputs, seed)
        kept = keep_masks(flow, prompt.layout, LAYERS) & own_mask(model, prompt.num_tokens)
        with intervene(model, flow, prompt.layout), torch.no_grad():
            weights = model(**prompt.tensors, output_attentions=True).attentions
        assert len(weights) == LAYERS
        for layer, attention in enumerate(weights):
            assert torch.equal(attention[0].cpu() > 0, kept[layer].expand_as(attention[0])), (
                flow.text,
                layer + 1,
            )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_equal_attention_written_out(family: str, flows: dict[str, Any]) -> None:
    """On the layouts of real prompts, images and 3D positions included; and cutting nothing is no change at all."""
    model, make_inputs = model_of(family)
    worst = 0.0
    for seed, flow in enumerate(flows.values()):
        prompt = random_prompt(make_inputs, seed)
        masks = keep_masks(flow, prompt.layout, LAYERS)
        with intervene(model, flow, prompt.layout):
            under_flow = logits(model, prompt.tensors)
        worst = max(worst, difference(under_flow, by_hand(model, prompt.tensors, masks)))
        assert difference(under_flow, logits(model, prompt.tensors)) > 1e-3, f"{flow.text} changed nothing"
    print(f"{family}: {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_random_layouts_empty_groups_included(family: str, flows: dict[str, Any]) -> None:
    model, _ = model_of(family)
    tried, worst = 0, 0.0
    for seed in range(40):
        layout, flow = random_layout(seed), list(flows.values())[seed % len(flows)]
        try:
            masks = keep_masks(flow, layout, LAYERS)
        except (
            FlowError
        ) as error:  # an empty group: the flow has no meaning here, and the engine says the same
            same = re.escape(str(error))
            with pytest.raises(FlowError, match=same), intervene(model, flow, layout):
                pass
            continue
        tensors = text_prompt(layout, seed)
        try:
            with intervene(model, flow, layout):
                under_flow = logits(model, tensors)
        except FlowError:
            bare = ~(masks & own_mask(model, layout.num_tokens)).any(-1)
            assert bare.any(), flow.text  # nothing left of a sliding window
            continue
        worst = max(worst, difference(under_flow, by_hand(model, tensors, masks)))
        tried += 1
    assert tried > 20
    assert worst < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3", "mistral", "llava", "internvl"])
@pytest.mark.parametrize("flow", ["video:question", "cross_frame", "last:last+video:last"])
def test_one_mask_for_all_layers_equals_transformers_own_4d_mask(family: str, flow: str) -> None:
    model, make_inputs = model_of(family)
    prompt = make_inputs()
    additive = torch.zeros(1, 1, prompt.num_tokens, prompt.num_tokens, device=DEVICE)
    additive.masked_fill_(
        ~keep_masks(flow, prompt.layout, LAYERS)[0].to(DEVICE), torch.finfo(torch.float32).min
    )
    positions = torch.arange(prompt.num_tokens, device=DEVICE)[None]
    explicit = logits(
        model, prompt.tensors | {"attention_mask": additive}, position_ids=positions, use_cache=False
    )
    with intervene(model, flow, prompt.layout):
        assert difference(logits(model, prompt.tensors), explicit) < 1e-5


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma2"])
def test_sdpa_equals_eager(family: str, flows: dict[str, Any]) -> None:
    eager, make_inputs = model_of(family)
    sdpa, _ = model_of(family, "sdpa")
    for flow in (flows["pathway.yaml"], flows["random:0.2:seed1"]):
        prompt = make_inputs()
        found = []
        for model in (eager, sdpa):
            with intervene(model, flow, prompt.layout):
                found.append(logits(model, prompt.tensors))
        assert difference(*found) < 1e-5


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_5_vl"])
def test_bfloat16(family: str, attn: str, flows: dict[str, Any]) -> None:
    model, make_inputs = tiny(family, layers=LAYERS, attn_implementation=attn)
    model.to(torch.bfloat16)
    prompt = make_inputs()
    tensors = {k: v.bfloat16() if v.is_floating_point() else v for k, v in prompt.tensors.items()}
    worst = 0.0
    for flow in flows.values():
        masks = keep_masks(flow, prompt.layout, LAYERS)
        with intervene(model, flow, prompt.layout):
            under_flow = logits(model, tensors)
        explicit = by_hand(model, tensors, masks, kernel=attn)  # another kernel would round otherwise
        worst = max(worst, difference(under_flow.float(), explicit.float()))
    print(f"bfloat16, {family}, {attn}: {worst:.1e}")
    assert worst < 1e-2


# Controls


@pytest.mark.parametrize(("family", "attn"), runs("llama", "gemma2", "llava", "qwen2_5_vl"))
def test_sham_goes_through_masks_and_changes_no_more_than_rounding(family: str, attn: str) -> None:
    model, make_inputs = model_of(family, attn)
    prompt = make_inputs()
    seen: list[Any] = []
    attention: Any = decoder_layers(find_decoder(model))[0].self_attn
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with intervene(model, "sham", prompt.layout):
        sham = logits(model, prompt.tensors)
    hook.remove()
    assert isinstance(seen[0], Tensor)
    found = difference(sham, logits(model, prompt.tensors))
    print(f"sham, {family}, {attn}: {found:.1e}")
    assert found < 1e-5


def test_a_random_control_cuts_other_edges_with_every_seed_and_the_same_with_the_same() -> None:
    model, make_inputs = model_of("llama")
    prompt = make_inputs()
    found = []
    for text in ("random:0.2:seed1", "random:0.2:seed1", "random:0.2:seed2"):
        with intervene(model, text, prompt.layout):
            found.append(logits(model, prompt.tensors))
    assert torch.equal(found[0], found[1])
    assert difference(found[0], found[2]) > 1e-3


# Noise


@pytest.mark.parametrize("family", ["llama", "qwen2", "llava", "qwen2_5_vl", "internvl"])
def test_noise_in_rows_that_are_cut_off_leaves_the_last_logits_bit_for_bit(family: str) -> None:
    model, make_inputs = model_of(family)
    prompt = make_inputs()
    video = prompt.groups["video"]
    embeddings = model.get_input_embeddings()(prompt.tensors["input_ids"]).detach()
    noisy = embeddings.clone()
    noisy[:, video.start : video.stop] += torch.randn(1, len(video), embeddings.shape[-1], device=DEVICE)

    def last(flow: str, inputs: Tensor) -> Tensor:
        with intervene(model, flow, prompt.layout), torch.no_grad():
            hidden = find_decoder(model)(inputs_embeds=inputs).last_hidden_state
        return model.lm_head(hidden[0, -1])

    assert torch.equal(last("blind", embeddings), last("blind", noisy))
    assert not torch.equal(last("none", embeddings), last("none", noisy))
    almost = "video:gap+video:question+video:tail@2-+video:last"  # one group open in one layer
    assert not torch.equal(last(almost, embeddings), last(almost, noisy))


# Decoding


def greedy_by_hand(
    model: Any, tensors: dict[str, Tensor], flow: Flow, layout: Layout, steps: int
) -> list[int]:
    """Greedy tokens without a cache: the whole sequence anew for each, under the prompt's masks grown by a row."""
    prompt_masks, num_tokens = keep_masks(flow, layout, LAYERS), layout.num_tokens
    ids, answer = tensors["input_ids"], []
    for step in range(steps):
        size = num_tokens + step
        masks = torch.ones(LAYERS, size, size, dtype=torch.bool).tril()
        masks[:, :num_tokens, :num_tokens] = prompt_masks
        masks[:, num_tokens:, :num_tokens] = prompt_masks[:, -1:, :]  # as the last prompt token
        row = tensors | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in tensors:
            kinds = tensors["mm_token_type_ids"]
            row["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, step))
        scores = by_hand(model, row, masks)[0, -1]
        answer.append(FIRST_TEXT_TOKEN + int(scores[FIRST_TEXT_TOKEN:].argmax()))
        ids = torch.cat([ids, torch.tensor([[answer[-1]]], device=DEVICE)], dim=1)
    return answer


def greedy(model: Any, tensors: dict[str, Tensor], steps: int = 16, **extra: Any) -> Tensor:
    """The new tokens alone, [batch, step]; random weights would else write placeholders of videos."""
    reserved = list(range(FIRST_TEXT_TOKEN))
    out = model.generate(**tensors, max_new_tokens=steps, do_sample=False, suppress_tokens=reserved, **extra)
    return out[:, tensors["input_ids"].shape[1] :]


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "llava", "llava_next_video", "qwen2_5_vl"])
def test_sixteen_greedy_tokens_with_a_cache_equal_those_without(
    family: str, attn: str, flows: dict[str, Any]
) -> None:
    model, make_inputs = model_of(family, attn)
    prompt = make_inputs()
    changed = 0
    for text in ("video:question@2-3+video:last", "last:last", "pathway.yaml"):
        with intervene(model, flows[text], prompt.layout):
            found = greedy(model, prompt.tensors)[0].tolist()
        assert found == greedy_by_hand(model, prompt.tensors, flows[text], prompt.layout, 16), text
        changed += found != greedy(model, prompt.tensors)[0].tolist()
    assert changed


def test_generated_tokens_take_the_cuts_of_last_and_see_one_another() -> None:
    model, make_inputs = model_of("llama")
    prompt = make_inputs()
    last, video = prompt.num_tokens - 1, prompt.groups["video"]
    with intervene(model, "video:last@1-2+last:last", prompt.layout), torch.no_grad():
        out = model.generate(
            **prompt.tensors,
            max_new_tokens=4,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    for step, layers in enumerate(out.attentions[1:], 1):  # the first is the prompt's own
        for layer, attention in enumerate(layers, 1):
            row = attention[0, :, -1]
            assert row.shape[-1] == prompt.num_tokens + step
            cut = {last, *(video if layer <= 2 else ())}
            kept = [key for key in range(row.shape[-1]) if key not in cut]
            assert bool((row[:, sorted(cut)] == 0).all())
            assert bool((row[:, kept] > 0).all())


# Batches


def four_prompts(make_inputs: Any) -> list[Prompt]:
    sizes = [{"stem": 2}, {"stem": 7, "gap": 1}, {"system": 6, "tail": 4}, {"options": 8}]
    return [make_inputs(seed=seed, **each) for seed, each in enumerate(sizes)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("family", "attn"), runs("llama", "gemma2", "llava", "qwen2_5_vl"))
def test_a_padded_batch_equals_single_runs(family: str, attn: str, side: str, flows: dict[str, Any]) -> None:
    model, make_inputs = model_of(family, attn)
    prompts = four_prompts(make_inputs)
    batch, layouts = join(prompts, side), [prompt.layout for prompt in prompts]
    extra = {}
    if "mm_token_type_ids" not in batch:  # as generate() does; 3D positions are the model's own business
        extra["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    worst = 0.0
    for flow in flows.values():
        with intervene(model, flow, layouts):
            together = logits(model, batch, **extra)
        for row, prompt in enumerate(prompts):
            with intervene(model, flow, prompt.layout):
                alone = logits(model, prompt.tensors)[0]
            found = together[row, batch["attention_mask"][row].bool()]
            worst = max(worst, difference(found, alone))
    print(f"batch of four, {family}, {attn}, {side}: {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.parametrize(("family", "attn"), runs("llama", "gemma2", "llava", "qwen2_5_vl"))
def test_a_batch_decodes_as_single_runs(family: str, attn: str, flows: dict[str, Any]) -> None:
    model, make_inputs = model_of(family, attn)
    prompts = four_prompts(make_inputs)
    for text in ("video:question@2-3+video:last", "pathway.yaml", "random:0.2:seed1"):
        with intervene(model, flows[text], [prompt.layout for prompt in prompts]):
            together = greedy(model, join(prompts), 8)
        for row, prompt in enumerate(prompts):
            with intervene(model, flows[text], prompt.layout):
                assert greedy(model, prompt.tensors, 8)[0].tolist() == together[row].tolist()


def test_beams_share_the_layout_of_their_prompt(flows: dict[str, Any]) -> None:
    """The scores too: they would show a layout that is another prompt's."""
    model, make_inputs = model_of("llama")
    prompts, flow = four_prompts(make_inputs), flows["closed.yaml"]

    def beams(tensors: dict[str, Tensor]) -> Any:
        settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "do_sample": False}
        return model.generate(**tensors, **settings, return_dict_in_generate=True, output_scores=True)

    with intervene(model, flow, [prompt.layout for prompt in prompts]):
        together = beams(join(prompts))
    for row, prompt in enumerate(prompts):
        with intervene(model, flow, prompt.layout):
            alone = beams(prompt.tensors)
        rows = slice(2 * row, 2 * row + 2)
        assert torch.equal(alone.sequences[:, -6:], together.sequences[rows, -6:])
        assert torch.allclose(alone.sequences_scores, together.sequences_scores[rows], rtol=1e-5)


# Sliding windows


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_sliding_window_stays_and_the_cuts_come_on_top(attn: str) -> None:
    """A window of 8 over prompts of 30 tokens, in the prompt and while 12 tokens are decoded."""
    config = transformers.MistralConfig(
        **model_of("mistral")[0].config.to_dict() | {"sliding_window": 8, "num_hidden_layers": LAYERS}
    )
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM._from_config(config, attn_implementation=attn).to(DEVICE).eval()
    model.load_state_dict(model_of("mistral")[0].state_dict())
    model.generation_config.eos_token_id = None
    _, make_inputs = model_of("mistral")
    prompt = make_inputs()
    flow = Flow.load("cross_frame+question:last@2-3")
    masks = keep_masks(flow, prompt.layout, LAYERS)
    expected = by_hand(model, prompt.tensors, masks)
    with intervene(model, flow, prompt.layout):
        assert difference(logits(model, prompt.tensors), expected) < 1e-5
        found = greedy(model, prompt.tensors, 12)[0].tolist()
    assert found == greedy_by_hand(model, prompt.tensors, flow, prompt.layout, 12)


def test_a_row_that_window_and_flow_leave_without_keys_is_an_error() -> None:
    """Else its softmax is uniform over all tokens, later ones included."""
    model, make_inputs = model_of("gemma2")
    prompt = make_inputs(frames=6)  # the system text is out of the window's reach
    window_hides = pytest.raises(FlowError, match=r"token \d+ without any key in layer 1: .*window")
    with intervene(model, "video:video", prompt.layout), window_hides:
        logits(model, prompt.tensors)


# Hooks


def hooks_of(model: Any) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_5_vl"])
def test_after_the_block_the_model_is_what_it_was(family: str) -> None:
    model, make_inputs = model_of(family)
    prompt = make_inputs()
    original = logits(model, prompt.tensors)
    before = hooks_of(model)  # after a first run: transformers adds its own hooks when they are needed
    with intervene(model, "blind", prompt.layout):
        assert hooks_of(model) > before
        assert not torch.equal(logits(model, prompt.tensors), original)
    assert hooks_of(model) == before
    assert torch.equal(logits(model, prompt.tensors), original)


def test_hooks_come_off_when_the_body_raises() -> None:
    model, make_inputs = model_of("llama")
    prompt, before = make_inputs(), hooks_of(model)
    with pytest.raises(KeyboardInterrupt), intervene(model, "blind", prompt.layout):
        raise KeyboardInterrupt
    assert hooks_of(model) == before


def test_hooks_come_off_when_entering_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, make_inputs = model_of("llama")
    prompt, before = make_inputs(), hooks_of(model)
    with intervene(
        model, "blind", prompt.layout
    ):  # the model's class is tried out once, before anything is broken
        pass
    third = decoder_layers(find_decoder(model))[2]

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no more hooks")

    monkeypatch.setattr(third, "register_forward_pre_hook", fail)
    with pytest.raises(RuntimeError, match="no more hooks"), intervene(model, "blind", prompt.layout):
        pass
    assert hooks_of(model) == before


def test_blocks_follow_one_another_and_nest() -> None:
    """Nested flows cut what either cuts."""
    model, make_inputs = model_of("llama")
    prompt = make_inputs()
    results = {}
    for text in ("video:question", "video:last", "video:question+video:last"):
        with intervene(model, text, prompt.layout):
            results[text] = logits(model, prompt.tensors)
    with intervene(model, "video:question", prompt.layout):
        with intervene(model, "video:last", prompt.layout):
            both = logits(model, prompt.tensors)
        assert torch.equal(logits(model, prompt.tensors), results["video:question"])
    assert torch.equal(both, results["video:question+video:last"])


def test_none_leaves_the_model_alone() -> None:
    model, make_inputs = model_of("llama")
    prompt, before = make_inputs(), hooks_of(model)
    with intervene(model, "none", prompt.layout):
        assert hooks_of(model) == before


# Refusals


def refuses(model: Any, layout: Any, flow: str = "blind", **arguments: Any) -> str:
    with pytest.raises(UserError) as refused, intervene(model, flow, layout, **arguments):
        pass
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("attn", ["flash_attention_2", "flex_attention"])
def test_kernels_without_single_edges_are_refused(attn: str) -> None:
    model, make_inputs = tiny("llama", layers=2)
    model.config._attn_implementation = attn
    message = refuses(model, make_inputs().layout)
    assert "LlamaForCausalLM" in message
    assert repr(attn) in message


@pytest.fixture
def own_attention() -> Any:
    """An attention function of a user's own, registered without its mask twin: its mask is None, silently."""
    name = "lmms_flow_test_without_twin"

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None and query.shape[2] > 1, enable_gqa=True
        )
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)
    yield name
    del AttentionInterface._global_mapping[name]


def test_an_attention_function_without_its_mask_twin_is_refused(own_attention: str) -> None:
    model, make_inputs = tiny("llama", layers=2)
    model.set_attn_implementation(own_attention)
    message = refuses(model, make_inputs().layout)
    assert own_attention in message
    assert "AttentionMaskInterface.register" in message
    with pytest.raises(UnsupportedModelError, match="mask function"):
        require_self_check(model)


def test_an_attention_function_with_its_twin_runs(own_attention: str) -> None:
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    model, make_inputs = tiny("llama", layers=LAYERS)
    prompt = make_inputs()
    AttentionMaskInterface.register(own_attention, sdpa_mask)
    try:
        model.set_attn_implementation(own_attention)
        require_self_check(model)
        with intervene(model, "cross_frame", prompt.layout):
            found = logits(model, prompt.tensors)
    finally:
        del AttentionMaskInterface._global_mapping[own_attention]
    masks = keep_masks("cross_frame", prompt.layout, LAYERS)
    assert difference(found, by_hand(model, prompt.tensors, masks)) < 1e-5


def test_a_layer_given_no_mask_is_refused() -> None:
    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = torch.nn.Linear(4, 4)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Positional()])

        def forward(self, inputs_embeds: Tensor, attention_mask: Any = None, cache: Any = None) -> Tensor:
            return self.layers[0](inputs_embeds)

    _, make_inputs = model_of("llama")
    prompt = make_inputs()
    no_mask = pytest.raises(UnsupportedModelError, match="Positional takes no attention_mask")
    with no_mask, intervene(Decoder(), "blind", prompt.layout):
        pass


def test_lengths_and_numbers_of_layouts_must_fit() -> None:
    model, make_inputs = model_of("llama")
    prompts = four_prompts(make_inputs)
    batch, layouts = join(prompts), [prompt.layout for prompt in prompts]
    for wrong, message in [
        (layouts[::-1], r"sample 0 of the batch has a prompt of 30 tokens, its layout has 35"),
        (layouts[:3], "3 layouts were given for a batch of 4"),
    ]:
        with intervene(model, "blind", wrong), pytest.raises(FlowError, match=message):
            logits(model, batch)
    assert "layout" in refuses(model, [])


def test_a_cache_from_another_prompt_is_refused() -> None:
    """A shorter one: its rows would be taken for other tokens than they are."""
    model, make_inputs = model_of("llama")
    prompt = make_inputs()
    with torch.no_grad():
        cache = model(prompt.tensors["input_ids"][:, :10], use_cache=True).past_key_values
        with intervene(model, "blind", prompt.layout), pytest.raises(FlowError, match="its layout has"):
            model(prompt.tensors["input_ids"][:, 10:12], past_key_values=cache)


def test_a_static_cache_is_refused() -> None:
    model, make_inputs = model_of("llama")
    prompt = make_inputs()
    with intervene(model, "blind", prompt.layout), pytest.raises(FlowError, match="dynamic key/value cache"):
        greedy(model, prompt.tensors, 2, cache_implementation="static", disable_compile=True)


def test_the_mask_may_be_given_by_position() -> None:
    model, make_inputs = model_of("llama")
    prompts = four_prompts(make_inputs)[:2]
    batch, layouts = join(prompts), [prompt.layout for prompt in prompts]
    decoder = find_decoder(model)
    with intervene(model, "blind", layouts), torch.no_grad():
        by_name = decoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        by_place = decoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    assert torch.equal(by_name, by_place)


def test_an_unknown_engine_is_refused_with_the_nearest() -> None:
    model, make_inputs = model_of("llama")
    assert "did you mean 'dense'?" in refuses(model, make_inputs().layout, engine="dens")


def test_a_model_without_decoder_layers_is_refused_by_name() -> None:
    _, make_inputs = model_of("llama")
    message = refuses(torch.nn.Linear(2, 2), make_inputs().layout)
    assert message.startswith("Linear has no decoder")


# The self-check


@pytest.mark.parametrize(("family", "attn"), runs(*FAMILIES))
def test_every_family_passes_the_self_check(family: str, attn: str) -> None:
    model, _ = model_of(family, attn)
    assert [check for check in require_self_check(model) if not check.passed] == []


def test_what_a_model_remembers_of_another_batch_is_left_alone() -> None:
    """Qwen-VL keeps the shift of its positions, [sample, 1], from the prompt that it read last."""
    model, _ = tiny("qwen2_vl", layers=LAYERS, attn_implementation="sdpa")
    before = torch.tensor([[3], [5]], device=DEVICE)
    model.model.rope_deltas = before
    require_self_check(model)
    assert model.model.rope_deltas is before


@pytest.mark.parametrize("layer", [0, 2, LAYERS - 1])
@pytest.mark.parametrize("stage", ["prefill", "decoding"])
def test_a_single_layer_that_ignores_its_mask_fails_the_self_check(
    layer: int, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tiny("llama", layers=LAYERS, attn_implementation="sdpa")
    attention: Any = decoder_layers(find_decoder(model))[layer].self_attn
    original = attention.forward

    def deaf(hidden_states: Tensor, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        drop = (hidden_states.shape[1] > 1) == (stage == "prefill")
        return original(hidden_states, *args, attention_mask=None if drop else attention_mask, **kwargs)

    monkeypatch.setattr(attention, "forward", deaf)
    failed = [check.name for check in self_check(model) if not check.passed]
    assert failed
    assert all(name.startswith(stage) for name in failed) or stage == "prefill"
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM \(sdpa attention\) failed"):
        require_self_check(model)


def test_kernels_that_round_differently_under_a_mask_pass_the_self_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU in bfloat16, where the masked kernel is another one; a model of random weights is no exception."""
    model, _ = tiny("llama", layers=LAYERS, attn_implementation="sdpa")
    attentions: list[Any] = [layer.self_attn for layer in decoder_layers(find_decoder(model))]
    for attention in attentions:

        def coarse(
            hidden_states: Tensor, *args: Any, original: Any = attention.forward, **kwargs: Any
        ) -> Any:
            out, weights = original(hidden_states, *args, **kwargs)
            return out if kwargs["attention_mask"] is None else 1.00002 * out, weights

        monkeypatch.setattr(attention, "forward", coarse)
    assert require_self_check(model)


def test_the_self_check_changes_nothing() -> None:
    model, make_inputs = model_of("llava")
    prompt = make_inputs()
    original = logits(model, prompt.tensors)
    before = hooks_of(model)  # after a first run: transformers adds its own hooks when they are needed
    assert require_self_check(model)
    assert hooks_of(model) == before
    assert torch.equal(logits(model, prompt.tensors), original)
    assert all(parameter.grad is None for parameter in model.parameters())


# Imports


def test_the_engine_needs_no_lmms_eval_and_flow_no_torch() -> None:
    code = (
        "import sys; sys.modules['lmms_eval'] = None; import lmms_flow.flow; assert 'torch' not in sys.modules\n"
        "import lmms_flow.engine; print(sorted(n for n in sys.modules if n.startswith('lmms_flow.harness')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr[-1000:]
