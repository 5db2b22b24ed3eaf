"""What read-outs take from a model while it runs: hidden states and attention weights of chosen rows.

Hooks on the model's own modules hand each layer's states to the readers as they come and go. Attention is seen where
transformers hands it to the attention function: queries, keys, mask and scale of the very call, in every family.
Nothing is kept but what a reader keeps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..errors import FlowError, UnsupportedModelError
from ..flow import Layout
from .attention_calls import listen, registered
from .attention_rows import GivenWeights, SdpaCall, Weights
from .decoder import attention_implementation, decoder_layers, find_decoder, module_of
from .hooks import Handles
from .layer_call import CACHE, LayerCall, ModelCall, keeping_last
from .mechanisms import eagerly
from .strips import strip_attention
from .windows import layer_windows


class Reader:
    """One read-out's part of a recording. What it does not care about does nothing.

    Layers count from 1; states are those of the prompt, [token, width].
    """

    reads_attention = False

    def begin(self, model: nn.Module, layout: Layout) -> None:
        """Before the model runs. What does not fit is refused here."""

    def enters(self, layer: int, states: Tensor) -> None:
        """What a layer is given."""

    def leaves(self, layer: int, states: Tensor) -> None:
        """What it gives back, in front of anything that the decoder does to it then."""

    def attends(self, layer: int, weights: Weights, first: int) -> None:
        """A layer's attention; its rows are the tokens from `first` on."""

    def ends(self, states: Tensor, logits: Tensor | None) -> None:
        """The prefill is over: the decoder's own last states, and the last token's logits [vocabulary] if any."""


