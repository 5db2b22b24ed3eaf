"""`llava_vid_flow`: without a flow it answers as the plain model driven by hand, token for token.

Under a flow its records say what was cut; whatever is wrong with a sample or an argument is one clear line.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lmms_flow.assets import flow_tiny_dir
from lmms_flow.errors import SampleError
from lmms_flow.flow import Flow
from lmms_flow.harness.sample import Sample
from lmms_flow.inputs.image_chat import resized, resized_size
from lmms_flow.inputs.video import Frames, read_frames
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow, PooledProjector
from lmms_flow.records.journal import read_journal
from tests.support.by_hand import greedy_tokens, load_paper_model, video_features
from tests.support.checkpoints import image_base, next_video, paper_llava
from tests.support.clips import write_clip
from tests.support.wrapped import ONE_TOKEN, answers, edges, refusal

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

# The paper's prompt, character for character, around a stock task's text.
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
TEXT = "Where does the square move to?\nA. Left\nB. Right\nAnswer with the option letter only."
PAPER_PROMPT = f"{SYSTEM}\n USER: <image>\n USER: {TEXT} ASSISTANT:"
OWN_PROMPT = f"USER: <image>\n{TEXT} ASSISTANT:"
GEN_KWARGS = {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "until": ["\n\n\n\n"]}


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(write_clip(tmp_path / "clip.mp4", frames=24, size=(64, 96), seed=3))


def ask(folder: Path, clip: str, records: Path, **model_args: Any) -> tuple[str, tuple[int, ...]]:
    """The wrapper's answer to one stock question, and the frames that it says it saw."""
    model = LlavaVidFlow(pretrained=str(folder), device="cpu", records=str(records), **model_args)
    content = [{"type": "video", "url": clip}, {"type": "text", "text": TEXT}]
    model.task_dict = {"stock": {"test": [{"question": "?"}]}}
    args = ("", lambda doc: [{"role": "user", "content": content}], GEN_KWARGS, 0, "stock", "test")
    given = model.generate_until([SimpleNamespace(args=args, metadata={})])
    (record,) = read_journal(records)
    assert record.status == "ok", record.reason
    return given[0], record.frames


def midpoints(clip: str) -> tuple[tuple[int, ...], list[Image.Image]]:
    """The middle frame of each of eight segments, as the paper's reader picks them, decoded with PyAV."""
    with av.open(clip) as container:
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    segment = (len(frames) - 1) / 8
    indices = tuple(int(segment / 2 + round(segment * i)) for i in range(8))
    return indices, [frames[index] for index in indices]


def naive_pixels(picture: Image.Image, side: int, mean: Any = None, std: Any = None) -> Tensor:
    """The paper's processor and CLIP's, by Pillow: resized, the short edge to the tower's, the centre, normalised."""
    width, height = picture.size
    ratio = max(picture.size) / min(picture.size)
    edge = max(min(width, height, int(min(640, max(width, height)) / ratio)), side)
    size = (int(edge * ratio), edge) if width >= height else (edge, int(edge * ratio))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    longer = int(side * max(size) / min(size))
    size = (longer, side) if width >= height else (side, longer)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    values = torch.tensor(np.array(picture)[top : top + side, left : left + side]).float() / 255
    mean, std = torch.tensor(mean or CLIP_MEAN), torch.tensor(std or CLIP_STD)
    return ((values - mean) / std).permute(2, 0, 1)


def by_hand(folder: Path, prompt: str, pictures: Sequence[Image.Image]) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = torch.stack([naive_pixels(picture, 56) for picture in pictures])
    ids = tokenizer(prompt, return_tensors="pt").input_ids[0]
    return tokenizer.decode(greedy_tokens(load_paper_model(folder), ids, pixels, 8), skip_special_tokens=True)


@pytest.mark.parametrize(
    ("files", "prompt"),
    [
        ({}, PAPER_PROMPT),
        ({"processor": False, "shards": 3}, PAPER_PROMPT),
        ({"chat_template": "tokenizer_config.json"}, OWN_PROMPT),
        ({"chat_template": "chat_template.jinja"}, OWN_PROMPT),
        ({"chat_template": "chat_template.json"}, OWN_PROMPT),
    ],
    ids=[
        "processor",
        "tokenizer only",
        "template of the tokenizer",
        "template file",
        "template of a processor",
    ],
)
def test_the_papers_checkpoint(files: dict[str, Any], prompt: str, clip: str, tmp_path: Path) -> None:
    paper_llava(tmp_path / "model", **files)
    answer, seen = ask(tmp_path / "model", clip, tmp_path / "records")
    indices, pictures = midpoints(clip)
    assert seen == indices
    assert answer == by_hand(tmp_path / "model", prompt, pictures).strip()


