"""Training under a flow: the prompt and its answer in one forward, and gradients through the cuts."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmms_flow.engine import UnsupportedModelError, intervene, keep_masks
from lmms_flow.flow import Flow, FlowError, Layout
from tests.support.models import FIRST_TEXT_TOKEN, VOCABULARY, Prompt, join, tiny
from tests.support.own_attention import ByHand

LAYERS = 4
FLOW = "video:question@1-2+video:last+last:last+question:last@3-"
TOLERANCE = 1e-5


def answer(length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_TEXT_TOKEN, VOCABULARY, (1, length), generator=generator)


def followed(tensors: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """What a prompt's model is called with, the answer's tokens behind the prompt's."""
    longer = dict(tensors)
    longer["input_ids"] = torch.cat([tensors["input_ids"], tokens], 1)
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    if "mm_token_type_ids" in tensors:  # which tokens are text, image or video
        longer["mm_token_type_ids"] = F.pad(tensors["mm_token_type_ids"], (0, tokens.shape[1]))
    return longer


def plain_masks(flow: str, layout: Layout, following: int) -> Tensor:
    """Written out: the answer's rows are the last prompt token's, and causal among themselves."""
    prompt = keep_masks(flow, layout, LAYERS)
    size = layout.num_tokens + following
    masks = torch.ones(LAYERS, size, size, dtype=torch.bool).tril()
    masks[:, : layout.num_tokens, : layout.num_tokens] = prompt
    masks[:, layout.num_tokens :, : layout.num_tokens] = prompt[:, -1:]
    return masks


