"""An image model as a VideoLLM, by its own processor: every frame is a picture, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from lmms_flow.errors import CheckpointError, SampleError
from lmms_flow.inputs.chat import Messages
from lmms_flow.inputs.image_chat import video_as_image
from lmms_flow.inputs.processor_chat import ProcessorChat
from lmms_flow.inputs.video import Frames

TILING = ("crop_to_patches", "do_pan_and_scan", "do_image_splitting")  # what image processors call it


class FramesChat(ProcessorChat):
    """A model whose processor knows images alone. The prompt has one picture for the video; each frame becomes one."""

    def __init__(self, model: Any, processor: Any) -> None:
        token = getattr(processor, "image_placeholder_token", None) or getattr(processor, "boi_token", None)
        super().__init__(model, processor, video_token=token or processor.image_token)

    def render(self, messages: Messages) -> str:
        """The prompt as text, with one picture in the place of the video."""
        return super().render(video_as_image(messages))

    @cached_property
    def picture(self) -> str:
        """What the template writes for one more picture."""
        one, two = (
            self.apply_template(self.processor, [{"role": "user", "content": [{"type": "image"}] * count}])
            for count in (1, 2)
        )
        more = two[one.find(self.video_token) :][: len(two) - len(one)]
        if one.replace(more, more * 2) != two:
            raise CheckpointError("the chat template does not write one picture behind another")
        return more

    def written(self, text: str, num_frames: int) -> str:
        """The prompt with one picture a frame. Raises SampleError where the template writes it otherwise."""
        if text.count(self.picture) != 1:
            raise SampleError(f"the prompt has no picture as the chat template writes it ({self.picture!r})")
        return text.replace(self.picture, self.picture * num_frames)

    def media(self, frames: Frames, fps: float) -> dict[str, Any]:
        """Frames as pictures; none is cut into tiles, as such models do with single pictures."""
        own = getattr(self.processor, "images_kwargs", None) or {}
        whole = {
            name: False
            for name in TILING
            if own.get(name) or getattr(self.processor.image_processor, name, None)
        }
        return {"images": [[Image.fromarray(frame) for frame in frames.pixels]], **whole}

    def runs(
        self,
        out: Mapping[str, Any],
        frames: Frames,
        visual: Sequence[int],
        replaced: Sequence[tuple[int, int]],
        places: Sequence[tuple[int, int]],
    ) -> list[range]:
        """The places of each picture's visual tokens."""
        inside = [[at for at in visual if start <= places[at][0] < stop] for start, stop in replaced]
        if len(inside) != len(frames.indices) or not all(inside):
            raise SampleError(f"the processor wrote {len(inside)} pictures for {len(frames.indices)} frames")
        return [range(each[0], each[-1] + 1) for each in inside]
