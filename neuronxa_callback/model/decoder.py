"""A model with its tokenizer, and the facts about them that the rest of the package needs, found once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from neuronxa_callback.model import engine
from neuronxa_callback.model.layers import UnreadableFFNError, find_stack
from neuronxa_callback.model.neurons import FFN, ffns_of
from neuronxa_callback.model.state import evaluation_mode
from neuronxa_callback.ranks import OutOfStepError, Ranks


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder-only model with its tokenizer during one evaluation. The next evaluation may use others.

    Usage:
        ```python
        decoder = Decoder.find(model, tokenizer)
        report = evaluator.score(decoder)
        ```

    Attributes:
        model: the model as the user gave it, with its PEFT wrapper if it has one.
        tokenizer: the model's tokenizer.
        base: the transformers model inside the PEFT wrapper, or `model` if there is no wrapper.
        stack: the stack of decoder layers without the LM head, with PEFT adapters in place. In a multimodal model it is
            the text tower.
        layer_list: the name of the list of layers in `stack`.
        layers: the layers in order, without those that only an image brings into use (Llama 3.2 Vision).
        device: the device for the model's input.
        context_length: the model's longest input in tokens; None if its configuration does not say.
        hidden_size: number of features of a residual stream.
        bidirectional: whether a token sees the tokens behind it, so that padding must be masked.
        streams_first: whether several residual streams stand before the batch, as in Gemma 3n.
        dtype: the arithmetic's data type, for the signature: "float32", "bfloat16/nf4", "float32/autocast-bfloat16",
            ... It names autocast if autocast was on when the decoder was found.
        ranks: the processes that make this evaluation together, and so fail together.
        readers: the processes that share the sentences. Otherwise each process reads all of them.
        is_sharded: whether each process has a part of each parameter (FSDP, ZeRO 3). Passes then go through `model`,
            whose hooks gather the parameters.
        in_step: whether all processes must make the same forward passes, because each has a part of the model.
        tensor_mesh: the mesh of the processes that split each layer's neurons among them (tensor parallel), or None.
    """

    model: nn.Module
    tokenizer: Any
    base: nn.Module
    stack: nn.Module
    layer_list: str
    layers: tuple[nn.Module, ...]
    device: torch.device
    context_length: int | None
    hidden_size: int
    bidirectional: bool
    streams_first: bool
    dtype: str
    ranks: Ranks
    readers: Ranks
    is_sharded: bool
    in_step: bool
    tensor_mesh: Any

    @classmethod
    def find(
        cls, model: nn.Module, tokenizer: Any, ranks: Ranks | None = None, device: torch.device | None = None
    ) -> Decoder:
        """Find the parts of a model, which may be plain, quantised or under PEFT, on any one device.

        Args:
            model: the model, also as FSDP or DDP have wrapped it. Of a DeepSpeed engine it is its `module`.
            tokenizer: its tokenizer.
            ranks: the processes that share the sentences. All of them must make the same calls. None shares nothing.
                The processes share nothing if the model is tensor parallel: each pass needs all of them with the same
                sentences.
            device: the device for the model's input. None takes that of the input embeddings, which an engine may
                have moved away.

        Raises:
            UnreadableFFNError: the model is not a decoder whose layers can be read; the message says what to do.
        """
        found = find_stack(model)
        device = device or found.base.get_input_embeddings().weight.device  # type: ignore[operator]
        tensor_mesh = engine.tensor_parallel_mesh(model, found.base)
        is_sharded = engine.is_sharded(model)
        group = Ranks.of_group() if is_sharded or tensor_mesh is not None else Ranks()
        return cls(
            model=model,
            tokenizer=tokenizer,
            base=found.base,
            stack=found.module,
            layer_list=found.list_name,
            layers=found.layers,
            device=device,
            context_length=_context_length(found.config),
            hidden_size=found.config.hidden_size,
            bidirectional=_is_bidirectional(found.config),
            streams_first=hasattr(found.config, "altup_num_inputs"),
            dtype=_compute_dtype(model, found.base, device),
            ranks=ranks or group,
            readers=Ranks() if ranks is None or tensor_mesh is not None else ranks,
            is_sharded=is_sharded,
            in_step=group.size > 1,
            tensor_mesh=tensor_mesh,
        )

    @cached_property
    def ffns(self) -> list[tuple[FFN, ...]]:
        """The FFNs of each layer, as `neurons.find_ffns` finds them. They are found at the first use.

        Raises:
            UnreadableFFNError: a layer or FFN cannot be read; the message names it and says what to do.
        """
        return ffns_of(self.model, self.layers, self.hidden_size)

    @cached_property
    def may_leave_pass(self) -> bool:
        """Whether a forward pass may end in the middle by an exception, because nothing has to be done at its end.

        Parameters that were gathered or moved in for the pass are put back at its end. transformers 4.57 restores
        there the forwards that it replaced to record outputs.
        """
        return not (
            self.is_sharded
            or self.in_step
            or self.tensor_mesh is not None
            or any(map(engine.acts_after_forward, self.model.modules()))
        )

    @property
    def ffn_layers(self) -> list[int]:
        """The numbers of the layers that have an FFN, from 1. In most models these are all."""
        return [number for number, ffns in enumerate(self.ffns, start=1) if ffns]

    @property
    def rule(self) -> str:
        """The condition under which neurons are active, for the signature: "sigma(gate)>0", ..."""
        return "+".join(sorted({ffn.rule for layer in self.ffns for ffn in layer}))

    @cached_property
    def neuron_choices(self) -> dict[str, str]:
        """What a signature says of the neurons: when they are active, and which layers have any if not all have.

        It says nothing if the model has no FFN that can be read, so that methods of hidden states are all that is left.
        """
        try:
            choices = {"neurons": self.rule}
        except UnreadableFFNError:
            return {}
        if len(self.ffn_layers) < len(self.layers):
            choices["ffns"] = f"{','.join(map(str, self.ffn_layers))}of{len(self.layers)}"
        return choices

    @cached_property
    def special_tokens(self) -> str:
        """The special tokens that the tokenizer adds, for the signature: "none", "bos", "bos+eos", ..."""
        text = "a"
        bare = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        added = [token for token in self.tokenizer(text)["input_ids"] if token not in bare]
        names = {getattr(self.tokenizer, f"{name}_token_id", None): name for name in ("sep", "cls", "eos", "bos")}
        return "+".join(names.get(token, str(token)) for token in added) or "none"

    def budget(self, cpu: int, accelerator: int) -> int:
        """Return the default token budget: `cpu` on a CPU, `accelerator` on any other device."""
        return cpu if self.device.type == "cpu" else accelerator

    def tokenize(self, sentences: Sequence[str], special_tokens: bool = True) -> list[list[int]]:
        """Return each sentence's token ids without padding or truncation.

        Sentences are tokenised one by one. The parallel mode of fast tokenizers would make every DataLoader worker
        that is forked afterwards print a warning.

        Args:
            sentences: the sentences.
            special_tokens: whether the tokenizer adds its special tokens, such as a BOS. A sentence's own text stays as
                it is, even if it spells a special token.

        Raises:
            ValueError: a sentence has no token, or more tokens than the model's context; the message shows it.
        """
        return [self._tokenize(sentence, special_tokens) for sentence in sentences]

    def _tokenize(self, sentence: str, special_tokens: bool) -> list[int]:
        options = {"padding": False, "truncation": False, "verbose": False, "add_special_tokens": special_tokens}
        ids = list(self.tokenizer(sentence, **options)["input_ids"])
        if not ids:
            raise ValueError(f"the tokenizer makes no token of the sentence {sentence!r}; remove it.")
        if self.context_length is not None and len(ids) > self.context_length:
            raise ValueError(
                f"the sentence {sentence[:60]!r}... has {len(ids)} tokens, more than the model's context of "
                f"{self.context_length}; remove or split it."
            )
        return ids

    def inputs(self, token_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return right-padded sentences as a model takes them: `input_ids` (batch, tokens) and perhaps a mask.

        A causal decoder gets no attention mask, because no token sees the padding to its right.
        """
        longest = max(len(ids) for ids in token_ids)
        padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in token_ids]
        inputs = {"input_ids": torch.tensor(padded, device=self.device)}
        if self.bidirectional:
            real = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in token_ids]
            inputs["attention_mask"] = torch.tensor(real, device=self.device)
        return inputs

    def run(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Run the decoder layers once over right-padded sentences (`inputs`), without LM head and KV cache.

        Returns:
            last hidden states (batch, tokens, hidden), including those of the padding.
        """
        inputs = self.inputs(token_ids)

        def run_layers() -> Any:
            return self.stack(**inputs, use_cache=False)

        output = engine.inside(self.model, self.base, run_layers) if self.is_sharded else run_layers()
        return output.last_hidden_state  # type: ignore[no-any-return]

    @contextmanager
    def in_one_step(self) -> Iterator[None]:
        """Prepare and make a pass that all processes make together, if the engine needs that.

        Raises:
            OutOfStepError: the block failed on this process, and the others wait for it in the middle of the pass.
        """
        try:
            yield
        except Exception as error:
            if not self.in_step:
                raise
            raise OutOfStepError(
                f"a forward pass failed on process {Ranks.of_group().rank}, and the other processes wait for it in the "
                f"middle of theirs, because each has only a part of the model, so the run cannot go on "
                f"({type(error).__name__}: {error})."
            ) from error

    def generating(self) -> AbstractContextManager[None]:
        """While open, forward passes of `base` also go through the hooks that gather sharded parameters."""
        return engine.calling(self.model, self.base) if self.is_sharded else nullcontext()

    def whole(self, values: Tensor, features: int) -> Tensor:
        """Return all of a layer's features (..., features), also where each process reads a part of them.

        Raises:
            UnreadableFFNError: some features are missing, and no other process has them.
        """
        if values.shape[-1] == features:
            return values
        if self.tensor_mesh is None:
            raise UnreadableFFNError(
                f"a layer gives {values.shape[-1]} of its {features} neurons on this process, and it is not known "
                "where the others are. Train without splitting the layers, by FSDP or DeepSpeed."
            )
        return engine.whole_features(values, features, self.tensor_mesh)

    def joined_streams(self, hidden: Tensor, batch: int, tokens: int) -> Tensor:
        """Return a layer's hidden states as (batch, tokens, features). Several residual streams are joined.

        Models with hyper-connections (DeepSeek-V4) have (batch, tokens, streams, hidden), and Gemma 3n has (streams,
        batch, tokens, hidden).

        Raises:
            UnreadableFFNError: the hidden states are not those of the batch's tokens, as in ProphetNet, whose layers
                see each token several times.
        """
        if hidden.dim() == 4:
            hidden = (hidden.movedim(0, 2) if self.streams_first else hidden).flatten(2)
        if hidden.shape[:-1] != (batch, tokens):
            raise UnreadableFFNError(
                f"a layer of {type(self.stack).__name__} gets hidden states of the shape {tuple(hidden.shape)} for "
                f"{tokens} tokens, so there is no hidden state of each token to read. Use another model."
            )
        return hidden

    @contextmanager
    def first_layers(self, count: int) -> Iterator[None]:
        """While open, end every forward pass after the first `count` layers."""
        if count >= len(self.layers):
            yield
            return
        whole: Any = getattr(self.stack, self.layer_list)
        setattr(self.stack, self.layer_list, whole[: list(whole).index(self.layers[count - 1]) + 1])
        try:
            yield
        finally:
            setattr(self.stack, self.layer_list, whole)

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Switch to evaluation mode without gradients until the block ends; see `state.evaluation_mode`.

        ZeRO 3 remembers in which order a pass used the modules, and gathers their parameters ahead in the next one. A
        training step must not find that order from an evaluation. TRL's loss takes the LM head's weight for itself,
        and fails in the backward pass if it was gathered ahead (trl 1.16, deepspeed 0.19.8). So the block ends with a
        pass of another order, which DeepSpeed answers by forgetting.

        FSDP 2 leaves some parameters gathered after a pass. They are freed.

        Raises:
            OutOfStepError: as in the block. The processes cannot make a pass together then.
        """
        with evaluation_mode(self.model, self.device):
            try:
                yield
            except OutOfStepError:
                raise
            except Exception:
                self._leave_no_trace()
                raise
            self._leave_no_trace()

    def _leave_no_trace(self) -> None:
        engine.free_gathered(self.model)
        if engine.is_zero_3(self.model):
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            embeddings: Any = self.base.get_input_embeddings()  # type: ignore[operator]
            engine.inside(self.model, self.base, lambda: embeddings(token))


def _context_length(config: Any) -> int | None:
    """Return the longest input in tokens. XLNet writes -1 for no limit."""
    longest = getattr(config, "max_position_embeddings", None)
    return longest if longest is None or longest > 0 else None


def _is_bidirectional(config: Any) -> bool:
    """Return whether a text decoder's configuration lets tokens see those behind them.

    transformers has two switches for that: `is_causal=False` of any decoder, and `use_bidirectional_attention` of
    Gemma 3 (true) and Gemma 4 ("all"; "vision" is about the tokens of images).
    """
    return getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", None) in (
        True,
        "all",
    )


def _compute_dtype(model: nn.Module, base: nn.Module, device: torch.device) -> str:
    parts = [str(base.dtype).removeprefix("torch.")]
    quantization = getattr(base.config, "quantization_config", None)
    if quantization is not None:
        parts.append(_quantization(quantization))
    for dtype in sorted(map(str, engine.compute_dtypes(model) - {base.dtype})):
        parts.append(f"fsdp-{dtype}".replace("torch.", ""))
    if torch.is_autocast_enabled(device.type):
        parts.append(f"autocast-{torch.get_autocast_dtype(device.type)}".replace("torch.", ""))
    return "/".join(parts)


def _quantization(config: Any) -> str:
    """Return a quantisation's name and its bits: "nf4", "quanto-int4", "torchao-Int8WeightOnlyConfig", "gptq-4bit"."""
    if hasattr(config, "quantization_method"):  # bitsandbytes: nf4, fp4, llm_int8
        return str(config.quantization_method())
    settings = config if isinstance(config, dict) else vars(config)
    method = settings.get("quant_method", "quantised")
    name = str(getattr(method, "value", method)).replace("_", "-")
    inner = settings.get("quant_config") or {}  # HQQ's
    bits = settings.get("bits") or settings.get("nbits") or inner.get("weight_quant_params", {}).get("nbits")
    kind = settings.get("weights") or settings.get("quant_type") or (f"{bits}bit" if bits else None)
    return name if kind is None else f"{name}-{kind if isinstance(kind, str) else type(kind).__name__}"
