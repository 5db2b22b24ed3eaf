"""Frames in another order: which pixels are shown where, what stays, what is refused, and what a board says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_eval.tasks import TaskManager

from lmms_flow.assets import flowbench_dir
from lmms_flow.errors import ReportError, RunError, UserError
from lmms_flow.harness import plugin
from lmms_flow.harness.arms import ARMS
from lmms_flow.inputs.clip import Frames
from lmms_flow.inputs.frame_order import ORDERS, FrameOrder
from lmms_flow.public import load
from lmms_flow.records.record import SampleRecord
from lmms_flow.report.agreement import check_agreement
from lmms_flow.report.arms import Arm, ScoredSample, arm_names, baseline_of
from lmms_flow.report.board import Settings, make_boards
from lmms_flow.report.samples import frame_of
from lmms_flow.report.tables_of_tests import temporal
from lmms_flow.runner.frame_mixing import embedded, mixes_frames

OURS = "llava_vid_flow"
CLIP = flowbench_dir() / "clips" / "moving_direction-00-a.mp4"
WRITTEN = ("reversed", "frozen", "shuffled:seed1", "shuffled:seed7")


def frames(count: int) -> Frames:
    pixels = np.arange(count, dtype=np.uint8).repeat(12).reshape(count, 2, 2, 3)
    return Frames(pixels, tuple(range(3, 3 + count)), 25.0, tuple(n / 25 for n in range(count)))


def test_pixels_change_places_and_times_stay() -> None:
    filmed = frames(4)
    for text, shown in (("reversed", (6, 5, 4, 3)), ("frozen", (4, 4, 4, 4))):
        found = FrameOrder.parse(text).apply(filmed)
        assert (found.indices, found.times, found.fps) == (filmed.indices, filmed.times, filmed.fps)
        assert found.displayed == shown
        assert tuple(found.pixels[:, 0, 0, 0] + 3) == shown
    assert filmed.displayed == filmed.indices


def test_each_clip_is_shuffled_in_an_order_of_its_own() -> None:
    orders = {
        (seed, clip): FrameOrder("shuffled", seed).places(8, clip)
        for seed in range(3)
        for clip in ("", "0a", "ff" * 8)
    }
    assert len(set(orders.values())) == len(orders)
    for (seed, clip), places in orders.items():
        assert sorted(places) == list(range(8))
        assert places == FrameOrder.parse(f"shuffled:seed{seed}").places(8, clip)
    for seed in range(200):  # of two frames there is one other order
        assert FrameOrder("shuffled", seed).places(2, f"{seed:x}") == (1, 0)
    assert FrameOrder("shuffled").places(1) == (0,)
    spread = Counter(FrameOrder("shuffled").places(3, f"{clip:x}") for clip in range(600))
    assert len(spread) == 5  # all but the one in which it was filmed
    assert min(spread.values()) > 80


@pytest.mark.parametrize(
    "text", ["", "backwards", "reversed:seed1", "frozen:1", "shuffled:1", "shuffled:seed", "Reversed"]
)
def test_other_words_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="write reversed, frozen, shuffled:seed1") as error:
        FrameOrder.parse(text)
    assert "\n" not in str(error.value)


def test_a_prompt_says_the_same_of_other_pixels() -> None:
    model = load("flow-tiny")
    prompts = {
        order: model.prompt(str(CLIP), "Where to?", ["Left", "Right"], frame_order=order)
        for order in ("", *WRITTEN)
    }
    filmed = prompts[""]
    assert filmed.frames.displayed == filmed.frames.indices
    want = embedded(model.model, filmed.inputs)
    for order in WRITTEN:
        other = prompts[order]
        assert torch.equal(other.inputs["input_ids"], filmed.inputs["input_ids"])
        assert other.frames.times == filmed.frames.times
        assert other.layout == filmed.layout
        found = embedded(model.model, other.inputs)
        for place, shown in enumerate(other.frames.places):
            span, own = other.layout.frames[place], filmed.layout.frames[shown]
            torch.testing.assert_close(found[span.start : span.stop], want[own.start : own.stop])
        assert not mixes_frames(want, found, other.layout.frames, other.frames.places)
    with pytest.raises(UserError, match="frame_order 'backward' is none"):
        model.prompt(str(CLIP), "Where to?", frame_order="backward")


def test_a_tower_that_mixes_frames_is_told() -> None:
    filmed = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    spans = (range(1, 3), range(3, 5), range(5, 7), range(7, 9))
    places = (3, 2, 1, 0)
    shown = filmed.clone()
    for span, place in zip(spans, places, strict=True):
        shown[span.start : span.stop] = filmed[spans[place].start : spans[place].stop]
    assert not mixes_frames(filmed, shown, spans, places)
    shown[3] += 0.01
    assert mixes_frames(filmed, shown, spans, places)
    assert mixes_frames(filmed, shown, (range(1, 4), *spans[2:]), (2, 1, 0))


def run(
    tasks: Sequence[str], folder: Path, limit: int = 2, **arguments: Any
) -> tuple[Any, list[SampleRecord]]:
    """The tasks of lmms-eval by the bundled model; the model, and the records of all."""
    from lmms_eval.evaluator import simple_evaluate

    from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow

    plugin.make_tasks_known()
    model = LlavaVidFlow(pretrained="flow-tiny", records=str(folder), device="cpu", **arguments)
    return model, evaluated(model, tasks, limit, simple_evaluate)


def evaluated(model: Any, tasks: Sequence[str], limit: int, evaluate: Any) -> list[SampleRecord]:
    manager = TaskManager(include_defaults=False, model_name=OURS)
    out = evaluate(model=model, tasks=list(tasks), limit=limit, task_manager=manager, batch_size=1)
    lines = [line for samples in out["samples"].values() for line in samples]
    return [SampleRecord.from_dict(line["record"]) for line in lines]


ARM_NAMES = [arm.name for arm in ARMS if arm.frame_order]


def test_all_orders_of_a_clip_are_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_flow.inputs.workers import Workers

    decoded: Counter[str] = Counter()
    own_read = Workers.read

    def counted_read(self: Workers, clip: Any, *rest: Any) -> Any:
        decoded[clip.path] += 1
        return own_read(self, clip, *rest)

    monkeypatch.setattr(Workers, "read", counted_read)
    tasks = ["flowbench_moving_direction", *(f"flowbench_flow_{name}_moving_direction" for name in ARM_NAMES)]
    _, records = run([*tasks, "flowbench_flow_blind_moving_direction"], tmp_path, limit=4)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 4
    by_order = {
        order: [r for r in records if r.frame_order == order] for order in {r.frame_order for r in records}
    }
    assert set(by_order) == {"", "reversed", "frozen", "shuffled:seed1"}
    for played, reversed_, frozen in zip(
        [r for r in by_order[""] if r.flow == "none"], by_order["reversed"], by_order["frozen"], strict=True
    ):
        assert reversed_.frames == played.frames[::-1]
        assert set(frozen.frames) == {played.frames[3]}
        assert {played.answer, reversed_.answer} == {"A", "B"}  # what moves left moves right
        assert reversed_.prompt_digest == played.prompt_digest
        assert reversed_.pair == played.pair != played.id


def test_a_model_of_its_own_order_answers_as_the_arm_does(tmp_path: Path) -> None:
    _, as_arm = run(["flowbench_flow_reversed_action_antonym"], tmp_path / "arm")
    _, as_model = run(["flowbench_action_antonym"], tmp_path / "model", frame_order="reversed")
    assert [r.frame_order for r in as_model] == ["reversed"] * 2
    assert [r.options for r in as_model] == [r.options for r in as_arm]


def test_an_answer_of_another_order_is_not_taken_from_the_records(tmp_path: Path) -> None:
    """One task, one folder of records, three orders: each is answered anew."""
    found = {
        order: run(["flowbench_moving_direction"], tmp_path, limit=1, frame_order=order)[1][0]
        for order in ("", "reversed", "frozen", "")
    }
    assert [record.frame_order for record in found.values()] == ["", "reversed", "frozen"]
    assert len({record.answer for record in (found[""], found["reversed"])}) == 2
    assert len({str(record.options) for record in found.values()}) == 3


def test_one_frame_has_no_order(tmp_path: Path) -> None:
    tasks = [f"flowbench_flow_{name}_object_count" for name in ARM_NAMES]
    _, records = run(tasks, tmp_path, limit=1, num_frames=1, on_error="record")
    assert {record.status for record in records} == {"skipped"}
    assert all("changes nothing: the clip has 1 frame" in record.reason for record in records)


def test_a_tower_that_mixes_frames_is_skipped_with_the_reason(tmp_path: Path) -> None:
    from lmms_eval.evaluator import simple_evaluate

    from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow

    plugin.make_tasks_known()
    model = LlavaVidFlow(pretrained="flow-tiny", records=str(tmp_path), device="cpu")

    def average(layer: Any, given: Any, out: Any) -> Any:
        """Each frame is seen with the one before it, as in a tower with attention over time."""
        states = out[0] if isinstance(out, tuple) else out
        mixed = (states + states.roll(1, 0)) / 2
        return (mixed, *out[1:]) if isinstance(out, tuple) else mixed

    tower = model.model.model.vision_tower
    layers = next(part for name, part in tower.named_modules() if name.endswith("encoder.layers"))
    layers[0].register_forward_hook(average)
    tasks = ["flowbench_object_count", "flowbench_flow_reversed_object_count"]
    records = evaluated(model, tasks, 2, simple_evaluate)
    by_order = {order: [r for r in records if r.frame_order == order] for order in ("", "reversed")}
    assert [record.status for record in by_order[""]] == ["ok", "ok"]
    assert [record.status for record in by_order["reversed"]] == ["skipped", "skipped"]
    assert all("does not see each frame by itself" in record.reason for record in by_order["reversed"])


@pytest.mark.parametrize("order", ["backwards", "shuffled:one", 3])
def test_an_arm_or_an_argument_of_no_order_is_refused(order: Any, tmp_path: Path) -> None:
    plugin.make_tasks_known()
    lines = ["task: mine", "class: !function lmms_flow.harness.flow_task.FlowTask", "flow: none"]
    lines += ["base: flowbench_object_count", f"frame_order: {order}"]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False, model_name=OURS)
    with pytest.raises(RunError, match=f"task mine: frame_order '{order}' is none"):
        manager.load_task_or_group(["mine"], "chat")
    from lmms_flow.runner.arguments import read_arguments

    with pytest.raises(RunError, match=f"--model_args: frame_order '{order}' is none"):
        read_arguments({"frame_order": order})


# What a board says


def arm(frame_order: str, answers: str, *, flow: str = "none", num_frames: int = 4) -> Arm:
    """Pairs of clips with the answers A and B, in this order; `answers` has a letter for each."""
    made = Arm("model", flow, flow, "sparse", num_frames, frame_order=frame_order)
    for number, answer in enumerate(answers):
        target = "AB"[number % 2]
        shown = tuple(range(num_frames))
        made.samples["flowbench_x", number] = ScoredSample(
            "flowbench_x",
            number,
            answer == target,
            "ok",
            answer=answer,
            target=target,
            question="Which?",
            id=f"{number // 2}-{'ab'[number % 2]}",
            pair=f"{number // 2}-{'ba'[number % 2]}",
            frames=shown[::-1] if frame_order == "reversed" else shown[1:2] * 4 if frame_order else shown,
            prompt_digest="p",
        )
    return made


def test_full_attention_as_it_was_filmed_is_the_baseline() -> None:
    filmed, backwards = arm("", "ABAB"), arm("reversed", "BABA")
    cut, cut_backwards = arm("", "ABAA", flow="blind"), arm("reversed", "AAAA", flow="blind")
    single = arm("", "AAAA", num_frames=1)
    arms = [cut_backwards, single, backwards, cut, filmed]
    assert baseline_of(filmed, arms) is None
    assert baseline_of(backwards, arms) is filmed
    assert baseline_of(single, arms) is filmed
    assert baseline_of(cut, arms) is filmed
    assert baseline_of(cut_backwards, arms) is backwards
    assert baseline_of(backwards, [backwards, single]) is None
    assert arm_names(arms) == [
        "blind (no video), reversed",
        "none (single frame)",
        "none (frames reversed)",
        "blind (no video)",
        "none (full attention)",
    ]


def test_orders_of_the_same_frames_agree_and_others_do_not() -> None:
    arms = [arm("", "ABAB"), arm("reversed", "BABA"), arm("frozen", "AAAA")]
    assert check_agreement(arms) == []
    arms[1].samples = {key: replace(s, frames=(9, 8, 7, 6)) for key, s in arms[1].samples.items()}
    with pytest.raises(ReportError, match="differ in their frames"):
        check_agreement(arms)


def test_temporal_share_pairs_and_turned_clips() -> None:
    arms = [arm("", "ABABABAA"), arm("reversed", "BABABBAA"), arm("shuffled:seed1", "ABAABBAA")]
    (board,) = make_boards(arms, Settings(resamples=2000))
    rows = {row[0][0]: row[1:] for row in temporal(board).rows}
    full, backwards, shuffled = (rows[name] for name in arm_names(arms))
    assert full[0] is None  # the temporal share
    assert full[2] == 4  # pairs
    assert full[3][0] == 0.75  # both right
    assert full[-1] is None  # nothing turns in the order in which it was filmed
    assert backwards[0] is None
    assert backwards[3][0] == 0.0
    assert backwards[4][0] == -0.75  # of the pairs, against full attention
    # Of the six clips that full attention tells from their pair's other, the last pair's first stays.
    assert backwards[-1][0] == pytest.approx(5 / 6)
    accuracy = [sum(bool(s.correct) for s in one.samples.values()) / 8 for one in arms]
    assert shuffled[0][0] == pytest.approx(accuracy[0] - accuracy[2])
    assert shuffled[0][1] <= shuffled[0][0] <= shuffled[0][2]
    assert shuffled[1] > 0  # the share that would have shown
    assert shuffled[3][0] == 0.25


def test_columns_tell_arms_of_other_orders_apart() -> None:
    """In a CSV and in a notebook's table their flow is `none` as full attention's is."""
    arms = [arm("", "ABAB"), arm("reversed", "BABA"), arm("frozen", "AAAA")]
    boards = make_boards(arms, Settings(resamples=100))
    (board,) = boards
    assert [entry.label[6] for entry in board.entries] == [entry.arm.frame_order for entry in board.entries]
    frame = frame_of(boards)
    assert frame.groupby(["flow", "frame_order"]).size().to_dict() == {
        ("none", order): 4 for order in ("", "frozen", "reversed")
    }
    assert [entry.arm.is_of_the_whole_clip for entry in board.entries].count(True) == 1


def test_orders_are_controls_by_name() -> None:
    assert ORDERS == ("reversed", "shuffled", "frozen")
    assert [name.partition("_")[0] for name in ARM_NAMES] == list(ORDERS)
