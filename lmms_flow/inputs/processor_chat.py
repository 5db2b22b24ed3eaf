"""A VideoLLM whose processor says what it made of a video: no token of its prompt is guessed at.

Frames go in with the times at which they were taken. Which tokens are the video's comes from the spans of text that the
processor replaced, which of these are visual from its token types, and how many belong together from its grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from lmms_flow.errors import SampleError, SkippedSampleError
from lmms_flow.inputs.chat import VideoChat
from lmms_flow.inputs.groups import EncodedPrompt
from lmms_flow.inputs.spans import Replaced, expand, unit_spans, visual_runs
from lmms_flow.inputs.video import Frames

# Of what a processor returns, what no model takes.
_NO_INPUT = ("input_ids", "attention_mask", "text_replacement_offsets", "offset_mapping", "video_metadata")
_TRIED_RATES = (
    1.0,
    2.0,
)  # frames a second, where a file states none: what a processor makes of both must be alike


class ProcessorChat(VideoChat):
    """A native video chat model of transformers.

    A family with something of its own overrides a class variable or a method.
    """

    trailing: ClassVar[int] = 0  # visual tokens behind the last frame's, which belong to no frame of the grid

    def prompt(self, text: str, frames: Frames | None) -> tuple[EncodedPrompt, dict[str, Tensor]]:
        """The prompt with the place of each token in the text, and by name the tensors beside its ids.

        Raises:
            SampleError: the processor changes the text around the video, or would have to invent a time.
        """
        if frames is None:
            return super().prompt(text, None)
        found = text.count(self.video_token)
        if found != 1:
            raise SampleError(f"the prompt has {found} placeholders {self.video_token} for one video")
        out = self._with_times(text, frames)
        replaced = [Replaced.of(each) for each in out["text_replacement_offsets"][0]]
        expanded = expand(self.written(text, len(frames.indices)), replaced)
        ids = _row(out["input_ids"])
        places = self._places(expanded, ids)
        start, stop = replaced[0].start, replaced[-1].stop
        video = range(_first_from(places, start), _first_from(places, stop))
        types = self.processor.create_mm_token_type_ids([ids])[0]
        visual = [place for place in video if types[place]]
        runs = self.runs(out, frames, visual, [(each.start, each.stop) for each in replaced], places)
        spans = unit_spans(video, runs, [expanded[slice(*place)] for place in places])
        placeholder = (start, start + len(replaced[0].text))
        offsets = tuple(_in_text(place, placeholder, stop) for place in places)
        unit = math.ceil(len(frames.indices) / len(spans))
        prompt = EncodedPrompt(text, tuple(ids), offsets, video, spans, self.keeps_breaks, unit)
        return prompt, self._tensors(out)

    def written(self, text: str, num_frames: int) -> str:
        """The prompt as the processor gets it."""
        return text

    def runs(
        self,
        out: Mapping[str, Any],
        frames: Frames,
        visual: Sequence[int],
        replaced: Sequence[tuple[int, int]],
        places: Sequence[tuple[int, int]],
    ) -> list[range]:
        """The places from the first visual token of each frame, or of each group of merged ones, to its last one.

        Args:
            out: what the processor returned.
            frames: that it was given.
            visual: the places of visual tokens, in order.
            replaced: the characters of what stands for the video.
            places: the characters of each token.

        Raises:
            SampleError: grid and tokens contradict each other.
        """
        return visual_runs(visual, self.units(out, len(frames.indices), len(visual)), self.trailing)

    def encode(self, text: str, frames: Frames | None) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids, and by name the tensors beside them, as the processor gives them."""
        out = self._processed(text) if frames is None else self._with_times(text, frames)
        return _row(out["input_ids"]), self._tensors(out)

    def units(self, out: Mapping[str, Any], num_frames: int, num_visual: int) -> int:
        """How many units of `cross_frame` the processor made: frames, or groups of frames that it merged.

        Args:
            out: what the processor returned.
            num_frames: that it was given.
            num_visual: visual tokens of the video.

        Raises:
            SampleError: its grid and its tokens contradict each other.
        """
        grid = out.get("video_grid_thw")
        if grid is None:
            return num_frames
        time, *sides = (int(side) for side in torch.as_tensor(grid).reshape(-1, 3)[0])
        merged = getattr(self.processor.video_processor, "merge_size", 1)
        if "video_merge_sizes" in out:
            merged = int(torch.as_tensor(out["video_merge_sizes"]).flatten()[0])
        in_unit = math.prod(sides) // merged**2
        count, rest = divmod(num_visual - self.trailing, in_unit)
        if rest or time % max(count, 1):
            raise SampleError(
                f"the processor's grid has {time} x {in_unit} tokens of video, its prompt has {num_visual}: "
                "they can't be told apart by frames"
            )
        return count

    # What the processor does

    def _with_times(self, text: str, frames: Frames) -> Mapping[str, Any]:
        """What the processor makes of frames and their times. Raises SampleError where it would invent these."""
        if math.isfinite(frames.fps) and frames.fps > 0:
            return self._processed(text, frames, frames.fps)
        one, other = (self._processed(text, frames, rate) for rate in _TRIED_RATES)
        if not _alike(one, other):
            raise SampleError(
                f"{type(self.processor).__name__} tells the model the time of each frame, and the file states no frame "
                "rate: write one into the file (ffmpeg -r), or leave the question out"
            )
        return one

    def _processed(self, text: str, frames: Frames | None = None, fps: float = 0.0) -> Mapping[str, Any]:
        video: dict[str, Any] = {}
        if frames is not None:
            text = self.written(text, len(frames.indices))
            told = {"return_text_replacement_offsets": True, "return_mm_token_type_ids": True}
            video = self.media(frames, fps) | told
        try:
            out: Mapping[str, Any] = self.processor(
                text=[text], add_special_tokens=self.adds_special_tokens(text), return_tensors="pt", **video
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            merged = getattr(getattr(self.processor, "video_processor", None), "temporal_patch_size", 1)
            if frames is not None and isinstance(merged, int) and len(frames.indices) < merged:
                raise SkippedSampleError(
                    f"this model merges {merged} frames into one, and {len(frames.indices)} was asked for"
                ) from error
            raise SampleError(
                f"{type(self.processor).__name__} refuses the video ({_line(error)})"
            ) from error
        return out

    def media(self, frames: Frames, fps: float) -> dict[str, Any]:
        """Frames as the processor takes them, with the frame rate by which it tells their times."""
        length = frames.length or max(frames.indices) + 1
        metadata = VideoMetadata(
            total_num_frames=length,
            fps=fps,
            height=frames.pixels.shape[1],
            width=frames.pixels.shape[2],
            duration=length / fps,
            frames_indices=list(frames.indices),
        )
        return {
            "videos": [torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)],
            "video_metadata": [metadata],
            "do_sample_frames": False,
        }

    def _places(self, expanded: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The characters of each token. Raises SampleError where the processor read another text than this."""
        plain = self.tokenize(expanded, return_offsets_mapping=True)
        if list(plain["input_ids"]) != list(ids):
            raise SampleError(
                "the processor changes the text around the video: the groups can't be told from it"
            )
        return [(int(start), int(stop)) for start, stop in plain["offset_mapping"]]

    def _tensors(self, out: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the model takes beside the ids."""
        taken = {name: torch.as_tensor(value) for name, value in out.items() if name not in _NO_INPUT}
        if not self.processor.return_mm_token_type_ids:
            taken.pop("mm_token_type_ids", None)
        return taken


def _row(values: Any) -> list[int]:
    return [int(value) for value in values[0]]


def _first_from(places: Sequence[tuple[int, int]], position: int) -> int:
    """The first token that starts at a character or behind it."""
    return next((token for token, (start, _) in enumerate(places) if start >= position), len(places))


def _in_text(place: tuple[int, int], placeholder: tuple[int, int], stop: int) -> tuple[int, int]:
    """A token's characters in the text with one placeholder; `stop` is where the video ends in the expanded text."""
    begin, end = placeholder

    def moved(position: int, inside: int) -> int:
        return position if position <= begin else inside if position < stop else position - stop + end

    start, last = place
    return moved(start, begin), moved(last, end)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    names = (one.keys() | other.keys()) - {"video_metadata", "text_replacement_offsets"}
    return all(
        name in one
        and name in other
        and torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name]))
        for name in names
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
