"""What a checkpoint is: whatever can change an answer changes it, and nothing else does."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmms_flow import assets
from lmms_flow.harness import plugin
from lmms_flow.model_wrappers.llava_vid import LlavaVidFlow
from lmms_flow.runner.identity import checkpoint_identity


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(assets.flow_tiny_dir(), tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **model_args: Any) -> LlavaVidFlow:
    return LlavaVidFlow(pretrained=str(folder), device="cpu", records="none", **model_args)


def identity(model: LlavaVidFlow) -> str:
    """Without the name, so that a link or a copy can be the same."""
    model.identity.look()
    return model.identity().partition("@")[2]


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Saves changed weights in place of the old ones, with the file's size and time kept."""
    file = folder / "model.safetensors"
    before = file.stat()
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def value_projections(weights: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in weights if name.endswith("self_attn.v_proj.weight") and "language_model" in name]


def zero_the_last_heads(weights: dict[str, torch.Tensor]) -> None:
    for name in value_projections(weights):
        weights[name][32:] = 0


def swap_two_layers(weights: dict[str, torch.Tensor]) -> None:
    one, other, *_ = value_projections(weights)
    weights[one], weights[other] = weights[other], weights[one]


def swap_two_rows(weights: dict[str, torch.Tensor]) -> None:
    first = weights[value_projections(weights)[-1]]
    first[[40, 50]] = first[[50, 40]]


@pytest.mark.parametrize("change", [zero_the_last_heads, swap_two_layers, swap_two_rows])
def test_weights_saved_over_the_same_folder(folder: Path, change: Any) -> None:
    before = identity(load(folder))
    assert identity(load(folder)) == before
    edit(folder, change)
    assert identity(load(folder)) != before


def test_where_a_checkpoint_lies_and_how_it_is_cut_up_says_nothing(folder: Path, tmp_path: Path) -> None:
    before = identity(load(folder))
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():  # as the hub's snapshots are
        (linked / file.name).symlink_to(file)
    assert identity(load(linked)) == before
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, kept in shards.items():
        save_file({name: weights[name] for name in kept}, folder / shard, metadata={"format": "pt"})
    places = {name: shard for shard, kept in shards.items() for name in kept}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert identity(load(folder)) == before, "the same weights, in two files"
    changed = load_file(folder / "b.safetensors")
    zero_the_last_heads(changed)
    save_file(changed, folder / "b.safetensors", metadata={"format": "pt"})
    assert identity(load(folder)) != before, "and another file behind the index"


@torch.no_grad()
def test_what_is_edited_after_loading(folder: Path) -> None:
    model = load(folder)
    before = identity(model)
    edits: list[Callable[[Any], Any]] = [
        lambda weight: weight[-1:].zero_(),
        lambda weight: weight.data[-1:].zero_(),  # what no version counter sees
        lambda weight: weight.flatten()[-1:].mul_(-1),
    ]
    for change in edits:
        weight = model.model.get_parameter(
            next(n for n, _ in model.model.named_parameters() if "v_proj" in n)
        )
        kept = weight.clone()
        change(weight)
        assert identity(model) != before
        weight.copy_(kept)
        assert identity(model) == before
    for name, value in (("eos_token_id", 5), ("repetition_penalty", 1.5)):
        kept = getattr(model.model.generation_config, name)
        setattr(model.model.generation_config, name, value)
        assert identity(model) != before
        setattr(model.model.generation_config, name, kept)
    assert identity(model) == before


