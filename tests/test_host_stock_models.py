"""Without a flow our wrappers answer as those of lmms-eval that run here do, about the same prompt and frames."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance
from torch import Tensor
from transformers.video_utils import load_video

from lmms_flow.engine import decoder_layers, find_decoder
from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.model_wrappers.hf_video import HfVideoFlow, Qwen3VlFlow, Qwen25VlFlow
from lmms_flow.model_wrappers.internvl import InternvlFlow
from tests.support.clips import write_clip
from tests.support.native import write
from tests.support.native_families import NATIVE
from tests.support.wrapped import GREEDY, answers

pytestmark = pytest.mark.host

ASKED = "Where does the square move to?\nA. Left\nB. Right\nAnswer with the option letter only."
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}
TOLD = {"task": "theirs", "doc_id": 0, "repeats": 1}  # of a request, which lmms-eval unpacks
SMALL, ROOMY = {"min_pixels": 3136, "max_pixels": 9408}, {"min_pixels": 4096, "max_pixels": 98304}


@dataclass(frozen=True)
class Stock:
    """A wrapper of lmms-eval 0.7.3, and ours of the same class of transformers.

    Args:
        module: below `lmms_eval.models`.
        name: of the class.
        ours: our wrapper.
        arguments: of theirs.
        our_arguments: of ours.
        has_system: whether it puts a system message of its own in front.
        size: height and width of a clip that no processor resizes.
    """

    module: str
    name: str
    ours: type[FlowModel]
    arguments: Mapping[str, Any]
    our_arguments: Mapping[str, Any] = field(default_factory=dict)
    has_system: bool = False
    size: tuple[int, int] = (56, 84)


STOCK = {
    "qwen2_vl": Stock(
        "simple.qwen2_vl", "Qwen2_VL", HfVideoFlow, {"max_num_frames": 8, **SMALL}, SMALL, True
    ),
    "qwen2_5_vl": Stock("chat.qwen2_5_vl", "Qwen2_5_VL", Qwen25VlFlow, {"max_num_frames": 8, **SMALL}, SMALL),
    "qwen3_vl": Stock(
        "chat.qwen3_vl", "Qwen3_VL", Qwen3VlFlow, {"max_num_frames": 8, **ROOMY}, ROOMY, True, (64, 96)
    ),
    "internvl": Stock("chat.internvl_hf", "InternVLHf", InternvlFlow, {"num_frames": 8}),
}


@pytest.mark.parametrize("family", STOCK)
def test_answers_are_those_of_the_stock_wrapper(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all eight frames of a clip, so that every way to take eight takes the same."""
    stock = STOCK[family]
    clip = write_clip(tmp_path / "clip.mp4", frames=8, fps=2, size=stock.size)
    source = str(write(NATIVE[family], tmp_path / "model", layers=2))
    theirs, their_states, dtype = of_stock(stock, source, clip, monkeypatch)
    wrapper = type("Ends", (stock.ours,), {"sampling": "linspace"})
    ours = wrapper(pretrained=source, records="none", device="cpu", dtype=dtype, **stock.our_arguments)
    with entering(ours.model) as our_states:
        (record,) = answers(ours, [conversation(clip, stock.has_system)], GREEDY)
    assert (record.status, record.frames) == ("ok", tuple(range(8)))
    assert torch.equal(our_states[0], their_states[0]), "tokens or pixels differ"
    assert record.answer == theirs.strip()


def conversation(clip: str, has_system: bool) -> list[dict[str, Any]]:
    user = {"role": "user", "content": [{"type": "video", "url": clip}, {"type": "text", "text": ASKED}]}
    return [SYSTEM, user] if has_system else [user]


def by_pyav(self: Any, videos: Any, sample_indices_fn: Any = None) -> Any:
    """A processor's own loading of files, but for the library that decodes."""
    if isinstance(videos, list):
        return tuple(
            map(list, zip(*(by_pyav(self, each, sample_indices_fn) for each in videos), strict=True))
        )
    return load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)


@contextmanager
def entering(model: Any) -> Iterator[list[Tensor]]:
    """What enters the decoder's first layer, call after call: [batch, token, width]."""
    seen: list[Tensor] = []
    first = decoder_layers(find_decoder(model))[0]
    handle = first.register_forward_pre_hook(lambda layer, args: seen.append(args[0].detach().clone()))
    try:
        yield seen
    finally:
        handle.remove()


def of_stock(
    stock: Stock, source: str, clip: str, patch: pytest.MonkeyPatch
) -> tuple[str, list[Tensor], str]:
    """What the stock wrapper answers, what enters its model's first layer, and the type of its weights."""
    wrapper = getattr(importlib.import_module(f"lmms_eval.models.{stock.module}"), stock.name)
    model = wrapper(pretrained=source, device="cpu", device_map="cpu", **stock.arguments)
    if (
        stock.name == "InternVLHf"
    ):  # has the processor open the file, for which this environment has PyAV alone
        patch.setattr(type(model.processor.video_processor), "fetch_videos", by_pyav)
    model.task_dict = {"theirs": {"test": [{}]}}
    given = dict(GREEDY)
    about: tuple[Any, ...] = ("theirs", "test")
    if stock.module.startswith("simple"):
        arguments = (ASKED, given, lambda doc: [clip], 0, *about)
    else:
        arguments = ("", lambda doc: deepcopy(conversation(clip, False)), given, 0, *about)
    with entering(model.model) as states:
        (answer,) = model.generate_until([Instance("generate_until", arguments, 0, TOLD)])
    return getattr(answer, "text", answer), states, str(model.model.dtype).removeprefix("torch.")
