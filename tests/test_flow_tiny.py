"""The bundled model: what its prompt is made of, that it answers flowbench, and that its training can be repeated."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoProcessor, ProcessorMixin

from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.engine import intervene
from lmms_flow.flow import Flow, Layout, find_preset
from lmms_flow.flow.pathway import KINDS
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.video import read_frames
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.tasks.questions import doc_to_messages, doc_to_text
from scripts.flow_tiny.card import (
    TEMPLATE,
    ablation_table,
    borders_table,
    chance_table,
    needs_table,
    pathway_table,
)
from scripts.flow_tiny.data import Mixture, Stream, random_clip, random_question
from scripts.flow_tiny.edges import DIRECT, OUTSIDE, THE_WAY
from scripts.flow_tiny.evaluate import Scorer, documents, paired, prompt, summary
from scripts.flow_tiny.find_pathway import (
    BIN,
    WINDOW,
    borders,
    effective,
    find,
    fresh_groups,
    known_clips,
    off_by,
    planted,
)
from scripts.flow_tiny.forward import packed_masks, packed_positions, run_layers, split_branches
from scripts.flow_tiny.labels import SAMPLED
from scripts.flow_tiny.losses import embed_videos
from scripts.flow_tiny.model import NUM_FRAMES, NUM_LAYERS, TOKENS_PER_FRAME, pointer_scores
from scripts.flow_tiny.needs import MARGIN, SINGLE_FRAME
from scripts.flow_tiny.text import SYSTEM, build_tokenizer
from scripts.flow_tiny.train import DEFAULTS, Settings, Trainer, run
from scripts.flowbench.groups import all_groups
from scripts.flowbench.questions import FAMILIES
from scripts.flowbench.render import render

MEGABYTE = 2**20
DOCUMENT = {"question": "What happened first?", "candidates": ["Red", "Blue", "Pink"]}


@cache
def scorer() -> Scorer:
    return Scorer(flow_tiny_dir(), flowbench_dir())


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return AutoProcessor.from_pretrained(flow_tiny_dir())


def small_trainer() -> Trainer:
    return Trainer(Settings(seed=3, steps=6), Mixture(clips=3, branches=2, copies=2, counting=True))


def test_what_ships() -> None:
    names = {path.name for path in flow_tiny_dir().iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert {"tokenizer_config.json", "processor_config.json", "chat_template.jinja", "README.md"} <= names
    assert (flow_tiny_dir() / "model.safetensors").stat().st_size <= 10 * MEGABYTE
    config = AutoConfig.from_pretrained(flow_tiny_dir())
    assert config.architectures == ["LlavaNextVideoForConditionalGeneration"]
    assert config.text_config.num_hidden_layers == NUM_LAYERS == 12


def test_the_prompt_letter_for_letter(processor: ProcessorMixin) -> None:
    assert prompt(processor, DOCUMENT, video=True) == (
        f"{SYSTEM}\n USER: <video>\n USER: Question: What happened first?\nOptions:\n(A) Red\n(B) Blue\n(C) Pink"
        " \nOnly give the best option. ASSISTANT:Best option:("
    )


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "hello"}], f"{SYSTEM}\n USER: hello ASSISTANT:"),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "image"}]}],
            "Be brief.\n USER: <image>\n ASSISTANT:",
        ),
        (
            [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [{"type": "text", "text": "hello"}]},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": "bye"},
            ],
            "Be brief.\n USER: hello ASSISTANT:hi</s> USER: bye ASSISTANT:",
        ),
    ],
)
def test_other_conversations(processor: ProcessorMixin, messages: list[Any], expected: str) -> None:
    assert processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


def test_letters_are_single_tokens_where_the_answer_stands(processor: ProcessorMixin) -> None:
    tokenizer = processor.tokenizer
    text = prompt(processor, DOCUMENT, video=True)
    ids = tokenizer(text).input_ids
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == ":("
    for letter in "ABCD":
        assert tokenizer(text + letter).input_ids == [*ids, tokenizer.convert_tokens_to_ids(letter)]


def test_offsets_separate_the_groups_of_the_prompt(processor: ProcessorMixin) -> None:
    text = prompt(processor, DOCUMENT, video=True)
    encoded = processor.tokenizer(text, return_offsets_mapping=True)
    ends = [end for _, end in encoded.offset_mapping]
    assert ends[-1] == len(text)
    assert all(a == b for a, (b, _) in zip(ends[1:], encoded.offset_mapping[2:], strict=False))  # no hole
    starts = {start for start, _ in encoded.offset_mapping[1:]}
    for mark in ("<video>", "\n USER: Q", " Question:", "\nOptions:", "(A) Red", "(C) Pink", " \nOnly", ":("):
        assert text.index(mark) in starts, mark


@pytest.mark.parametrize("text", ["Ünïcode 中文 🙂", "def f(x):\n\treturn x", "A", " ", "Question: (A) :("])
def test_any_text_survives_the_tokenizer(processor: ProcessorMixin, text: str) -> None:
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_shipped_tokenizer_is_the_scripts_own(processor: ProcessorMixin) -> None:
    built = build_tokenizer()
    assert (
        json.loads(built.backend_tokenizer.to_str())["model"]
        == json.loads(processor.tokenizer.backend_tokenizer.to_str())["model"]
    )
    assert built.chat_template == processor.chat_template


def test_eight_frames_of_sixteen_tokens(processor: ProcessorMixin) -> None:
    frames = render(random_clip(Random(0)), SAMPLED)
    inputs = processor(text=prompt(processor, DOCUMENT, video=True), videos=[frames], return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, NUM_FRAMES, 3, 32, 32)
    assert (
        int((inputs["input_ids"] == processor.video_token_id).sum()) == NUM_FRAMES * TOKENS_PER_FRAME == 128
    )


@torch.inference_mode()
def test_training_sees_what_the_processor_and_the_model_see() -> None:
    """The training path (a clip once, its questions side by side behind it) gives the model's own logits."""
    model, processor = scorer().model, scorer().processor
    stream = Stream(processor.tokenizer, mixture=Mixture(2, 2, 1, open_share=0.0, noise=0.0))
    batch = stream.batch(0)
    language, texts = model.model.language_model, batch.branches
    embed, asked = language.embed_tokens, batch.branches.ids.unflatten(0, (2, 2)).flatten(1)
    videos = embed_videos(model, batch.pixels)
    past, new = len(stream.prefix_ids) + videos.shape[1], texts.ids.shape[1]
    packed = run_layers(
        language,
        torch.cat([embed(stream.prefix_ids).expand(2, -1, -1), videos, embed(asked)], dim=1),
        packed_positions(past, new, 2),
        packed_masks(batch.clip_edges, texts.layouts, past, new),
    )
    states = tuple(split_branches(packed, past, 2))[-1]
    clips = stream.clip_specs(0)
    for row in range(4):
        last = int(texts.last[row])
        mine = model.lm_head(states[row, last])
        text = processor.tokenizer.decode(texts.ids[row, : last + 1])
        inputs = processor(
            text=f"{SYSTEM}\n USER: <video>{text}",
            videos=[render(clips[row // 2], SAMPLED)],
            return_tensors="pt",
        )
        theirs = model(**inputs, logits_to_keep=1).logits[0, -1]
        assert torch.allclose(mine, theirs, atol=0.05 * float(theirs.abs().max()))  # they resize differently
        inputs["pixel_values_videos"] = batch.pixels[row // 2][None]
        theirs = model(**inputs, logits_to_keep=1).logits[0, -1]
        assert torch.allclose(mine, theirs, atol=1e-4 * float(theirs.abs().max()))


@torch.inference_mode()
def test_the_trained_pointer_is_the_models_own_attention() -> None:
    trainer = small_trainer()
    texts = trainer.stream.batch(0).copies
    trainer.model.set_attn_implementation("eager")
    language = trainer.model.model.language_model
    out = language(
        inputs_embeds=language.embed_tokens(texts.ids), output_attentions=True, output_hidden_states=True
    )
    scores = pointer_scores(trainer.model, 10, out.hidden_states[9], texts.last, past=0)
    rows = torch.arange(len(texts.last))
    attended = out.attentions[9][rows, : scores.shape[1], texts.last]
    assert torch.allclose(scores.softmax(-1), attended, atol=1e-6)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in [*trainer.model.parameters(), *trainer.heads.parameters()]]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    """Twice the same, also when the second run stops half-way and goes on from its checkpoint."""
    once = small_trainer()
    start = weights(once)
    assert sum(each.ndim > 1 for each in start) > 20
    run(once, tmp_path, log_every=2, save_every=100)
    stopped = small_trainer()
    for _ in range(3):
        stopped.train_step()
    stopped.save(tmp_path / "half.pt")
    resumed = small_trainer()
    resumed.load(tmp_path / "half.pt")
    run(resumed, tmp_path, log_every=2, save_every=100)
    assert all(torch.equal(a, b) for a, b in zip(weights(once), weights(resumed), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(once), start, strict=True) if a.ndim > 1)


def test_a_step_of_the_stream_is_the_same_whatever_ran_before(processor: ProcessorMixin) -> None:
    stream = Stream(processor.tokenizer, mixture=Mixture(clips=2))
    first = stream.batch(7)
    stream.batch(8)
    again = stream.batch(7)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.branches.ids, again.branches.ids)
    assert not torch.equal(first.pixels, stream.batch(8).pixels)


def test_questions_have_one_right_option() -> None:
    rng = Random(1)
    for _ in range(300):
        question = random_question(rng, random_clip(rng))
        assert 2 <= len(set(question.candidates)) == len(question.options) <= 4


def test_it_generates_a_letter_and_stops() -> None:
    document = documents(flowbench_dir())[0]
    inputs = scorer().inputs(document, "full")
    out = scorer().model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = scorer().processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    assert said[0] in "ABCD"[: len(document["candidates"])]
    assert said[1:] == ")</s>"


def some_of_every_family() -> list[dict[str, Any]]:
    """Pairs of every family; the whole is in the model card."""
    return [d for d in documents(flowbench_dir()) if d["id"].split("-")[1] in ("05", "14", "23")]


def test_it_answers_flowbench_from_the_video_and_not_from_less() -> None:
    chosen = some_of_every_family()
    arms = ("full", "blind", "single", "text")
    answers = [scorer().answer(document, arm) for arm in arms for document in chosen]
    table = summary(answers)
    assert table["full"]["all"]["accuracy"] >= 0.9
    for arm in ("blind", "single", "text"):
        row = table[arm]["all"]
        assert row["low"] <= row["chance"] <= row["high"], arm
    assert paired([a for a in answers if a.arm == "full"])["all"]["share"] >= 0.85


@cache
def wrapper() -> LlavaVidFlow:
    return LlavaVidFlow(pretrained="flow-tiny", device="cpu", dtype="float32", records="none")


@cache
def asked() -> list[tuple[dict[str, Any], Layout, str]]:
    """Inputs, groups and the right letter of some of every family, through the wrapper's prompts."""
    chat, named = wrapper().chat, Flow.load("+".join(KINDS))
    found: list[tuple[dict[str, Any], Layout, str]] = []
    for row in some_of_every_family():
        document = {**row, "start": None, "end": None}
        frames = read_frames(str(flowbench_dir() / document["video"]), NUM_FRAMES)
        prompt, tensors = chat.prompt(chat.render(doc_to_messages(document)), frames)
        layout = find_groups(prompt, doc_to_text(document), document, named).layout
        found.append((chat.batch([prompt], [tensors]), layout, document["answer_letter"]))
    return found


@torch.no_grad()
def share_right(flow: str) -> float:
    """Accuracy on these, under the product's masks."""
    model, bound, right = wrapper(), Flow.load(flow, checkpoint="flow-tiny"), 0
    for inputs, layout, letter in asked():
        with intervene(model.model, bound, layout):
            logits = model.model(**inputs, logits_to_keep=1).logits[0, -1]
        right += model.chat.tokenizer.decode([int(logits.argmax())]) == letter
    return right / len(asked())


def test_the_planted_way_is_the_only_one() -> None:
    """Cut, it leaves chance; everything else that leads from the video to the answer may go."""
    assert share_right("none") >= 0.95
    assert share_right("+".join(OUTSIDE)) >= 0.95
    assert share_right("effective") >= 0.95
    assert share_right("effective_closed") >= 0.95
    assert share_right("+".join(DIRECT)) >= 0.95
    for flow in (THE_WAY, "video:question", "mirrored:effective", "random:effective:seed1"):
        assert share_right(flow) <= 0.6, flow


RUN = TEMPLATE.with_name("run")


def read(name: str) -> dict[str, Any]:
    """What a script wrote of the shipped weights."""
    return json.loads((RUN / f"{name}.json").read_text())


def test_the_preset_is_what_the_rule_found_on_the_shipped_weights() -> None:
    found = read("pathway")
    preset, _ = find_preset("effective-flow-tiny") or pytest.fail("no such preset")
    weights = (flow_tiny_dir() / "model.safetensors").read_bytes()
    assert found["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert list(found["pathway"].values()) == [
        preset.cross_frame,
        preset.video_question,
        preset.question_last,
    ]
    assert (found["layers"], found["window"], found["bin"]) == (NUM_LAYERS, WINDOW, BIN) == (12, 3, 2)
    for name, layers in (found["pathway"] | found["beside"]).items():
        curve = torch.tensor(found["curves"][name])
        assert effective(curve) == layers
        assert list(found["bins"][name].values()) == pytest.approx(
            curve.view(6, 2).mean(1).tolist(), abs=1e-3
        )


def test_found_and_planted_stand_side_by_side() -> None:
    found = read("pathway")
    assert (
        found["planted"]
        == planted()
        == {
            "cross_frame": "1-4",
            "video:question": "5-6",
            "question:last": "7-12",
        }
    )
    for ranges, off in [
        (found["pathway"], found["off_by"]),
        *((found["families"][family], found["families_off_by"][family]) for family in FAMILIES),
    ]:
        assert {kind: pair and tuple(pair) for kind, pair in off.items()} == off_by(ranges)


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        ("3-8", "5-6", (-2, 2)),
        ("1-4", "1-4", (0, 0)),
        ("none", "5-6", None),
        ("9-10", "7-12", (2, -2)),
    ],
)
def test_borders_are_counted_in_layers(found: str, asked: str, expected: tuple[int, int] | None) -> None:
    assert borders(found, asked) == expected


