"""The documentation's way to add a model: a subclass that names a checkpoint, and one that overrides the seam."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import Instance

from lmms_flow.errors import SampleError
from lmms_flow.inputs.chat import VideoChat
from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.records.journal import read_journal
from tests.support.checkpoints import next_video
from tests.support.clips import write_clip
from tests.support.tokenized import VIDEO, tokenizer

TEXT = "Question: Which way does it move?\nOptions:\n(A) left\n(B) right \nOnly give the best option."


class MyModel(FlowModel):  # type: ignore[misc]
    default_checkpoint = ""


class PairsChat(VideoChat):
    def frame_spans(self, input_ids: Any, video: range, num_frames: int) -> tuple[range, ...]:
        return super().frame_spans(input_ids, video, num_frames // 2)


class PairsModel(FlowModel):  # type: ignore[misc]
    def load(self, source: str) -> VideoChat:
        chat = super().load(source)
        return PairsChat(chat.model, chat.processor)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    next_video(folder, layers=2)
    return folder


def answer(model: FlowModel, clip: Path) -> str:
    content = [{"type": "video", "url": str(clip)}, {"type": "text", "text": TEXT}]
    args = ("", lambda doc: [{"role": "user", "content": content}], {"max_new_tokens": 3}, 0, "task", "test")
    model.task_dict["task"] = {"test": [{"id": "one"}]}
    request = Instance(
        request_type="generate_until",
        arguments=args,
        idx=0,
        metadata={"task": "task", "doc_id": 0, "repeats": 1},
    )
    return model.generate_until([request])[0]


def test_a_subclass_that_names_a_checkpoint_runs_under_a_flow(checkpoint: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip)
    kept: dict[str, Any] = {}
    for flow in ("none", "cross_frame"):
        model = MyModel(pretrained=str(checkpoint), flow=flow, records=str(tmp_path / flow), device="cpu")
        assert isinstance(answer(model, clip), str)
        (record,) = read_journal(tmp_path / flow)
        assert record.status == "ok"
        kept[flow] = record.edges_kept
    assert kept["cross_frame"] < kept["none"]


def test_an_overridden_seam_changes_what_a_frame_is(checkpoint: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip)
    kept: dict[type[FlowModel], Any] = {}
    for wrapper in (MyModel, PairsModel):
        folder = tmp_path / wrapper.__name__
        model = wrapper(pretrained=str(checkpoint), flow="cross_frame", records=str(folder), device="cpu")
        answer(model, clip)
        kept[wrapper] = read_journal(folder)[0].edges_kept
    assert kept[PairsModel] > kept[MyModel]  # the two frames of a pair read each other


class MergingChat(VideoChat):
    """A processor that merges frames in pairs, and a placeholder that becomes two tokens for each pair."""

    def __init__(self) -> None:
        super().__init__(None, tokenizer("llama"), video_token=VIDEO)

    def encode(self, text: str, frames: Any) -> Any:
        ids = list(self.tokenizer(text)["input_ids"])
        at, pairs = ids.index(self.tokenizer.convert_tokens_to_ids(VIDEO)), len(frames.indices) // 2
        ids[at : at + 1] = [ids[at]] * 2 * pairs
        return ids, {"video_grid_thw": torch.tensor([[pairs, 2, 4]])}


class MergingPairsChat(MergingChat):
    def frame_spans(self, input_ids: Any, video: range, num_frames: int) -> tuple[range, ...]:
        return super().frame_spans(input_ids, video, num_frames // 2)


def test_merged_frames_are_no_frames_of_their_own() -> None:
    """Four frames in two pairs of two tokens: half a pair's tokens are the half of a picture, and no frame."""
    frames = SimpleNamespace(indices=(0, 1, 2, 3))
    with pytest.raises(SampleError, match="makes 2 frames of those that were read .* says 4: override it"):
        MergingChat().prompt(f"Watch. {VIDEO} What?", frames)  # type: ignore[arg-type]
    prompt, _ = MergingPairsChat().prompt(f"Watch. {VIDEO} What?", frames)  # type: ignore[arg-type]
    assert [len(span) for span in prompt.frames] == [2, 2]


def test_token_rows_beside_the_ids_are_padded_with_them() -> None:
    class Tokens:
        pad_token_id, eos_token_id, bos_token_id = 7, 2, 1

    from lmms_flow.inputs.groups import EncodedPrompt

    chat = VideoChat(None, Tokens(), video_token="<v>")
    prompts = [EncodedPrompt("", ids, (), range(0), ()) for ids in ((1, 2, 3), (4, 5))]
    kinds = [torch.tensor([[1, 1, 2]]), torch.tensor([[1, 2]])]
    pixels = [torch.zeros(1, 4), torch.ones(1, 4)]
    batch = chat.batch(
        prompts, [{"token_type_ids": k, "pixels": p} for k, p in zip(kinds, pixels, strict=True)]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [7, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[1, 1, 2], [0, 1, 2]]
    assert batch["pixels"].shape == (2, 4)
    with pytest.raises(
        SampleError, match="what 'places' .* means in a batch is not known: write batch_size=1, or"
    ):
        chat.batch(prompts, [{"places": k} for k in kinds])  # places among patches, for all that is known
    assert chat.batch(prompts[:1], [{"places": kinds[0]}])["places"].tolist() == [[1, 1, 2]]
