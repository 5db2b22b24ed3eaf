"""The edges that flow-tiny's training draws: the product's own masks, and only the planted way open in every draw."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from torch import Tensor

from lmms_flow.engine import intervene
from lmms_flow.flow import Flow, Layout
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.video import Frames
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.tasks.questions import doc_to_messages, doc_to_text
from scripts.flow_tiny.data import Batch, Mixture
from scripts.flow_tiny.edges import BESIDE, DIRECT, OUTSIDE, PLANTED, THE_WAY, Draw, EdgeDropout
from scripts.flow_tiny.forward import packed_masks, packed_positions, run_layers, split_branches, text_masks
from scripts.flow_tiny.labels import SAMPLED
from scripts.flow_tiny.losses import Losses, Read, embed_videos, step_losses, unknown_losses
from scripts.flow_tiny.model import NUM_LAYERS
from scripts.flow_tiny.prompts import choice_prompt, encode
from scripts.flow_tiny.text import GAP, build_tokenizer
from scripts.flow_tiny.train import Settings, Trainer
from scripts.flowbench.build import documents
from scripts.flowbench.groups import all_groups
from scripts.flowbench.questions import answer_value
from scripts.flowbench.render import render

TOLERANCE = 1e-5
BLIND = "video:gap+video:question+video:tail+video:last"
DRAWS = [Draw(), Draw(OUTSIDE), Draw((THE_WAY, "video:gap")), Draw(("last:last", "question:tail", BLIND))]


def small_trainer() -> Trainer:
    return Trainer(Settings(seed=3, steps=6), Mixture(clips=4, branches=2, copies=4, open_share=0.3))


def drawn_batch(trainer: Trainer) -> Batch:
    """A batch in which each clip and each text has another draw."""
    batch = trainer.stream.batch(0)
    batch.clip_edges, batch.copy_edges = list(DRAWS), list(DRAWS)
    return batch


def branches(trainer: Trainer, batch: Batch) -> Tensor:
    """The last states of every question, as training computes them: [question, token, width]."""
    language = trainer.model.model.language_model
    embed, prefix = language.embed_tokens, trainer.stream.prefix_ids
    videos = embed_videos(trainer.model, batch.pixels)
    clips, past, new = len(videos), len(prefix) + videos.shape[1], batch.branches.ids.shape[1]
    asked = embed(batch.branches.ids).unflatten(0, (clips, 2)).flatten(1, 2)
    states = run_layers(
        language,
        torch.cat([embed(prefix).expand(clips, -1, -1), videos, asked], dim=1),
        packed_positions(past, new, 2),
        packed_masks(batch.clip_edges, batch.branches.layouts, past, new),
    )
    return tuple(split_branches(states, past, 2))[-1]


def whole_prompt(trainer: Trainer, batch: Batch, row: int) -> Tensor:
    """One question's clip and text with its answer, as embeddings [1, token, width]; without padding."""
    embed, texts = trainer.model.model.language_model.embed_tokens, batch.branches
    length = int((texts.ids[row] != trainer.tokenizer.pad_token_id).sum())
    video = embed_videos(trainer.model, batch.pixels[row // 2][None])
    return torch.cat(
        [embed(trainer.stream.prefix_ids)[None], video, embed(texts.ids[row, :length])[None]], dim=1
    )


def under_intervene(trainer: Trainer, flow: str, layout: Layout, embeds: Tensor) -> Tensor:
    language, following = trainer.model.model.language_model, embeds.shape[1] - layout.num_tokens
    with intervene(trainer.model, flow, layout, engine="dense", continuation=following):
        return language(inputs_embeds=embeds).last_hidden_state[0]


@torch.no_grad()
def test_a_clip_with_its_questions_side_by_side_is_each_of_them_under_intervene() -> None:
    trainer = small_trainer()
    batch = drawn_batch(trainer)
    mine = branches(trainer, batch)
    assert len(batch.branches.layouts) >= 4
    for row, layout in enumerate(batch.branches.layouts):
        embeds = whole_prompt(trainer, batch, row)
        theirs = under_intervene(trainer, batch.clip_edges[row // 2].flow(), layout, embeds)
        after = theirs[layout.groups["gap"][0].start :]
        assert len(after) > int(batch.branches.last[row]) + 1, "the answer's tokens are compared too"
        assert float((mine[row, : len(after)] - after).abs().max()) <= TOLERANCE * float(after.abs().max())


@torch.no_grad()
def test_a_text_with_the_answer_in_words_is_the_same_under_intervene() -> None:
    trainer = small_trainer()
    batch = drawn_batch(trainer)
    language, texts = trainer.model.model.language_model, batch.copies
    length = texts.ids.shape[1]
    masks = text_masks(batch.copy_edges, texts.layouts, length)
    mine = run_layers(language, language.embed_tokens(texts.ids), torch.arange(length)[None], masks)[-1]
    assert len(texts.layouts) >= 2
    for row, layout in enumerate(texts.layouts):
        ids = texts.ids[row, : int((texts.ids[row] != trainer.tokenizer.pad_token_id).sum())]
        flow = batch.copy_edges[row].flow(frames=False)
        theirs = under_intervene(trainer, flow, layout, language.embed_tokens(ids)[None])
        assert float((mine[row, : len(ids)] - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())


def test_gradients_of_a_step_are_those_through_intervene() -> None:
    trainer = small_trainer()
    batch = drawn_batch(trainer)

    def gradients(losses: list[Tensor]) -> dict[str, Tensor]:
        trainer.model.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        named = trainer.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    ends = batch.branches.last.tolist()
    mine = branches(trainer, batch)
    packed = gradients([mine[row, end].square().sum() for row, end in enumerate(ends)])
    apart = []
    for row, (end, layout) in enumerate(zip(ends, batch.branches.layouts, strict=True)):
        embeds = whole_prompt(trainer, batch, row)
        theirs = under_intervene(trainer, batch.clip_edges[row // 2].flow(), layout, embeds)
        assert layout.num_tokens == layout.groups["gap"][0].start + end + 1
        apart.append(theirs[layout.num_tokens - 1].square().sum())
    expected = gradients(apart)
    largest = max(float(each.abs().max()) for each in expected.values())
    assert packed.keys() == expected.keys()
    for name, each in expected.items():
        assert float((packed[name] - each).abs().max()) <= 1e-4 * largest, name


def test_the_groups_are_those_that_the_product_finds() -> None:
    """Training's prompts and lmms-eval's of the same questions: the same tokens in the same groups."""
    model = LlavaVidFlow(pretrained="flow-tiny", device="cpu", dtype="float32", records="none")
    tokenizer, named = build_tokenizer(), Flow.load("video:question")
    chosen = list(all_groups(1))[::20]
    assert len(chosen) > 3
    for family, number, group in chosen:
        document = {**documents(family, number, group)[0], "video": "clip.mp4", "start": None, "end": None}
        question = group.question
        right = answer_value(question.topic, group.clips[0])
        texts = encode(tokenizer, [choice_prompt(GAP, question, right)], after_video=True)
        text = model.chat.render(doc_to_messages(document))
        frames = Frames(render(group.clips[0], SAMPLED), SAMPLED, 8.0, tuple(i / 8 for i in SAMPLED))
        prompt, _ = model.chat.prompt(text, frames)
        theirs = find_groups(prompt, doc_to_text(document), {}, named).layout
        assert texts.layouts[0] == theirs
        after = theirs.groups["gap"][0].start
        assert texts.ids[0, : theirs.num_tokens - after].tolist() == list(prompt.input_ids[after:])


def many_draws(count: int = 4000) -> list[Draw]:
    rng = Random(0)
    return [EdgeDropout().draw(rng) for _ in range(count)]


def test_an_answerable_draw_leaves_the_planted_way_open() -> None:
    kept = PLANTED.bind(NUM_LAYERS).pathway
    assert kept is not None
    needed = {"cross_frame": kept.cross_frame, "video:question": kept.video_question}
    needed["question:last"] = kept.question_last
    draws = many_draws()
    assert 0 < sum(draw.answerable for draw in draws) < len(draws)
    for draw in draws:
        cuts = Flow.load(draw.flow()).bind(NUM_LAYERS).cuts
        cut = {kind: {n for n, layer in enumerate(cuts, 1) if kind in map(str, layer)} for kind in needed}
        if draw.answerable:
            assert all(cut[kind].isdisjoint(layers) for kind, layers in needed.items())
        else:
            assert cut["video:question"] >= set(kept.video_question)


def test_draws_go_from_nothing_to_all_and_each_kind_is_drawn_on_its_own() -> None:
    draws, dropout = many_draws(), EdgeDropout()
    counts = Counter(rule for draw in draws for rule in draw.rules)
    assert set(counts) == {*OUTSIDE, *BESIDE, THE_WAY}
    share = {rule: count / len(draws) for rule, count in counts.items()}
    one_by_one = 1 - dropout.nothing - dropout.whole - dropout.unanswerable
    for rule in OUTSIDE:
        each = dropout.direct if rule.startswith(DIRECT) else dropout.kind
        expected = dropout.whole + one_by_one * each + dropout.unanswerable * dropout.kind_unanswerable
        assert share[rule] == pytest.approx(expected, abs=0.03), rule
    assert share[THE_WAY] == pytest.approx(dropout.unanswerable, abs=0.03)
    assert sum(not draw.rules for draw in draws) / len(draws) == pytest.approx(dropout.nothing, abs=0.03)
    assert sum(draw.rules == OUTSIDE for draw in draws) / len(draws) == pytest.approx(dropout.whole, abs=0.03)
    pairs = Counter(("video:gap@1-4" in draw.rules, "last:last@1-12" in draw.rules) for draw in draws)
    assert len(pairs) == 4, "kinds are drawn one by one"


def test_a_text_without_frames_has_no_cross_frame_to_be_cut() -> None:
    assert Draw(("cross_frame@5-12",)).flow(frames=False) == "none"
    assert Draw(("cross_frame@5-12", "last:last")).flow(frames=False) == "last:last"


def test_without_edge_dropout_nothing_is_drawn() -> None:
    trainer = Trainer(Settings(seed=3, edge_dropout=False), Mixture(clips=2, copies=2))
    batch = trainer.stream.batch(0)
    assert batch.clip_edges == batch.copy_edges == [Draw()] * 2
    assert "unknown" not in step_losses(trainer.model, trainer.heads, batch, trainer.stream.prefix_ids).total
    with_it = Trainer(Settings(seed=3), Mixture(clips=2, copies=2)).stream.batch(0)
    assert torch.equal(batch.pixels, with_it.pixels)
    assert torch.equal(batch.branches.ids, with_it.branches.ids)


def test_where_the_planted_way_is_cut_the_answer_is_not_trained() -> None:
    """The letter's loss there is the same whichever option is right, and no other loss looks at the answer."""
    trainer = small_trainer()
    batch = trainer.stream.batch(1)
    batch.clip_edges = [Draw((THE_WAY,), answerable=False)] * 4
    found = step_losses(trainer.model, trainer.heads, batch, trainer.stream.prefix_ids)
    assert {"letter", "unknown"} & set(found.total) == {"unknown"}
    texts = batch.branches
    states = tuple(torch.randn(len(texts.ids), texts.ids.shape[1], 128) for _ in range(2))
    silent = torch.zeros(len(texts.ids), dtype=torch.bool)
    values = []
    for right in (texts.right, texts.right.roll(1, 0)):
        texts.right = torch.where(texts.right < 0, texts.right, right.clamp(0, 1))
        losses = Losses()
        unknown_losses(losses, trainer.model, Read(texts, states, silent, copies=False))
        values.append(float(losses.total["unknown"].detach()))
    assert values[0] == values[1]
