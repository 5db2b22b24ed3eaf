"""Five benchmarks through the real command line, in lmms-eval's own protocol and in the paper's, on a tiny checkpoint.

One run for all: starting lmms-eval takes longer than answering. Its flow names parts of the question, so that every
sample in which they are not found would end it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lmms_flow.inputs.sampling import linspace, midpoints, segment_starts
from lmms_flow.records.journal import read_journal
from lmms_flow.records.record import SampleRecord
from tests.support import benchmarks_data as data
from tests.support.checkpoints import paper_llava
from tests.support.host import host_env, run_cli
from tests.support.hub import Hub, serve
from tests.support.tvbench import REPOSITORY as TVBENCH
from tests.support.tvbench import make_tvbench

pytestmark = pytest.mark.host

FLOW = "true_option:last+false_options:last+stem:last"
STOCK = ["tvbench_action_sequence", "mvbench_action_sequence", "tomato", "videomme", "longvideobench_val_v"]
PAPER = ["tvbench_flow", "mvbench_flow", "tomato_flow", "videomme_flow", "longvideobench_flow"]


@dataclass(frozen=True)
class Run:
    """What one run of the command line left behind."""

    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]  # lmms-eval's sample log
    records: dict[str, list[SampleRecord]]  # the journal, of each task in the order of its documents


@pytest.fixture(scope="module")
def data_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the five data sets; of TVBench a clip is missing, as those are that are fetched apart."""
    with serve(tmp_path_factory.mktemp("hub")) as hub:
        tvbench = make_tvbench(hub.folder("datasets", TVBENCH), rows=2)
        file = tvbench / "json/action_antonym.json"
        rows = json.loads(file.read_text())
        file.write_text(json.dumps([*rows, {**rows[0], "video": "S001C001P001R001A001_rgb.avi"}]))
        data.make_tomato(hub.folder("datasets", data.TOMATO))
        data.make_videomme(hub.folder("datasets", data.VIDEOMME))
        data.make_longvideobench(hub.folder("datasets", data.LONGVIDEOBENCH))
        data.make_mvbench(hub.folder("datasets", data.MVBENCH))
        hub.branches[f"datasets/{data.MVBENCH}"] = "video"
        yield hub


