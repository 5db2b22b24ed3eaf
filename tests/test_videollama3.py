"""`videollama3_flow`: the original form in transformers' own class computes what the model's own code does.

The forward passes that it must equal are written out here, from the tensors as they lie in the files.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lmms_flow.engine.prefill import SparsePrefill
from lmms_flow.errors import SampleError
from lmms_flow.flow import Flow
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.sampling import linspace
from lmms_flow.inputs.video import Frames, read_frames
from lmms_flow.model_wrappers.videollama3 import VideoLlama3Flow, timestamps
from lmms_flow.report.joining import arm_key
from tests.support.checkpoints_videollama3 import HIDDEN, PATCH_SIZE, VISION_HEADS, VISION_LAYERS, videollama3
from tests.support.clips import write_clip
from tests.support.wrapped import GREEDY, answers, greedy_tokens, question, refusal
from tests.support.wrapped import messages as any_messages

CLOSED = "pathway: {cross_frame: 1-2, 'video:question': 1-3, 'question:last': 3-4}\nclosed: true\n"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(64, 96), (96, 64), (112, 168)]
    return [str(write_clip(folder / f"{i}.mp4", seed=i, size=size)) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's checkpoint, four layers deep."""
    folder = tmp_path_factory.mktemp("paper") / "model"
    videollama3(folder)
    return folder


def load(folder: Path, **model_args: Any) -> VideoLlama3Flow:
    return VideoLlama3Flow(pretrained=str(folder), device="cpu", **{"records": "none", **model_args})


def messages(video: str, **changed: Any) -> list[dict[str, Any]]:
    return any_messages(video, "videollama3", **changed)


def frames_of(clip: str) -> Frames:
    return read_frames(clip, 8, sampling="linspace")


def made_frames(indices: tuple[int, ...], fps: float, size: tuple[int, int] = (28, 28)) -> Frames:
    pixels = np.zeros((len(indices), *size, 3), np.uint8)
    return Frames(pixels, indices, fps, tuple(index / fps for index in indices))


# The original forward, written out


def places_of(rows: int, columns: int) -> list[tuple[int, int]]:
    """Row and column of each patch, four neighbours after one another."""
    corners = [(row, column) for row in range(0, rows, 2) for column in range(0, columns, 2)]
    return [(row + y, column + x) for row, column in corners for y in (0, 1) for x in (0, 1)]


def video_features(weights: dict[str, Tensor], patches: Tensor, grid: Tensor) -> Tensor:
    """[patch, pixel] to [token, hidden], frame after frame.

    Four neighbouring patches follow one another; each frame reads itself alone; queries and keys are turned by row and
    column; a token is the mean of its four patches.
    """
    prefix = "model.vision_encoder."
    of = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if prefix in name}
    num_frames, rows, columns = grid.tolist()
    states = F.conv2d(
        patches.view(-1, 3, PATCH_SIZE, PATCH_SIZE),
        of["embeddings.patch_embedding.weight"],
        of["embeddings.patch_embedding.bias"],
    ).view(num_frames, rows * columns, -1)
    places = places_of(rows, columns)
    width = states.shape[-1] // VISION_HEADS
    frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    angles = (torch.tensor(places)[:, :, None] * frequencies).flatten(1).repeat(1, 2)
    for layer in range(VISION_LAYERS):
        states = encoder_layer(of, f"encoder.layers.{layer}.", states, angles)
    states = normed(of, "post_layernorm", states)
    tokens = states.unflatten(1, (-1, 4)).mean(2).flatten(0, 1)
    projector = "model.mm_projector.readout."
    inner = F.gelu(F.linear(tokens, weights[f"{projector}0.weight"], weights[f"{projector}0.bias"]))
    return F.linear(inner, weights[f"{projector}2.weight"], weights[f"{projector}2.bias"])


def normed(of: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], of[f"{name}.weight"], of[f"{name}.bias"], eps=1e-6)


