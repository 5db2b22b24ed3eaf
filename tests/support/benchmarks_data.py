"""Made-up TOMATO, Video-MME, LongVideoBench and MVBench in the layouts that lmms-eval's own tasks read.

    make_tomato(hub.folder("datasets", TOMATO))

Rows have the fields that these tasks use, clips lie in archives or folders as they do there. TVBench is in tvbench.py.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tests.support.clips import write_clip

TOMATO, VIDEOMME = "lmms-eval/TOMATO", "lmms-eval/Video-MME"
LONGVIDEOBENCH, MVBENCH = "longvideobench/LongVideoBench", "OpenGVLab/MVBench"
FPS = 8
# What MVBench's sub-tasks are about, and where the clips of each lie at its revision `video`.
MVBENCH_FOLDERS = {
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "action_prediction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_segment",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}


def make_tomato(folder: Path) -> None:
    """One parquet of the split `test`, and one archive of the clips; an answer is a place in the list of options."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"{kind}-{row}",
            "question": f"How does the square's {kind} change? It's 'odd'.",
            "options": ["It's faster", "slower", "it stays", "slower then faster"][: 4 - row],
            "answer": row + 1,
            "video_path": f"videos/simulated/{kind}-{row}.mp4",
            "reason_type": kind,
            "demonstration_type": "simulated",
            "motion_type": "linear",
        }
        for kind in ("count", "direction")
        for row in range(2)
    ]
    _write_test_split(folder, rows, "data")
    _write_zip(folder / "videos.zip", [row["video_path"] for row in rows])


def make_videomme(folder: Path) -> None:
    """Options come with their letters; clips and subtitles are in several archives."""
    rows = [
        {
            "video_id": f"00{row}",
            "duration": ("short", "long")[row % 2],
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "videoID": f"clip-_{row}",
            "question_id": f"00{row}-1",
            "task_type": ("Action Recognition", "Spatial Perception")[row % 2],
            "question": "Which of the following is shown: A. or B.?",
            "options": ["A. A red square.", "B. Nothing: it is empty.", "C. A. Smith.", "D. A red square."],
            "answer": "BCD"[row],
        }
        for row in range(3)
    ]
    _write_test_split(folder, rows, "videomme")
    clips = [f"data/{row['videoID']}.mp4" for row in rows]
    _write_zip(folder / "videos_chunked_01.zip", clips[:2])
    _write_zip(folder / "videos_chunked_02.zip", clips[2:])
    with zipfile.ZipFile(folder / "subtitle.zip", "w") as archive:
        archive.writestr("subtitle/clip-_0.srt", "1\n00:00:00,000 --> 00:00:01,000\nHello\n")


def make_longvideobench(folder: Path) -> None:
    """Up to five options, each in a field of its own; the clips in a tar that is cut into parts."""
    rows = []
    for row, category in enumerate(("O2E", "O3O", "SOS")):
        options = ["it leaves", "it stays", "it turns: A. left", "it\ngrows", "it shrinks"][: 5 - row]
        options += ["N/A"] * row
        rows.append(
            {
                "video_id": f"v{row}",
                "id": f"v{row}_0",
                "question": "A red square moves (A) over the screen. What does it do when\nthe screen is bright?",
                "question_category": category,
                "duration_group": 15,
                "duration": 3.0,
                "video_path": f"v{row}.mp4",
                "subtitle_path": f"v{row}.json",
                "starting_timestamp_for_subtitles": 0.0,
                "correct_choice": 1 + row % 2,
                **{f"option{place}": option for place, option in enumerate(options)},
            }
        )
    unlabelled = [{**row, "correct_choice": -1} for row in rows[:1]]
    for split, of_split in (("validation", rows), ("test", unlabelled)):
        _to_parquet(of_split, folder / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("Made for tests.\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for row in range(3):
            archive.add(_clip(folder, seed=row, frames=3 * FPS), f"videos/v{row}.mp4")
    (folder / "clip.mp4").unlink()
    content = packed.getvalue()
    half = len(content) // 2
    (folder / "videos.tar.part.aa").write_bytes(content[:half])
    (folder / "videos.tar.part.ab").write_bytes(content[half:])
    with tarfile.open(folder / "subtitles.tar", "w") as archive:
        entry = tarfile.TarInfo("subtitles/v0.json")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"[]"))


def make_mvbench(folder: Path, missing: str = "fine_grained_pose") -> None:
    """One configuration a sub-task, and the clips in open folders; those of the sub-task `missing` are not there."""
    (folder / "json").mkdir()
    configs = [f"- config_name: {name}\n  data_files: json/{name}.json\n" for name in MVBENCH_FOLDERS]
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n\nMade for tests.\n")
    for seed, (name, place) in enumerate(MVBENCH_FOLDERS.items()):
        candidates = ["Not sure", "It moves: (A) left", "It moves (B) right"]
        row = {
            "video": f"{name}.mp4",
            "question": "What happens?",
            "candidates": candidates,
            "answer": candidates[seed % 3],
            # of the longer video out of which the clip was cut
            "start": 100.0,
            "end": 102.0,
        }
        (folder / "json" / f"{name}.json").write_text(json.dumps([row]))
        if name != missing:
            (folder / place).mkdir(parents=True, exist_ok=True)
            write_clip(folder / place / f"{name}.mp4", frames=10, fps=FPS, seed=seed)


def _write_test_split(folder: Path, rows: list[dict[str, Any]], under: str) -> None:
    (folder / under).mkdir()
    _to_parquet(rows, folder / under / "test-00000-of-00001.parquet")
    files = f"  - split: test\n    path: {under}/test-*\n"
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {under}\n  data_files:\n{files}---\n\nMade for tests.\n"
    )


def _to_parquet(rows: list[dict[str, Any]], file: Path) -> None:
    import datasets

    datasets.Dataset.from_list(rows).to_parquet(str(file))


def _write_zip(file: Path, names: list[str]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for seed, name in enumerate(names):
            archive.write(_clip(file.parent, seed), name)
    (file.parent / "clip.mp4").unlink()


def _clip(folder: Path, seed: int, frames: int = 16) -> Path:
    return Path(write_clip(folder / "clip.mp4", frames=frames, fps=FPS, seed=seed))
