"""Adapters such as LoRA's: a folder of one beside its base's weights, or alone, naming its base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file, is_peft_available

from lmms_flow.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"  # what transformers calls an adapter that it finds beside a model
MERGED = "write the folder of a model into which it is merged (peft's merge_and_unload, then save_pretrained)"


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or repository; `base` is empty where the base's weights lie beside it."""

    source: str
    weights: str  # the file
    base: str = ""

    def apply(self, model: Any) -> None:
        """Puts the adapter into its loaded base; beside its base's weights transformers has done so already.

        Raises CheckpointError unless every weight of the adapter has arrived, and nothing of it is left without one.
        """
        if self.base:
            try:
                model.load_adapter(self.source, adapter_name=NAME)
            except (ValueError, RuntimeError, KeyError, TypeError) as error:
                raise self.misfit(error) from None
        given, found = load_file(self.weights).values(), _adapter_weights(model)
        if _marks(given, found) != _marks(found, found):
            raise self.misfit(
                f"{len(given)} weights in {WEIGHTS}, {len(found)} in the model, and not the same"
            )

    def misfit(self, why: object) -> CheckpointError:
        """The error of an adapter of another model, with the first line of what is wrong."""
        base, line = self.base or "the weights beside it", str(why).strip().partition("\n")[0]
        return CheckpointError(f"the adapter {self.source} doesn't fit {base} ({line}): {MERGED}")


def find_adapter(source: str, revision: str) -> Adapter | None:
    """The adapter of a repository or folder; None where there is none.

    Raises CheckpointError where it can't be applied: without peft or safetensors, or with a base that is not there.
    """
    config = _file(source, CONFIG, revision)
    if config is None:
        return None
    alone = _file(source, "config.json", revision) is None
    if not is_peft_available():
        raise CheckpointError(
            f"{source} has an adapter ({CONFIG}), and the package peft, which applies it, is not installed: "
            f"pip install peft, or {MERGED}"
        )
    weights = _file(source, WEIGHTS, revision)
    if weights is None:
        raise CheckpointError(f"the adapter {source} has no {WEIGHTS}: only safetensors are read")
    return Adapter(source, weights, _base(source, Path(config)) if alone else "")


def _base(source: str, config: Path) -> str:
    """The base that an adapter names: a repository, or a folder, seen from here or from the adapter."""
    try:
        named = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise CheckpointError(f"the adapter {source}: {CONFIG} can't be read") from None
    where = f"base_model_name_or_path in its {CONFIG}"
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"the adapter {source} names no base: write its folder or repository as {where}"
        )
    here, beside = Path(named).expanduser(), config.parent / named
    folders = sorted({folder.resolve() for folder in (here, beside) if folder.is_dir()})
    if len(folders) > 1:
        raise CheckpointError(
            f"the adapter {source}: its base {named!r} is a folder here and another one beside the adapter; write the "
            f"whole path as {where}"
        )
    if not folders and not _may_be_repository(named):
        raise CheckpointError(
            f"the adapter {source}: its base {named!r} is not there; write where it is as {where}"
        )
    if folders and not (folders[0] / "config.json").is_file():
        raise CheckpointError(f"the adapter {source}: its base {named!r} is no model, it has no config.json")
    return str(folders[0]) if folders else named


def _may_be_repository(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "/", "~")) and "\\" not in name


def _file(source: str, name: str, revision: str) -> str | None:
    if not Path(source).is_dir() and "/" not in source:  # a name of the package's own
        return None
    missing = {"_raise_exceptions_for_missing_entries": False}
    found: str | None = cached_file(source, name, revision=revision, **missing)
    return found


def _adapter_weights(model: Any) -> list[Tensor]:
    if not getattr(model, "peft_config", None):
        return []
    from peft import get_peft_model_state_dict

    return list(get_peft_model_state_dict(model, adapter_name=NAME).values())


def _marks(weights: Iterable[Tensor], like: list[Tensor]) -> list[tuple[Any, ...]]:
    """Shape and sums of each weight as the model holds it, in one order: names are told otherwise in a file."""
    dtype = like[0].dtype if like else torch.float32
    told = (weight.detach().cpu().to(dtype).double() for weight in weights)
    return sorted((tuple(one.shape), float(one.sum()), float(one.abs().sum())) for one in told)
