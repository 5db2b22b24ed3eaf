"""What a native processor is handed, and what is read from its output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5OmniProcessor

from lmms_flow.errors import CheckpointError, SampleError, SkippedSampleError
from lmms_flow.inputs.frames_chat import FramesChat
from lmms_flow.inputs.native_chat import check_processor, limit_pixels, pixel_limits
from lmms_flow.inputs.processor_chat import _in_text as in_text
from lmms_flow.inputs.spans import Replaced, expand, unit_spans, visual_runs
from lmms_flow.inputs.video import Frames
from lmms_flow.model_wrappers.hf_video import HfVideoFlow, Qwen3VlFlow
from tests.support.clips import write_clip
from tests.support.native import write
from tests.support.native_families import NATIVE, REFUSED
from tests.support.wrapped import answers, messages, refusal

# Frames and the text around them. V is a visual token.


def spans(text: str, count: int, trailing: int = 0) -> list[str]:
    words = text.split()
    visual = [place for place, word in enumerate(words) if word == "V"]
    found = unit_spans(range(len(words)), visual_runs(visual, count, trailing), words)
    return [" ".join(words[span.start : span.stop]) for span in found]


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("V V V V", ["V V", "V V"]),
        (
            "<0 . 4 s> <v> V V </v> <1 2 . 8 s> <v> V V </v>",
            ["<0 . 4 s> <v> V V </v>", "<1 2 . 8 s> <v> V V </v>"],
        ),
        ("<i> V V </i> 0 <i> V V </i> 1 2", ["<i> V V </i> 0", "<i> V V </i> 1 2"]),
        ("Frame 1 : V </img> \\n Frame 2 : V </img>", ["Frame 1 : V </img>", "\\n Frame 2 : V </img>"]),
        ("Intro . T 0 : V V , T 1 : V V", ["Intro . T 0 : V V", ", T 1 : V V"]),
        ("0 : f V f \\n 1 : f V f \\n\\n", ["0 : f V f", "\\n 1 : f V f \\n\\n"]),
    ],
)
def test_frames_have_the_text_around_them(text: str, frames: list[str]) -> None:
    """A closing mark, and a time where it closes, belongs to the frame before it; all else to the frame behind."""
    assert spans(text, len(frames)) == frames


def test_frames_of_unlike_sizes_are_their_runs() -> None:
    assert spans("T V V V , T V , T V V", 3) == ["T V V V", ", T V", ", T V V"]


def test_tokens_behind_all_frames_go_with_the_last_one() -> None:
    assert spans("V V V V V", 2, trailing=1) == ["V V", "V V V"]


@pytest.mark.parametrize(("text", "count"), [("V V V V V", 2), ("V V , V V", 3), ("V", 2)])
def test_what_can_not_be_shared_out_is_no_guess(text: str, count: int) -> None:
    with pytest.raises(SampleError, match="can't be shared out among"):
        spans(text, count)


def test_a_text_with_everything_replaced() -> None:
    told = [
        {"span": (2, 3), "new_span": (2, 5), "text": "#", "replacement": "abc"},
        {"span": (4, 5), "new_span": (6, 8), "text": "#", "replacement": "de"},
    ]
    assert expand("x #-#!", [Replaced.of(each) for each in told]).replace(" ", "") == "xabc-de!"


# A real processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(NATIVE["qwen2_5_vl"], tmp_path_factory.mktemp("native") / "qwen2_5_vl", layers=2)


@pytest.fixture(scope="module")
def wrapper(folder: Path) -> HfVideoFlow:
    return HfVideoFlow(pretrained=str(folder), records="none", device="cpu")


def frames(fps: float, indices: tuple[int, ...] = (0, 5, 10, 15, 20, 25, 30, 35), length: int = 40) -> Frames:
    pixels = np.random.default_rng(0).integers(0, 256, (len(indices), 64, 96, 3), dtype=np.uint8)
    return Frames(pixels, indices, fps, tuple(index / fps for index in indices), length=length)


def prompt(wrapper: HfVideoFlow, given: Frames) -> Any:
    return wrapper.chat.prompt(wrapper.chat.render(messages("clip.mp4")), given)


def test_temporal_positions_are_those_of_the_clips_seconds(wrapper: HfVideoFlow) -> None:
    """Eight frames of a clip of ten seconds: a pair is 2.5 seconds, five positions at two a second."""
    encoded, tensors = prompt(wrapper, frames(fps=4.0))
    assert tensors["second_per_grid_ts"].tolist() == [2.5]
    inputs = wrapper.chat.batch([encoded], [tensors])
    model = wrapper.model.model
    places, _ = model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
        attention_mask=inputs["attention_mask"],
    )
    in_time = [int(places[0, 0, span.start]) for span in encoded.frames]
    per_second = model.config.vision_config.tokens_per_second
    assert [place - in_time[0] for place in in_time] == [int(2.5 * per_second) * unit for unit in range(4)]


def test_a_pair_is_the_unit(wrapper: HfVideoFlow) -> None:
    encoded, _ = prompt(wrapper, frames(fps=4.0))
    assert (len(encoded.frames), encoded.unit) == (4, 2)
    odd, _ = prompt(wrapper, frames(fps=4.0, indices=(0, 10, 20)))
    assert (len(odd.frames), odd.unit) == (2, 2)


def test_no_time_is_made_up(wrapper: HfVideoFlow) -> None:
    with pytest.raises(
        SampleError, match="tells the model the time of each frame, and the file states no frame rate"
    ):
        prompt(wrapper, replace(frames(fps=4.0), fps=float("nan")))


def test_frames_of_a_model_without_times_need_none(tmp_path: Path) -> None:
    model = HfVideoFlow(
        pretrained=str(write(NATIVE["internvl"], tmp_path / "m", layers=2)), records="none", device="cpu"
    )
    with_rate, _ = prompt(model, frames(fps=4.0))
    without, _ = prompt(model, replace(frames(fps=4.0), fps=float("nan")))
    assert with_rate == without


def test_a_record_says_the_unit_and_the_size(wrapper: HfVideoFlow, tmp_path: Path) -> None:
    (record,) = answers(wrapper, [messages(write_clip(tmp_path / "clip.mp4"))])
    assert (record.status, record.unit) == ("ok", "2 frames")
    assert record.frame_size == "longest_edge=9408, shortest_edge=3136, cap_pixels_per_frame=False"


def test_a_model_of_another_type_is_named(folder: Path) -> None:
    line = refusal(lambda: Qwen3VlFlow(pretrained=str(folder), records="none", device="cpu"))
    assert (
        "this is a 'qwen2_5_vl' checkpoint; qwen3_vl_flow runs qwen3_vl and qwen3_vl_moe checkpoints" in line
    )


def test_a_checkpoint_is_needed() -> None:
    assert "write pretrained=..." in refusal(lambda: HfVideoFlow(records="none", device="cpu"))


def test_recurrent_layers_are_refused_with_their_numbers(tmp_path: Path) -> None:
    source = write(REFUSED["qwen3_5"], tmp_path / "m", layers=4)
    line = refusal(lambda: HfVideoFlow(pretrained=str(source), records="none", device="cpu"))
    assert (
        "3 of 4 layers are recurrent (layers 1-3; linear_attn, a Qwen3_5GatedDeltaNet): information passes through a "
        "state that no mask reaches"
    ) in line


def test_sound_between_the_frames_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="Qwen2_5OmniProcessor: sound is interleaved"):
        check_processor(object.__new__(Qwen2_5OmniProcessor))


# Sizes and arguments of large checkpoints


def test_pixel_budgets_reach_the_processor(folder: Path) -> None:
    small, large = (
        HfVideoFlow(pretrained=str(folder), records="none", device="cpu", max_pixels=pixels)
        for pixels in (3136, 50176)
    )
    sizes = [prompt(model, frames(fps=4.0))[1]["video_grid_thw"][0].tolist() for model in (small, large)]
    assert sizes[0][1] * sizes[0][2] < sizes[1][1] * sizes[1][2]
    assert "longest_edge=50176" in pixel_limits(large.chat)
    assert small.identity() != large.identity()  # so no answer of one is served for the other


def test_frames_of_one_size_have_no_budget(tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(write(NATIVE["internvl"], tmp_path / "m", layers=2))
    with pytest.raises(
        CheckpointError, match="InternVLVideoProcessor makes them height=56, width=56: leave them out"
    ):
        limit_pixels(processor, None, 5000)


def test_min_pixels_above_max_pixels(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="min_pixels=90000 is more than max_pixels=9408"):
        limit_pixels(processor, 90000, None)


def test_at_most_so_many_frames(folder: Path, tmp_path: Path) -> None:
    model = HfVideoFlow(pretrained=str(folder), records="none", device="cpu", max_frames=4)
    (record,) = answers(model, [messages(write_clip(tmp_path / "clip.mp4"))])
    assert (len(record.frames), record.num_frames) == (4, 4)


def test_both_kinds_of_quantisation_at_once(folder: Path) -> None:
    arguments = {"load_in_4bit": True, "load_in_8bit": True}
    line = refusal(lambda: HfVideoFlow(pretrained=str(folder), records="none", device="cpu", **arguments))
    assert "load_in_4bit and load_in_8bit: leave out one" in line


def test_quantisation_without_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_flow.model_wrappers.base.find_spec", lambda name: None)
    line = refusal(
        lambda: HfVideoFlow(pretrained=str(folder), records="none", device="cpu", load_in_8bit=True)
    )
    assert "load_in_8bit needs the package bitsandbytes, which is not installed" in line


def test_an_adapter_that_is_none(folder: Path) -> None:
    line = refusal(
        lambda: HfVideoFlow(pretrained=str(folder), records="none", device="cpu", peft=str(folder))
    )
    assert "there is no adapter, it has no adapter_config.json" in line


def test_pixels_keep_their_frames(wrapper: HfVideoFlow) -> None:
    _, one = prompt(wrapper, frames(fps=4.0))
    _, other = prompt(wrapper, replace(frames(fps=4.0), pixels=frames(fps=4.0).pixels[::-1].copy()))
    assert not torch.equal(one["pixel_values_videos"], other["pixel_values_videos"])


def test_a_processor_of_pictures_alone_is_limited_too() -> None:
    pictures = SimpleNamespace(size={"shortest_edge": 100, "longest_edge": 900})
    limit_pixels(SimpleNamespace(image_processor=pictures), least=None, most=400)
    assert pictures.size == {"shortest_edge": 100, "longest_edge": 400}
    limit_pixels(SimpleNamespace(), least=None, most=400)  # nothing is there that could be limited


def test_a_clip_of_a_frame_in_two_seconds_has_its_own_times(wrapper: HfVideoFlow) -> None:
    _, tensors = prompt(wrapper, frames(fps=0.5))
    assert tensors["second_per_grid_ts"].tolist() == [20.0]


def test_where_a_token_stands_in_the_text_with_one_placeholder() -> None:
    """`ab#cd` with `#` replaced by five characters."""
    moved = [in_text(place, (2, 3), 7) for place in ((0, 1), (1, 2), (1, 3), (2, 5), (6, 7), (5, 8), (7, 9))]
    assert moved == [(0, 1), (1, 2), (1, 3), (2, 3), (2, 3), (2, 4), (3, 5)]


def test_a_clip_of_unknown_length_ends_with_its_last_frame(wrapper: HfVideoFlow) -> None:
    chat = wrapper.chat
    (told,) = chat.media(frames(fps=4.0, length=0), 4.0)["video_metadata"]
    assert (told.total_num_frames, told.duration) == (36, 9.0)
    (told,) = chat.media(frames(fps=4.0), 4.0)["video_metadata"]
    assert (told.total_num_frames, told.duration) == (40, 10.0)


def test_a_video_that_a_processor_refuses_is_an_error_and_too_few_frames_are_left_out(
    wrapper: HfVideoFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("no")

    monkeypatch.setattr(type(wrapper.chat.processor.video_processor), "__call__", refuse)
    with pytest.raises(SkippedSampleError, match="merges 2 frames into one, and 1 was asked for"):
        prompt(wrapper, frames(fps=4.0, indices=(0,)))
    with pytest.raises(SampleError, match="Qwen2_5_VLProcessor refuses the video") as caught:
        prompt(wrapper, frames(fps=4.0))
    assert not isinstance(caught.value, SkippedSampleError)


# Frames as pictures


def as_pictures(processor: Any, count: int = 2) -> dict[str, Any]:
    chat: Any = SimpleNamespace(processor=processor)
    return FramesChat.media(chat, frames(fps=4.0, indices=tuple(range(count))), 4.0)


@pytest.mark.parametrize(
    ("told", "own", "off"),
    [
        (None, {}, []),
        ({}, {"do_pan_and_scan": True}, ["do_pan_and_scan"]),
        ({"crop_to_patches": True}, {}, ["crop_to_patches"]),
        ({"crop_to_patches": False}, {"crop_to_patches": False}, []),
    ],
)
def test_no_picture_is_cut_into_tiles(told: Any, own: dict[str, bool], off: list[str]) -> None:
    """Whether a processor does so by its own settings or by those of its pictures; the others know no such word."""
    processor = SimpleNamespace(images_kwargs=told, image_processor=SimpleNamespace(**own))
    media = as_pictures(processor)
    assert [len(each) for each in media.pop("images")] == [2]
    assert media == dict.fromkeys(off, False)
    assert set(as_pictures(SimpleNamespace(image_processor=SimpleNamespace(**own)))) >= {"images"}


def test_a_picture_without_tokens_is_refused() -> None:
    chat: Any = SimpleNamespace()
    places, given = [(0, 3), (0, 3), (5, 6), (6, 9)], frames(fps=4.0, indices=(0, 1))
    assert FramesChat.runs(chat, {}, given, [0, 1, 3], [(0, 3), (6, 9)], places) == [range(2), range(3, 4)]
    for replaced in ([(0, 3), (4, 5)], [(0, 3)]):
        with pytest.raises(SampleError, match=r"the processor wrote \d pictures for 2 frames"):
            FramesChat.runs(chat, {}, given, [0, 1, 3], replaced, places)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_frame_rate_that_is_none_makes_no_times(rate: float, wrapper: HfVideoFlow) -> None:
    with pytest.raises(SampleError, match="the file states no frame rate"):
        prompt(wrapper, replace(frames(fps=4.0), fps=rate))
