"""The ledger says what torch's own counter, the cache and the hooks say, from the plan alone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lmms_flow.assets import flow_tiny_dir
from lmms_flow.cli import main
from lmms_flow.engine import find_decoder, intervene, keep_masks
from lmms_flow.engine import strips as strips_module
from lmms_flow.engine import vision_flops as vision_module
from lmms_flow.engine.course import Setting
from lmms_flow.engine.dense import DenseHooks, DenseStep
from lmms_flow.engine.flops import flop_counter
from lmms_flow.engine.ledger import Ledger, decoder_shape, ledger, ledger_of
from lmms_flow.engine.masks import PromptMasks
from lmms_flow.engine.prefill import SparsePrefill
from lmms_flow.engine.vision import counting_vision
from lmms_flow.flow import PRESETS, Flow, FlowError, LayerRange, Layout, Pathway, Preset, find_preset
from lmms_flow.flow.layout import prompt_layout
from lmms_flow.flow.shapes import SHAPES, DecoderShape, VisionShape, llava_next_video_shape
from lmms_flow.show.costs import flops, known_shape, mebibytes
from tests.support.layouts import random_layout
from tests.support.models import FAMILIES, VIDEO_FAMILIES, tiny

ENGINES = ("dense", "sparse")
TOLERANCE = 0.01  # of torch's counter
EAGER_ONLY = ("gemma2",)
ARBITRARY = ("video:question@2-+video:last+frame.1:tail", "true_option:last+frame.0:question@2-3+stem:tail")


def flows() -> Iterator[Flow]:
    """Nothing, pathways of both forms for four layers, the controls and arbitrary cuts."""
    for closed in (False, True):
        kept = Pathway(LayerRange("2"), LayerRange("1-2"), LayerRange("3"), closed)
        yield Flow("pathway", f"pathway, closed={closed}", "pathway", pathways=(kept,))
    for text in ("none", "sham", "blind", "random:0.2:seed1", "cross_frame", "cross_frame@3-", *ARBITRARY):
        yield Flow.load(text)


def prefill(
    model: Any, tensors: dict[str, Any], flow: Flow, layout: Layout, engine: str
) -> tuple[int, int, int]:
    """FLOPs by torch's counter, bytes of the cache, and bytes of the masks that the hooks hold behind the prefill."""
    wanted = {"logits_to_keep": 1} if Setting.of(model).keeps_one else {}
    with (
        torch.no_grad(),
        intervene(model, flow, layout, engine=engine),
        flop_counter() as counter,
    ):
        cache = model(**tensors, **wanted, use_cache=True).past_key_values
        held = held_masks(model)
    num_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return counter.get_total_flops(), num_bytes, held


def held_masks(model: Any) -> int:
    """Bytes of every tensor [..., query, key] that the intervention's hooks can reach, the model's own masks aside."""
    found: dict[int, int] = {}
    hooks: Iterable[Any] = find_decoder(model)._forward_pre_hooks.values()
    for hook in hooks:
        collect(hook._call.__self__, found, seen=set())
    return sum(found.values())


def collect(held: Any, found: dict[int, int], seen: set[int]) -> None:
    if isinstance(held, DenseHooks | DenseStep | SparsePrefill | PromptMasks):
        if id(held) in seen:
            return
        seen.add(id(held))
        own = dict(vars(held))
        if isinstance(held, DenseStep):
            own["given"] = [mask for _, mask in held.given.values()]
            del own["_later"]
        collect(own, found, seen)
    elif isinstance(held, torch.Tensor):
        if held.dim() > 1 and min(held.shape[-2:]) > 1:
            found[held.untyped_storage().data_ptr()] = held.untyped_storage().nbytes()
    elif isinstance(held, dict | list | tuple):
        for each in held.values() if isinstance(held, dict) else held:
            collect(each, found, seen)


def check(counted: Ledger, measured: tuple[int, int, int], where: object) -> float:
    """The deviation from torch's counter; bytes must be equal."""
    flops, cache_bytes, mask_bytes = measured
    deviation = abs(counted.flops / flops - 1)
    assert deviation < TOLERANCE, f"{where}: {counted.flops} against {flops}"
    assert counted.flow.cache_bytes == cache_bytes, where
    assert counted.flow.mask_bytes == mask_bytes, where
    return deviation


