"""`internvl_flow`: the original form in transformers' own class computes what the model's own code does.

The forward passes that it must equal are written out here, from the tensors as they lie in the files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lmms_flow.engine.windows import has_windows
from lmms_flow.flow import Flow
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.video import read_frames
from lmms_flow.model_wrappers.internvl import InternvlFlow
from tests.support.checkpoints import HIDDEN, VISION_HEADS, VISION_HIDDEN, VISION_LAYERS
from tests.support.checkpoints_internvl import PATCH_SIZE, PHI_TEMPLATE, internvl_chat, native_internvl
from tests.support.clips import write_clip
from tests.support.wrapped import GREEDY, answers, greedy_tokens, messages, question, refusal


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_clip(folder / f"{seed}.mp4", seed=seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's checkpoint, four layers deep."""
    folder = tmp_path_factory.mktemp("paper") / "model"
    internvl_chat(folder)
    return folder


def load(folder: Path, **model_args: Any) -> InternvlFlow:
    return InternvlFlow(pretrained=str(folder), device="cpu", **{"records": "none", **model_args})


def pixels(model: InternvlFlow, clip: str) -> Tensor:
    prompt = model.chat.render(messages(clip))
    return model.chat.encode(prompt, read_frames(clip, 8))[1]["pixel_values"]


# The original forward, written out


