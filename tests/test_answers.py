"""The answer as a group of its own: in prompts that hold its beginning, and in decoding, against masks by hand."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmms_flow.engine import Baseline, intervene, keep_masks, sweep
from lmms_flow.flow import Flow, FlowError, Layout
from lmms_flow.flow.trace_settings import OPEN_ENDED, TraceSettings
from lmms_flow.trace.answers import Anchor, with_answer, word_flows, words_of
from tests.support.models import Prompt, tiny
from tests.support.naive_maps import window

FAMILIES = ("llama", "qwen2_5_vl", "gemma2")
NEW = 5
TOLERANCE = 1e-5


def model_and_prompt(family: str) -> tuple[Any, Prompt]:
    model, make_inputs = tiny(family, attn_implementation="eager" if family == "gemma2" else "sdpa")
    return model, make_inputs(frames=3)


@torch.no_grad()
def logits_under(model: Any, inputs: dict[str, Tensor], keep: Tensor) -> Tensor:
    """The last logits of one forward with these masks [layer, query, key], by hooks of this test's own."""
    with ExitStack() as hooks:
        for number, layer in enumerate(model.get_decoder().layers):

            def masked(module: Any, args: Any, kwargs: dict[str, Any], number: int = number) -> Any:
                own, read = kwargs.get("attention_mask"), keep[number][None, None].to(model.device)
                if own is not None:  # a window of the model's own stays
                    read = read & (own if own.dtype == torch.bool else own == 0)
                bias = torch.zeros(read.shape, device=model.device).masked_fill(
                    ~read, torch.finfo(torch.float32).min
                )
                return args, kwargs | {"attention_mask": bias}

            hooks.callback(layer.register_forward_pre_hook(masked, with_kwargs=True).remove)
        logits: Tensor = model(**inputs, use_cache=False).logits[0, -1].cpu()
    return logits


def cut(keep: Tensor, layers: range, rows: range, columns: range) -> None:
    keep[layers.start : layers.stop, rows.start : rows.stop, columns.start : columns.stop] = False


# flow -> (layers from 0, source, whether `last` is cut too)
IN_DECODING = {
    "video:answer": (range(4), "video", False),
    "question:answer@2-3": (range(1, 3), "question", False),
    "video:answer@2-+video:last@2-": (range(1, 4), "video", True),
}


@pytest.mark.parametrize("engine", ["dense", "sparse", "baseline"])
@pytest.mark.parametrize("text", IN_DECODING)
@pytest.mark.parametrize("family", FAMILIES)
def test_generated_tokens_take_the_cuts_of_the_answer(family: str, text: str, engine: str) -> None:
    """Every step equals a forward over the whole sequence whose rows behind the prompt are cut by hand."""
    model, prompt = model_and_prompt(family)
    layers, source, and_last = IN_DECODING[text]
    baseline = None
    if engine == "baseline":
        baseline = Baseline.for_flows([Flow.load(text).bind(4).resolve(prompt.layout)])
        with baseline.recording(model), torch.no_grad():
            model.generate(**prompt.tensors, max_new_tokens=1, do_sample=False)
    name = "sparse" if engine == "baseline" else engine
    with intervene(model, text, prompt.layout, engine=name, baseline=baseline), torch.no_grad():
        out = model.generate(
            **prompt.tensors, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, output_logits=True
        )  # fmt: skip
    tokens = out.sequences[0, -NEW:].tolist()
    free = model.generate(**prompt.tensors, max_new_tokens=NEW, do_sample=False)[0, -NEW:].tolist()
    assert family != "llama" or tokens != free  # it is no cut of nothing
    for step, logits in enumerate(out.logits):
        length = prompt.num_tokens + step
        keep = torch.ones(4, length, length, dtype=torch.bool).tril()
        first = prompt.num_tokens - 1 if and_last else prompt.num_tokens
        cut(keep, layers, range(first, length), prompt.groups[source])
        asked = with_answer(prompt.tensors, prompt.num_tokens, tokens[:step])
        expected = logits_under(model, asked, keep)
        difference = (logits[0].cpu() - expected).abs().max() / expected.abs().max()
        assert float(difference) < TOLERANCE, step