class Recorder:
    """Inside the block, the readers see the forwards of a model: one prefill of the layout's prompt, then single steps.

    Raises UnsupportedModelError for an attention that can't be read, and FlowError for a forward whose rows are not
    all there.
    """

    def __init__(self, model: Any, layout: Layout, readers: Sequence[Reader]) -> None:
        self.model = module_of(model)
        self._decoder = find_decoder(self.model)
        self._layers = decoder_layers(self._decoder)
        self._layout, self._readers = layout, list(readers)
        self._listening = [reader for reader in self._readers if reader.reads_attention]
        self._handles = Handles()
        self._thread = threading.get_ident()
        self._past = self._rows = 0  # tokens before this forward, and in it
        self._overheard: Callable[[], None] | None = None  # stops listening to the attention that runs now
        self._heard = False
        self._windows: tuple[int | None, ...] = ()
        self._last: Tensor | None = None

    @property
    def last_states(self) -> Tensor:
        """What the decoder made of the prompt, [token, width]."""
        if self._last is None:
            raise FlowError("nothing was read out: the model's decoder was not called")
        return self._last

    def __enter__(self) -> Recorder:
        """Puts the hooks on."""
        for reader in self._readers:
            reader.begin(self.model, self._layout)
        if self._listening:
            check_readable(self.model)
            self._windows = layer_windows(self._decoder)
        try:
            self._handles.before(self._decoder, self._before_decoder)
            self._handles.after(self._decoder, self._after_decoder)
            for number, layer in enumerate(self._layers, 1):
                self._handles.before(layer, self._before_layer(number))
                self._handles.after(layer, self._after_layer(number))
                attention: Any = layer.self_attn
                if self._listening:
                    self._handles.before(attention, self._before_attention(number))
                    self._handles.after(attention, self._after_attention(number), always=True)
        except BaseException:
            self._handles.remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Takes them off."""
        self._handles.remove()
        self._stop_listening()

    # Forwards

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            raise FlowError("the model was called from another thread than the one that reads it out")
        self._handles.stay_last()
        tokens = ModelCall.of_decoder(module, args, kwargs).tokens
        if tokens is None or tokens.shape[0] != 1:
            raise FlowError("a read-out reads one prompt: a batch of one, without beams")
        self._past += self._rows
        self._rows = int(tokens.shape[1])
        if not self._past and self._rows != self._layout.num_tokens:
            raise FlowError(
                f"the prompt has {self._rows} tokens, its layout {self._layout.num_tokens} (without padding)"
            )
        if self._past and self._rows != 1:
            raise FlowError(
                f"{self._rows} tokens were read behind the prompt at once: a read-out follows an answer token by "
                "token, from the cache of its prompt"
            )

    def _after_decoder(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self._past:
            self._last = states_in(output)[0].detach()

    def _before_layer(self, number: int) -> Any:
        def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = self._checked(LayerCall.read(layer, args, kwargs).hidden, number)
            for reader in self._of_prompt():
                reader.enters(number, states)

        return before_layer

    def _after_layer(self, number: int) -> Any:
        def after_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            states = self._checked(output[0] if isinstance(output, tuple) else output, number)
            for reader in self._of_prompt():
                reader.leaves(number, states)

        return after_layer

    def _of_prompt(self) -> Sequence[Reader]:
        """Those who are shown states: everybody in the prefill, nobody behind it."""
        return () if self._past else self._readers

    def _checked(self, states: Tensor, layer: int) -> Tensor:
        if states.ndim != 3:
            raise UnsupportedModelError(
                f"layer {layer} of {type(self._decoder).__name__} has states of {states.ndim} dimensions, not "
                "[batch, token, width]: they can't be read out"
            )
        if states.shape[1] != self._rows:
            raise _rows_missing(layer, states.shape[1], self._rows)
        return states[0].detach()

    # Attention

    def _before_attention(self, number: int) -> Any:
        def before_attention(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._heard = False
            name = attention_implementation(module)
            if name != "eager":
                self._listen(name, module, number)

        return before_attention

    def _listen(self, name: str, attention: nn.Module, number: int) -> None:
        """Hears this layer's call of the registered function, until its attention is over."""

        def hear(query: Tensor, key: Tensor, mask: Any, arguments: Mapping[str, Any]) -> None:
            self._hear(number, SdpaCall.read(attention, query, key, mask, arguments))

        self._overheard = listen(name, attention, hear)

    def _stop_listening(self) -> None:
        if self._overheard is not None:
            self._overheard()
            self._overheard = None

    def _after_attention(self, number: int) -> Any:
        def after_attention(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._stop_listening()
            if attention_implementation(module) == "eager" and isinstance(output, tuple):
                weights = output[1] if len(output) > 1 else None
                if isinstance(weights, Tensor) and weights.ndim == 4:
                    self._hear(number, GivenWeights(weights.detach()))
            if output is not None and not self._heard:
                raise UnsupportedModelError(
                    f"layer {number} ({type(module).__name__}) does not attend through transformers' attention "
                    "interface and gives no weights out: its attention can't be read"
                )

        return after_attention

    def _hear(self, layer: int, weights: Weights) -> None:
        if weights.num_rows != self._rows:
            raise _rows_missing(layer, weights.num_rows, self._rows)
        if self._heard:
            raise UnsupportedModelError(
                f"layer {layer} of {type(self._decoder).__name__} attends more than once: it has no one set of weights"
            )
        self._heard = True
        window = self._windows[layer - 1] if self._windows else None
        expected = self._past + self._rows
        if window is not None and self._past:  # whose cache holds the latest keys alone
            expected = min(window, expected) if weights.num_keys < expected else expected
        if weights.num_keys != expected:
            raise _rows_missing(layer, weights.num_keys, expected)
        for reader in self._listening:
            reader.attends(layer, weights, self._past)


def record(
    model: Any, inputs: Mapping[str, Any], layout: Layout, readers: Sequence[Reader], generated: int = 0
) -> tuple[int, ...]:
    """Runs a model under the readers' eyes, inside the blocks of `intervene` that are open.

    One prefill; or, where rows of so many `generated` tokens are asked for, greedy decoding as far as it takes to read
    them in. Gives the tokens that were generated. Raises FlowError for inputs that are not one prompt, or not the
    layout's, and what the readers raise.
    """
    module = module_of(model)
    given = one_prompt(inputs, layout)
    with torch.no_grad(), eagerly(), Recorder(module, layout, readers) as recorder:
        if generated:
            out: Any = module.generate(  # type: ignore[operator]
                **given, max_new_tokens=generated + 1, do_sample=False, num_beams=1, use_cache=True,
                return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
            logits = out.logits[0][0]
            tokens = tuple(out.sequences[0, -len(out.logits) :].tolist())
        else:
            out = module(**given, **keeping_last(module), use_cache=False)
            logits = None if getattr(out, "logits", None) is None else out.logits[0, -1]
            tokens = ()
        for reader in readers:
            reader.ends(recorder.last_states, None if logits is None else logits.float())
    return tokens


def states_in(output: Any) -> Tensor:
    """The last states in what a decoder gave back, [batch, token, width]."""
    found = (
        next(iter(output), None) if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    )
    if not isinstance(found, Tensor):
        raise UnsupportedModelError(f"the decoder gave a {type(output).__name__} back, which holds no states")
    return found


def one_prompt(inputs: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The inputs without what a read-out asks for itself. Raises FlowError where they are not the layout's prompt."""
    given = {name: value for name, value in inputs.items() if value is not None}
    cache = next((name for name in CACHE if name in given), None)
    if cache is not None:
        raise FlowError(f"a read-out reads the whole prompt: leave {cache} out of its inputs")
    asks = next((n for n in given if n.startswith(("labels", "output_")) and given[n] is not False), None)
    if asks is not None:
        raise FlowError(f"a read-out asks the model for what it needs itself: leave {asks} out of its inputs")
    tokens = given.get("inputs_embeds", given.get("input_ids"))
    if tokens is None or tokens.shape[0] != 1:
        raise FlowError("a read-out reads one prompt: input_ids or inputs_embeds of a batch of one")
    mask = given.get("attention_mask")
    if mask is not None and getattr(mask, "ndim", 0) != 2:
        raise FlowError("a read-out takes the attention_mask as [batch, token] or none at all")
    if tokens.shape[1] != layout.num_tokens or (mask is not None and not bool(mask.all())):
        raise FlowError(
            f"the prompt has {tokens.shape[1]} tokens, its layout {layout.num_tokens} (without padding)"
        )
    return {n: v for n, v in given.items() if n not in ("use_cache", "logits_to_keep", "return_dict")}


def check_readable(model: nn.Module) -> None:
    """Raises UnsupportedModelError, by name, for an attention whose weights can't be told from its calls."""
    name = attention_implementation(find_decoder(model))
    if name == "eager":
        return
    known = (sdpa_attention_forward, strip_attention)
    if registered(name) not in known:
        raise UnsupportedModelError(
            f"{type(model).__name__} with attn_implementation={name!r}: the weights of this attention can't be read; "
            "use 'sdpa' or 'eager'"
        )


def _rows_missing(layer: int, found: int, expected: int) -> FlowError:
    return FlowError(
        f"layer {layer} has {found} of {expected} rows: the sparse engine drops what the answer does not need; write "
        "engine='dense' in intervene"
    )
