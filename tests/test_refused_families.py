"""Mechanisms that no flow cuts are refused when a checkpoint is loaded, in one line with their name and layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lmms_flow.engine import UnsupportedModelError, check_layers
from lmms_flow.model_wrappers.hf_video import HfVideoFlow
from scripts.decoders.build import build
from tests.support.checkpoints_videollama3 import write_qwen_tokenizer
from tests.support.native import write
from tests.support.native_families import AREA, PATCH, REFUSED
from tests.support.wrapped import refusal

STATE = "information passes through a state that no mask reaches"
# Type of model -> what is said of it in its published size, which its configuration has by default.
LARGE = {
    "qwen3_5": f"24 of 32 layers are recurrent (layers 1-3, 5-7, 9-11, 13-15, ...; linear_attn, a "
    f"Qwen3_5GatedDeltaNet): {STATE}",
    "minicpmv4_6": "24 of 32 layers are recurrent (layers 1-3, 5-7, 9-11, 13-15, ...; linear_attn",
    "lfm3_vl": "13 of 24 layers are convolutional (layers 1-2, 4, 6, 8, ...; conv, a Lfm3ShortConv): information "
    "passes between neighbouring tokens",
    "nemotron_h_omni": "1 of 4 layers is recurrent (layer 1; mixer, a NemotronHMamba2Mixer)",
    "glm5_next": "34 of 45 layers are recurrent (layers 1-3, 5-7, 9-11, 13-15, ...; self_attn, a "
    "Glm5NextTextLinearAttention)",
    "hy_v4_vl": "chooses its keys itself, in self_attn.indexer, a HYV4VLIndexer: a cut in the attention mask would not "
    "cut it; 78 of 78 layers do (layers 1-78)",
    "minimax_m3_vl": "chooses its keys itself (MiniMaxM3VLAttention.indexer): a cut in the attention mask would not "
    "cut it; 60 of 60 layers do (layers 1-60)",
    "mllama": "8 of 40 layers have cross-attention (layers 4, 9, 14, 19, ...; cross_attn, a MllamaTextCrossAttention): "
    "they read states beside the prompt's",
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_model_of_its_published_size(kind: str) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[kind]())
    with pytest.raises(UnsupportedModelError) as refused:
        check_layers(model)
    assert LARGE[kind] in str(refused.value)


def test_a_hybrid_with_indexers() -> None:
    """Qwen 4: its layers without attention are named first."""
    indexer = {"n_heads": 2, "kv_heads": 1, "head_dim": 256, "budget": 64, "compress_ratio": 16}
    config = CONFIG_MAPPING["qwen4_exp_text"](
        num_hidden_layers=4,
        num_experts=4,
        num_experts_per_tok=2,
        **{f"indexer_{k}": v for k, v in indexer.items()},
    )
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match="3 of 4 layers are recurrent"):
        check_layers(model)


TOLD = {
    "qwen3_5": f"3 of 4 layers are recurrent (layers 1-3; linear_attn, a Qwen3_5GatedDeltaNet): {STATE}",
    "hy_v4_vl": "4 of 4 layers do (layers 1-4)",
    "mllama": "1 of 4 layers has cross-attention (layer 2; cross_attn, a MllamaTextCrossAttention)",
}


@pytest.mark.parametrize("family", TOLD)
def test_a_checkpoint_is_refused_while_it_is_loaded(family: str, tmp_path: Path) -> None:
    """Also without a flow, and the process ends with status 1."""
    pytest.importorskip(f"transformers.models.{family}")
    source = write(REFUSED[family], tmp_path / "model", layers=4)
    attention = "eager" if family == "hy_v4_vl" else "sdpa"  # it has no other
    arguments = {"records": "none", "device": "cpu", "attn_implementation": attention}
    line = refusal(lambda: HfVideoFlow(pretrained=str(source), **arguments))
    assert TOLD[family] in line
    assert line.startswith(f"lmms_flow: HfVideoFlow, {source}: ")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("mamba", "4 of 4 layers are recurrent (layers 1-4; mixer, a MambaMixer)"),
        (
            "recurrent_gemma",
            "3 of 4 layers are recurrent (layers 1-2, 4; temporal_block, a RecurrentGemmaRecurrentBlock)",
        ),
    ],
)
def test_what_a_model_is_named_after_is_not_found_in_each_of_its_parts(kind: str, told: str) -> None:
    """Their norms and their attention layers bear the name too."""
    attention = "eager" if kind == "mamba" else "sdpa"
    with pytest.raises(UnsupportedModelError) as caught:
        check_layers(build(kind, False, attention))
    assert told in str(caught.value)


def test_sound_between_the_frames(tmp_path: Path) -> None:
    """Its processor is asked before any weight is read."""
    names = ("image", "video", "audio", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
    marks = {f"{name}_token": f"<|{name}|>" for name in names}
    write_qwen_tokenizer(tmp_path, *marks.values())
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"extra_special_tokens": marks}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    sizes: Any = {"patch_size": PATCH, "size": dict(AREA)}
    transformers.Qwen2_5OmniProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        video_processor=transformers.Qwen2VLVideoProcessor(**sizes),
        feature_extractor=transformers.WhisperFeatureExtractor(),
        tokenizer=tokenizer,
    ).save_pretrained(tmp_path)
    transformers.Qwen2_5OmniThinkerConfig().save_pretrained(tmp_path)
    line = refusal(lambda: HfVideoFlow(pretrained=str(tmp_path), records="none", device="cpu"))
    assert "Qwen2_5OmniProcessor: sound is interleaved with the tokens of the frames" in line