def test_batches_take_the_cuts_of_their_answers() -> None:
    from tests.support.models import join

    model, make_inputs = tiny("qwen2", attn_implementation="sdpa")
    prompts = [make_inputs(frames=2), make_inputs(frames=4, seed=1)]
    given = {"max_new_tokens": 4, "do_sample": False}
    for engine in ("dense", "sparse"):
        alone = []
        for prompt in prompts:
            with intervene(model, "video:answer", prompt.layout, engine=engine):
                alone.append(model.generate(**prompt.tensors, **given)[0, -4:])
        with intervene(model, "video:answer", [each.layout for each in prompts], engine=engine):
            together = model.generate(**join(prompts), **given)[:, -4:]
        assert torch.equal(together, torch.stack(alone))


def test_an_answer_behind_its_prompt_in_one_forward_takes_the_same_cuts() -> None:
    """As in training, with `continuation`."""
    model, prompt = model_and_prompt("llama")
    tokens = [20, 21, 22]
    asked = with_answer(prompt.tensors, prompt.num_tokens, tokens)
    length = prompt.num_tokens + len(tokens)
    keep = torch.ones(4, length, length, dtype=torch.bool).tril()
    cut(keep, range(4), range(prompt.num_tokens, length), prompt.groups["video"])
    with intervene(model, "video:answer", prompt.layout, engine="dense", continuation=3), torch.no_grad():
        found = model(**asked).logits[0, -1]
    torch.testing.assert_close(found, logits_under(model, asked, keep), rtol=1e-4, atol=1e-5)


# Prompts in which an answer has begun


def begun(prompt: Prompt, generated: int, open_tokens: int = 0) -> dict[str, range]:
    """The groups by hand."""
    size = prompt.num_tokens
    last = size + generated - 1
    return prompt.groups | {
        "answer": range(size, last - open_tokens),
        "tail": range(prompt.groups["tail"].start, last),
        "last": range(last, last + 1),
    }


def test_the_answer_so_far_lies_between_the_template_and_the_last_token() -> None:
    _, prompt = model_and_prompt("llama")
    for open_tokens in (0, 1):
        layout = prompt.layout.with_answer(4, open_tokens)
        groups = begun(prompt, 4, open_tokens)
        assert layout == Layout(prompt.num_tokens + 4, dict(groups), prompt.frames)
        assert layout.size("answer") == 3 - open_tokens
        assert layout.group_of(prompt.num_tokens) == "tail"
    assert prompt.layout.with_answer(0) == prompt.layout
    assert prompt.layout.size("answer") == 0
    assert prompt.layout.with_answer(1).size("answer") == 0
    grown = prompt.layout.with_answer(2).with_answer(2)
    assert grown == prompt.layout.with_answer(4)
    with pytest.raises(FlowError, match="0 or more tokens, not -1"):
        prompt.layout.with_answer(-1)
    with pytest.raises(FlowError, match="'answer' must lie inside 'tail'"):
        Layout(6, {"video": range(4), "tail": range(4, 5), "last": range(5, 6), "answer": range(3, 5)})


