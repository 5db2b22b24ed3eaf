"""What only a GPU shows: nothing is read back from it between the layers (`make test-gpu`)."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from lmms_flow.engine import Baseline, find_decoder, intervene
from lmms_flow.engine.decoder import decoder_layers
from lmms_flow.engine.layer_call import going_on_from
from lmms_flow.flow import Flow
from tests.support.engines import uneven_flows
from tests.support.models import DEVICE, tiny

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="LMMS_FLOW_TEST_DEVICE is not cuda")


def reads(run: Any) -> int:
    """How often the host waited for the GPU."""
    run()  # kernels are compiled, workspaces taken
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [f"{each.filename}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]
    print(len(found), sorted(set(found)))
    return len(found)


def prefill(model: Any, tensors: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model(**tensors, logits_to_keep=1, **going_on_from(model, DynamicCache()))


@pytest.mark.parametrize("flow", uneven_flows(), ids=lambda flow: flow.name)
def test_the_host_waits_a_few_times_a_prefill_and_not_in_each_layer(flow: Flow) -> None:
    few, many = (waits(layers, flow) for layers in (4, 12))
    assert few <= 6
    assert many <= few + 1, "each layer waits"


def waits(layers: int, flow: Flow) -> int:
    """Of a prefill, an arm off a baseline and a decoded token, what the stock model waits aside."""
    model, make_inputs = tiny("llama", layers=layers, attn_implementation="sdpa")
    prompt = make_inputs(frames=4)
    stock = reads(lambda: prefill(model, prompt.tensors))
    with intervene(model, flow, prompt.layout):
        found = reads(lambda: prefill(model, prompt.tensors)) - stock
    baseline = Baseline.for_flows(
        [flow.bind(len(decoder_layers(find_decoder(model)))).resolve(prompt.layout)]
    )
    with baseline.recording(model):
        prefill(model, prompt.tensors)
    with intervene(model, flow, prompt.layout, baseline=baseline):
        return max(found, reads(lambda: prefill(model, prompt.tensors)) - stock)
