"""Times as a model's own processor tells them when it opens the file and chooses the frames itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.video_utils import load_video

from lmms_flow.engine import decoder_layers, find_decoder
from lmms_flow.inputs.video import frames_at
from lmms_flow.model_wrappers.hf_video import HfVideoFlow
from tests.support.clips import write_clip
from tests.support.native import write
from tests.support.native_families import NATIVE, NEEDS

# How each family writes a time into its prompt; Qwen2.5-VL writes none, its positions know the seconds.
WRITTEN = {
    "qwen2_5_vl": r"(?!)",
    "qwen3_vl": r"<(\d+\.\d) seconds>",
    "smolvlm": r"Frame from (\d\d:\d\d):",
    "glm4v": r"<\|end_of_image\|>(\d+)",
    "video_llama_3": r"Time (\d+\.\d)s:",
}
CLIPS = {"nine seconds and a half": (285, 30), "slow": (21, 3)}  # frames, and frames a second


def conversation(clip: str) -> list[dict[str, Any]]:
    asked = [{"type": "video", "url": clip}, {"type": "text", "text": "What happens?"}]
    return [{"role": "user", "content": asked}]


class _ReachedError(Exception):
    """Raised at the first layer: what comes behind its entry is not needed."""


@dataclass(frozen=True, eq=False)
class Read:
    """A clip as the processor reads it, and as the wrapper hands over the same frames of it."""

    wrapper: HfVideoFlow
    clip: str

    @cached_property
    def opened(self) -> tuple[Mapping[str, Any], list[int]]:
        """What the processor makes of the file, and the places of the frames that it chose."""
        processor: Any = self.wrapper.chat.processor
        chosen: list[int] = []

        def fetch(videos: Any, sample_indices_fn: Any = None) -> Any:
            """Of the processor's own loading, only the library that decodes is another."""
            if isinstance(videos, list):
                read = [fetch(each, sample_indices_fn) for each in videos]
                return tuple(map(list, zip(*read, strict=True)))
            video, metadata = load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)
            chosen.extend(int(index) for index in metadata.frames_indices)
            return video, metadata

        processor.video_processor.fetch_videos = fetch
        try:
            out = processor.apply_chat_template(
                conversation(self.clip),
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                processor_kwargs={"do_sample_frames": True, "fps": 2},
            )
        finally:
            del processor.video_processor.fetch_videos
        return out, chosen

    @cached_property
    def ours(self) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids and what stands beside them, of a wrapper that was given these frames."""
        chat = self.wrapper.chat
        text = chat.render(conversation(self.clip))
        prompt, tensors = chat.prompt(text, frames_at(self.clip, self.opened[1]))
        return list(prompt.input_ids), chat.batch([prompt], [tensors])

    def positions(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """By which the first layer turns queries and keys in a forward of the whole model: cosines and sines."""
        seen: list[tuple[Tensor, Tensor]] = []

        def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(kwargs["position_embeddings"])
            raise _ReachedError

        first = decoder_layers(find_decoder(self.wrapper.model))[0]
        handle = first.register_forward_pre_hook(look, with_kwargs=True)
        try:
            with torch.no_grad(), pytest.raises(_ReachedError):
                self.wrapper.model(**inputs)
        finally:
            handle.remove()
        return seen[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: write_clip(folder / f"{frames}.mp4", frames=frames, fps=fps)
        for name, (frames, fps) in CLIPS.items()
    }


@pytest.fixture(scope="module", params=WRITTEN)
def family(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def wrapper(family: str, tmp_path_factory: pytest.TempPathFactory) -> HfVideoFlow:
    source = write(NATIVE[family], tmp_path_factory.mktemp("model") / family, layers=1)
    return HfVideoFlow(pretrained=str(source), records="none", device="cpu")


@pytest.mark.parametrize("clip", CLIPS)
def test_times_are_those_of_the_processor_that_reads_the_file_itself(
    clip: str, family: str, wrapper: HfVideoFlow, clips: dict[str, str]
) -> None:
    read = Read(wrapper, clips[clip])
    (ids, inputs), (own, _) = read.ours, read.opened
    theirs = [int(token) for token in own["input_ids"][0]]
    told, own_told = (
        re.findall(WRITTEN[family], wrapper.loaded.tokenizer.decode(row)) for row in (ids, theirs)
    )
    assert told == own_told
    assert bool(told) == (family != "qwen2_5_vl")
    assert ids == theirs
    assert own.keys() == inputs.keys()
    seconds = [torch.as_tensor(each.get("second_per_grid_ts", [])).tolist() for each in (own, inputs)]
    assert seconds[0] == seconds[1]
    assert bool(seconds[0]) == (family == "qwen2_5_vl")
    for one, other in zip(read.positions(inputs), read.positions(own), strict=True):
        assert torch.equal(one, other)
