"""What large checkpoints are loaded with: adapters, parts that lie elsewhere, quantised weights; each is in the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from lmms_flow.engine import decoder_layers, find_decoder, intervene, sweep
from lmms_flow.harness.sample import Sample
from lmms_flow.model_wrappers.hf_video import HfVideoFlow
from lmms_flow.records.record import SampleRecord
from lmms_flow.runner.asking import Asking
from lmms_flow.testing.case import Case
from tests.support.clips import write_clip
from tests.support.native import write
from tests.support.native_families import NATIVE
from tests.support.wrapped import answers, messages, question, refusal

LAYERS = 3
FLOW = "cross_frame@2-+video:last"
PARTS = ("q_proj", "v_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(NATIVE["qwen2_5_vl"], tmp_path_factory.mktemp("large") / "model", layers=LAYERS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def load(folder: Path, **arguments: Any) -> HfVideoFlow:
    return HfVideoFlow(pretrained=str(folder), records="none", device="cpu", **arguments)


def ask(wrapper: HfVideoFlow, clip: str) -> SampleRecord:
    (record,) = answers(wrapper, [messages(clip)])
    assert record.status == "ok", record.reason
    return record


# Adapters


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of queries and values, as peft writes it; the base that it names is not there any more."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(5)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=16,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        init_lora_weights=False,
        base_model_name_or_path="gone",
    )
    made = tmp_path_factory.mktemp("adapter") / "lora"
    peft.get_peft_model(load(folder).model, config).save_pretrained(made)
    return made


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_an_adapter_on_top_of_a_checkpoint(engine: str, folder: Path, adapter: Path, clip: str) -> None:
    """The answers are those of the products added to the weights by hand."""
    plain = load(folder, flow=FLOW, engine=engine)
    before = ask(plain, clip).options
    with_adapter = load(folder, flow=FLOW, engine=engine, peft=str(adapter))
    tuned = dict(find_decoder(with_adapter.model).named_modules())
    with torch.no_grad():
        for number, layer in enumerate(decoder_layers(find_decoder(plain.model))):
            for part in PARTS:
                lora = tuned[f"layers.{number}.self_attn.{part}"]
                ((name, up),) = lora.lora_B.items()
                added = lora.scaling[name] * up.weight @ lora.lora_A[name].weight
                assert added.abs().max() > 0
                getattr(layer.self_attn, part).weight += added
    found = ask(with_adapter, clip).options
    assert found == pytest.approx(ask(plain, clip).options, rel=1e-4)
    assert found != pytest.approx(before, rel=1e-2)


def test_an_adapter_that_nobody_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refusal(lambda: load(folder, peft="nobody/has-it"))
    assert "nobody/has-it" in line


# Parts of a model that lie elsewhere


class Spread(HfVideoFlow):  # type: ignore[misc]
    """Its second layer waits on the disk, as on a machine that is too small for the whole."""

    where: Path

    @property
    def loading_arguments(self) -> dict[str, Any]:
        away = {"model.language_model.layers.1": "disk"}
        here = ["model.visual", "model.language_model.embed_tokens", "model.language_model.norm", "lm_head"]
        here += ["model.language_model.rotary_emb", *(f"model.language_model.layers.{n}" for n in (0, 2))]
        return super().loading_arguments | {
            "device_map": dict.fromkeys(here, "cpu") | away,
            "offload_folder": str(self.where),
        }


@pytest.fixture(scope="module")
def spread(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Spread:
    Spread.where = tmp_path_factory.mktemp("disk")
    return Spread(pretrained=str(folder), records="none", device="cpu", device_map="auto", flow=FLOW)


@pytest.fixture(scope="module")
def whole(folder: Path) -> HfVideoFlow:
    return load(folder, flow=FLOW)


def test_a_layer_that_waits_on_the_disk(spread: Spread, whole: HfVideoFlow, clip: str) -> None:
    layer = decoder_layers(find_decoder(spread.model))[1]
    assert all(weight.is_meta for weight in layer.parameters())
    assert ask(spread, clip).options == pytest.approx(ask(whole, clip).options, rel=1e-5)
    cases = [Case(wrapper, clip) for wrapper in (spread, whole)]
    for engine in ("dense", "sparse"):
        with torch.no_grad():
            logits = [under(case, engine) for case in cases]
        assert torch.equal(*logits)
    maps = [
        sweep(case.model, case.inputs(case.asked), case.asked.layout, ["cross_frame", "video:last"], window=1)
        for case in cases
    ]
    assert torch.equal(maps[0].probabilities, maps[1].probabilities)


def under(case: Case, engine: str) -> Any:
    with intervene(case.model, FLOW, case.asked.layout, engine=engine):
        return case.model(**case.inputs(case.asked), logits_to_keep=1).logits[0, -1]


# Quantised weights


def test_8_bits_without_outliers(whole: HfVideoFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which columns are kept apart would depend on tokens that are cut off."""
    monkeypatch.setattr("lmms_flow.model_wrappers.base.find_spec", lambda name: name)
    monkeypatch.setattr(whole, "args", replace(whole.args, load_in_8bit=True))
    config = whole.loading_arguments["quantization_config"]
    assert (config.load_in_8bit, config.llm_int8_threshold) == (True, 0.0)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_pass_the_self_check(bits: int, folder: Path, clip: str) -> None:
    pytest.importorskip("bitsandbytes")
    found = [
        ask(load(folder, flow=FLOW, engine=engine, **{f"load_in_{bits}bit": True}), clip).options
        for engine in ("dense", "sparse")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-2)


# Keys

SET: dict[str, Mapping[str, Any]] = {
    "device_map": {"device_map": "auto"},
    "load_in_4bit": {"load_in_4bit": True},
    "load_in_8bit": {"load_in_8bit": True},
    "peft": {"peft": "an/adapter"},
    "attn_implementation": {"attn_implementation": "eager"},
    "num_frames": {"num_frames": 4},
    "max_frames": {"max_frames": 4},
    "min_pixels": {"min_pixels": 1000},
    "max_pixels": {"max_pixels": 1000},
}


def key(wrapper: HfVideoFlow, clip: str, dtype: torch.dtype = torch.float32, **arguments: Any) -> str:
    """Of an answer to one question, were the model loaded with these."""
    loaded = replace(wrapper.loaded, args=replace(wrapper.args, **arguments), dtype=dtype)
    sample = Sample(
        0,
        "t",
        "test",
        0,
        dict(question(clip)),
        tuple(messages(clip)),
        {"max_new_tokens": 1},
        {"lmms_flow": True},
    )
    return Asking(loaded, wrapper.asked, wrapper.identity).key(sample)


@pytest.mark.parametrize("name", SET)
def test_an_argument_is_in_the_key(name: str, whole: HfVideoFlow, clip: str) -> None:
    assert key(whole, clip) == key(whole, clip)
    assert key(whole, clip, **SET[name]) != key(whole, clip)


def test_the_type_of_weights_is_in_the_key(whole: HfVideoFlow, clip: str) -> None:
    assert key(whole, clip, torch.bfloat16) != key(whole, clip)


def test_the_revision_is_in_the_key(folder: Path, clip: str) -> None:
    one, other = (key(load(folder, revision=revision), clip) for revision in ("main", "v2"))
    assert one != other
