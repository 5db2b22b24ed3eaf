"""What holds for every family of checkpoints: engines, batches and arms answer alike, and a flow's cut is proved.

What a family brings lies in tests/support/families.py; what only one of them has, in its own test file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lmms_flow.engine import find_decoder
from lmms_flow.engine.decoder import decoder_layers
from lmms_flow.model_wrappers.base import FlowModel
from lmms_flow.records.record import SampleRecord
from tests.support.clips import write_clip
from tests.support.families import FAMILIES, Family
from tests.support.wrapped import GREEDY, answers, arms, edges, refusal

CLOSED = "pathway: {cross_frame: 1-2, 'video:question': 1-3, 'question:last': 3-4}\nclosed: true\n"
TEXT_ONLY = [{"role": "user", "content": [{"type": "text", "text": "Question: What?"}]}]
OFF_BASELINE = ("none", "cross_frame@second_half", "video:last@3-", "question:last@4", "blind")


OF_A_RUN = ("flow", "engine", "batch_size", "num_frames")  # what weights and processor do not depend on


@dataclass(frozen=True)
class Checkpoint:
    """A family's small checkpoint, and clips of unlike sizes."""

    family: Family
    source: str
    clips: tuple[str, ...]
    in_memory: dict[frozenset[tuple[str, Any]], Any] = field(default_factory=dict)

    def load(self, **model_args: Any) -> FlowModel:
        """A wrapper of its own around weights that are read once: no run may leave anything behind on a model."""
        kind = self.family.wrapper
        of_weights = frozenset((name, value) for name, value in model_args.items() if name not in OF_A_RUN)
        read = kind.load

        def load(wrapper: FlowModel, source: str) -> Any:
            if of_weights not in self.in_memory:
                self.in_memory[of_weights] = read(wrapper, source)
            return self.in_memory[of_weights]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "load", load)
            return self.family.load(self.source, **model_args)

    def conversations(self) -> list[Any]:
        """Three questions of unlike lengths, about videos of unlike sizes."""
        first, second, third = self.clips
        return [
            self.family.messages(first),
            self.family.messages(second, question="Where does the red square move to in the end?"),
            self.family.messages(third, candidates=["Left", "Right", "Right and then down"]),
        ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder, sizes = tmp_path_factory.mktemp("clips"), [(64, 96), (96, 64), (112, 168)]
    return tuple(str(write_clip(folder / f"{n}.mp4", seed=n, size=size)) for n, size in enumerate(sizes))


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(
    request: pytest.FixtureRequest, clips: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    family = FAMILIES[request.param]
    if family.make is None:
        return Checkpoint(family, "flow-tiny", clips)
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    family.make(folder)
    return Checkpoint(family, str(folder), clips)


def alike(one: SampleRecord, other: SampleRecord) -> None:
    assert (one.status, other.status) == ("ok", "ok"), (one.reason, other.reason)
    assert one.answer == other.answer
    assert one.options == pytest.approx(other.options, rel=1e-3)
    assert (one.edges_kept, one.edges_total) == (other.edges_kept, other.edges_total)
    assert one.frames == other.frames


@pytest.mark.parametrize(
    ("flow", "attention"),
    [
        ("cross_frame@first_half+last:last", "sdpa"),
        ("random:0.3:seed1", "sdpa"),
        ("closed.yaml", "sdpa"),
        ("closed.yaml", "eager"),
    ],
)
def test_both_engines_one_by_one_and_as_a_batch(
    flow: str, attention: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The cut moves the answer's probabilities, and each way to run it moves them alike."""
    (tmp_path / "closed.yaml").write_text(CLOSED)
    text = str(tmp_path / flow) if flow.endswith(".yaml") else flow
    asked = checkpoint.conversations()
    uncut = answers(checkpoint.load(attn_implementation=attention), asked)
    dense, *others = (
        answers(
            checkpoint.load(flow=text, engine=engine, batch_size=size, attn_implementation=attention), asked
        )
        for engine, size in (("dense", 1), ("sparse", 1), ("dense", 3), ("sparse", 3))
    )
    for place in range(3):
        (kept, count), (stock, stock_count) = edges(dense[place]), edges(uncut[place])
        assert kept < stock == stock_count == count
        assert dense[place].options != pytest.approx(uncut[place].options, rel=1e-2)
        for other in others:
            alike(dense[place], other[place])


@pytest.mark.parametrize("flow", ["none", "video:question@2-3"])
def test_longer_answers_of_a_batch(flow: str, checkpoint: Checkpoint) -> None:
    """Without a flow, a question without a video shares the batch."""
    asked = checkpoint.conversations() + ([TEXT_ONLY] if flow == "none" else [])
    alone = answers(checkpoint.load(flow=flow), asked, GREEDY)
    together = answers(checkpoint.load(flow=flow, batch_size=4), asked, GREEDY)
    assert len(alone) == len(asked)
    for one, other in zip(alone, together, strict=True):
        alike(one, other)


def test_arms_of_one_run_are_runs_of_their_own(checkpoint: Checkpoint) -> None:
    """They go on from the states of full attention, and share the vision pass."""
    (asked, *_) = checkpoint.conversations()
    records = arms(checkpoint.load(engine="sparse"), asked, OFF_BASELINE)
    assert [record.flow for record in records] == list(OFF_BASELINE)
    for flow, record in zip(OFF_BASELINE, records, strict=True):
        (alone,) = answers(checkpoint.load(flow=flow, engine="dense"), [asked])
        alike(alone, record)


@pytest.mark.parametrize("model_args", [{"dtype": "bfloat16"}, {"device_map": "auto"}, {"num_frames": 3}])
def test_other_ways_to_run_under_a_flow(model_args: dict[str, Any], checkpoint: Checkpoint) -> None:
    (asked, *_) = checkpoint.conversations()
    for engine in ("dense", "sparse"):
        model = checkpoint.load(flow="cross_frame+video:last@2-", engine=engine, **model_args)
        (record,) = answers(model, [asked])
        assert record.status == "ok", record.reason
        assert len(record.frames) == model_args.get("num_frames", 8)
        kept, count = edges(record)
        assert 0 < kept < count


def test_a_model_that_ignores_masks_is_refused_while_loading(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-check; full attention needs no masks."""
    kind: Any = type(decoder_layers(find_decoder(checkpoint.load().model))[0].self_attn)
    original = kind.forward

    def deaf(self: Any, *args: Any, attention_mask: Any = None, **arguments: Any) -> Any:
        return original(self, *args, attention_mask=None, **arguments)

    monkeypatch.setattr(kind, "forward", deaf)
    assert "(sdpa attention) failed the self-check" in refusal(lambda: checkpoint.load(flow="video:last"))
    checkpoint.load()


def test_a_placeholder_in_the_question(checkpoint: Checkpoint) -> None:
    model = checkpoint.load()
    token = model.chat.video_token
    asked = checkpoint.family.messages(checkpoint.clips[0], question=f"What does {token} mean?")
    assert f"2 placeholders {token}" in refusal(lambda: answers(model, [asked]))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.pathway])
def test_the_papers_pathway_is_known_by_the_folders_name(
    name: str, clips: tuple[str, ...], tmp_path: Path
) -> None:
    family = FAMILIES[name]
    known = family.pathway
    assert known is not None
    assert family.make is not None
    family.make(tmp_path / known.checkpoint, layers=known.layers)
    model = family.load(tmp_path / known.checkpoint, flow=known.flow)
    (record,) = answers(model, [family.messages(clips[0])])
    assert record.status == "ok", record.reason
    assert record.flow_name == known.preset


def test_arms_leave_the_model_as_it_was(checkpoint: Checkpoint) -> None:
    (asked, *_) = checkpoint.conversations()
    model = checkpoint.load()
    (before,) = answers(model, [asked])
    arms(model, asked, OFF_BASELINE[1:])
    (after,) = answers(model, [asked])
    assert before.options == after.options
