"""`lmms_flow.load` and `.prompt`: from a checkpoint, a video and a question to inputs and a layout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lmms_flow
from lmms_flow.assets import flow_tiny_dir, flowbench_dir
from lmms_flow.engine import Knockout, intervene, keep_masks, ledger, self_check, sweep
from lmms_flow.errors import CheckpointError, SampleError, UnsupportedModelError
from lmms_flow.model_wrappers.hf_video import HfVideoFlow, Qwen25VlFlow
from lmms_flow.model_wrappers.internvl import InternvlFlow
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.model_wrappers.videollama3 import VideoLlama3Flow
from lmms_flow.public import _wrapper_of
from lmms_flow.runner.loaded import LoadedModel

FLOW = "video:question@5-6"


def document(family: str = "moving_direction") -> dict[str, Any]:
    doc = json.loads((flowbench_dir() / f"{family}.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return doc | {
        "video": str(flowbench_dir() / doc["video"]),
        "right": doc["candidates"].index(doc["answer"]),
    }


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return lmms_flow.load("flow-tiny", device="cpu")


@pytest.mark.smoke
def test_the_prompt_is_the_task_s(loaded: LoadedModel) -> None:
    """The same tokens and groups as through lmms-eval, and the answer under full attention."""
    doc = document()
    prompt = loaded.prompt(doc["video"], doc["question"], doc["candidates"], answer=doc["right"])
    assert prompt.letters == tuple("ABCD"[: len(doc["candidates"])])
    assert prompt.layout.num_tokens == prompt.inputs["input_ids"].shape[1]
    assert len(prompt.layout.frames) == len(prompt.frames.indices) == 8
    words = loaded.tokenizer.decode(
        [
            int(prompt.inputs["input_ids"][0, token])
            for span in prompt.layout.groups["true_option"]
            for token in span
        ]
    )
    assert doc["answer"] in words
    with torch.no_grad():
        said = int(loaded(**prompt.inputs, logits_to_keep=1).logits[0, -1].argmax())
    assert said in loaded.tokens_of_letter(prompt.letters[doc["right"]])


@pytest.mark.smoke
def test_intervene_sweep_and_ledger_take_what_load_gives(loaded: LoadedModel) -> None:
    """The same numbers as on the model of transformers itself, and as by plain masks."""
    doc = document()
    prompt = loaded.prompt(doc["video"], doc["question"], doc["candidates"])
    logits = []
    for model in (loaded, loaded.model):
        for engine in ("sparse", "dense"):
            with intervene(model, FLOW, prompt.layout, engine=engine), torch.no_grad():
                logits.append(loaded(**prompt.inputs, logits_to_keep=1).logits[0, -1])
    assert torch.equal(logits[0], logits[2])
    assert max(float((one - logits[1]).abs().max() / logits[1].abs().max()) for one in logits) < 1e-5
    result = sweep(loaded, prompt.inputs, prompt.layout, [Knockout("video", "question")], window=3)
    assert result.probabilities.shape == (1, 12)
    assert not keep_masks(FLOW, prompt.layout, 12)[4].all()
    assert ledger(loaded, FLOW, prompt.layout).flops < ledger(loaded, FLOW, prompt.layout).flops_full
    assert all(check.passed for check in self_check(loaded))
    with pytest.raises(UnsupportedModelError, match="str is no model"):
        sweep("flow-tiny", prompt.inputs, prompt.layout, [Knockout("video", "question")])


def test_a_model_of_one_s_own(loaded: LoadedModel) -> None:
    """Model and processor that are in memory: the same prompt; arguments of a checkpoint are refused."""
    own = lmms_flow.load(loaded.model, loaded.chat.processor)
    doc = document("object_count")
    one, other = (each.prompt(doc["video"], doc["question"], doc["candidates"]) for each in (own, loaded))
    assert one.layout == other.layout
    assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in other.inputs)
    with pytest.raises(CheckpointError, match="needs its processor"):
        lmms_flow.load(loaded.model)
    with pytest.raises(CheckpointError, match="dtype need a checkpoint"):
        lmms_flow.load(loaded.model, loaded.chat.processor, dtype="float32")


def test_an_open_question_and_a_part_of_a_video(loaded: LoadedModel) -> None:
    doc = document()
    prompt = loaded.prompt(doc["video"], doc["question"], num_frames=4, start=0.5, end=2.0)
    assert prompt.letters == ()
    assert len(prompt.frames.indices) == 4
    assert prompt.layout.groups["question"]
    assert prompt.text.rstrip().endswith("ASSISTANT:") or "Question:" in prompt.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"options": ["one"]}, "a question has 2 to 10 options or none, this one has 1"),
        ({"options": ["a"] * 11}, "this one has 11"),
        ({"options": ["left", "right"], "answer": 2}, "answer=2 names none of the 2 options"),
        ({"video": "missing.mp4"}, "missing"),
        ({"question": " "}, "the question is empty"),
    ],
)
def test_what_can_t_be_asked_is_one_line(given: dict[str, Any], says: str, loaded: LoadedModel) -> None:
    doc = document()
    asked = {"video": doc["video"], "question": doc["question"], "options": doc["candidates"]} | given
    with pytest.raises(SampleError, match=says) as error:
        loaded.prompt(**asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "wrapper"),
    [
        ("llava_next", LlavaVidFlow),
        ("llava_next_video", LlavaVidFlow),
        ("internvl_chat", InternvlFlow),
        ("internvl", InternvlFlow),
        ("videollama3_qwen2", VideoLlama3Flow),
        ("video_llama_3", VideoLlama3Flow),
        ("qwen2_5_vl", Qwen25VlFlow),
        ("qwen2_vl", HfVideoFlow),
    ],
)
def test_the_family_is_told_by_the_checkpoint(kind: str, wrapper: type, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert _wrapper_of(str(tmp_path), "main") is wrapper


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lmms_flow\.load"):
        lmms_flow.load(str(tmp_path))


@pytest.mark.parametrize("spoil", ["missing", "shape"])
def test_weights_that_would_be_made_up_are_refused(spoil: str, tmp_path: Path) -> None:
    """transformers draws weights that a checkpoint lacks at random, and only warns: such a model answers, wrongly."""
    folder = tmp_path / "model"
    shutil.copytree(flow_tiny_dir(), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("layers.3.self_attn.q_proj.weight"))
    if spoil == "missing":
        weights["renamed"] = weights.pop(name)
    else:
        weights[name] = weights[name][:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    what = "missing" if spoil == "missing" else "of another shape"
    with pytest.raises(
        CheckpointError, match=rf"the weights don't fit .*layers\.3\.self_attn\.q_proj\.weight.*{what}"
    ):
        lmms_flow.load(str(folder), device="cpu")


def test_without_lmms_eval() -> None:
    """A machine with torch and transformers alone: load, prompt and cut."""
    doc = document()
    code = (
        "import sys; sys.modules['lmms_eval'] = None\n"
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name.startswith('lmms_eval') else found(name, *a)\n"
        "import lmms_flow; from lmms_flow.engine import intervene\n"
        "m = lmms_flow.load('flow-tiny', device='cpu')\n"
        f"p = m.prompt({doc['video']!r}, {doc['question']!r}, {doc['candidates']!r})\n"
        f"with intervene(m, {FLOW!r}, p.layout): print(m.generate(**p.inputs, max_new_tokens=1).shape[1])\n"
        "print([name for name, module in sys.modules.items() if name.startswith('lmms_eval') and module])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tokens, host = done.stdout.splitlines()[-2:]
    assert int(tokens) > 100
    assert host == "[]"
