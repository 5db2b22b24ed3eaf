"""Layers that move information past the mask are refused at entry, whoever enters; what is right is let in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lmms_flow.engine import (
    Baseline,
    UnsupportedModelError,
    find_decoder,
    intervene,
    require_self_check,
    self_check,
    sweep,
)
from lmms_flow.engine.proof import rounding_of
from lmms_flow.flow import FlowError
from tests.support.odd_models import (
    EXPERTS,
    HYBRID,
    LATENT,
    LAYERS,
    LAYOUT,
    MAMBA,
    SIZES,
    by_hand,
    last,
    lively,
    off,
    prompt,
    text_model,
)

ENGINES = ("dense", "sparse")


def auto(name: str, **sizes: Any) -> Any:
    kind = CONFIG_MAPPING[name]
    plain = kind()
    config = kind(**{key: value for key, value in (SIZES | sizes).items() if hasattr(plain, key)})
    return lively(transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


def paligemma(attn: str = "sdpa") -> Any:
    vision = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16,
        patch_size=4, vision_use_head=False,
    )  # fmt: skip
    config = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**SIZES),
        vision_config=vision,
        image_token_id=5,
        projection_dim=64,
    )
    kind = transformers.PaliGemmaForConditionalGeneration
    return lively(kind._from_config(config, attn_implementation=attn))


class Shifted(torch.nn.Module):
    """An attention that also hands each token something of the one before: no structure shows it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner_forward = inner.forward
        self.config, self.layer_idx = inner.config, inner.layer_idx

    def forward(self, hidden_states: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        out, weights = self.inner_forward(hidden_states, attention_mask=attention_mask, **kwargs)
        return out + 0.1 * hidden_states.roll(1, dims=1), weights


class Scaled(Shifted):
    """One that looks at whether there is a mask at all, like a renamed attention function."""

    def forward(self, hidden_states: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        out, weights = self.inner_forward(hidden_states, attention_mask=attention_mask, **kwargs)
        return out if attention_mask is None else 1.5 * out, weights


class Deaf(Shifted):
    """One that drops its mask."""

    def forward(self, hidden_states: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return self.inner_forward(hidden_states, attention_mask=None, **kwargs)


class Choosing(Shifted):
    """One that keeps the best of its keys."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.index_topk = 2048


class Convolving(torch.nn.Module):
    """A layer's MLP with a short convolution in front."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.mix = inner, torch.nn.Conv1d(64, 64, 3, padding=2, groups=64)

    def forward(self, states: Any) -> Any:
        mixed = self.mix(states.transpose(1, 2))[..., : states.shape[1]].transpose(1, 2)
        return self.inner(states + mixed)


class Averaging(torch.nn.Module):
    """One that adds the mean of the tokens so far, with no module to be seen."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Any) -> Any:
        count = torch.arange(1, states.shape[1] + 1)[None, :, None]
        return self.inner(states + 0.1 * states.cumsum(1) / count)


def with_attention(kind: Any, layer: int = 1) -> Any:
    model = text_model()
    model.model.layers[layer].self_attn = kind(model.model.layers[layer].self_attn)
    return model


def with_mlp(kind: Any, layer: int = 1) -> Any:
    model = text_model()
    model.model.layers[layer].mlp = kind(model.model.layers[layer].mlp)
    return model.eval()


PAST_THE_MASK: dict[str, tuple[Callable[[], Any], str]] = {
    "falcon_h1": (lambda: auto("falcon_h1", **MAMBA), "mamba"),
    "granitemoehybrid": (lambda: text_model("GraniteMoeHybrid", "eager", **HYBRID), "recurrent"),
    "inkling_text": (
        lambda: auto("inkling_text", n_routed_experts=4, num_experts_per_tok=2),
        "InklingForCausalLM",
    ),
    "doge": (lambda: auto("doge"), "chooses its keys itself"),
    "paligemma": (paligemma, "later tokens"),
    "bart": (lambda: auto("bart"), "encoder_attn"),
    "shifted tokens": (lambda: with_attention(Shifted), "past the attention mask"),
    "the last layer shifts": (lambda: with_attention(Shifted, LAYERS - 1), "past the attention mask"),
    "a mask changes it": (lambda: with_attention(Scaled), "when it is given a mask that cuts nothing"),
    "a dropped mask": (lambda: with_attention(Deaf), "past the attention mask"),
    "a choice of keys": (lambda: with_attention(Choosing), "index_topk"),
    "a convolution": (lambda: with_mlp(Convolving), "mixes tokens in mlp"),
    "a mean of tokens": (lambda: with_mlp(Averaging), "past the attention mask"),
}


@pytest.mark.parametrize("name", PAST_THE_MASK)
def test_what_moves_information_past_the_mask_is_refused_at_entry(name: str) -> None:
    make, message = PAST_THE_MASK[name]
    model = make()
    for engine in ENGINES:
        with (
            pytest.raises(UnsupportedModelError, match=message),
            intervene(model, "blind", LAYOUT, engine=engine),
        ):
            pass
    with pytest.raises(UnsupportedModelError, match=message):
        sweep(model, prompt(), LAYOUT, ["video:last"])
    with pytest.raises(UnsupportedModelError):
        require_self_check(model)


def test_a_baseline_is_not_recorded_on_such_a_model() -> None:
    with (
        pytest.raises(UnsupportedModelError, match="mamba"),
        Baseline(frozenset({2})).recording(auto("falcon_h1", **MAMBA)),
    ):
        pass


def test_a_mask_of_the_models_own_that_is_not_causal_is_refused_when_it_is_called() -> None:
    """A caller's own mask [batch, 1, query, key] with image tokens that read one another both ways."""
    model = text_model()
    both_ways = torch.ones(1, 1, LAYOUT.num_tokens, LAYOUT.num_tokens, dtype=torch.bool)
    with intervene(model, "blind", LAYOUT), pytest.raises(FlowError, match="a tensor of 4 dimensions"):
        last(model, prompt() | {"attention_mask": both_ways})


def test_hybrids_without_attention_layers_to_cut_are_refused_by_the_ledger_too() -> None:
    from lmms_flow.engine import ledger

    with pytest.raises(UnsupportedModelError, match="layers are recurrent"):
        ledger(text_model("GraniteMoeHybrid", "eager", **HYBRID), "blind", LAYOUT)


# What is right, and was refused or crashed


def ernie_vl() -> Any:
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    text = transformers.Ernie4_5_VLMoeTextConfig(
        **sizes, moe_intermediate_size=[32, 32], moe_k=2, moe_num_experts=4, moe_num_shared_experts=1,
        mlp_layer_types=["dense"] + ["sparse"] * 3,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]},
    )  # fmt: skip
    vision = transformers.Ernie4_5_VLMoeVisionConfig(
        depth=2, hidden_size=32, num_heads=2, patch_size=4, intermediate_size=64
    )
    config = transformers.Ernie4_5_VLMoeConfig(text_config=text, vision_config=vision)
    kind = transformers.Ernie4_5_VLMoeForConditionalGeneration
    return lively(kind._from_config(config, attn_implementation="sdpa"))


def test_layers_that_are_told_each_tokens_kind_are_run_whole() -> None:
    model = ernie_vl()
    kinds = torch.zeros(1, LAYOUT.num_tokens, dtype=torch.int)
    kinds[0, 3:15] = 1
    inputs = prompt() | {"moe_mm_token_type_ids": kinds, "mm_token_type_ids": torch.zeros_like(kinds)}
    want = by_hand(model, "blind", inputs)
    for engine in ENGINES:
        with intervene(model, "blind", LAYOUT, engine=engine):
            assert off(last(model, inputs), want) < 1e-5
    found = sweep(model, inputs, LAYOUT, ["video:question"], window=1)
    for layer in range(1, LAYERS + 1):
        want = by_hand(model, f"video:question@{layer}", inputs).softmax(-1)
        assert float(found.probabilities[0, layer - 1]) == pytest.approx(float(want[found.answer]), rel=1e-4)
    assert require_self_check(model)


def test_rotary_embeddings_of_complex_numbers_move_with_their_rows() -> None:
    model = text_model("DeepseekV2", **LATENT)
    for engine in ENGINES:
        with intervene(model, "blind", LAYOUT, engine=engine):
            assert off(last(model), by_hand(model, "blind")) < 1e-5
    assert sweep(model, prompt(), LAYOUT, ["video:last"]).answer >= 0
    assert require_self_check(model)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 32}),
        ("Qwen3Moe", EXPERTS),
        ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
        ("FlexOlmo", {"num_experts": 4, "num_experts_per_tok": 2}),
        ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        (
            "Glm4Moe",
            {
                "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1,
                "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1,
            },
        ),
    ],
)  # fmt: skip
def test_experts_that_round_by_their_rows_pass_within_what_another_batch_moves(kind: str, sizes: Any) -> None:
    model = text_model(kind, **sizes)
    checks = require_self_check(model)
    compared = [check.detail for check in checks if "not seen" in check.name]
    assert all("bit for bit" in detail or "what another batch moves" in detail for detail in compared)
    with intervene(model, "blind", LAYOUT):
        assert off(last(model), by_hand(model, "blind")) < 1e-5


