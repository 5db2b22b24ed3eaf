"""What is asked of a video, and what comes of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmms_flow.errors import SampleError
from lmms_flow.inputs.sampling import SAMPLINGS

READERS = ("decord", "pyav", "torchcodec")
ANY_READER = "auto"  # decord where it is installed and safe, else PyAV


@dataclass(frozen=True, eq=False)
class Frames:
    """Decoded frames of one clip.

    ``pixels`` is uint8 RGB [frame, height, width, 3], ``indices`` says which frames of the file these are, in the order
    of display. ``fps`` is the file's average frame rate (nan where it has none), ``times`` are seconds from its first
    frame. ``shown`` are the seconds that VideoLLaMA3's prompt names (:func:`shown_times`), where frames were taken in
    its way and the file states its duration. ``reader`` is the library that decoded them, ``notes`` say where the
    paper's loader would have taken others. ``places`` says which of these frames' pixels are shown in the place of
    each, where it is not its own (:class:`lmms_flow.inputs.frame_order.FrameOrder`).
    ``length`` is how many frames the clip has, taken or not.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    indices: tuple[int, ...]
    fps: float
    times: tuple[float, ...]
    shown: tuple[float, ...] = ()
    reader: str = ""
    notes: tuple[str, ...] = ()
    length: int = 0
    places: tuple[int, ...] = ()

    @property
    def displayed(self) -> tuple[int, ...]:
        """The indices of the frames whose pixels are shown, in the order in which the model is shown them."""
        return tuple(self.indices[place] for place in self.places) if self.places else self.indices


@dataclass(frozen=True)
class Clip:
    """Which frames of which file, read by what; times in seconds.

    ``sampling`` says which frames (:func:`frame_indices`); ``duration`` is a data set's own, where it counts and not
    the file's. ``reader`` is one of READERS, or ANY_READER. ``at`` are the
    frames' places in the file where they are known already; then nothing else says which.
    """

    path: str
    num_frames: int
    start: float | None = None
    end: float | None = None
    sampling: str = "midpoints"
    duration: float | None = None
    reader: str = ANY_READER
    at: tuple[int, ...] = ()

    def check(self) -> None:
        """Raises ValueError for a clip that no file can have."""
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"frames are sampled by {', '.join(SAMPLINGS)}, not by {self.sampling!r}")
        if self.num_frames < 1:
            raise ValueError(f"at least one frame is needed, not {self.num_frames}")
        if self.reader not in (ANY_READER, *READERS):
            raise ValueError(
                f"videos are read by {', '.join((ANY_READER, *READERS))}, not by {self.reader!r}"
            )


def existing_file(path: Any) -> Path:
    """Raises SampleError where it is no file that can be read, or an empty one."""
    if not isinstance(path, (str, os.PathLike)):
        raise SampleError(f"the task gives the video as a {type(path).__name__}, not as a file")
    file = Path(path)
    if file.is_dir():
        raise SampleError("the video is a folder", path=file)
    if not file.is_file():
        raise SampleError("the video is missing", path=file)
    try:
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise SampleError(f"the video can't be opened ({error.strerror})", path=file) from None
    if empty:
        raise SampleError("the video file is empty", path=file)
    return file
