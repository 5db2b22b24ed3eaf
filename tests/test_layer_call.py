"""The one file that knows transformers' names: both spellings, and a refusal that names versions for a third."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lmms_flow.engine import UnsupportedModelError, intervene, require_self_check, sweep
from lmms_flow.engine.layer_call import (
    LayerCall,
    ModelCall,
    cache_in,
    counts_its_rows,
    going_on_from,
    keeping,
    layers_with_visual_features,
    over_parts,
)
from lmms_flow.versions import tried_range
from tests.support.odd_models import LAYOUT, by_hand, last, off, prompt, text_model


class OldSpelling(nn.Module):
    def forward(self, hidden_states: Any, attention_mask: Any = None, past_key_values: Any = None) -> Any:
        return hidden_states


class NewSpelling(nn.Module):
    def forward(self, hidden_states: Any, attention_mask: Any = None, cache: Any = None) -> Any:
        return hidden_states


@pytest.mark.parametrize(("kind", "name"), [(OldSpelling, "past_key_values"), (NewSpelling, "cache")])
def test_a_part_is_written_back_under_the_name_it_came_with(kind: Any, name: str) -> None:
    layer, states, store = kind(), torch.zeros(1, 3, 4), object()
    by_name = LayerCall.read(layer, (), {"hidden_states": states, "attention_mask": None, name: store})
    by_place = LayerCall.read(layer, (states, None, store), {})
    for call in (by_name, by_place):
        assert call.hidden is states
        assert call.cache is store
    assert by_name.with_parts(cache=1).kwargs[name] == 1
    assert by_place.with_parts(mask=2, cache=1).args == (states, 2, 1)
    assert going_on_from(layer, store) == {name: store}


def test_whatever_the_caller_spells_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers renames a caller's argument inside the call, behind the hooks."""
    for name in ("cache", "past_key_values"):
        assert ModelCall.of_model(text_model(), (), {name: 3}).cache == 3


def test_what_a_layer_is_told_beside_the_known_parts() -> None:
    states = torch.zeros(1, 3, 4)

    def call(**extra: Any) -> LayerCall:
        return LayerCall.read(NewSpelling(), (states,), {"attention_mask": None, **extra})

    assert call(use_cache=True, output_attentions=None).can_move(3)
    assert not call(kinds=torch.zeros(1, 3)).can_move(3)
    assert not call(shared={"states": [torch.zeros(2, 3)]}).can_move(3)
    assert not call(position_ids=torch.arange(4)[None]).can_move(3)
    assert not call(position_embeddings={"cos": states}).can_move(3)
    assert call(position_embeddings=(states, states)).can_move(3)
    assert call(position_embeddings=states.to(torch.complex64)).can_move(3)


def renamed(part: str) -> type:
    """Llama's decoder layer as the next release may have it: one parameter goes by another name."""
    base = transformers.models.llama.modeling_llama.LlamaDecoderLayer
    order = {
        "hidden": "residual, attention_mask=None, cache=None",
        "mask": "hidden_states, attn_bias=None, cache=None",
        "cache": "hidden_states, attention_mask=None, kv_store=None",
    }
    namespace: dict[str, Any] = {}
    exec(f"def forward(self, {order[part]}, **kwargs):\n    raise AssertionError('never run')", namespace)
    return type("NextDecoderLayer", (base,), {"forward": namespace["forward"]})


def enter(model: Any) -> None:
    with intervene(model, "blind", LAYOUT):
        pass


ENTRIES: dict[str, Any] = {
    "intervene": enter,
    "sweep": lambda model: sweep(model, prompt(), LAYOUT, ["video:last"]),
    "self-check": require_self_check,
}