def linear(of: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    return F.linear(states, of[f"{name}.weight"], of[f"{name}.bias"])


def encoder_layer(
    of: dict[str, Tensor], prefix: str, states: Tensor, angles: Tensor, added: Any = 0
) -> Tensor:
    def heads(name: str) -> Tensor:
        projected = linear(of, f"{prefix}self_attn.{name}_proj", normed(of, f"{prefix}layer_norm1", states))
        return projected.unflatten(-1, (VISION_HEADS, -1)).transpose(1, 2)

    def turned(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        return part * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    query, key = turned(heads("q")), turned(heads("k"))
    mixed = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + added).softmax(-1) @ heads("v")
    states = states + linear(of, f"{prefix}self_attn.out_proj", mixed.transpose(1, 2).flatten(2))
    inner = linear(of, f"{prefix}mlp.fc1", normed(of, f"{prefix}layer_norm2", states))
    return states + linear(of, f"{prefix}mlp.fc2", F.gelu(inner, approximate="tanh"))


def language_model(folder: Path, weights: dict[str, Tensor]) -> Any:
    """The language model alone, as transformers has it."""
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "qwen2"}
    config = transformers.Qwen2Config.from_dict(values)
    model = transformers.Qwen2ForCausalLM._from_config(config, dtype=torch.float32)
    own = {name: w for name, w in weights.items() if "vision_encoder" not in name and "projector" not in name}
    model.load_state_dict(
        {**own, "lm_head.weight": own.get("lm_head.weight", own["model.embed_tokens.weight"])}
    )
    return model.eval()


@torch.no_grad()
def test_video_features(clips: list[str], tmp_path: Path) -> None:
    weights = videollama3(tmp_path, layers=2, shards=3)
    model = load(tmp_path)
    for clip in clips:
        _, beside = model.chat.encode(model.chat.render(messages(clip)), frames_of(clip))
        found = model.model.model.get_video_features(**beside).pooler_output[0]
        expected = video_features(weights, beside["pixel_values_videos"], beside["video_grid_thw"][0])
        assert found.shape[1] == HIDDEN
        assert torch.allclose(found, expected, atol=1e-5)
    assert sum(w.numel() for w in model.model.parameters()) == sum(w.numel() for w in weights.values())


@pytest.mark.parametrize("tied", [False, True])
def test_answers_without_a_flow(tied: bool, clips: list[str], tmp_path: Path) -> None:
    """The likeliest token each time: the checkpoint's own sampling and its penalty for repetitions are left out."""
    weights = videollama3(tmp_path, tied=tied)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 50.0}))
    model = load(tmp_path)
    (record,) = answers(model, [messages(clips[0])], GREEDY)
    ids, beside = model.chat.encode(model.chat.render(messages(clips[0])), frames_of(clips[0]))
    features = video_features(weights, beside["pixel_values_videos"], beside["video_grid_thw"][0])
    tokenizer = model.chat.tokenizer
    stops = set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    token = tokenizer.convert_tokens_to_ids("<image>")
    plain = language_model(tmp_path, weights)
    tokens = greedy_tokens(plain, torch.tensor(ids), token, features, 6, stops)
    assert record.answer == tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert record.frames == linspace(0, 23, 8) == (0, 3, 6, 9, 13, 16, 19, 23)


# Pixels and prompt


def test_pixels_are_patches_in_blocks_of_four(paper: Path, clips: list[str]) -> None:
    """A frame within the budget whose sides are multiples of 28 pixels is taken as it is."""
    frames = frames_of(clips[2])
    _, beside = load(paper).chat.encode("<image>", frames)
    assert beside["video_grid_thw"].tolist() == [[8, 8, 12]]
    blocks = torch.from_numpy(frames.pixels).float().div(255).sub(0.5).div(0.5)
    expected = blocks.unflatten(1, (4, 2, 14)).unflatten(4, (6, 2, 14)).permute(0, 1, 4, 2, 5, 7, 3, 6)
    assert torch.allclose(beside["pixel_values_videos"], expected.reshape(8 * 8 * 12, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "num_frames", "grid"),
    [
        ((720, 1280), 8, (9, 16)),  # both are the paper's
        ((240, 320), 8, (9, 11)),
        ((720, 1280), 24, (9, 16)),  # the budget grows with the frames
        ((20, 30), 8, (4, 5)),  # at least 16 tokens
        ((336, 336), 8, (12, 12)),
        ((1080, 1920), 1, (9, 16)),
    ],
)
def test_at_most_144_tokens_a_frame(
    size: tuple[int, int], num_frames: int, grid: tuple[int, int], paper: Path
) -> None:
    chat = load(paper).chat
    frames = made_frames(tuple(range(0, 10 * num_frames, 10)), 25.0, size)
    ids, beside = chat.encode("<image>", frames)
    assert beside["video_grid_thw"].tolist() == [[num_frames, 2 * grid[0], 2 * grid[1]]]
    token = chat.tokenizer.convert_tokens_to_ids("<image>")
    assert ids.count(token) == num_frames * grid[0] * grid[1]


