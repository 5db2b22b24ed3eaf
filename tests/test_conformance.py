"""The conformance suite: every family passes it, and it catches the mistakes that wrappers make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_flow.engine import intervene
from lmms_flow.engine.layer_call import keeping
from lmms_flow.engine.probe import difference
from lmms_flow.inputs.groups import EncodedPrompt
from lmms_flow.inputs.processor_chat import ProcessorChat
from lmms_flow.model_wrappers.hf_video import HfVideoFlow
from lmms_flow.testing import Finding, assert_conforms, conformance
from lmms_flow.testing.case import Case
from tests.support.clips import write_clip
from tests.support.families import FAMILIES
from tests.support.native import write
from tests.support.native_families import NATIVE, NEEDS

FEW = {"gemma4": 3}  # frames, of a family whose smallest ones have 60 tokens


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=48, fps=12)


@pytest.mark.parametrize("name", NATIVE)
def test_a_family_conforms(name: str, clip: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    wrapper = load(write(NATIVE[name], tmp_path / name, layers=3), num_frames=FEW.get(name, 8))
    found = assert_conforms(wrapper, clip)
    tried = {one.name: one.passed for one in found}
    assert tried["token ids are the processor's own"] in (True, None)
    untried = [one.name for one in found if one.passed is None]
    assert len(untried) <= 3, untried
    case = Case(wrapper, clip)
    assert difference(last(case, "none"), last(case, "sham")) <= 1e-6


@torch.no_grad()
def last(case: Case, flow: str) -> torch.Tensor:
    """The last token's logits, [token]."""
    with intervene(case.model, flow, case.asked.layout):
        logits: torch.Tensor = case.model(**case.inputs(case.asked), **keeping(case.model, 1)).logits[0, -1]
    return logits


@pytest.mark.parametrize("name", ["llava", "internvl", "videollama3"])
def test_the_papers_checkpoints_conform(name: str, clip: str, tmp_path: Path) -> None:
    """In their original form; what no processor of transformers says of them can't be compared with one."""
    family = FAMILIES[name]
    assert family.make is not None
    family.make(tmp_path / "model")
    found = assert_conforms(family.load(tmp_path / "model"), clip)
    untried = [one.detail for one in found if one.passed is None]
    assert all("processor reads no videos" in why or "transformers' own form" in why for why in untried), (
        untried
    )


# Twenty mistakes of wrappers. Each is a change to a chat that is right.

Change = Callable[[pytest.MonkeyPatch, Any], None]


def prompted(change: Callable[[EncodedPrompt], EncodedPrompt]) -> Change:
    """The prompt comes out otherwise."""

    def apply(patch: pytest.MonkeyPatch, chat: Any) -> None:
        right = chat.prompt

        def prompt(text: str, frames: Any) -> Any:
            encoded, tensors = right(text, frames)
            return change(encoded), tensors

        patch.setattr(chat, "prompt", prompt)

    return apply


def handed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """The tensors beside the tokens come out otherwise."""

    def apply(patch: pytest.MonkeyPatch, chat: Any) -> None:
        right = chat.prompt

        def prompt(text: str, frames: Any) -> Any:
            encoded, tensors = right(text, frames)
            return encoded, change(dict(tensors))

        patch.setattr(chat, "prompt", prompt)

    return apply


def framed(change: Callable[[Any], Any]) -> Change:
    """The frames go in otherwise."""

    def apply(patch: pytest.MonkeyPatch, chat: Any) -> None:
        right = chat.prompt
        patch.setattr(chat, "prompt", lambda text, frames: right(text, change(frames)))

    return apply


def rendered(change: Callable[[str], str]) -> Change:
    """The prompt's text comes out otherwise."""

    def apply(patch: pytest.MonkeyPatch, chat: Any) -> None:
        right = chat.render
        patch.setattr(chat, "render", lambda messages: change(right(messages)))

    return apply