def test_edges_are_counted_and_routes_are_found_with_the_answer_in_the_prompt() -> None:
    """It is a part of `tail`: what closes the tail closes it, and no flow of before means anything else."""
    _, prompt = model_and_prompt("llama")
    layout = prompt.layout.with_answer(4)
    for text in ("video:answer@2-", "question:answer+video:last", "answer:last", "blind", "answer:answer"):
        kept, total = Flow.load(text).kept_edges(layout, 4)
        masks = keep_masks(text, layout, 4)
        assert (kept, total) == (int(masks.sum()), 4 * layout.num_tokens * (layout.num_tokens + 1) // 2)
    assert not Flow.load("blind").leaks(layout, 4)
    assert any("tail" in str(route) for route in Flow.load("video:last").leaks(layout, 4))
    closed = Flow.load("video:answer+video:last+video:question+video:gap").leaks(layout, 4)
    assert [str(route) for route in closed] == ["video -> tail (layer 1) -> last (layer 2)"]
    assert Flow.load("video:answer").bind(4).digest != Flow.load("video:tail").bind(4).digest


def test_a_sweep_in_front_of_a_word_equals_masks_by_hand() -> None:
    for family in FAMILIES:
        model, prompt = model_and_prompt(family)
        tokens = model.generate(**prompt.tensors, max_new_tokens=NEW, do_sample=False)[0, -NEW:].tolist()
        anchors = [Anchor(0, "first"), Anchor(2, "third"), Anchor(4, "fifth")]
        flows = word_flows(model, prompt.tensors, prompt.layout, tokens, anchors, window=3, layers=(1, 3))
        assert [each.anchor for each in flows] == anchors
        assert [each.token for each in flows] == [tokens[0], tokens[2], tokens[4]]
        for flow in flows:
            place = flow.anchor.place
            asked = with_answer(prompt.tensors, prompt.num_tokens, tokens[:place])
            groups = begun(prompt, place, 1) if place else prompt.groups | {"answer": range(0)}
            size = prompt.num_tokens + place
            for k, rule in enumerate(OPEN_ENDED):
                source, target = (groups[name] for name in rule.split(":"))
                for column, centre in enumerate((0, 2)):
                    keep = torch.ones(4, size, size, dtype=torch.bool).tril()
                    for layer in window(centre, 4, 3, "center"):
                        cut(keep, range(layer, layer + 1), target, source)
                    expected = logits_under(model, asked, keep).softmax(-1)[tokens[place]]
                    assert float(flow.probabilities[k, column]) == pytest.approx(
                        float(expected), abs=TOLERANCE
                    )
            assert float(flow.relative_change.abs().max()) > 0.1


def test_words_are_told_by_where_they_begin() -> None:
    """One of several tokens is known by its first; `words` picks, such as the verbs of an answer."""
    pieces = {1: "A", 2: " man", 3: " sp", 4: "ins", 5: " a", 6: " ball", 7: ".", 8: ""}
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(pieces[each] for each in ids))
    found = words_of(tokenizer, [1, 2, 3, 4, 5, 6, 7, 8])
    assert [(each.place, each.word) for each in found] == [
        (0, "A"), (1, "man"), (2, "spins"), (4, "a"), (5, "ball"),
    ]  # fmt: skip
    assert words_of(tokenizer, [1, 2, 3, 4, 5, 6], {"spins"}) == (Anchor(2, "spins"),)


MISTAKES: dict[str, tuple[Any, str]] = {
    "no answer yet": (lambda m, p: sweep(m, p.tensors, p.layout, ["video:answer"]), "no answer has begun in it"),
    "a rule the other way": (lambda m, p: Flow.load("answer:question"), "which comes later in the prompt"),
    "a word too late": (
        lambda m, p: word_flows(m, p.tensors, p.layout, [20], [Anchor(1, "fly")]), "is token 1 of an answer of 1 tokens"
    ),
    "positions": (
        lambda m, p: with_answer({**p.tensors, "position_ids": torch.arange(p.num_tokens)[None]}, p.num_tokens, [20]),
        "position_ids has a value for each token",
    ),
    "embeddings": (lambda m, p: with_answer({}, 5, [20]), "inputs_embeds can't be gone on from"),
    "answer:answer alone": (
        lambda m, p: Flow.load("answer:answer").kept_edges(p.layout, 4), "cuts nothing in this prompt"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(name: str) -> None:
    ask, message = MISTAKES[name]
    with pytest.raises(FlowError, match=message) as caught:
        ask(*model_and_prompt("llama"))
    assert "\n" not in str(caught.value)


def test_the_papers_set_of_edges_has_its_name() -> None:
    assert TraceSettings(("map",), ("open_ended",)).knockouts == OPEN_ENDED
    assert TraceSettings(("map",), ("vqrl-to-qrl",)).knockouts == OPEN_ENDED