def naive_size(height: int, width: int) -> tuple[int, int]:
    """In tokens of 28 x 28 pixels: to the nearest, down into 144 of a frame, up to 16."""
    rows, columns = round(height / 28), round(width / 28)
    if rows * columns > 144:
        shrunk = math.sqrt(height * width / (144 * 28 * 28))
        return math.floor(height / shrunk / 28), math.floor(width / shrunk / 28)
    if rows * columns < 16:
        grown = math.sqrt(16 * 28 * 28 / (height * width))
        return math.ceil(height * grown / 28), math.ceil(width * grown / 28)
    return rows, columns


def test_the_size_of_600_frames(paper: Path) -> None:
    chat = load(paper).chat
    random = np.random.default_rng(4)
    for height, width in random.integers(40, 600, (600, 2)).tolist():
        _, beside = chat.encode("<image>", made_frames((0,), 25.0, (height, width)))
        found = beside["video_grid_thw"][0, 1:] // 2
        assert tuple(found.tolist()) == naive_size(height, width), (height, width)


@pytest.mark.parametrize(("count", "fps", "num_frames"), [(240, 30.0, 8), (24, 12.0, 8), (1000, 23.976, 24)])
def test_times_are_spread_over_the_whole_clip(count: int, fps: float, num_frames: int) -> None:
    """The original loader gives the first frame the clip's start and the last one its end."""
    taken = linspace(0, count - 1, num_frames)
    expected = np.linspace(0, count / fps, count)[list(taken)]
    assert timestamps(made_frames(taken, fps)) == pytest.approx(expected.tolist(), abs=1e-9)


def test_times_of_a_clip_within_a_video() -> None:
    taken = linspace(60, 119, 4)
    assert timestamps(made_frames(taken, 30.0)) == pytest.approx([2.0, 2.644, 3.322, 4.0], abs=1e-3)
    assert timestamps(made_frames((45,), 30.0)) == [1.5]
    with pytest.raises(SampleError, match="no frame rate"):
        timestamps(made_frames((0, 1), float("nan")))


def test_the_layout_of_the_papers_prompt(paper: Path, clips: list[str]) -> None:
    """Times belong to their frame, a comma to the frame behind it, the line breaks around the video to no frame."""
    chat = load(paper).chat
    given = messages(clips[0])
    prompt, _ = chat.prompt(chat.render(given), frames_of(clips[0]))
    groups = find_groups(
        prompt, given[0]["content"][1]["text"], question(clips[0]), Flow.load("true_option:last")
    )
    layout = groups.layout

    def text(*parts: range) -> str:
        spelled = chat.tokenizer.decode([prompt.input_ids[token] for part in parts for token in part])
        return re.sub("(<image>)+", "{frame}", spelled)

    times = ["0.0", "0.3", "0.5", "0.8", "1.1", "1.4", "1.7", "2.0"]
    spelled = [text(frame) for frame in layout.frames]
    assert spelled == [f"{',' if i else ''}Time {time}s:{{frame}}" for i, time in enumerate(times)]
    tokens = Counter(prompt.input_ids)[chat.tokenizer.convert_tokens_to_ids("<image>")]
    assert tokens == 8 * 20
    groups_spelled = {name: text(*parts) for name, parts in layout.groups.items()}
    assert groups_spelled["system"] == "<|im_start|>user\n"
    assert groups_spelled["gap"] == "\n"
    assert groups_spelled["question"] == (
        "Question: Where does the square move to?\nOptions:\n(A) Left\n(B) Right\n"
    )
    assert groups_spelled["stem"] == "Where does the square move to?\n" or groups_spelled["stem"].startswith(
        " "
    )
    assert groups_spelled["true_option"] == "(A) Left\n"
    assert groups_spelled["tail"] == (
        "Answer with the option's letter from the given choices directly and only give the best option."
        "<|im_end|>\n<|im_start|>assistant"
    )
    assert groups_spelled["last"] == "\n"