def test_a_case_by_hand() -> None:
    """One token a group, the video cut off: worked out with paper and pencil."""
    groups = {name: range(i, i + 1) for i, name in enumerate(("system", "video", "question", "last"))}
    shape = DecoderShape(weights=(10, 10), attention_width=2, cache_width=1, head_weights=8, bytes_each=2)
    counted = ledger_of(shape, "blind", Layout(4, groups), vision=1000, setting=Setting(device="cpu"))
    # Layer 1: all 4 rows. Of 10 edges, question and last lose theirs to the video. Two strips: system and video, a
    # square of 2 x 2; question and last, 2 rows over system and themselves, 2 x 3.
    # Layer 2: the video is not read any more. 3 rows, plain causal: 6 edges, a square of 3 x 3.
    first, second = counted.flow.layers
    assert dataclasses.astuple(first) == (4, 8, 10, 4, 2 * 4 * 10, 4 * 2 * 10, 4 * 2 * 8)
    assert dataclasses.astuple(second) == (3, 6, 9, 3, 2 * 3 * 10, 4 * 2 * 9, 4 * 2 * 6)
    assert counted.flow.head == 2 * 8
    assert counted.flow.flops == 80 + 60 + 80 + 72 + 16
    assert counted.flops == 1000 + 308
    assert counted.flow.cache_bytes == (4 + 3) * 2 * 1 * 2  # keys and values, width 1, 2 bytes
    full = counted.full
    assert (full.linear, full.attention, full.attention_by_edges) == (160, 2 * 4 * 2 * 16, 2 * 4 * 2 * 10)
    assert (full.cache_bytes, full.mask_bytes) == (32, 0)
    assert counted.bound == (160 + 256 + 16) / (140 + 64 + 48 + 16)
    on_gpu = ledger_of(shape, "blind", Layout(4, groups), setting=Setting(device="cuda")).flow
    assert [layer.pairs for layer in on_gpu.layers] == [16, 9], (
        "two strips take one kernel under a mask there"
    )
    dense = ledger_of(shape, "blind", Layout(4, groups), "dense").flow
    assert [(layer.rows, layer.edges, layer.pairs, layer.cached) for layer in dense.layers] == [
        (4, 8, 16, 4)
    ] * 2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_is_torchs_on_every_family(family: str, attention: str) -> None:
    if attention == "sdpa" and family in EAGER_ONLY:
        pytest.skip(f"{family} has no SDPA attention")
    model, make_inputs = tiny(family, attn_implementation=attention)
    prompt = make_inputs(frames=4)
    with torch.no_grad(), counting_vision(model) as seen:
        model(**prompt.tensors)
    assert (seen.flops > 0) == (family in VIDEO_FAMILIES)
    worst, checked = 0.0, 0
    for flow in flows():
        for engine in ENGINES:
            try:
                measured = prefill(model, prompt.tensors, flow, prompt.layout, engine)
            except FlowError:  # the family's window hides what the flow left to a row
                assert family in EAGER_ONLY
                continue
            counted = ledger(model, flow, prompt.layout, engine, vision=seen.flops)
            worst = max(worst, check(counted, measured, (flow.name, engine)))
            checked += 1
    assert checked > 10
    print(f"{family}, {attention}: largest deviation from torch's counter {100 * worst:.4f} %")


def test_the_count_is_torchs_on_random_layouts() -> None:
    model, _ = tiny("qwen2", attn_implementation="sdpa")
    worst, checked = 0.0, 0
    for seed in range(12):
        layout = random_layout(seed)
        ids = torch.randint(10, 100, (1, layout.num_tokens), generator=torch.Generator().manual_seed(seed))
        for flow in flows():
            for engine in ENGINES:
                try:
                    counted = ledger(model, flow, layout, engine)
                except FlowError:
                    continue  # a layout without frames, or too few pairs to draw from
                measured = prefill(model, {"input_ids": ids}, flow, layout, engine)
                worst = max(worst, check(counted, measured, (seed, flow.name, engine)))
                checked += 1
    assert checked > 120
    print(f"largest deviation from torch's counter {100 * worst:.4f} % in {checked} prefills")