@torch.no_grad()
def test_an_edit_between_two_evaluations_of_one_question(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of a model holds for the rounds of one evaluation, however soon the next one begins."""
    plugin.make_tasks_known()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LlavaVidFlow, "clean", lambda self: None)  # lmms-eval takes a model apart at its end
    model = LlavaVidFlow(pretrained=str(folder), device="cpu")

    def option_a() -> float:
        out = simple_evaluate(
            model=model,
            tasks=["flowbench_object_count"],
            limit=1,
            task_manager=TaskManager(include_defaults=False, model_name="llava_vid_flow"),
        )
        ((sample,),) = out["samples"].values()
        return float(dict(sample["record"])["options"]["A"])

    before = option_a()
    model.identity._holds_until = float("inf")
    assert option_a() == before
    model.identity._holds_until = float("inf")
    for name, weight in model.model.named_parameters():
        if "v_proj" in name and "language_model" in name:
            weight.data[32:] = 0
    assert option_a() != before


def test_parts_that_are_replaced_and_hooks_that_nobody_knows(folder: Path) -> None:
    model = load(folder)
    before = identity(model)
    norm = next(module for name, module in model.model.named_modules() if name.endswith("input_layernorm"))
    hook = norm.register_forward_hook(lambda module, args, out: out * 0)
    first, second = identity(model), identity(model)
    assert len({before, first, second}) == 3, "what a hook does can't be known, so nothing is served"
    hook.remove()
    assert identity(model) == before
    parent = next(module for module in model.model.modules() if hasattr(module, "input_layernorm"))
    parent.input_layernorm = nn.Identity()
    assert identity(model) != before


def edit_json(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", lambda content: content.update(normalizer={"type": "Lowercase"})),
        ("tokenizer_config.json", lambda content: content.update(padding_side="right")),
        ("generation_config.json", lambda content: content.update(repetition_penalty=1.3)),
        ("config.json", lambda content: content["text_config"]["rope_parameters"].update(rope_theta=5000.0)),
        ("config.json", lambda content: content["text_config"].update(rms_norm_eps=0.1)),
    ],
)
def test_a_changed_file_beside_the_weights(folder: Path, file: str, change: Any) -> None:
    before = identity(load(folder))
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit_json(folder / file, change)
    assert identity(load(folder)) != before


def test_a_changed_processor(folder: Path) -> None:
    before = identity(load(folder))
    (file,) = [one for one in folder.glob("*processor_config.json") if "image_mean" in one.read_text()]
    content = file.read_text()
    number = content.split('"image_mean"')[1].split("[")[1].split(",")[0].strip()
    file.write_text(content.replace(number, "0.25", 1))
    assert identity(load(folder)) != before


class Chatty(LlavaVidFlow):  # type: ignore[misc]
    """A user's wrapper: its code is a part of what answers."""


def test_another_class_of_wrapper(folder: Path) -> None:
    model = Chatty(pretrained=str(folder), device="cpu", records="none")
    assert identity(model) != identity(load(folder))


# Made by hand: what flow-tiny has not


class Tied(nn.Module):
    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("angles", torch.arange(4.0), persistent=False)
        self.config = Settings()


class Settings:
    def to_dict(self) -> dict[str, Any]:
        return {"_name_or_path": "anywhere", "size": 4}


class Words:
    init_kwargs: ClassVar[dict[str, Any]] = {}

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}


def told(model: nn.Module) -> str:
    return checkpoint_identity("name", model, (), Words())


def test_tied_weights_and_buffers_that_are_not_saved() -> None:
    model = Tied()
    before = told(model)
    assert told(copy.deepcopy(model)) == before
    loose = copy.deepcopy(model)
    loose.head.weight = nn.Parameter(model.head.weight.detach().clone())
    assert told(loose) == before, "untied with the same numbers"
    with torch.no_grad():
        loose.head.weight[3, 2] += 1e-3
    assert told(loose) != before
    model.angles[1] = 7
    assert told(model) != before


def test_quantised_weights_are_more_than_their_codes() -> None:
    """As bitsandbytes keeps them: codes, and scales that only `state_dict` shows."""

    class Quantised(nn.Linear):
        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "weight.absmax"] = self.absmax

    model = Tied()
    model.head = Quantised(4, 8)
    model.head.absmax = torch.ones(8)
    before = told(model)
    model.head.absmax = torch.ones(8) * 2
    assert told(model) != before


def test_weights_on_no_device_equal_nothing() -> None:
    model = Tied()
    model.embed.weight = nn.Parameter(torch.empty(8, 4, device="meta"))
    assert told(model) != told(model)


def test_weights_that_are_kept_elsewhere_are_read_there() -> None:
    from accelerate import cpu_offload

    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.config = Settings()
    away = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert any(weight.is_meta for weight in away.parameters())
    before = told(away)
    assert told(away) == before
    with torch.no_grad():
        model[1].weight[0, 0] += 1
    other = cpu_offload(model, execution_device=torch.device("cpu"))
    assert told(other) != before


def test_adapters_and_which_of_them_are_in_use() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    base.config = Settings()
    plain = told(base)
    made = peft.LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False)
    model = peft.get_peft_model(base, made, adapter_name="one").base_model.model
    with_one = told(model)
    assert with_one != plain
    tuners = [module for module in model.modules() if hasattr(module, "merged_adapters")]
    assert tuners
    for tuner in tuners:
        tuner.scaling["one"] *= 2
    assert told(model) not in (with_one, plain)
    for tuner in tuners:
        tuner.scaling["one"] /= 2
    assert told(model) == with_one
    for tuner in tuners:
        tuner.enable_adapters(False)
    assert told(model) not in (with_one, plain)
