"""The bundled model: what its prompt is made of, that it answers flowbench, and that its training can be repeated."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoConfig, AutoProcessor, ProcessorMixin

from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.flow import find_preset
from lmms_flow.flow.pathway import KINDS
from scripts.flow_tiny.card import TEMPLATE, needs_table, pathway_table
from scripts.flow_tiny.data import Mixture, Stream, random_clip, random_question
from scripts.flow_tiny.evaluate import Scorer, documents, paired, prompt, summary
from scripts.flow_tiny.labels import SAMPLED
from scripts.flow_tiny.losses import causal_rows, embed_videos
from scripts.flow_tiny.model import NUM_FRAMES, NUM_LAYERS, TOKENS_PER_FRAME, pointer_scores
from scripts.flow_tiny.pathway import BIN, WINDOW, effective, find, fresh_groups, known_clips
from scripts.flow_tiny.text import SYSTEM, build_tokenizer
from scripts.flow_tiny.train import Settings, Trainer, run
from scripts.flowbench.groups import all_groups
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
def test_other_conversations(processor: ProcessorMixin, messages: list, expected: str) -> None:
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
    """The training path (a clip once, its questions from its keys and values) gives the model's own logits."""
    model, processor = scorer().model, scorer().processor
    stream = Stream(processor.tokenizer, mixture=Mixture(2, 2, 1, open_share=0.0, noise=0.0))
    batch = stream.batch(0)
    language, texts = model.model.language_model, batch.branches
    embed = language.embed_tokens
    prefix = torch.cat([embed(stream.prefix_ids).expand(2, -1, -1), embed_videos(model, batch.pixels)], dim=1)
    keys_and_values = language(inputs_embeds=prefix, use_cache=True).past_key_values
    keys_and_values.batch_repeat_interleave(2)
    past, new = prefix.shape[1], texts.ids.shape[1]
    states = language(
        inputs_embeds=embed(texts.ids),
        past_key_values=keys_and_values,
        attention_mask=causal_rows(new, past + new),
        position_ids=torch.arange(past, past + new)[None],
    ).last_hidden_state
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


def test_it_answers_flowbench_from_the_video_and_not_from_less() -> None:
    """A sample of pairs of every family; the whole is in the model card."""
    chosen = [d for d in documents(flowbench_dir()) if d["id"].split("-")[1] in ("05", "14", "23")]
    arms = ("full", "blind", "single", "text")
    answers = [scorer().answer(document, arm) for arm in arms for document in chosen]
    table = summary(answers)
    assert table["full"]["all"]["accuracy"] >= 0.9
    for arm in ("blind", "single", "text"):
        row = table[arm]["all"]
        assert row["low"] <= row["chance"] <= row["high"], arm
    assert paired([a for a in answers if a.arm == "full"])["all"]["share"] >= 0.85


RUN = TEMPLATE.with_name("run")


def test_the_preset_is_what_the_rule_found_on_the_shipped_weights() -> None:
    found = json.loads((RUN / "pathway.json").read_text())
    preset, _ = find_preset("effective-flow-tiny")
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


def test_the_card_shows_what_was_found_and_how_it_scored() -> None:
    page = (flow_tiny_dir() / "README.md").read_text()
    found, arms = (json.loads((RUN / f"{name}.json").read_text()) for name in ("pathway", "arms"))
    assert pathway_table(found) in page
    assert needs_table(arms) in page
    assert f"The pathway fails on this model: {100 * arms['effective']['all']:.1f} %" in page


def test_no_clip_of_the_benchmark_or_of_the_training_is_swept(processor: ProcessorMixin) -> None:
    known = known_clips()
    assert set(Stream(processor.tokenizer).clip_specs(2399)) <= known
    assert fresh_groups(0) == []  # the benchmark's own seed
    fresh = fresh_groups(1)
    assert known.isdisjoint(clip for _, _, group in fresh for clip in group.clips)
    assert 180 < len(fresh) <= len(list(all_groups(1)))


def test_the_rule_on_a_few_groups_finds_where_the_last_token_reads_the_options() -> None:
    """A fortieth of the whole: twice the same, and clear in the layers that it was taught to read the options in."""
    found = find(seed=1, every=40)
    assert found == find(seed=1, every=40)
    assert found["right"] == found["asked"] > 8
    assert set(found["pathway"]) == set(KINDS)
    assert found["pathway"]["video:question"] == "none"
    assert found["pathway"]["question:last"].endswith("-12")
    assert found["bins"]["question:last"]["9-10"] < -20
    assert found["bins"]["question:last"]["5-6"] == pytest.approx(0, abs=1)