def test_long_frames_and_a_long_question() -> None:
    """Strips of many rows: they run in chunks on a CPU, and in one piece on a GPU."""
    model, _ = tiny("llama", attn_implementation="sdpa")
    layout = prompt_layout(system=20, frames=2, tokens_per_frame=300, gap=3, question=600, tail=5)
    ids = torch.randint(10, 100, (1, layout.num_tokens))
    for flow in flows():
        measured = prefill(model, {"input_ids": ids}, flow, layout, "sparse")
        check(ledger(model, flow, layout), measured, flow.name)
    shape = decoder_shape(model)
    whole, chunks = (
        ledger_of(shape, "cross_frame", layout, setting=Setting(device=d)).flow for d in ("cuda", "cpu")
    )
    assert whole.attention > chunks.attention > chunks.attention_by_edges
    assert whole.attention_by_edges == chunks.attention_by_edges


def test_blocks_of_flex_attention_are_counted_by_what_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer runs in FlexAttention, a block of 128 x 128 pairs is computed if one of them is kept."""
    monkeypatch.setattr(strips_module, "FLEX_FROM", {"cpu": 1024})
    layout = prompt_layout(system=20, frames=4, tokens_per_frame=250, gap=3, question=70, tail=5)
    shape = DecoderShape.gated(
        layers=1, width=8, mlp_width=8, heads=2, kv_heads=2, head_width=4, vocabulary=9
    )
    counted = ledger_of(shape, "cross_frame+last:last", layout, setting=Setting(device="cpu"))
    mask = keep_masks("cross_frame+last:last", layout, 1)[0]
    padded = torch.nn.functional.pad(mask, (0, -len(mask) % 128, 0, -len(mask) % 128))
    blocks = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).any(dim=(1, 3))
    # The first layer is left whole, so that all rows are there.
    assert counted.flow.layers[0].pairs == int(blocks.sum()) * 128**2
    assert counted.flow.layers[0].edges == int(mask.sum())


def test_layers_that_take_visual_features_are_whole() -> None:
    """No row is dropped in the first layers of a model that adds visual features between them."""
    model, make_inputs = tiny("qwen3_vl", attn_implementation="sdpa")
    model.config.vision_config.deepstack_visual_indexes = [0, 1]  # as the engine reads it
    prompt = make_inputs(frames=4)
    with torch.no_grad(), counting_vision(model) as seen:
        model(**prompt.tensors)
    measured = prefill(model, prompt.tensors, Flow.load("blind"), prompt.layout, "sparse")
    counted = ledger(model, "blind", prompt.layout, vision=seen.flops)
    check(counted, measured, "blind")
    rows = [layer.rows for layer in counted.flow.layers]
    assert rows[0] == rows[1] > rows[2] == rows[3]


def test_windows_of_attention_are_followed() -> None:
    """Mistral's sliding window: its layers have masks of their own, and caches of the window's length."""
    config = transformers.MistralConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=30,
    )
    model = transformers.MistralForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    layout = prompt_layout(system=2, frames=2, tokens_per_frame=8, gap=1, question=8, tail=4)
    ids = torch.randint(10, 100, (1, layout.num_tokens))
    for text in ("none", "sham", "blind", "cross_frame@2-3"):
        for engine in ENGINES:
            flow = Flow.load(text)
            measured = prefill(model, {"input_ids": ids}, flow, layout, engine)
            check(ledger(model, flow, layout, engine), measured, (text, engine))


def test_edges_are_those_of_the_masks_among_the_rows_that_enter() -> None:
    shape = DecoderShape.gated(
        layers=4, width=8, mlp_width=8, heads=2, kv_heads=2, head_width=4, vocabulary=9
    )
    checked = 0
    for seed in range(40):
        layout = random_layout(seed)
        for flow in flows():
            try:
                masks = keep_masks(flow, layout, 4)
            except FlowError:
                continue
            dense, sparse = (ledger_of(shape, flow, layout, engine).flow for engine in ENGINES)
            assert [layer.edges for layer in dense.layers] == masks.sum((1, 2)).tolist()
            for layer, mask in zip(sparse.layers, masks, strict=True):
                assert layer.edges <= int(mask.sum())
                assert layer.rows <= layout.num_tokens
                assert layer.edges <= layer.pairs <= layer.rows**2
                checked += 1
    assert checked > 800


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_counting_the_vision_pass_changes_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        model, make_inputs = tiny(family, attn_implementation="sdpa")
        prompt, longer = make_inputs(frames=2), make_inputs(frames=4)
        with mode():
            plain = model(**prompt.tensors).logits
            attributes = [set(vars(part)) for part in model.modules()]
            with counting_vision(model) as first:
                assert torch.equal(model(**prompt.tensors).logits, plain)
            assert [set(vars(part)) for part in model.modules()] == attributes
            with counting_vision(model) as more:
                model(**longer.tensors)
            with monkeypatch.context() as patch:
                patch.setattr(
                    vision_module, "flop_counter", None
                )  # a shape that was seen is not counted again
                with counting_vision(model) as again:
                    assert torch.equal(model(**prompt.tensors).logits, plain)
                    model(**prompt.tensors)
        assert again.flops == 2 * first.flops
        assert more.flops > 1.5 * first.flops


def test_the_vision_count_is_taken_off_when_the_body_raises() -> None:
    model, _ = tiny("llava")
    with pytest.raises(ZeroDivisionError), counting_vision(model):
        raise ZeroDivisionError
    assert "get_image_features" not in vars(model.model)


def test_features_that_somebody_else_kept_are_not_taken_for_free_ones() -> None:
    """Where another block gives the features it had kept, nothing is counted, and nothing is remembered of it."""
    model, make_inputs = tiny("llava")
    pixels = make_inputs(frames=2).tensors["pixel_values"]
    wanted = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    kept = model.model.get_image_features(pixels, **wanted)
    model.model.get_image_features = lambda *args, **kwargs: kept
    with counting_vision(model) as saved:
        model.model.get_image_features(pixels, **wanted)
    assert saved.flops == 0
    assert "get_image_features" in vars(model.model)
    del model.model.get_image_features
    with counting_vision(model) as run:
        model.model.get_image_features(pixels, **wanted)
    assert run.flops > 0


def test_flow_tinys_shape_is_read_off_its_configuration() -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(flow_tiny_dir())
    shape = llava_next_video_shape(json.loads((flow_tiny_dir() / "config.json").read_text()))
    assert decoder_shape(model) == shape.decoder
    size = model.config.vision_config.image_size
    with torch.no_grad(), counting_vision(model) as seen:
        model.get_video_features(torch.zeros(1, 8, 3, size, size), vision_feature_layer=-1)
    assert shape.vision.flops(8) == pytest.approx(seen.flops, rel=TOLERANCE)


def on_meta(model_class: Any, config: Any) -> Any:
    """A model of any size without its weights."""
    with torch.device("meta"):
        return model_class._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def llama(width: int, mlp_width: int, layers: int, heads: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=32064,
        hidden_size=width,
        intermediate_size=mlp_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )


def assert_is_of(shape: VisionShape, config: Any, projector: torch.nn.Module) -> None:
    """Number by number, where a count of FLOPs forgives a per cent."""
    assert (shape.layers, shape.width, shape.mlp_width, shape.patch_size) == (
        *(config.num_hidden_layers, config.hidden_size, config.intermediate_size),
        config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0],
    )
    assert shape.projector_weights == sum(each.numel() for each in projector.parameters() if each.ndim == 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("effective-llava-next-7b", llama(4096, 11008, 32, 32)),
        ("effective-llava-next-13b", llama(5120, 13824, 40, 40)),
    ],
)
def test_the_known_llavas_are_transformers_own(name: str, text: Any) -> None:
    """CLIP-L/336 and Vicuna, built without weights and counted by torch."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text)
    model = on_meta(transformers.LlavaForConditionalGeneration, config)
    assert decoder_shape(model) == SHAPES[name].decoder
    pixels = torch.zeros(8, 3, 336, 336, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), counting_vision(model) as seen:
        model.get_image_features(pixels, vision_feature_layer=-2, vision_feature_select_strategy="default")
    assert SHAPES[name].vision.flops(8) == pytest.approx(seen.flops, rel=TOLERANCE)
    assert_is_of(SHAPES[name].vision, vision, model.model.multi_modal_projector)