def vision_states(weights: dict[str, Tensor], pixels: Tensor, layers: int) -> Tensor:
    """InternViT's states after some of its layers, [frame, 1 + patch, width]."""
    of = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    patches = F.conv2d(
        pixels,
        of["embeddings.patch_embedding.weight"],
        of["embeddings.patch_embedding.bias"],
        stride=PATCH_SIZE,
    )
    states = torch.cat(
        [
            of["embeddings.class_embedding"].expand(len(pixels), 1, -1),
            patches.flatten(2).transpose(1, 2),
        ],
        1,
    )
    states = states + of["embeddings.position_embedding"]
    for layer in range(layers):
        block = {
            name.removeprefix(f"encoder.layers.{layer}."): tensor
            for name, tensor in of.items()
            if name.startswith(f"encoder.layers.{layer}.")
        }
        states = states + block["ls1"] * attention(block, norm(block, "norm1", states))
        inner = F.gelu(F.linear(norm(block, "norm2", states), block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
        states = states + block["ls2"] * F.linear(inner, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    return states


def norm(block: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    """LayerNorm where there is a bias (InternViT-300M), RMSNorm where there is none (6B)."""
    if f"{name}.bias" in block:
        return F.layer_norm(
            states, states.shape[-1:], block[f"{name}.weight"], block[f"{name}.bias"], eps=1e-6
        )
    return rms(states, block[f"{name}.weight"])


def rms(states: Tensor, weight: Tensor) -> Tensor:
    return weight * states * (states.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


def attention(block: dict[str, Tensor], states: Tensor) -> Tensor:
    query, key, value = F.linear(states, block["attn.qkv.weight"], block.get("attn.qkv.bias")).chunk(3, -1)
    if "attn.q_norm.weight" in block:
        query, key = rms(query, block["attn.q_norm.weight"]), rms(key, block["attn.k_norm.weight"])
    query, key, value = (
        part.unflatten(-1, (VISION_HEADS, -1)).transpose(1, 2) for part in (query, key, value)
    )
    scores = query @ key.transpose(2, 3) / (VISION_HIDDEN // VISION_HEADS) ** 0.5
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    return F.linear(mixed, block["attn.proj.weight"], block["attn.proj.bias"])


def video_features(weights: dict[str, Tensor], pixels: Tensor, select: int, version: str) -> Tensor:
    """[frame, channel, height, width] to [token, hidden], frame after frame.

    Pixel shuffle by 0.5 puts four neighbours into one token: the upper two before the lower two. In version 1 the
    tokens run down the columns.
    """
    states = vision_states(weights, pixels, VISION_LAYERS + 1 + select)[:, 1:]
    side = int(states.shape[1] ** 0.5)
    grid = states.unflatten(1, (side, side))
    tokens = []
    for row in range(side // 2):
        for column in range(side // 2):
            top, left = (2 * column, 2 * row) if version == "v1" else (2 * row, 2 * column)
            tokens.append(torch.cat([grid[:, top + y, left + x] for y in (0, 1) for x in (0, 1)], -1))
    shuffled = torch.stack(tokens, 1)
    normed = F.layer_norm(shuffled, shuffled.shape[-1:], weights["mlp1.0.weight"], weights["mlp1.0.bias"])
    inner = F.gelu(F.linear(normed, weights["mlp1.1.weight"], weights["mlp1.1.bias"]))
    return F.linear(inner, weights["mlp1.3.weight"], weights["mlp1.3.bias"]).flatten(0, 1)


def language_model(folder: Path, weights: dict[str, Tensor]) -> Any:
    """The language model alone, as transformers has it."""
    values = json.loads((folder / "config.json").read_text())["llm_config"]
    values = {
        name: value for name, value in values.items() if name not in ("auto_map", "attn_implementation")
    }
    if values["model_type"] == "phi3":
        values["rope_scaling"]["type"] = "longrope"
    config = transformers.AutoConfig.for_model(**values)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    prefix = "language_model."
    model.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items() if prefix in name})
    return model.eval()


@pytest.mark.parametrize(
    ("tower", "config"),
    [
        ("300m", {}),
        ("6b", {}),
        ("300m", {"ps_version": "v1"}),
        ("300m", {"select_layer": -2}),
        ("6b", {"select_layer": -3, "ps_version": "v1"}),
    ],
)
@torch.no_grad()
def test_video_features(tower: str, config: dict[str, Any], clips: list[str], tmp_path: Path) -> None:
    weights = internvl_chat(tmp_path, tower=tower, layers=2, shards=3, **config)
    model = load(tmp_path)
    frames = pixels(model, clips[0])
    found = model.model.model.get_image_features(pixel_values=frames).pooler_output.flatten(0, 1)
    expected = video_features(weights, frames, config.get("select_layer", -1), config.get("ps_version", "v2"))
    assert found.shape == (8 * 4, HIDDEN)
    assert torch.allclose(found, expected, atol=1e-5)
    assert sum(w.numel() for w in model.model.parameters()) == sum(w.numel() for w in weights.values())


@pytest.mark.parametrize("language", ["phi3", "qwen2"])
def test_answers_without_a_flow(language: str, clips: list[str], tmp_path: Path) -> None:
    weights = internvl_chat(tmp_path, language=language)
    model = load(tmp_path)
    (record,) = answers(model, [messages(clips[0])], GREEDY)
    prompt = model.chat.render(messages(clips[0]))
    ids, beside = model.chat.encode(prompt, read_frames(clips[0], 8))
    features = video_features(weights, beside["pixel_values"], -1, "v2")
    tokenizer = model.chat.tokenizer
    stops = {tokenizer.eos_token_id, tokenizer.get_vocab().get("<|end|>", -1)}
    token = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    plain = language_model(tmp_path, weights)
    tokens = greedy_tokens(plain, torch.tensor(ids), token, features, 6, stops)
    assert record.answer == tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_an_answer_ends_with_the_turn(paper: Path) -> None:
    model = load(paper)
    tokenizer = model.chat.tokenizer
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")}
    assert set(model.model.generation_config.eos_token_id) == ends


def test_phi3_turns_by_the_short_factors(paper: Path) -> None:
    """Within 4,096 tokens; sine and cosine are stretched for a context of 128 K (LongRoPE, once called "su")."""
    values = json.loads((paper / "config.json").read_text())["llm_config"]
    factors = torch.tensor(values["rope_scaling"]["short_factor"])
    width = 2 * len(factors)
    angles = torch.arange(50)[:, None] / (factors * 10000.0 ** (torch.arange(0, width, 2) / width))
    stretch = math.sqrt(1 + math.log(131072 / 4096) / math.log(4096))
    rotary = load(paper).model.model.language_model.rotary_emb
    cos, sin = rotary(torch.zeros(1, 50, HIDDEN), torch.arange(50)[None])
    assert torch.allclose(cos[0], stretch * angles.cos().repeat(1, 2), atol=1e-5)
    assert torch.allclose(sin[0], stretch * angles.sin().repeat(1, 2), atol=1e-5)


def test_a_window_that_hides_nothing_is_left_out(tmp_path: Path) -> None:
    """Or the sparse engine would have to run dense: Phi-3-mini-128k names a window of 256 K."""
    internvl_chat(tmp_path, layers=2)
    assert not has_windows(load(tmp_path).model.model.language_model)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    values["llm_config"]["sliding_window"] = 2047
    file.write_text(json.dumps(values))
    assert has_windows(load(tmp_path).model.model.language_model)


# Pixels and prompt


@pytest.mark.parametrize("own", [True, False])
def test_frames_are_cut_out_of_the_centre(own: bool, clips: list[str], tmp_path: Path) -> None:
    internvl_chat(tmp_path, layers=2, image_processor=own)
    processor = load(tmp_path).chat.image_processor
    assert [round(value, 3) for value in processor.image_mean] == [0.485, 0.456, 0.406]
    assert [round(value, 3) for value in processor.image_std] == [0.229, 0.224, 0.225]
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (56, 56)
    assert int(processor.resample) == 3
    wide = np.zeros((56, 112, 3), np.uint8)
    wide[:, 28:84] = 255  # what is left of it
    found = processor([wide], return_tensors="pt")["pixel_values"][0]
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(found, white[:, None, None].expand(3, 56, 56), atol=1e-4)


def test_the_layout_of_the_papers_prompt(tmp_path: Path, clips: list[str]) -> None:
    """8 frames of 256 tokens; the marks around them are no part of the video."""
    internvl_chat(tmp_path, layers=2, image_size=448)
    chat = load(tmp_path).chat
    given = messages(clips[0])
    prompt, _ = chat.prompt(chat.render(given), read_frames(clips[0], 8))
    groups = find_groups(
        prompt, given[0]["content"][1]["text"], question(clips[0]), Flow.load("true_option:last")
    )
    layout = groups.layout
    assert len(layout.groups["video"][0]) == 8 * 256
    assert [len(frame) for frame in layout.frames] == [256] * 8

    def text(name: str) -> str:
        ids = [prompt.input_ids[token] for part in layout.groups[name] for token in part]
        return str(chat.tokenizer.decode(ids)).replace("<|user|>", "<|user|>\n")

    assert text("system").startswith("<s> Carefully watch")
    assert text("system").endswith("<img>")
    assert text("gap").split() == ["</img>", "<|user|>"]
    assert text("question") == "Question: Where does the square move to?\nOptions:\n(A) Left\n(B) Right"
    assert text("true_option").strip() == "(A) Left"
    assert " ".join(text("tail").split()) == "Only give the best option. <|assistant|> Best option"
    assert text("last") == ":("
    assert groups.rule == "label to last option"


@pytest.mark.parametrize(
    ("language", "template", "expected"),
    [
        ("phi3", PHI_TEMPLATE, "<|user|>\n<img><IMG_CONTEXT></img>\n <|user|>\nQuestion:"),  # the paper's
        ("phi3", "pictures", "Q <img><IMG_CONTEXT></img> Question:"),  # its own knows images
        ("qwen2", "", "<|im_start|>user\n<img><IMG_CONTEXT></img>\nQuestion:"),
    ],
)
def test_whose_template(
    language: str, template: str, expected: str, clips: list[str], tmp_path: Path
) -> None:
    pictures = (
        "{% for message in messages %}Q{% for part in message['content'] %} "
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
    )
    internvl_chat(
        tmp_path,
        language=language,
        layers=2,
        chat_template=pictures if template == "pictures" else template,
    )
    model = load(tmp_path, flow="video:last")
    assert expected in model.chat.render(messages(clips[0]))
    assert answers(model, [messages(clips[0])])[0].status == "ok"


# The native layout


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native") / "model"
    native_internvl(folder)
    return folder


def test_native_checkpoints(native: Path, clips: list[str]) -> None:
    """Answers as plain transformers; a frame is "Frame2: <img>", its tokens, "</img>" and the break before it."""
    given = messages(clips[0])
    model = load(native)
    (record,) = answers(model, [given], GREEDY)
    processor = transformers.AutoProcessor.from_pretrained(native)
    plain = transformers.AutoModelForImageTextToText.from_pretrained(native).eval()
    frames = read_frames(clips[0], 8)
    text = processor.apply_chat_template(given, continue_final_message=True, tokenize=False)
    inputs = processor(text=text, videos=[frames.pixels], do_sample_frames=False, return_tensors="pt")
    whole = plain.generate(**inputs, max_new_tokens=6, do_sample=False)
    answer = processor.tokenizer.decode(whole[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert record.answer == answer.strip()
    prompt, _ = model.chat.prompt(text, frames)
    assert prompt.input_ids == tuple(inputs.input_ids[0].tolist())
    spelled = [processor.tokenizer.decode(prompt.input_ids[f.start : f.stop]) for f in prompt.frames]
    tokens = "<IMG_CONTEXT>" * 4
    assert spelled[0] == f"Frame1: <img>{tokens}</img>"
    assert spelled[1:] == [f"\nFrame{i}: <img>{tokens}</img>" for i in range(2, 9)]


# What is wrong is one clear line


def change_weights(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda w: w.pop("mlp1.1.weight"), ["multi_modal_projector.linear_1.weight is missing"]),
        (
            lambda w: w.pop("vision_model.encoder.layers.0.attn.qkv.weight"),
            ["k_proj.weight", "q_proj.weight", "v_proj.weight are missing"],
        ),
        (
            lambda w: w.update({f"extra.{i}": torch.zeros(1) for i in range(5)}),
            ["extra.0, extra.1, extra.2 and 2 more are not of this model"],
        ),
        (
            lambda w: w.update({"mlp1.3.bias": torch.zeros(3)}),
            ["multi_modal_projector.linear_2.bias is of another shape"],
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, parts: list[str], tmp_path: Path) -> None:
    internvl_chat(tmp_path, layers=2)
    change_weights(tmp_path, change)
    line = refusal(lambda: load(tmp_path))
    assert "the weights don't fit ConvertedInternVL" in line
    assert all(part in line for part in parts), line


def test_computed_buffers_of_old_checkpoints_are_no_weights(tmp_path: Path) -> None:
    internvl_chat(tmp_path, layers=2)
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(tmp_path, lambda weights: weights.update({name: torch.zeros(8)}))
    load(tmp_path)


def test_checkpoints_that_have_no_native_form(tmp_path: Path) -> None:
    internvl_chat(tmp_path, layers=2)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "model_type": "llava"}))
    assert "'llava' checkpoint; internvl_flow runs internvl_chat" in refusal(lambda: load(tmp_path))
    values["llm_config"]["architectures"] = ["InternLM2ForCausalLM"]
    file.write_text(json.dumps(values))
    line = refusal(lambda: load(tmp_path))
    assert "InternLM2ForCausalLM" in line
    assert "Phi3ForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM" in line


def test_a_tokenizer_without_the_placeholder(tmp_path: Path) -> None:
    internvl_chat(tmp_path, layers=2)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<IMG_CONTEXT>", "<IMG>"))
    assert "no token <IMG_CONTEXT>" in refusal(lambda: load(tmp_path))


def test_a_language_model_without_a_template(tmp_path: Path) -> None:
    internvl_chat(tmp_path, layers=2, language="qwen2")
    file = tmp_path / "tokenizer_config.json"
    values = json.loads(file.read_text())
    del values["chat_template"]
    file.write_text(json.dumps(values))
    assert "ships no chat template" in refusal(lambda: load(tmp_path))
