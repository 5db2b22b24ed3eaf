"""The ledger of layers that no list of weights describes: within 1 % of the operators that ran, or not given."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from lmms_flow.engine import intervene, ledger
from lmms_flow.engine import measured as measured_module
from lmms_flow.engine.flops import flop_counter
from lmms_flow.flow import FlowError
from tests.support.odd_models import EXPERTS, LATENT, LAYOUT, prompt, text_model

GLM = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "experts": ("Qwen3Moe", "sdpa", EXPERTS),
    "experts and a shared one": ("Qwen2Moe", "sdpa", EXPERTS | {"shared_expert_intermediate_size": 32}),
    "experts of some layers": ("Glm4Moe", "sdpa", GLM),
    "experts under another name": ("Mixtral", "sdpa", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "latent attention": ("DeepseekV2", "sdpa", LATENT),
    "differential attention": ("DiffLlama", "sdpa", {}),
    "differential attention, eager": ("DiffLlama", "eager", {}),
    "a sliding window": ("Mistral", "sdpa", {"sliding_window": 8}),
    "windows in turns": ("Gemma2", "eager", {"sliding_window": 8}),
}


def counted(model: Any) -> int:
    """The FLOPs of one prefill, by torch's counter."""
    with torch.no_grad(), flop_counter() as counter:
        model(**prompt(), logits_to_keep=1)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", MODELS)
def test_the_full_prefill_is_counted_as_it_runs(name: str) -> None:
    kind, attn, sizes = MODELS[name]
    model = text_model(kind, attn, **sizes)
    assert ledger(model, "none", LAYOUT).full.flops == pytest.approx(counted(model), rel=0.01)


@pytest.mark.parametrize("state", ["active", "merged", "off", "two adapters", "taken off again"])
def test_adapters_count_as_they_run(state: str) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    model = text_model()
    plain = ledger(model, "none", LAYOUT).full.flops
    tuned = peft.get_peft_model(model, config).eval()
    if state == "merged":
        tuned.merge_adapter()
    elif state == "off":
        tuned.base_model.disable_adapter_layers()
    elif state == "two adapters":
        tuned.add_adapter("other", config)
        tuned.base_model.set_adapter(["default", "other"])
    elif state == "taken off again":
        tuned = tuned.merge_and_unload()
    found = ledger(tuned, "none", LAYOUT).full.flops
    assert found == pytest.approx(counted(tuned), rel=0.01)
    assert (found > 1.05 * plain) == (state in ("active", "two adapters"))


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("name", ["experts", "latent attention", "differential attention"])
def test_inside_a_block_the_model_is_counted_and_not_the_block(name: str, engine: str) -> None:
    kind, attn, sizes = MODELS[name]
    model = text_model(kind, attn, **sizes)
    with intervene(model, "blind", LAYOUT, engine=engine):
        inside = ledger(model, "none", LAYOUT).full.flops
        model(**prompt(), logits_to_keep=1)  # the flow is still on it, and lets its prompt through
    assert inside == ledger(text_model(kind, attn, **sizes), "none", LAYOUT).full.flops


def test_experts_without_weights_are_not_given() -> None:
    with torch.device("meta"):
        from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(num_hidden_layers=2))
    with pytest.raises(FlowError, match="have to be measured"):
        ledger(model, "none", 20)


@pytest.mark.parametrize(
    "cost",
    [
        lambda n: 50 * n + n**3,  # grows faster than with the pairs
        lambda n: 3 * n * n,  # nothing for a row
        lambda n: 500 * n - 2 * n * n,  # less for a pair than nothing
    ],
    ids=["cubic", "no rows", "fewer pairs"],
)
def test_a_cost_of_another_form_is_not_given(cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model()
    monkeypatch.setattr(
        measured_module, "_by_layer", lambda model, tokens: [4 * tokens.shape[1], cost(tokens.shape[1])]
    )
    with pytest.raises(FlowError, match="the FLOPs of layer 2 of LlamaForCausalLM are not given"):
        measured_module.Measured.of(model)


def test_sizes_are_read_once_for_as_long_as_the_model_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    tuned = peft.get_peft_model(text_model(), peft.LoraConfig(r=4, target_modules=["q_proj"])).eval()
    read = []
    module = import_module("lmms_flow.engine.ledger")
    shape = module.decoder_shape
    monkeypatch.setattr(module, "decoder_shape", lambda model: read.append(model) or shape(model))
    first = [ledger(tuned, flow, LAYOUT).full.flops for flow in ("none", "blind")]
    assert len(read) == 1
    tuned.merge_adapter()
    assert ledger(tuned, "none", LAYOUT).full.flops < first[0] == first[1]
    assert len(read) == 2