def test_a_reproducible_model_is_held_to_the_last_bit() -> None:
    details = [check.detail for check in self_check(text_model()) if "not seen" in check.name]
    assert details == ["bit for bit"] * 2


def test_a_cut_that_changes_nothing_fails_the_self_check() -> None:
    model = text_model()
    for number in range(LAYERS):
        model.model.layers[number].self_attn = Deaf(model.model.layers[number].self_attn)
    failed = {check.name for check in self_check(model) if not check.passed}
    assert "prefill: a cut changes the answer" in failed


def test_the_proof_leaves_nothing_behind_and_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model().train()
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    state = torch.random.get_rng_state()
    for _ in range(2):
        with intervene(model, "blind", LAYOUT, engine="dense"):
            pass
    handle.remove()
    assert not calls
    assert model.training
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


# A window that the cache keeps and the mask does not know


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_window_that_only_the_cache_knows_is_refused(attn: str) -> None:
    """Moshi's text model reads a prompt whole and decodes from its last tokens: it contradicts itself."""
    model = text_model("Moshi", attn, sliding_window=16, ffn_dim=96, num_codebooks=2)
    with pytest.raises(UnsupportedModelError, match=r"window of 16 tokens in its cache and none in its mask"):
        intervene(model, "blind", LAYOUT).__enter__()
    assert model.config.sliding_window == 16