def test_commas_in_the_question_are_no_borders_of_frames(paper: Path, clips: list[str]) -> None:
    given = messages(clips[0], question="First, second, third: what, where, when,")
    prompt, _ = load(paper).chat.prompt(load(paper).chat.render(given), frames_of(clips[0]))
    assert len(prompt.frames) == 8
    assert prompt.frames[-1].stop == prompt.video.stop


# The vision tower as the paper's scripts ran it


def released_features(weights: dict[str, Tensor], patches: Tensor, grid: Tensor) -> Tensor:
    """As `video_features`, but for the mask: one is added to the scores of patches of one frame, and all are read."""
    prefix = "model.vision_encoder."
    of = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if prefix in name}
    num_frames, rows, columns = grid.tolist()
    size = rows * columns
    states = F.conv2d(
        patches.view(-1, 3, PATCH_SIZE, PATCH_SIZE),
        of["embeddings.patch_embedding.weight"],
        of["embeddings.patch_embedding.bias"],
    ).view(1, num_frames * size, -1)
    frame = torch.arange(num_frames).repeat_interleave(size)
    one_frame = frame[:, None] == frame[None, :]
    places = places_of(rows, columns) * num_frames
    width = states.shape[-1] // VISION_HEADS
    frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    angles = (torch.tensor(places)[:, :, None] * frequencies).flatten(1).repeat(1, 2)
    for layer in range(VISION_LAYERS):
        states = encoder_layer(of, f"encoder.layers.{layer}.", states, angles, added=one_frame)
    states = normed(of, "post_layernorm", states)
    tokens = states.unflatten(1, (-1, 4)).mean(2).flatten(0, 1)
    projector = "model.mm_projector.readout."
    inner = F.gelu(F.linear(tokens, weights[f"{projector}0.weight"], weights[f"{projector}0.bias"]))
    return F.linear(inner, weights[f"{projector}2.weight"], weights[f"{projector}2.bias"])