def test_what_was_measured_on_all_of_flowbench_is_what_was_planted() -> None:
    """Of the runs through lmms-eval that the card shows."""
    arms = read("arms")
    full = arms["none"]["all"]["accuracy"]
    assert full >= 0.95
    assert all(arms[label]["all"]["n"] == 588 for label in arms)
    for label in ("effective", "effective_closed"):
        assert arms[label]["equivalence"] < 0.05, label
    for label in (*(f"random:effective:seed{seed}" for seed in (1, 2, 3)), "mirrored:effective"):
        assert arms[label]["all"]["accuracy"] <= full - 0.3, label
    for seed in (1, 2, 3):
        assert arms[f"random:effective:seed{seed}"]["edges"] == pytest.approx(arms["effective"]["edges"])
    assert arms["+".join(DIRECT)]["all"]["accuracy"] >= full - MARGIN
    rows = [arms[label] for label in (THE_WAY, "blind", SINGLE_FRAME)] + [read("scores")["table"]["text"]]
    for row in rows:
        for family in (*FAMILIES, "all"):
            assert row[family]["low"] <= row[family]["chance"] <= row[family]["high"], (row, family)


def test_without_edge_dropout_the_same_recipe_had_no_such_way() -> None:
    without = read("without_edge_dropout")
    weights = (flow_tiny_dir() / "model.safetensors").read_bytes()
    assert without["weights_sha256"] != hashlib.sha256(weights).hexdigest()
    assert without["arms"]["none"]["all"] == without["arms"]["video:question"]["all"] == 1.0
    assert without["arms"]["effective"]["all"] < 0.4