@pytest.mark.parametrize("kind", ["Mistral", "Gemma2", "Gemma3", "Phi3", "Qwen2"])
def test_windows_that_masks_know_are_let_in(kind: str) -> None:
    config = {"Qwen2": {"use_sliding_window": True, "max_window_layers": 2}}.get(kind, {})
    name = "Gemma3Text" if kind == "Gemma3" else kind
    settings = getattr(transformers, f"{name}Config")(**(SIZES | {"sliding_window": 16} | config))
    kind_class = getattr(transformers, f"{kind}ForCausalLM")
    model = lively(kind_class._from_config(settings, attn_implementation="eager"))
    with intervene(model, "blind", LAYOUT):
        pass


# Names that only look like those of other mechanisms, and layers that number their rows themselves


SINKS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}


@pytest.mark.parametrize(("kind", "attn", "sizes"), [("GptOss", "eager", SINKS), ("SeedOss", "sdpa", {})])
def test_a_name_that_holds_another_by_chance_is_no_mechanism(kind: str, attn: str, sizes: Any) -> None:
    """ "GptOssMLP" has an "ssm" in it, and no state space."""
    model = text_model(kind, attn, **sizes)
    for engine in ENGINES:
        with intervene(model, "video:question@1-2+video:last@2-", LAYOUT, engine=engine):
            found = last(model)
        assert off(found, by_hand(model, "video:question@1-2+video:last@2-")) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "mamba",
        "FalconH1Mixer.mamba",
        "ShortConv",
        "KimiDeltaAttention",
        "RgLRU",
        "SSMBlock",
        "LightningAttention",
    ],
)
def test_mechanisms_are_known_by_the_words_of_their_names(name: str) -> None:
    part = type(name.split(".")[0], (torch.nn.Linear,), {})(64, 64)
    model = text_model()
    model.model.layers[1].mlp.add_module(name.split(".")[-1] if "." in name else "mix", part)
    if name == "mamba":
        model.model.layers[1].mlp.mamba = torch.nn.Linear(64, 64)
    with pytest.raises(UnsupportedModelError, match="mixes tokens in mlp"):
        intervene(model, "blind", LAYOUT).__enter__()