@pytest.fixture(scope="module")
def run(data_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    paper_llava(folder / "tiny")
    model_args = f"pretrained={folder}/tiny,flow={FLOW},records={folder}/records"
    args = [
        "--model",
        "llava_vid_flow",
        "--model_args",
        model_args,
        "--log_samples",
        "--output_path",
        f"{folder}/out",
    ]
    args += ["--tasks", ",".join([*STOCK, *PAPER, "longvideobench_flow_24"])]
    done = run_cli(args, host_env(data_hub, folder / "home"), cwd=folder)
    found = list(folder.glob("out/**/*_results.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(found) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    records: dict[str, list[SampleRecord]] = {}
    for record in sorted(read_journal(folder / "records"), key=lambda record: record.doc_id):
        records.setdefault(record.task, []).append(record)
    samples = {
        file.name.partition("_samples_")[2].removesuffix(".jsonl"): [
            *map(json.loads, file.read_text().rstrip("\n").split("\n"))
        ]
        for file in folder.glob("out/**/*_samples_*.jsonl")
    }
    return Run(json.loads(found[0].read_text())["results"], samples, records)


def test_every_task_of_both_protocols_has_a_score(run: Run) -> None:
    metrics = {
        "tomato": "tomato_score",
        "videomme": "videomme_perception_score",
        "longvideobench_val_v": "lvb_acc",
    }
    metrics |= {"tvbench_action_sequence": "tvbench_acc", "mvbench_action_sequence": "mvbench_accuracy"}
    for task, metric in metrics.items():
        assert run.results[task][f"{metric},none"] >= 0
    for task in [*PAPER, "longvideobench_flow_24"]:
        assert 0 <= run.results[task]["accuracy,none"] <= 1
        assert run.results[task]["errors,none"] == 0


def test_records_name_the_protocol_and_the_category(run: Run) -> None:
    for task, records in run.records.items():
        assert {record.protocol for record in records} == {"stock" if task in STOCK else "paper"}
    kinds = {task: [record.category for record in records] for task, records in run.records.items()}
    assert kinds["tomato_flow"] == ["count", "count", "direction", "direction"]
    assert kinds["videomme_flow"] == ["Action Recognition", "Spatial Perception", "Action Recognition"]
    assert kinds["longvideobench_flow"] == ["O2E", "O3O", "SOS"]
    assert kinds["tvbench_flow_object_count"] == ["object_count"] * 2
    assert kinds["mvbench_flow_action_count"] == ["action_count"]


def test_parts_of_the_question_were_found_in_every_prompt(run: Run) -> None:
    """An error would have ended the run; and every cut leaves edges out."""
    checked = 0
    for task, records in run.records.items():
        for record in records:
            if record.status == "skipped":
                continue
            assert record.status == "ok", (task, record.reason)
            assert record.groups_rule.endswith("to last option")
            assert record.notes == ()
            assert 0 < (record.edges_kept or 0) < (record.edges_total or 0)
            # Without the document, what stock TOMATO prints (a dictionary) is not known for options.
            assert len(record.options) >= 2, task
            checked += 1
    assert checked > len(run.records) / 2


@pytest.mark.parametrize(
    ("task", "clip"),
    [
        ("tvbench_flow_action_antonym", "tvbench/video/action_antonym/S001C001P001R001A001_rgb.avi"),
        ("mvbench_flow_fine_grained_pose", "mvbench_video/nturgbd_convert/fine_grained_pose.mp4"),
    ],
)
def test_a_clip_that_is_fetched_apart_is_counted_and_named_not_scored(run: Run, task: str, clip: str) -> None:
    (skipped,) = [record for record in run.records[task] if record.status == "skipped"]
    assert clip in skipped.reason
    results = run.results[task]
    assert (results["errors,none"], results["skipped,none"]) == (0, 1)
    (logged,) = [line for line in run.samples[task] if line["skipped"]]
    assert logged["record"]["status"] == "skipped"
    assert not isinstance(logged.get("accuracy"), float)
    assert run.results[task.partition("_flow")[0] + "_flow"]["skipped,none"] == 1


def test_frames_are_taken_as_the_protocol_says(run: Run) -> None:
    whole, half = midpoints(0, 23, 8), midpoints(6, 18, 8)  # of 24 frames at 8 a second
    frames = {task: {record.frames for record in records} for task, records in run.records.items()}
    assert frames["tvbench_flow_action_sequence"] == frames["tvbench_flow_action_localization"] == {half}
    assert frames["tvbench_action_sequence"] == frames["tvbench_flow_object_count"] == {whole}
    assert frames["tomato_flow"] == frames["videomme_flow"] == {midpoints(0, 15, 8)}
    assert frames["longvideobench_val_v"] == {whole}
    assert frames["longvideobench_flow"] == {segment_starts(0, 23, 8, fps=8)} == {(0, 8, *[16] * 6)}
    assert frames["longvideobench_flow_24"] == {(0, 8, *[16] * 22)}
    assert linspace(0, 23, 8) not in frames["longvideobench_flow"]


def test_the_papers_prompt_is_asked_and_the_stock_one_beside_it(run: Run) -> None:
    asked = {task: lines[0]["input"] for task, lines in run.samples.items()}
    question = "How does the square's count change? It's 'odd'."
    options = "(A) It's faster\n(B) slower\n(C) it stays\n(D) slower then faster"
    assert asked["tomato_flow"] == f"Question: {question}\nOptions:\n{options} \nOnly give the best option."
    assert question in asked["tomato"]
    assert "{'A': \"It's faster\", 'B': 'slower'" in asked["tomato"]
    assert asked["videomme_flow"].startswith(
        "Question: Which of the following is shown: A. or B.?\nOptions:\nA. A red"
    )
    assert "(D) it\ngrows\n(E) it shrinks \nOnly" in asked["longvideobench_flow"]
    assert asked["mvbench_flow_action_sequence"].count("(A)") == 2


def test_a_record_has_the_documents_own_key_of_its_video(run: Run) -> None:
    """By which questions about one video are one cluster, also where each has a file of its own."""
    keys = {task: [record.video_key for record in records] for task, records in run.records.items()}
    assert keys["videomme"] == keys["videomme_flow"] == [f"00{row}" for row in range(len(keys["videomme"]))]
    long = [f"v{row}" for row in range(len(keys["longvideobench_val_v"]))]
    assert keys["longvideobench_val_v"] == keys["longvideobench_flow"] == long
    assert keys["videomme"]
    assert long
    assert set(keys["tvbench_action_sequence"]) == set(keys["tvbench_flow_action_sequence"]) == {""}