@torch.no_grad()
def test_frames_read_one_another_in_the_released_vision(clips: list[str], tmp_path: Path) -> None:
    """Those of one video alone, also where several are encoded in one call."""
    weights = videollama3(tmp_path, layers=2)
    model = load(tmp_path, released_vision=True)
    plain = load(tmp_path)
    many, wanted = [], []
    for clip in clips:
        _, beside = model.chat.encode(model.chat.render(messages(clip)), frames_of(clip))
        found = model.model.model.get_video_features(**beside).pooler_output[0]
        expected = released_features(weights, beside["pixel_values_videos"], beside["video_grid_thw"][0])
        assert torch.allclose(found, expected, atol=1e-5)
        alone = plain.model.model.get_video_features(**beside).pooler_output[0]
        assert float((found - alone).norm() / alone.norm()) > 0.01
        many.append(beside)
        wanted.append(expected)
    batch = {name: torch.cat([one[name] for one in many]) for name in many[0]}
    for found, expected in zip(
        model.model.model.get_video_features(**batch).pooler_output, wanted, strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_released_vision_is_marked(paper: Path, clips: list[str], tmp_path: Path) -> None:
    """In the record, in the key of the journal, and in the name of the model in reports."""
    conversations = [messages(clips[0]), messages(clips[1])]
    (plain, _), (released, other) = (
        answers(load(paper, **given, records=str(tmp_path)), conversations)
        for given in ({}, {"released_vision": True})
    )
    assert (plain.vision, released.vision) == ("", "released")
    assert plain.options != pytest.approx(released.options, rel=1e-3)
    assert arm_key(plain)[0] == str(paper)
    assert arm_key(released)[0] == f"{paper} (released vision)"
    together = answers(load(paper, released_vision=True, batch_size=2), conversations)
    assert [one.options for one in together] == [
        pytest.approx(one.options, rel=1e-4) for one in (released, other)
    ]


# Under a flow


def test_the_sparse_engine_drops_rows(
    paper: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' own class computes logits of the whole prompt, and every row would have to stay."""
    (tmp_path / "closed.yaml").write_text(CLOSED)
    model = load(paper, flow=str(tmp_path / "closed.yaml"), engine="sparse")
    dropped = []
    prepare = SparsePrefill.prepare

    def noted(self: SparsePrefill, layer: int, call: Any) -> Any:
        prepared = prepare(self, layer, call)
        dropped.append(prepared.hidden.shape[1] < call.hidden.shape[1])
        return prepared

    monkeypatch.setattr(SparsePrefill, "prepare", noted)
    answers(model, [messages(clips[0])])
    assert any(dropped)


@torch.no_grad()
def test_logits_of_the_positions_that_are_asked_for(paper: Path, clips: list[str]) -> None:
    model = load(paper)
    prompt, beside = model.chat.prompt(model.chat.render(messages(clips[0])), frames_of(clips[0]))
    inputs = {"input_ids": torch.tensor([prompt.input_ids]), **beside}
    native = super(type(model.model), model.model).forward(**inputs).logits
    assert torch.equal(model.model(**inputs).logits, native)
    assert torch.allclose(model.model(**inputs, logits_to_keep=1).logits, native[:, -1:], atol=1e-5)
    some = torch.tensor([3, 5])
    assert torch.allclose(model.model(**inputs, logits_to_keep=some).logits, native[:, some], atol=1e-5)


# The native layout


@pytest.mark.parametrize("template", ["{{ '<|video_pad|>' }}", ""])
def test_native_checkpoints(template: str, paper: Path, clips: list[str], tmp_path: Path) -> None:
    """A checkpoint as transformers writes it answers as plain transformers, with its own template or the paper's."""
    made = load(paper).model
    plain = transformers.VideoLlama3ForConditionalGeneration(made.config).eval()
    plain.load_state_dict(made.state_dict())
    plain.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((paper / name).read_text().replace("<image>", "<|video_pad|>"))
    file = tmp_path / "tokenizer_config.json"
    values = json.loads(file.read_text())
    own = (
        "{% for message in messages %}"
        + template
        + "{% for part in message['content'] if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '=' }}{% endif %}"
    )
    file.write_text(json.dumps({**values, "chat_template": own if template else None}))
    model = load(tmp_path)
    (record,) = answers(model, [messages(clips[0])], GREEDY)
    assert record.status == "ok", record.reason
    text = model.chat.render(messages(clips[0]))
    assert text.startswith("<|video_pad|>Question" if template else "<|im_start|>user\n<|video_pad|>\n")
    ids, beside = model.chat.encode(text, frames_of(clips[0]))
    whole = plain.generate(torch.tensor([ids]), **beside, max_new_tokens=6, do_sample=False)
    answer = model.chat.tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True)
    assert record.answer == answer.strip()


# What is wrong is one clear line


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"model_type": "qwen2_vl"}, "'qwen2_vl' checkpoint; videollama3_flow runs videollama3_qwen2"),
        ({"mm_projector_type": "linear"}, "its projector is 'linear'"),
        ({"vision_encoder_config": None}, "no vision_encoder_config"),
    ],
)
def test_checkpoints_that_have_no_native_form(config: dict[str, Any], part: str, tmp_path: Path) -> None:
    videollama3(tmp_path, layers=2, **config)
    assert part in refusal(lambda: load(tmp_path))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    videollama3(tmp_path, layers=2)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.mm_projector.readout.2.bias"]
    weights["model.resampler.weight"] = torch.zeros(2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    line = refusal(lambda: load(tmp_path))
    assert "model.projector.readout.2.bias is missing; model.resampler.weight is not of this model" in line


def test_frames_end_with_the_video(paper: Path) -> None:
    """As many runs as frames are not enough: what stands behind the last run would belong to no frame."""
    chat = load(paper).chat
    token, other = chat.tokenizer.convert_tokens_to_ids(chat.video_token), 5
    ids = [1, 2, token, token, other, token, other]
    assert chat.spans_ending_with(chat.video_token, ids, range(2, 6), 2) == (range(2, 4), range(4, 6))
    for video, count in ((range(2, 7), 2), (range(2, 6), 3)):
        with pytest.raises(SampleError, match=f"the prompt has 2 runs of .* for {count} frames"):
            chat.spans_ending_with(chat.video_token, ids, video, count)