def llama4(**sizes: Any) -> Any:
    experts = {"intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 1}
    config = transformers.Llama4TextConfig(**(SIZES | experts | sizes))
    return lively(transformers.Llama4ForCausalLM._from_config(config, attn_implementation="sdpa"))


def test_layers_that_number_their_rows_by_the_cache_get_all_of_them() -> None:
    """Llama 4 scales its queries by their place, which it counts from the cache's length and the rows it is given."""
    tuned = {"no_rope_layers": [1, 0, 1, 0], "floor_scale": 4, "attn_scale": 0.5}
    model = llama4(layer_types=["full_attention"] * LAYERS, **tuned)
    for engine in ENGINES:
        with intervene(model, "blind", LAYOUT, engine=engine):
            assert off(last(model), by_hand(model, "blind")) < 1e-5
    found = sweep(model, prompt(), LAYOUT, ["video:question"], window=1)
    for layer in range(1, LAYERS + 1):
        want = by_hand(model, f"video:question@{layer}").softmax(-1)[found.answer]
        assert float(found.probabilities[0, layer - 1]) == pytest.approx(float(want), rel=1e-4)


def test_chunks_of_attention_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="chunked_attention"):
        intervene(llama4(attention_chunk_size=8), "blind", LAYOUT).__enter__()


def test_attention_that_was_made_to_read_later_tokens_is_refused() -> None:
    model = text_model()
    with intervene(model, "blind", LAYOUT):
        last(model)
    model.model.layers[2].self_attn.is_causal = False
    with pytest.raises(UnsupportedModelError, match="not causal"):
        intervene(model, "blind", LAYOUT).__enter__()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_mask_adds_to_the_scores_is_kept(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances in the model's own mask, as ALiBi has them."""
    from transformers.models.llama import modeling_llama

    place = torch.arange(LAYOUT.num_tokens)
    distance = -0.1 * (place[:, None] - place).abs().float()
    made = modeling_llama.create_causal_mask
    model = text_model(attn="eager")
    plain = by_hand(model, "blind")
    with intervene(model, "blind", LAYOUT, engine=engine):
        monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **call: made(**call) + distance)
        found = last(model)
    want = by_hand(model, "blind")
    assert off(want, plain) > 1e-3
    assert off(found, want) < 1e-5
    read = sweep(model, prompt(), LAYOUT, ["video:question"], window=1)
    for layer in range(1, LAYERS + 1):
        want = by_hand(model, f"video:question@{layer}").softmax(-1)[read.answer]
        assert float(read.probabilities[0, layer - 1]) == pytest.approx(float(want), rel=1e-4)


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text"])
def test_layers_that_share_keys_are_refused(name: str) -> None:
    kind = CONFIG_MAPPING[name]
    sizes = SIZES | {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2, "sliding_window": 16,
        "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 160, "global_head_dim": 16,
    }  # fmt: skip
    model = lively(transformers.AutoModelForCausalLM.from_config(kind(**sizes), attn_implementation="sdpa"))
    with pytest.raises(UnsupportedModelError, match="layer 3 .* reads the keys of another layer"):
        intervene(model, "blind", LAYOUT).__enter__()


def test_a_convolution_by_any_name_mixes_tokens() -> None:
    part = type("Gate", (torch.nn.Conv1d,), {})(64, 64, 3, padding=2)
    model = text_model()
    model.model.layers[1].mlp.add_module("gate", part)
    with pytest.raises(UnsupportedModelError, match="mixes tokens in mlp.gate, a Gate"):
        intervene(model, "blind", LAYOUT).__enter__()


def test_the_first_layer_without_attention_is_named_where_others_have_one() -> None:
    model = text_model()
    model.model.layers[2].self_attn = None
    with pytest.raises(
        UnsupportedModelError, match=r"\(layer 3, a LlamaDecoderLayer, holds mlp, input_layernorm"
    ):
        find_decoder(model)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 1e-3), (torch.float64, 1e-3), (torch.bfloat16, 0.1)]
)
def test_kernels_may_differ_by_less_in_full_precision(dtype: torch.dtype, rounding: float) -> None:
    assert rounding_of(text_model().to(dtype)) == rounding


@pytest.mark.parametrize(("dtype", "refused"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_masked_kernel_that_is_a_hundredth_off(dtype: torch.dtype, refused: bool) -> None:
    """Rounding in half precision; in full precision something else than the same attention."""

    def other(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        out, weights = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        return out * (1 if mask is None else 1.01), weights

    AttentionInterface.register("sdpa", other)
    try:
        model = text_model().to(dtype)
        if refused:
            with pytest.raises(UnsupportedModelError, match="given a mask that cuts nothing"):
                intervene(model, "blind", LAYOUT).__enter__()
        else:
            with intervene(model, "blind", LAYOUT):
                pass
    finally:
        AttentionInterface.register("sdpa", sdpa_attention_forward)