def test_the_known_internvl_is_transformers_own() -> None:
    vision = transformers.InternVLVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=448,
        patch_size=14,
    )
    text = transformers.Phi3Config(
        vocab_size=32064,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    config = transformers.InternVLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)
    model = on_meta(transformers.InternVLForConditionalGeneration, config)
    known = SHAPES["effective-mini-internvl-4b"]
    assert decoder_shape(model) == known.decoder
    pixels = torch.zeros(8, 3, 448, 448, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), counting_vision(model) as seen:
        model.get_image_features(pixels, vision_feature_layer=-1, vision_feature_select_strategy="default")
    assert known.vision.flops(8) == pytest.approx(seen.flops, rel=TOLERANCE)
    assert_is_of(known.vision, vision, model.model.multi_modal_projector)


def test_the_known_videollama3_is_transformers_own() -> None:
    """Its tower reads the grid of patches, so it runs for real: two layers of it, on one frame of 132 tokens."""
    known = SHAPES["effective-videollama3-7b"]
    text = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    whole = transformers.Qwen2Config(**text, intermediate_size=18944, num_hidden_layers=28)
    assert decoder_shape(on_meta(transformers.Qwen2ForCausalLM, whole)) == known.decoder
    vision = transformers.VideoLlama3VisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=2, num_attention_heads=16, patch_size=14
    )
    small = transformers.Qwen2Config(**text | {"vocab_size": 100}, intermediate_size=8, num_hidden_layers=1)
    model = transformers.VideoLlama3ForConditionalGeneration._from_config(
        transformers.VideoLlama3Config(
            vision_config=vision, text_config=small, image_token_id=5, video_token_id=6
        )
    )
    with torch.no_grad(), counting_vision(model) as seen:
        model.get_video_features(
            torch.zeros(22 * 24, 3 * 14**2),
            video_grid_thw=torch.tensor([[1, 22, 24]]),
            video_merge_sizes=torch.tensor([2]),
        )
    two = dataclasses.replace(known.vision, layers=2)
    assert two.flops(1) == pytest.approx(seen.flops, rel=TOLERANCE)
    projector = transformers.VideoLlama3Config(vision_config=vision, text_config=text)
    assert_is_of(
        two, vision, on_meta(transformers.VideoLlama3ForConditionalGeneration, projector).model.projector
    )