@pytest.mark.parametrize("part", ["hidden", "mask", "cache"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_renamed_parameter_is_refused_at_load_with_versions(part: str, entry: str) -> None:
    model = text_model()
    model.model.layers[2].__class__ = renamed(part)
    with pytest.raises(UnsupportedModelError) as refused:
        ENTRIES[entry](model)
    message = str(refused.value)
    assert "NextDecoderLayer takes no" in message
    assert f"transformers {transformers.__version__}, tried: {tried_range('transformers')}" in message
    assert "\n" not in message


def test_our_own_calls_use_the_name_that_the_model_takes() -> None:
    model = text_model()
    with torch.no_grad():
        cache = cache_in(model(**prompt(), **keeping(model, 1), use_cache=True))
        assert cache.get_seq_length() == LAYOUT.num_tokens
        model(input_ids=torch.tensor([[42]]), **going_on_from(model, cache))
    assert cache.get_seq_length() == LAYOUT.num_tokens + 1
    assert off(last(model), by_hand(model, "none")) < 1e-5


@pytest.mark.parametrize(
    ("config", "parameter", "layers"),
    [
        ({"vision_config": {"deepstack_visual_indexes": [8, 16, 24]}}, "deepstack_visual_embeds", 3),
        ({"vision_config": {}, "deepstack_layer_map": [(-1, 9), (-3, 3)]}, "deepstack_features", 9),
        ({"vision_config": {}}, "deepstack_features", 12),
        ({"vision_config": {}}, "attention_mask", 0),
        ({}, "deepstack_visual_embeds", 0),
    ],
    ids=["by index", "by layer", "not said where", "none", "text alone"],
)
def test_the_layers_that_take_visual_features(config: dict[str, Any], parameter: str, layers: int) -> None:
    """Behind the first ones (Qwen3-VL), in front of named ones (Granite Vision), or somewhere."""
    scope: dict[str, Any] = {}
    exec(f"def forward(self, {parameter}=None): ...", scope)
    decoder = type("Decoder", (nn.Module,), {"forward": scope["forward"]})()
    decoder.layers = nn.ModuleList(nn.Identity() for _ in range(12))
    model: Any = nn.Module()
    made = {
        name: SimpleNamespace(**value) if isinstance(value, dict) else value for name, value in config.items()
    }
    model.config = SimpleNamespace(**made)
    assert layers_with_visual_features(model, decoder) == layers


def test_the_families_of_transformers_that_take_visual_features_are_known() -> None:
    """Each of them says where by one of the two names that are read."""
    models = Path(transformers.__file__).parent / "models"
    files = [
        file
        for file in models.glob("*/configuration_*.py")
        if "deepstack" in file.read_text(encoding="utf-8")
    ]
    assert len(files) >= 3
    for file in files:
        named = set(re.findall(r"deepstack_\w+(?=:)", file.read_text(encoding="utf-8")))
        assert named <= {"deepstack_visual_indexes", "deepstack_layer_map"}, file.name


@pytest.mark.parametrize(
    ("given", "missing"), [({}, "attention_mask"), ({"attention_mask": None}, "hidden_states")]
)
def test_a_call_that_lacks_a_part_is_refused(given: dict[str, Any], missing: str) -> None:
    class Layer(nn.Module):
        def forward(self, hidden_states: Any, attention_mask: Any = None) -> None: ...

    args = () if given else (torch.zeros(1, 3, 4),)
    with pytest.raises(UnsupportedModelError, match=f"Layer was called without {missing}"):
        LayerCall.read(Layer(), args, given)


def test_layers_number_their_rows_where_they_ask_the_cache_for_its_length() -> None:
    assert not any(counts_its_rows(part) for part in text_model().model.layers.modules())
    attention = transformers.models.llama4.modeling_llama4.Llama4TextAttention
    config = transformers.Llama4TextConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16
    )
    assert counts_its_rows(attention(config, 0))


@pytest.mark.parametrize("rotary", [3, {"cos": torch.zeros(1, 2)}, (torch.zeros(1, 2), None)])
def test_rotary_embeddings_of_another_kind_are_refused_in_one_line(rotary: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"the rotary embeddings are a {type(rotary).__name__}"):
        over_parts(rotary, lambda part: part)