def gradients(model: Any, tensors: dict[str, Tensor], following: int) -> dict[str, Tensor]:
    """Of the answer's loss, by parameter."""
    model.zero_grad(set_to_none=True)
    logits = model(**tensors).logits[0, -following - 1 : -1]
    F.cross_entropy(logits, tensors["input_ids"][0, -following:]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_5_vl"])
def test_gradients_are_those_of_plain_masks(family: str, attn: str) -> None:
    model, make_inputs = tiny(family, layers=LAYERS, attn_implementation=attn)
    prompt = make_inputs()
    tensors = followed(prompt.tensors, answer(3))
    with intervene(model, FLOW, prompt.layout, engine="dense", continuation=3):
        mine = gradients(model, tensors, 3)
    with ByHand(model, plain_masks(FLOW, prompt.layout, 3)):
        plain = gradients(model, tensors, 3)
    full = gradients(model, tensors, 3)
    assert mine.keys() == plain.keys()
    largest = max(float(each.abs().max()) for each in plain.values())
    for name, expected in plain.items():
        assert float((mine[name] - expected).abs().max()) <= TOLERANCE * largest, name
    assert any(float((mine[name] - full[name]).abs().max()) > 1e-2 * largest for name in mine)


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_adapters_learn_under_a_flow_as_under_plain_masks(family: str) -> None:
    """Two steps of a LoRA: the same adapter by the engine as with masks put on by hand."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    learnt: dict[str, dict[str, Tensor]] = {}
    for how in ("by hand", "by the engine", "without a flow"):
        model, make_inputs = tiny(family, layers=LAYERS, attn_implementation="sdpa")
        prompt = make_inputs(stem=2)
        tensors = followed(prompt.tensors, answer(3))
        torch.manual_seed(0)
        tuned = peft.get_peft_model(model, config)
        adapters = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
        optimizer = torch.optim.SGD(adapters.values(), lr=0.5)
        for _ in range(2):
            block: Any = nullcontext()
            if how == "by hand":
                block = ByHand(model, plain_masks(FLOW, prompt.layout, 3))
            elif how == "by the engine":
                block = intervene(tuned, FLOW, prompt.layout, engine="dense", continuation=3)
            with block:
                gradients(tuned, tensors, 3)
            optimizer.step()
        learnt[how] = {name: p.detach().clone() for name, p in adapters.items() if "lora_B" in name}
    largest = max(float(each.abs().max()) for each in learnt["by hand"].values())
    apart = {
        how: max(float((each[name] - want).abs().max()) for name, want in learnt["by hand"].items()) / largest
        for how, each in learnt.items()
    }
    assert apart["by the engine"] < 10 * TOLERANCE  # rounding, after two steps
    assert apart["without a flow"] > 1e-2


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_tokens_that_are_cut_off_get_no_gradient(family: str) -> None:
    model, make_inputs = tiny(family, layers=LAYERS, attn_implementation="sdpa")
    prompt = make_inputs()
    tensors = followed(prompt.tensors, answer(2))
    decoder_inputs: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            embeds = module.embed_tokens(kwargs.pop("input_ids"))
        decoder_inputs.append(embeds.detach().requires_grad_())
        return args, kwargs | {"inputs_embeds": decoder_inputs[-1], "input_ids": None}

    hook = model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    with hook, intervene(model, "blind", prompt.layout, engine="dense", continuation=2):
        gradients(model, tensors, 2)
    gradient = decoder_inputs[0].grad
    assert gradient is not None
    by_token = gradient[0].abs().sum(-1)
    video = prompt.groups["video"]
    assert bool((by_token[video.start : video.stop] == 0).all())
    assert bool((by_token[video.stop :][:-1] > 0).all())  # but for the last token, which predicts nothing


@pytest.mark.parametrize("flow", [FLOW, "blind", "random:0.2:seed1"])
@torch.no_grad()
def test_the_answers_tokens_in_one_forward_are_those_of_decoding(flow: str) -> None:
    model, make_inputs = tiny("llava", layers=LAYERS, attn_implementation="sdpa")
    prompt = make_inputs()
    tokens = answer(4)
    with intervene(model, flow, prompt.layout, engine="dense", continuation=4):
        at_once = model(**followed(prompt.tensors, tokens)).logits[0, -5:-1]
    with intervene(model, flow, prompt.layout, engine="dense"):
        step = model(**prompt.tensors, use_cache=True)
        one_by_one = [step.logits[0, -1]]
        cache = step.past_key_values
        for number in range(3):
            step = model(input_ids=tokens[:, number : number + 1], past_key_values=cache, use_cache=True)
            one_by_one.append(step.logits[0, -1])
    expected = torch.stack(one_by_one)
    assert float((at_once - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def longer_prompt(prompt: Prompt, length: int, seed: int) -> Prompt:
    """A prompt with an answer behind it, with its tensors; the layout stays the prompt's own."""
    return Prompt(
        followed(prompt.tensors, answer(length, seed)),
        prompt.groups | {"last": range(prompt.num_tokens - 1, prompt.num_tokens + length)},
        prompt.frames,
    )


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_batch_with_answers_of_other_lengths_equals_single_runs(side: str) -> None:
    model, make_inputs = tiny("llama", layers=LAYERS, attn_implementation="sdpa")
    prompts = [make_inputs(seed=seed, stem=2 + 3 * seed) for seed in range(3)]
    lengths = [3, 0, 1]
    longer = [longer_prompt(*each) for each in zip(prompts, lengths, range(3), strict=True)]
    layouts = [prompt.layout for prompt in prompts]
    batch = join(longer, side)
    with intervene(model, FLOW, layouts, engine="dense", continuation=lengths):
        together = model(**batch).logits
    for row, (one, layout, length) in enumerate(zip(longer, layouts, lengths, strict=True)):
        with intervene(model, FLOW, layout, engine="dense", continuation=length):
            alone = model(**one.tensors).logits[0]
        mine = together[row][batch["attention_mask"][row].bool()]
        assert float((mine - alone).abs().max()) <= TOLERANCE * float(alone.abs().max())


@pytest.mark.parametrize(
    ("continuation", "engine", "message"),
    [
        (
            2,
            "dense",
            "sample 0 of the batch has a prompt of 33 tokens, its layout has 30 and 2 are to follow it",
        ),
        (0, "dense", "sample 0 of the batch has a prompt of 33 tokens, its layout has 30"),
        ([3, 3], "dense", "continuation has 2 numbers for 1 layouts"),
        (-1, "dense", "continuation must be a number of tokens, 0 or more, not -1"),
        (True, "dense", "continuation must be a number of tokens, 0 or more, not True"),
        ([1.5], "dense", r"continuation must be a number of tokens, 0 or more, not 1\.5"),
        (3, "sparse", "write engine='dense'"),
    ],
)
def test_what_does_not_fit_is_refused(continuation: Any, engine: str, message: str) -> None:
    model, make_inputs = tiny("llama", layers=LAYERS, attn_implementation="sdpa")
    prompt = make_inputs(stem=2)
    tensors = followed(prompt.tensors, answer(3))
    with (
        pytest.raises(FlowError, match=message),
        intervene(model, FLOW, prompt.layout, engine=engine, continuation=continuation),
    ):
        model(**tensors)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # its new name is not known to older transformers
def test_gradient_checkpointing_is_refused() -> None:
    """It may run the layers again when the masks are gone: gradients of another model, silently."""
    model, make_inputs = tiny("llama", layers=LAYERS, attn_implementation="sdpa")
    prompt = make_inputs()
    tensors = followed(prompt.tensors, answer(3))
    model.train()
    model.gradient_checkpointing_enable()
    with (
        pytest.raises(UnsupportedModelError, match="gradient checkpointing"),
        intervene(model, FLOW, prompt.layout, engine="dense", continuation=3),
    ):
        gradients(model, tensors, 3)


def documented() -> dict[str, Any]:
    """The functions that the page shows, run as they stand there."""
    page = (Path(__file__).parents[1] / "docs" / "training-under-a-flow.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "training-under-a-flow.md", "exec"), names)
    return names


def test_the_documented_step_learns_an_answer_under_every_draw() -> None:
    """From random weights it learns two answers by heart, while each step draws another flow."""
    names = documented()
    model, make_inputs = tiny("llama", layers=LAYERS, attn_implementation="sdpa")
    model.train()
    planted = Flow.load(
        "cross_frame@3-+video:last+video:tail+video:gap+video:question@3-+question:last@-2+last:last"
    )
    prompts = [make_inputs(seed=seed) for seed in range(2)]
    longer = [longer_prompt(prompt, 1, seed) for seed, prompt in enumerate(prompts)]
    batch = join(longer)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -1] = batch["input_ids"][:, -1]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng, drawn, losses = Random(0), set(), []
    for _ in range(30):
        flow = names["draw"](planted, LAYERS, rng)
        drawn.add(flow.text)
        layouts = [prompt.layout for prompt in prompts]
        losses.append(names["training_step"](model, optimizer, batch | {"labels": labels}, layouts, 1, flow))
    assert losses[-1] < 0.1 * losses[0]
    assert len(drawn) > 10
    assert "none" in drawn