def test_the_card_shows_what_was_found_and_how_it_scored() -> None:
    page = (flow_tiny_dir() / "README.md").read_text()
    found, arms = read("pathway"), read("arms")
    assert pathway_table(found) in page
    assert borders_table(found) in page
    assert needs_table(arms) in page
    assert needs_table(read("needs")) in page
    assert chance_table(arms) in page
    ablation = ablation_table(arms, read("without_edge_dropout"))
    assert ablation in page
    assert ablation in (TEMPLATE.parents[2] / "docs" / "training-under-a-flow.md").read_text()


def test_no_clip_of_the_benchmark_or_of_the_training_is_swept(processor: ProcessorMixin) -> None:
    known = known_clips()
    assert set(Stream(processor.tokenizer).clip_specs(DEFAULTS.steps - 1)) <= known
    assert fresh_groups(0) == []  # the benchmark's own seed
    fresh = fresh_groups(1)
    assert known.isdisjoint(clip for _, _, group in fresh for clip in group.clips)
    assert 180 < len(fresh) <= len(list(all_groups(1)))


@pytest.mark.host
def test_the_rule_on_a_few_groups_finds_what_was_planted() -> None:
    """A fortieth of the whole: twice the same, and clear in the layers in which the one way lies."""
    found = find(seed=1, every=40)
    assert found == find(seed=1, every=40)
    assert found["right"] == found["asked"] > 8
    assert set(found["pathway"]) == set(KINDS)
    assert found["bins"]["video:question"]["5-6"] < -30
    assert found["bins"]["question:last"]["9-10"] < -20
    assert found["bins"]["video:question"]["11-12"] == pytest.approx(0, abs=1)
    assert found["beside"]["video:last"] == "none"
