"""Adapters as `pretrained=`: applied whole to the base that they name, or refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmms_flow.model_wrappers.internvl import InternvlFlow
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.runner import adapters
from tests.support.checkpoints import HIDDEN, paper_llava
from tests.support.checkpoints_internvl import internvl_chat
from tests.support.clips import write_clip
from tests.support.wrapped import answers, messages, refusal

peft = pytest.importorskip("peft")

LAYERS, RANK, ALPHA = 2, 2, 16
PARTS = ("q_proj", "v_proj")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    paper_llava(folder, layers=LAYERS)
    return folder


def write_adapter(
    folder: Path,
    base: str | None,
    *,
    name: Callable[[int, str], str] = lambda layer, part: (
        f"model.language_model.layers.{layer}.self_attn.{part}"
    ),
    hidden: int = HIDDEN,
    layers: int = LAYERS,
) -> dict[str, torch.Tensor]:
    """A LoRA adapter of the language model's queries and values, as peft writes it. Returns what it adds to weights."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    tensors, added = {}, {}
    for layer in range(layers):
        for part in PARTS:
            down = torch.randn(RANK, hidden, generator=generator)
            up = torch.randn(hidden, RANK, generator=generator)
            tensors[f"base_model.model.{name(layer, part)}.lora_A.weight"] = down
            tensors[f"base_model.model.{name(layer, part)}.lora_B.weight"] = up
            added[f"language_model.model.layers.{layer}.self_attn.{part}.weight"] = ALPHA / RANK * up @ down
    save_file(tensors, folder / "adapter_model.safetensors")
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        base_model_name_or_path=base,
    )
    config.save_pretrained(str(folder))
    return added


def options(folder: Path, clip: str, **model_args: Any) -> dict[str, float]:
    model = LlavaVidFlow(
        pretrained=str(folder), device="cpu", flow="video:question@1", records="none", **model_args
    )
    (record,) = answers(model, [messages(clip)])
    assert record.status == "ok", record.reason
    return dict(record.options)


@pytest.fixture
def merged(base: Path, tmp_path: Path) -> Path:
    """The base with the adapter's products added to its weights by hand."""
    folder = tmp_path / "merged"
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    for name, change in write_adapter(tmp_path / "unused", str(base)).items():
        weights[name] = weights[name] + change
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_adapter_alone_loads_its_base(base: Path, merged: Path, clip: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", str(base))
    found = options(tmp_path / "adapter", clip)
    assert found == pytest.approx(options(merged, clip), rel=1e-3)
    assert found != pytest.approx(options(base, clip), rel=1e-2)
    assert found == pytest.approx(options(tmp_path / "adapter", clip, engine="dense"), rel=1e-4)


def test_an_adapter_beside_full_weights_is_applied_to_these(
    base: Path, merged: Path, clip: str, tmp_path: Path
) -> None:
    """Whatever base it names: the one that it lies beside is meant."""
    shutil.copytree(base, tmp_path / "beside")
    write_adapter(tmp_path / "beside", str(tmp_path / "another"))
    assert options(tmp_path / "beside", clip) == pytest.approx(options(merged, clip), rel=1e-3)


def test_names_of_older_versions(base: Path, merged: Path, clip: str, tmp_path: Path) -> None:
    """What was trained when the language model's layers had another name arrives too, or is refused."""

    def name(layer: int, part: str) -> str:
        return f"language_model.model.layers.{layer}.self_attn.{part}"

    write_adapter(tmp_path / "adapter", str(base), name=name)
    try:
        found = options(tmp_path / "adapter", clip)
    except SystemExit:
        return
    assert found == pytest.approx(options(merged, clip), rel=1e-3)


@pytest.mark.parametrize("place", ["here", "beside the adapter"])
def test_a_base_by_a_relative_path(
    place: str, base: Path, merged: Path, clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(base.parent if place == "here" else tmp_path / "elsewhere")
    if place != "here":
        shutil.copytree(base, tmp_path / "model")
    write_adapter(tmp_path / "adapter", "model" if place == "here" else "../model")
    assert options(tmp_path / "adapter", clip) == pytest.approx(options(merged, clip), rel=1e-3)


def test_a_relative_path_with_two_meanings(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    shutil.copytree(base, tmp_path / "adapter/model")
    write_adapter(tmp_path / "adapter", "model")
    assert "write the whole path as base_model_name_or_path" in line_of(tmp_path / "adapter")


def line_of(folder: Path, wrapper: Any = LlavaVidFlow) -> str:
    line = refusal(lambda: wrapper(pretrained=str(folder), device="cpu", records="none"))
    assert str(folder) in line
    return line


@pytest.mark.parametrize(
    ("named", "part"),
    [
        (None, "names no base: write its folder or repository"),
        ("", "names no base"),
        ("/no/such/model", "its base '/no/such/model' is not there"),
        ("../gone", "its base '../gone' is not there"),
        ("../empty", "its base '../empty' is no model, it has no config.json"),
    ],
)
def test_a_base_that_is_missing(named: str | None, part: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_adapter(tmp_path / "adapter", named)
    assert part in line_of(tmp_path / "adapter")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("wrong", ["width", "layers more", "layers fewer", "names"])
def test_an_adapter_of_another_model(wrong: str, beside: bool, base: Path, tmp_path: Path) -> None:
    """Nothing of it may be left out: the rest would be a model that nobody trained."""
    sizes: dict[str, dict[str, Any]] = {
        "width": {"hidden": HIDDEN // 2},
        "layers more": {"layers": LAYERS + 1},
        "layers fewer": {"layers": LAYERS - 1},
        "names": {"name": lambda layer, part: f"transformer.h.{layer}.{part}"},
    }
    if beside:
        shutil.copytree(base, tmp_path / "adapter")
    write_adapter(tmp_path / "adapter", str(base), **sizes[wrong])
    line = line_of(tmp_path / "adapter")
    assert "adapter" in line.replace(str(tmp_path / "adapter"), "")


def test_an_original_checkpoint_takes_no_adapter_of_its_own_code(tmp_path: Path) -> None:
    internvl_chat(tmp_path / "base", layers=LAYERS)

    def name(layer: int, part: str) -> str:
        return f"language_model.model.layers.{layer}.self_attn.{part}"

    write_adapter(tmp_path / "adapter", str(tmp_path / "base"), name=name)
    assert "adapter" in line_of(tmp_path / "adapter", InternvlFlow).replace("/adapter", "")


@pytest.mark.parametrize("beside", [True, False])
def test_without_peft_it_is_named(
    beside: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside full weights too: transformers would load those and leave the adapter out."""
    if beside:
        shutil.copytree(base, tmp_path / "adapter")
    write_adapter(tmp_path / "adapter", str(base))
    monkeypatch.setattr(adapters, "is_peft_available", lambda: False)
    assert "the package peft, which applies it, is not installed: pip install peft" in line_of(
        tmp_path / "adapter"
    )


def test_pickled_adapters_are_refused(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", str(base))
    file = tmp_path / "adapter/adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter/adapter_model.bin")
    file.unlink()
    assert "has no adapter_model.safetensors: only safetensors are read" in line_of(tmp_path / "adapter")


def test_a_configuration_that_is_none(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", str(base))
    (tmp_path / "adapter/adapter_config.json").write_text("[]")
    assert "adapter_config.json can't be read" in line_of(tmp_path / "adapter")


def test_an_adapter_of_an_adapter(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "first", str(base))
    write_adapter(tmp_path / "second", str(tmp_path / "first"))
    assert "is no model" in line_of(tmp_path / "second")