def test_the_closed_pathways_bounds_at_the_papers_prompt() -> None:
    """How much less the decoder has to compute than the stock one, if no cut edge cost anything."""
    bounds = {}
    for preset in PRESETS[:2]:
        counted = ledger_of(SHAPES[preset.name].decoder, f"{preset.name}-closed", preset.layout())
        bounds[preset.name] = counted.bound
        assert counted.full.flops / counted.flow.flops < counted.bound
        print(
            f"{preset.name}-closed: {counted.bound:.3f}, {counted.full.flops / counted.flow.flops:.3f} by the kernels"
        )
    assert bounds["effective-llava-next-7b"] == pytest.approx(1.59, abs=0.005)
    assert bounds["effective-llava-next-13b"] == pytest.approx(1.92, abs=0.005)


def test_full_attention_is_the_same_for_every_flow_and_needs_no_groups() -> None:
    shape = SHAPES["effective-llava-next-7b"].decoder
    layout = PRESETS[0].layout()
    counted = ledger_of(shape, "none", layout.num_tokens)
    assert counted.flow == counted.full
    assert (
        counted.full
        == ledger_of(shape, "blind", layout).full
        == ledger_of(shape, "blind", layout, "dense").full
    )


def test_an_unknown_engine_and_a_wrong_depth() -> None:
    shape = SHAPES["effective-llava-next-7b"].decoder
    with pytest.raises(FlowError, match="there is no engine 'spars'; did you mean 'sparse'"):
        ledger_of(shape, "blind", PRESETS[0].layout(), "spars")
    with pytest.raises(FlowError, match="is for 40 layers, the model has 32"):
        ledger_of(shape, Flow.load("effective-llava-next-13b"), PRESETS[0].layout())