def test_its_image_base_runs_through_the_same_path(clip: str, tmp_path: Path) -> None:
    """Under the paper's prompt too, not its own template: nothing but the weights may differ."""
    image_base(tmp_path / "model")
    answer, _ = ask(tmp_path / "model", clip, tmp_path / "records")
    assert answer == by_hand(tmp_path / "model", PAPER_PROMPT, midpoints(clip)[1]).strip()


def test_llava_next_video(clip: str, tmp_path: Path) -> None:
    next_video(tmp_path / "model")
    answer, _ = ask(tmp_path / "model", clip, tmp_path / "records")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "model")
    model = transformers.LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    pixels = np.stack([np.asarray(picture) for picture in midpoints(clip)[1]])
    prompt = f"USER: <video>\n{TEXT} ASSISTANT:"
    inputs = processor(text=prompt, videos=[pixels], do_sample_frames=False, return_tensors="pt")
    whole = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    plain = processor.tokenizer.decode(whole[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert answer == plain.strip()


# Under a flow

PAPER_TEXT = (
    "Question: Where does the square move to?\nOptions:\n(A) Left\n(B) Right \nOnly give the best option."
)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's checkpoint, four layers deep."""
    folder = tmp_path_factory.mktemp("paper") / "model"
    paper_llava(folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_clip(folder / f"{seed}.mp4", frames=24, seed=seed)) for seed in range(4)]


def paper_messages(video: Any, text: str = PAPER_TEXT) -> list[dict[str, Any]]:
    content = [{"type": "video", "url": video}, {"type": "text", "text": text}]
    prefix = [{"type": "text", "text": "Best option:("}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": prefix}]


def load(folder: Path | str, records: Path | str = "none", **model_args: Any) -> LlavaVidFlow:
    return LlavaVidFlow(pretrained=str(folder), device="cpu", records=str(records), **model_args)


@pytest.mark.smoke
def test_a_record_says_what_was_cut(paper: Path, clips: list[str]) -> None:
    """The paper's knockout in the first half of the layers."""
    base = answers(load(paper), [paper_messages(clips[0])], ONE_TOKEN)[0]
    cut = answers(load(paper, flow="cross_frame@first_half"), [paper_messages(clips[0])], ONE_TOKEN)[0]
    assert (base.status, cut.status) == ("ok", "ok")
    assert (base.flow, cut.flow, cut.engine) == ("none", "cross_frame@first_half", "sparse")
    assert cut.flow_digest == Flow.load("cross_frame@1-2").bind(4).digest != base.flow_digest
    (stock, stock_count), (kept, count) = edges(base), edges(cut)
    assert stock == stock_count == count
    pairs_of_frames, tokens_per_frame, layers = 28, 4, 2
    assert count - kept == pairs_of_frames * tokens_per_frame**2 * layers
    assert cut.frames == base.frames == midpoints(clips[0])[0]
    assert cut.groups_rule == "label to last option"
    assert cut.checkpoint == str(paper)
    assert cut.milliseconds
    assert cut.milliseconds > 0
    assert set(base.options) == set(cut.options) == {"A", "B"}
    assert all(abs(base.options[letter] - cut.options[letter]) > 1e-6 for letter in "AB")


@pytest.mark.parametrize("text", [PAPER_TEXT, TEXT])
def test_letters_probabilities_are_those_of_the_first_token(text: str, paper: Path, clips: list[str]) -> None:
    model = load(paper)
    (record,) = answers(model, [paper_messages(clips[0], text)], ONE_TOKEN)
    prompt = model.chat.render(paper_messages(clips[0], text))
    ids = model.chat.tokenizer(prompt, return_tensors="pt").input_ids
    pixels = model.chat.encode(prompt, read_frames(clips[0], 8))[1]["pixel_values"]
    plain = load_paper_model(paper)
    features = video_features(plain, pixels)
    at = ids[0].tolist().index(plain.config.image_token_index)
    embed = plain.get_input_embeddings()
    row = torch.cat([embed(ids[0, :at]), features, embed(ids[0, at + 1 :])])
    with torch.no_grad():
        scores = plain.lm_head(plain.model.language_model(inputs_embeds=row[None]).last_hidden_state[0, -1])
    probabilities, vocabulary = scores.softmax(-1), model.chat.tokenizer.get_vocab()
    for letter in "AB":
        forms = [vocabulary[form] for form in (letter, f"▁{letter}") if form in vocabulary]
        assert record.options[letter] == pytest.approx(float(probabilities[forms].sum()), rel=1e-4)


def test_an_empty_group_is_noted(paper: Path, clips: list[str]) -> None:
    messages = paper_messages(clips[0], "What?\n(A) up\n(B) down")
    messages[1]["content"][0]["text"] = "Best option:("
    (record,) = answers(load(paper, flow="cross_frame+frame.0:frame.1"), [messages], ONE_TOKEN)
    assert record.notes == ()
    no_stem = paper_messages(clips[0], "Question:\n(A) up\n(B) down")
    (record,) = answers(load(paper, flow="cross_frame+stem:last"), [no_stem], ONE_TOKEN)
    assert record.notes == ("stem:last cuts nothing here: a group is empty",)


# The journal


def count_calls(model: LlavaVidFlow) -> list[int]:
    calls: list[int] = []
    generate = model.model.generate

    def counted(**arguments: Any) -> Any:
        calls.append(len(arguments["input_ids"]))
        return generate(**arguments)

    model.model.generate = counted
    return calls


def test_a_second_run_is_served_from_the_journal(paper: Path, clips: list[str], tmp_path: Path) -> None:
    conversations = [paper_messages(clip) for clip in clips[:3]]
    first, second, other = (
        load(paper, tmp_path, flow=flow) for flow in ("video:last", "video:last", "blind")
    )
    calls = [count_calls(model) for model in (first, second, other)]
    given = [answers(model, conversations, ONE_TOKEN) for model in (first, second, other)]
    assert calls == [[1, 1, 1], [], [1, 1, 1]]
    assert given[0] == given[1]
    # Another gen_kwargs is another question.
    assert answers(load(paper, tmp_path, flow="video:last"), conversations, GEN_KWARGS) != given[0]


def test_an_edited_flow_file_is_noticed(paper: Path, clips: list[str], tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    digests = []
    for content, expected in [
        ("cut: [video:last]", 1),
        ("cut: ['video:last']  # again", 0),
        ("cut: [blind@2]", 1),
    ]:
        file.write_text(content.replace("blind@2", "video:question@2"))
        model = load(paper, tmp_path / "records", flow=str(file))
        calls = count_calls(model)
        digests.append(answers(model, [paper_messages(clips[0])], ONE_TOKEN)[0].flow_digest)
        assert len(calls) == expected
    assert digests[0] == digests[1] != digests[2]


def test_other_weights_under_the_same_path_are_noticed(clips: list[str], tmp_path: Path) -> None:
    for seed, expected in [(0, 1), (0, 0), (5, 1)]:
        paper_llava(tmp_path / "model", layers=2, seed=seed)
        model = load(tmp_path / "model", tmp_path / "records")
        calls = count_calls(model)
        answers(model, [paper_messages(clips[0])], ONE_TOKEN)
        assert len(calls) == expected


# What is wrong is one clear line, and an exit status


@pytest.mark.parametrize(
    ("model_args", "parts"),
    [
        ({"flows": "none"}, ["'flows'", "did you mean 'flow'?"]),
        ({"max_frames_num": 8}, ["'max_frames_num'", "num_frames"]),
        ({"engine": "dens"}, ["engine=dens", "did you mean 'dense'?"]),
        ({"dtype": "float8"}, ["dtype=float8", "float32"]),
        ({"on_error": "ignore"}, ["on_error=ignore", "raise or record"]),
        ({"num_frames": 0}, ["num_frames=0"]),
        ({"batch_size": "auto"}, ["batch_size=auto", "whole number"]),
        ({"trust_remote_code": "yes"}, ["trust_remote_code=yes", "True or False"]),
        ({"flow": "vidio:question"}, ["vidio", "did you mean 'video'?"]),
        ({"flow": "video:question@5"}, ["video:question@5", "4"]),
        ({"flow": "video:question@zero"}, ["zero"]),
        ({"flow": "question:video"}, ["question:video", "video:question"]),
        ({"flow": "effective"}, ["'effective'", "no pathway is known", "effective-llava-next-7b"]),
        ({"flow": "effective-llava-next-7b"}, ["32 layers", "the model has 4"]),
        ({"flow": "effective-llava-next-8b"}, ["did you mean 'effective-llava-next-7b'?"]),
        ({"flow": "missing.yaml"}, ["missing.yaml", "No such file"]),
        ({"attn_implementation": "flex_attention", "flow": "blind"}, ["flex_attention", "sdpa"]),
        ({"attn_implementation": "sdpaa"}, ["sdpaa"]),
        ({"device": "cuda:9"}, ["cuda:9", "GPU"]),
        ({"device": "gpu"}, ["gpu"]),
    ],
)
def test_wrong_arguments(model_args: dict[str, Any], parts: list[str], paper: Path) -> None:
    if model_args.get("device") == "cuda:9" and torch.cuda.is_available():
        pytest.skip("says so only where there is no GPU")
    arguments = {"pretrained": str(paper), "device": "cpu", "records": "none", **model_args}
    line = refusal(lambda: LlavaVidFlow(**arguments))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "the file is empty"),
        ("layers: 32\ncut: [video:last]", "for 32 layers, the model has 4"),
        ("cut: [video:lost]", "did you mean"),
        ("cut: [", "not valid YAML"),
    ],
)
def test_wrong_flow_files(content: str, part: str, paper: Path, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(content)
    line = refusal(lambda: load(paper, flow=str(tmp_path / "flow.yaml")))
    assert part in line
    assert "flow" in line


def broken_clips(folder: Path, clip: str) -> dict[str, Any]:
    data = Path(clip).read_bytes()
    (folder / "truncated.mp4").write_bytes(data[: len(data) // 2])
    (folder / "empty.mp4").touch()
    with av.open(str(folder / "no-frames.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    return {
        "missing": str(folder / "missing.mp4"),
        "truncated": str(folder / "truncated.mp4"),
        "empty": str(folder / "empty.mp4"),
        "without frames": str(folder / "no-frames.mkv"),
        "not a file": np.zeros((2, 2)),
    }


@pytest.mark.parametrize("what", ["missing", "truncated", "empty", "without frames", "not a file"])
def test_a_broken_video(what: str, paper: Path, clips: list[str], tmp_path: Path) -> None:
    """It ends the run, or (on_error=record) is a record of its own, and its neighbours are answered."""
    video = broken_clips(tmp_path, clips[0])[what]
    conversations = [paper_messages(each) for each in (clips[0], video, clips[1])]
    line = refusal(lambda: answers(load(paper), conversations, ONE_TOKEN))
    assert "task ours, document 1" in line
    recorded = answers(load(paper, on_error="record", batch_size=3), conversations, ONE_TOKEN)
    assert [record.status for record in recorded] == ["ok", "error", "ok"]
    assert recorded[1].reason
    assert recorded[1].answer == ""
    assert recorded[0].answer == answers(load(paper), conversations[:1], ONE_TOKEN)[0].answer


@pytest.mark.parametrize(
    ("flow", "text", "doc", "part"),
    [
        ("video:question", "", {}, "question is empty"),
        ("options:last", "What?", {}, "no options"),
        ("true_option:last", TEXT, {}, "which option is true"),
        ("true_option:last", TEXT, {"answer": ["Left", "Right"]}, "which option is true"),
        ("system:system", PAPER_TEXT, {}, "without any key"),
        ("stem:last", "Question:\n(A) up\n(B) down", {}, "cuts nothing in this prompt"),
        ("frame.8:last", PAPER_TEXT, {}, "8 frames"),
    ],
)
def test_a_prompt_that_does_not_fit_the_flow(
    flow: str, text: str, doc: dict[str, Any], part: str, paper: Path, clips: list[str]
) -> None:
    conversations = [paper_messages(clips[0], text)]
    assert part in refusal(lambda: answers(load(paper, flow=flow), conversations, ONE_TOKEN, **doc))
    (record,) = answers(load(paper, flow=flow, on_error="record"), conversations, ONE_TOKEN, **doc)
    assert record.status == "error"
    assert part in record.reason
    assert record.flow == flow


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([{"role": "user", "content": [{"type": "image", "url": "x.png"}]}], "image"),
        (paper_messages("a.mp4") + paper_messages("b.mp4"), "2 media parts"),
        (paper_messages(None, f"{PAPER_TEXT} <image>"), "not as a file's path"),
    ],
)
def test_messages_that_no_video_model_is_asked(
    messages: list[dict[str, Any]], part: str, paper: Path
) -> None:
    assert part in refusal(lambda: answers(load(paper), [messages], ONE_TOKEN))


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_other_kinds_of_requests_are_refused(kind: str, paper: Path) -> None:
    line = refusal(lambda: getattr(load(paper), kind)([]))
    assert "LlavaVidFlow answers generate_until tasks" in line


# Loading


def test_pickled_weights_are_refused(paper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(paper, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refusal(lambda: load(folder))


def test_truncated_weights_are_refused(paper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(paper, folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert str(folder) in refusal(lambda: load(folder))


def test_a_checkpoint_of_another_type_is_refused(paper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(paper, folder)
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "internvl"}
    (folder / "config.json").write_text(json.dumps(values))
    line = refusal(lambda: load(folder))
    assert "'internvl'" in line
    assert "llava, llava_next and llava_next_video" in line


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    assert "nothing-here" in refusal(lambda: load(tmp_path / "nothing-here"))


@pytest.mark.parametrize("given", [None, True, "True"])
@pytest.mark.parametrize("make", [paper_llava, next_video])
def test_remote_code_is_off_unless_asked_for(
    make: Any, given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, layers=2)
    name = "AutoTokenizer" if make is paper_llava else "AutoProcessor"
    auto, seen = getattr(transformers, name), []
    original = auto.from_pretrained

    def spy(*args: Any, **arguments: Any) -> Any:
        seen.append(arguments["trust_remote_code"])
        return original(*args, **arguments)

    monkeypatch.setattr(auto, "from_pretrained", spy)
    load(tmp_path, **({} if given is None else {"trust_remote_code": given}))
    assert seen[0] is (given is not None)


# Pixels


@pytest.mark.parametrize("side", [24, 4])
def test_the_projectors_output_is_pooled_as_the_paper_does(side: int) -> None:
    projector = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 10))
    features = torch.randn(8, side * side, 6)
    with torch.no_grad():
        found = PooledProjector(projector, (side // 2, side // 2))(features)
        grid = projector(features).reshape(1, 8, side, side, 10).permute(0, 4, 1, 2, 3)
        paper = torch.nn.AdaptiveAvgPool3d((8, side // 2, side // 2))(grid)
    assert found.shape == (8, (side // 2) ** 2, 10)
    assert torch.allclose(found.flatten(0, 1), paper.permute(0, 2, 3, 4, 1).reshape(-1, 10), atol=1e-6)


def processor_values(processor: Any) -> tuple[Any, ...]:
    size, crop = processor.size, processor.crop_size
    return (
        [round(value, 8) for value in processor.image_mean],
        [round(value, 8) for value in processor.image_std],
        size["shortest_edge"],
        (crop["height"], crop["width"]),
        int(processor.resample),
        bool(processor.do_center_crop and processor.do_normalize and processor.do_rescale),
    )


@pytest.mark.parametrize("processor", [True, False])
def test_pixels_are_prepared_as_clip_does(processor: bool, tmp_path: Path) -> None:
    """Bicubic, the short side to the tower's, the centre cut out."""
    paper_llava(tmp_path, layers=2, processor=processor)
    found = processor_values(load(tmp_path).chat.image_processor)
    assert found == (CLIP_MEAN, CLIP_STD, 56, (56, 56), 3, True)


@pytest.mark.parametrize(
    ("kind", "honoured"),
    [("CLIPImageProcessor", True), ("CLIPFeatureExtractor", True), ("ViTImageProcessor", False)],
)
def test_a_checkpoints_own_pixel_constants_count_where_they_are_of_clips_kind(
    kind: str, honoured: bool, tmp_path: Path
) -> None:
    paper_llava(tmp_path, layers=2)
    file = tmp_path / "preprocessor_config.json"
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's
    values = json.loads(file.read_text()) | {
        "image_mean": mean,
        "image_std": std,
        "image_processor_type": kind,
    }
    file.write_text(json.dumps(values))
    found = processor_values(load(tmp_path).chat.image_processor)
    assert found[:2] == ((mean, std) if honoured else (CLIP_MEAN, CLIP_STD))


@pytest.mark.parametrize("side", [336, 448])
def test_the_size_of_600_frames(side: int) -> None:
    """LLaVA's tower takes 336 pixels, InternVL's 448: one resize before the tower's own, up or down."""
    assert resized_size((852, 480), 336) == (639, 360)
    assert resized_size((1280, 720), 448) == (796, 448)
    random = np.random.default_rng(side)
    for width, height in [
        *random.integers(16, 2200, (580, 2)).tolist(),
        *([n, n] for n in range(300, 700, 20)),
    ]:
        ratio = max(width, height) / min(width, height)
        short = max(min(width, height, int(min(640, max(width, height)) / ratio)), side)
        expected = (int(short * ratio), short) if width >= height else (short, int(short * ratio))
        assert resized_size((width, height), side) == expected


@pytest.mark.parametrize("size", [(64, 96), (40, 30), (90, 800), (800, 90), (720, 1280), (57, 57)])
def test_pixels_are_the_papers_to_the_last_bit(size: tuple[int, int], paper: Path) -> None:
    """By Pillow both times, so nothing is left to the library that resizes."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    frames = Frames(pixels, (0, 1), 12.0, (0.0, 0.1))
    _, beside = load(paper).chat.encode("<image>", frames)
    assert len(beside["pixel_values"]) == 2
    for frame, found in zip(pixels, beside["pixel_values"], strict=True):
        assert torch.allclose(found, naive_pixels(Image.fromarray(frame), 56), atol=1e-6)


def test_a_frame_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(SampleError, match="a frame of 4000 x 10 pixels is too narrow"):
        resized(np.zeros((10, 4000, 3), np.uint8), 336)


def test_a_template_that_writes_the_first_token_gets_no_second(clips: list[str], tmp_path: Path) -> None:
    paper_llava(tmp_path, layers=2, chat_template="chat_template.jinja")
    file = tmp_path / "chat_template.jinja"
    file.write_text("{{ bos_token }}" + file.read_text())
    model = load(tmp_path, flow="video:last")
    text = model.chat.render(paper_messages(clips[0])[:1])
    ids = model.chat.encode(text, read_frames(clips[0], 8))[0]
    assert ids.count(model.chat.tokenizer.bos_token_id) == 1
    assert answers(model, [paper_messages(clips[0])[:1]], ONE_TOKEN)[0].status == "ok"


def test_a_template_that_refuses_the_messages_is_the_samples_error(clips: list[str], tmp_path: Path) -> None:
    paper_llava(tmp_path, layers=2, chat_template="chat_template.jinja")
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    line = refusal(lambda: answers(load(tmp_path), [paper_messages(clips[0])[:1]], ONE_TOKEN))
    assert "roles must alternate" in line


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"text_config": {"rms_norm_eps": 0.3}}),
        ("generation_config.json", {"suppress_tokens": [40, 41]}),
        ("processor_config.json", {"video_processor": {"image_mean": [0.1, 0.2, 0.3]}}),
    ],
)
def test_settings_of_a_checkpoint_that_were_edited_are_noticed(
    file: str, change: dict[str, Any], clips: list[str], tmp_path: Path
) -> None:
    """Not only its weights: answers of another configuration are not served."""
    folder = tmp_path / "model"
    shutil.copytree(flow_tiny_dir(), folder)
    keys = []
    for edit in ({}, {}, change):
        values = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        for name, value in edit.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        (folder / file).write_text(json.dumps(values))
        model = load(folder)
        sample = Sample(0, "t", "test", 0, {}, tuple(paper_messages(clips[0])), {})
        keys.append(model._asking([]).key(sample))
    assert keys[0] == keys[1] != keys[2]


def test_a_sampled_answer_depends_on_its_question_alone(clips: list[str]) -> None:
    """Not on what ran before it, else a run that was killed would go on with other answers."""
    sampled = {**GEN_KWARGS, "max_new_tokens": 6, "do_sample": True, "temperature": 5.0}
    first, second = paper_messages(clips[0]), paper_messages(clips[1], PAPER_TEXT.replace("?", "??"))
    together = answers(load("flow-tiny"), [first, second, first], sampled)
    alone = answers(load("flow-tiny"), [second], sampled)
    assert together[1].answer == alone[0].answer
    assert together[1].answer != together[0].answer, "nothing was drawn"