def batched(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Batches are put together otherwise."""

    def apply(patch: pytest.MonkeyPatch, chat: Any) -> None:
        right = chat.batch
        patch.setattr(chat, "batch", lambda prompts, tensors: change(right(prompts, tensors)))

    return apply


def told_about_time(**changed: Any) -> Change:
    """The processor is told other times."""

    def apply(patch: pytest.MonkeyPatch, chat: Any) -> None:
        right = chat.media

        def media(frames: Any, fps: float) -> Any:
            given = right(frames, fps)
            (metadata,) = given["video_metadata"]
            for name, value in changed.items():
                setattr(metadata, name, value)
            return given

        patch.setattr(chat, "media", media)

    return apply


def moved_borders(by: int) -> Callable[[EncodedPrompt], EncodedPrompt]:
    def change(prompt: EncodedPrompt) -> EncodedPrompt:
        edges = [prompt.video.start, *(span.stop + by for span in prompt.frames[:-1]), prompt.video.stop]
        return replace(prompt, frames=tuple(map(range, edges[:-1], edges[1:])))

    return change


def in_shares(prompt: EncodedPrompt) -> EncodedPrompt:
    """As many equal shares as there are frames, whatever was merged."""
    count = len(prompt.frames) * prompt.unit
    edges = [prompt.video.start + len(prompt.video) * at // count for at in range(count + 1)]
    return replace(prompt, frames=tuple(map(range, edges[:-1], edges[1:])), unit=1)


def joined(prompt: EncodedPrompt) -> EncodedPrompt:
    pairs = [range(a.start, b.stop) for a, b in zip(prompt.frames[::2], prompt.frames[1::2], strict=True)]
    return replace(prompt, frames=tuple(pairs))


def turned(prompt: EncodedPrompt) -> EncodedPrompt:
    return replace(prompt, unit=prompt.unit * 2)


def shifted_text(by: int) -> Callable[[EncodedPrompt], EncodedPrompt]:
    def change(prompt: EncodedPrompt) -> EncodedPrompt:
        end = prompt.video.stop
        later = tuple((start + by, stop + by) for start, stop in prompt.offsets[end:])
        return replace(prompt, offsets=prompt.offsets[:end] + later)

    return change


def longer_video(prompt: EncodedPrompt) -> EncodedPrompt:
    video = range(prompt.video.start, prompt.video.stop + 6)
    return replace(
        prompt, video=video, frames=(*prompt.frames[:-1], range(prompt.frames[-1].start, video.stop))
    )


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def right_padded(inputs: dict[str, Any]) -> dict[str, Any]:
    empty = (inputs["attention_mask"] == 0).sum(1).tolist()
    names = [name for name, value in inputs.items() if value.shape == inputs["input_ids"].shape]
    rolled = {
        name: torch.stack([row.roll(-by) for row, by in zip(inputs[name], empty, strict=True)])
        for name in names
    }
    return inputs | rolled


def all_attended(inputs: dict[str, Any]) -> dict[str, Any]:
    return inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}


def first_pixels_for_all(inputs: dict[str, Any]) -> dict[str, Any]:
    pixels = inputs["pixel_values_videos"]
    half = len(pixels) // 2
    return (
        inputs
        if len(inputs["input_ids"]) == 1
        else inputs | {"pixel_values_videos": pixels[:half].repeat(2, 1)}
    )


def halved(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"pixel_values_videos": tensors["pixel_values_videos"] / 2}


def reversed_frames(frames: Any) -> Any:
    return frames and replace(frames, pixels=frames.pixels[::-1].copy())


def blue_first(frames: Any) -> Any:
    return frames and replace(frames, pixels=frames.pixels[..., ::-1].copy())


def doubled_first(frames: Any) -> Any:
    return frames and replace(frames, pixels=frames.pixels[[0, *range(len(frames.pixels) - 1)]])


def deaf(patch: pytest.MonkeyPatch, chat: Any) -> None:
    """The model's attention ignores its mask."""
    kind = type(chat.model.model.language_model.layers[0].self_attn)
    right = kind.forward

    def forward(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return right(self, *args, attention_mask=None, **kwargs)

    patch.setattr(kind, "forward", forward)


BUGS: dict[str, Change] = {
    "pairs taken as frames": prompted(in_shares),
    "a unit too large": prompted(turned),
    "frames joined in twos": prompted(joined),
    "a separator off by one": prompted(moved_borders(1)),
    "a separator off by one the other way": prompted(moved_borders(-1)),
    "a prefix counted as question": prompted(shifted_text(8)),
    "the question's first word left out": prompted(shifted_text(-4)),
    "text counted as video": prompted(longer_video),
    "no fps": told_about_time(fps=None),
    "the rate of the sampled frames": told_about_time(fps=2.0),
    "places counted from the first frame": told_about_time(frames_indices=list(range(8))),
    "frames in reverse": framed(reversed_frames),
    "blue for red": framed(blue_first),
    "a frame twice, the last one lost": framed(doubled_first),
    "no token types": handed(without("mm_token_type_ids")),
    "pixels scaled twice": handed(halved),
    "another system prompt": rendered(lambda text: "<|im_start|>system\nBe brief.<|im_end|>\n" + text),
    "a stripped prompt": rendered(lambda text: text.replace("\n", " ")),
    "no beginning of an answer": rendered(lambda text: text.removesuffix("Best option:(")),
    "padding on the right": batched(right_padded),
    "padding that is attended": batched(all_attended),
    "one video's pixels for all": batched(first_pixels_for_all),
    "attention that ignores its mask": deaf,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(NATIVE["qwen3_vl"], tmp_path_factory.mktemp("qwen") / "model", layers=3)


@pytest.fixture(scope="module")
def right(folder: Path) -> HfVideoFlow:
    return load(folder)


@pytest.mark.parametrize("bug", BUGS)
def test_a_mistake_is_caught(
    bug: str, right: HfVideoFlow, folder: Path, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is put onto the wrapper and taken off again; one in the model itself gets a model that was never tried."""
    wrapper = load(folder) if BUGS[bug] is deaf else right
    assert isinstance(wrapper.chat, ProcessorChat)
    BUGS[bug](monkeypatch, wrapper.chat)
    assert first_failure(wrapper, clip) is not None


def first_failure(wrapper: HfVideoFlow, clip: str) -> Finding | None:
    """Checks of inputs first, which are quick; the engine's own come only where these see nothing."""
    for names in (
        ("frames are where their pixels go", "groups partition the prompt and hold their text"),
        ("token ids are the processor's own", "pixels, grids and seconds are the processor's own"),
        ("flow=none answers as the plain model",),
        ("a batch equals its questions", "what is cut off is not seen"),
    ):
        found = conformance(wrapper, clip, only=names)
        failed = next((one for one in found if one.passed is False), None)
        if failed is not None:
            return failed
    return None


def load(folder: Path, **arguments: Any) -> HfVideoFlow:
    return HfVideoFlow(pretrained=str(folder), records="none", device="cpu", **arguments)
