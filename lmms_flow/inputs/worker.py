"""The process that decodes: clips come in as lines of JSON, frames go out as a line of JSON and their pixels."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

from lmms_flow.errors import SampleError
from lmms_flow.inputs.clip import Clip, Frames
from lmms_flow.inputs.complaints import Complaints, write_errors
from lmms_flow.inputs.reading import decode


def main() -> None:
    """Answers until standard input ends, which it does with the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ours to end is the asking process
    clips: queue.SimpleQueue[Clip] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(clips,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answers:
        complaints = Complaints()
        os.dup2(2, 1)  # what libraries print is no answer
        write_errors()
        while True:
            _answer(clips.get(), complaints, answers)


def _receive(clips: queue.SimpleQueue[Clip]) -> None:
    for line in sys.stdin.buffer:
        clips.put(Clip(**json.loads(line)))
    os._exit(0)


def _answer(clip: Clip, complaints: Complaints, answers: BinaryIO) -> None:
    try:
        complaints.forget()
        frames = decode(clip, complaints)
    except SampleError as error:
        _send(answers, {"error": error.reason})
    except MemoryError:
        _send(answers, {"error": "the video does not fit into memory"})
    except (
        Exception
    ) as error:  # of a library that is not as it was when this was written: told, not a dead process
        _send(answers, {"error": f"the video can't be read ({type(error).__name__}: {error})"})
    else:
        _send_frames(answers, frames)


def _send(answers: BinaryIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _send_frames(answers: BinaryIO, frames: Frames) -> None:
    told = {name: value for name, value in vars(frames).items() if name != "pixels"}
    _send(answers, {"shape": frames.pixels.shape, **told})
    answers.write(frames.pixels.tobytes())
    answers.flush()