def items(out: str) -> dict[str, list[str]]:
    """The rows of the table of costs: what it counts, then its three columns."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in out.partition("one prefill")[2].splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 2}


def test_show_prints_what_a_prefill_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "effective-llava-next-7b-closed"]) == 0
    out = capsys.readouterr().out
    layout, shape = PRESETS[0].layout(), SHAPES["effective-llava-next-7b"]
    counted = ledger_of(shape.decoder, "effective-llava-next-7b-closed", layout, vision=shape.vision.flops(8))
    rows = items(out)
    ratio = counted.flops_full / counted.flops
    assert rows["total"] == [flops(counted.flops_full), flops(counted.flops), f"{ratio:.2f}"]
    assert rows["total"] == ["20.50 TFLOP", "14.46 TFLOP", "1.42"]  # one masked kernel a layer
    assert rows["decoder, linear maps"] == ["16.41 TFLOP", "10.68 TFLOP", "1.54"]
    assert rows["vision tower and projector"] == ["3.25 TFLOP", "3.25 TFLOP", "1.00"]
    assert rows["key/value cache"] == ["633.5 MiB", "59.9 MiB", "10.57"]
    assert "1.59 times fewer FLOPs" in out
    table = out[: out.index("edges kept: ")].splitlines()
    found = [match[1] for line in table if (match := re.search(r"% +([0-9,]+)$", line.rstrip()))]
    assert found == ["1,267", "1,267", "1,267", "115", "69"]


def test_show_of_a_bare_depth_counts_edges_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "blind", "--model", "24"]) == 0
    out = capsys.readouterr().out
    assert "1,267, then 115" in out
    assert "FLOPs need a known model" in out
    assert "FLOP " not in out
    assert main(["show", "blind", "--model", "flow-tiny"]) == 0
    assert "MFLOP" in capsys.readouterr().out


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_has_sizes(preset: Preset) -> None:
    shape = known_shape(preset.checkpoints[0])
    assert shape is not None
    assert shape.decoder.num_layers == preset.layers


@pytest.mark.parametrize("name", [f"{preset}{form}" for preset in SHAPES for form in ("", "-closed")])
def test_the_docs_give_the_ledgers_figures(name: str) -> None:
    found = find_preset(name)
    assert found is not None
    preset, shape = found[0], SHAPES[found[0].name]
    counted = ledger_of(shape.decoder, name, preset.layout(), vision=shape.vision.flops(8))
    flow, full = counted.flow, counted.full
    cells = [f"`{name}`", flops(counted.flops_full), flops(counted.flops)]
    ratios = (counted.flops_full / counted.flops, full.flops / flow.flops, counted.bound)
    cells += [f"{ratio:.2f}" for ratio in ratios]
    cells.append(f"{mebibytes(flow.cache_bytes)} of {mebibytes(full.cache_bytes)}")
    assert f"| {' | '.join(cells)} |" in (Path(__file__).parents[1] / "docs/engine.md").read_text()


def test_patches_cost_what_their_grid_says_and_not_their_number() -> None:
    """Qwen's towers attend within a frame: as many patches in more frames cost less."""
    model, make_inputs = tiny("qwen2_5_vl", attn_implementation="sdpa")
    pixels = make_inputs(frames=4).tensors["pixel_values_videos"]
    spent = []
    for grid in ([4, 4, 4], [1, 8, 8], [4, 4, 4]):
        with torch.no_grad(), counting_vision(model) as counted:
            model.model.get_video_features(pixels, torch.tensor([grid]))
        spent.append(counted.flops)
    assert spent[0] == spent[2] < spent[1]


def test_pixels_made_in_inference_mode_may_be_written_to_while_they_are_counted() -> None:
    model, make_inputs = tiny("llava")
    encode = model.model.vision_tower.forward

    def normalising(pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        return encode(pixel_values.mul_(0.5), *args, **kwargs)

    model.model.vision_tower.forward = normalising
    with torch.inference_mode():
        prompt = make_inputs(frames=2)
        with counting_vision(model) as counted:
            model(**prompt.tensors)
    assert counted.flops > 0
