"""The way in for people without the harness: `lmms_flow.load`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, RunError
from .harness.ground import MODELS

if TYPE_CHECKING:
    from .runner.loaded import LoadedModel


def load(checkpoint: Any, processor: Any = None, **arguments: Any) -> LoadedModel:
    """Loads a checkpoint, ready for questions about videos.

        >>> loaded = lmms_flow.load("flow-tiny")
        >>> prompt = loaded.prompt("clip.mp4", "What happens?", ["It rises.", "It falls."])
        >>> with lmms_flow.engine.intervene(loaded, "video:last", prompt.layout):
        ...     loaded.generate(**prompt.inputs, max_new_tokens=1)

    Args:
        checkpoint: a repository id, a folder or "flow-tiny", the bundled model; or a model of transformers that is
            loaded already, with its `processor`.
        processor: of a model that is loaded already.
        arguments: as in `--model_args`: `dtype`, `device`, `num_frames`, `attn_implementation`, `revision` and others.

    Raises:
        CheckpointError: it can't be loaded, or an argument is wrong.
    """
    if isinstance(checkpoint, str):
        wrapper = _wrapper_of(checkpoint, str(arguments.get("revision", "main")))
        try:
            loaded: LoadedModel = wrapper(pretrained=checkpoint, records="none", **arguments).loaded
        except RunError as error:  # which ends a run of lmms-eval, and would end a notebook
            raise CheckpointError(str(error).removeprefix("lmms_flow: ")) from error
        return loaded
    if processor is None:
        raise CheckpointError(
            "lmms_flow.load: a model that is already loaded needs its processor, write load(model, processor)"
        )
    if arguments:
        raise CheckpointError(
            f"lmms_flow.load: {', '.join(arguments)} need a checkpoint, and this model is already loaded"
        )
    return _loaded(checkpoint, processor)


def _wrapper_of(checkpoint: str, revision: str) -> Any:
    """The wrapper that runs a checkpoint's type of model; the base, which goes by transformers, where none is ours."""
    base = import_module("lmms_flow.model_wrappers.hf_video").HfVideoFlow
    wrappers = [
        getattr(import_module(module), name)
        for module, _, name in (p.rpartition(".") for p in MODELS.values())
    ]
    if checkpoint == "flow-tiny":
        return wrappers[0]
    from transformers import PreTrainedConfig

    from .runner.adapters import find_adapter

    try:
        adapter = find_adapter(checkpoint, revision)
        source = adapter.base if adapter and adapter.base else checkpoint
        values, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"lmms_flow.load({checkpoint!r}): {error}") from None
    if not values.get("model_type"):
        raise CheckpointError(f"lmms_flow.load({checkpoint!r}): it has no config.json with a model_type")
    return next((one for one in wrappers if values.get("model_type") in one.model_types), base)


def _loaded(model: Any, processor: Any) -> LoadedModel:
    from .engine import check_layers, decoder_layers
    from .flow import Flow
    from .inputs.native_chat import chat_for
    from .runner.arguments import ModelArguments
    from .runner.flows import Flows
    from .runner.loaded import LoadedModel

    parameter = next(model.parameters())
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    flows = Flows(Flow.load("none"), name, len(decoder_layers(check_layers(model))))
    arguments = ModelArguments(pretrained=name, records="none")
    return LoadedModel(name, chat_for(model, processor), arguments, flows, parameter.device, parameter.dtype)
