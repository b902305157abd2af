"""What can go wrong in an evaluation, put into real SFTTrainer runs, which end normally all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from neuronxa_callback import NeuronXACallback, NeuronXAEvaluator
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality import translation
from tests.support import ICELANDIC, hooks_of, make_tokenizer, score_lines, scored_steps, sft, tiny_llama

pytestmark = pytest.mark.trainer


class AtStep4(TrainerCallback):
    """Does something to the model in the middle of the run, right before an evaluation."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        self.change = change

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            self.change(kwargs["model"])


def run(folder: Path, model: Any, change: Callable[[Any], None] = lambda model: None, **options: Any) -> Any:
    trainer = sft(folder, [NeuronXACallback(ICELANDIC, eval_steps=2, **options), AtStep4(change)], model)
    trainer.train()
    assert trainer.state.global_step == 6
    return trainer


class TestOutOfMemory:
    @staticmethod
    def with_room_for(tokens: int, model: Any) -> list[int]:
        """The model as it is where batches of more tokens than this do not fit; the sizes of those that were tried."""
        tried: list[int] = []

        def allocate(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            size = kwargs["input_ids"].numel()
            if not module.training and size > tokens:
                tried.append(size)
                torch.empty(1 << 50)  # a petabyte: the CPU's own allocator refuses

        model.model.register_forward_pre_hook(allocate, with_kwargs=True)
        return tried

    def test_it_halves_the_token_budget_and_remembers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        run(tmp_path / "roomy", tiny_llama(), token_budget=60)
        model = tiny_llama()
        tried = self.with_room_for(150, model)
        with caplog.at_level(logging.WARNING):
            run(tmp_path / "tight", model)
        assert caplog.text.count("out of memory; going on with batches of 256 tokens") == 1
        assert caplog.text.count("out of memory; going on with batches of 128 tokens") == 1
        assert len(tried) == 2
        roomy, tight = ([line["score"] for line in score_lines(tmp_path / name)] for name in ("roomy", "tight"))
        assert roomy == tight
        assert len(tight) == 4

    def test_translating_halves_its_own(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        run(tmp_path / "roomy", tiny_llama(), quality="chrf")
        model = tiny_llama()
        self.with_room_for(300, model)
        with caplog.at_level(logging.WARNING):
            run(tmp_path / "tight", model, token_budget=256, quality="chrf")
        assert caplog.text.count("going on with batches of 512 tokens") == 1
        assert caplog.text.count("going on with batches of 256 tokens") == 1
        scores = [[line["quality_score"] for line in score_lines(tmp_path / n)] for n in ("roomy", "tight")]
        assert scores[0] == scores[1]

    def test_a_sentence_that_does_not_fit_alone_is_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = tiny_llama()
        self.with_room_for(40, model)
        with caplog.at_level(logging.WARNING):
            trainer = run(tmp_path, model)
        assert scored_steps(trainer) == []
        assert caplog.text.count("an evaluation failed, and training goes on without its scores. RuntimeError") == 4
        assert "going on with batches of 16 tokens" not in caplog.text


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("model.layers.1.mlp.down_proj", "from layer 1 (model.layers.1) on"),
        ("model.layers.2.self_attn.o_proj", "from layer 2 (model.layers.2), or the norm behind it, on"),
        ("model.embed_tokens", "from the embedding layer on"),
        ("model.norm", "from layer 2 (model.layers.2), or the norm behind it, on"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_told_with_their_layer(
    place: str, told: str, value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def diverge(model: Any) -> None:
        model.get_submodule(place).weight.data.fill_(value)

    # NASCA's passes end in front of the last norm, and MEXA's behind it.
    methods = ("nasca", "mexa") if place == "model.norm" else ("nasca",)
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, tiny_llama(), diverge, methods=methods)
    assert scored_steps(trainer) == [0, 2]
    assert told in caplog.text.partition("NonFiniteActivationError")[2].partition("\n")[0]  # training goes on with NaN
    assert caplog.text.count("the model's activations are NaN or infinite") == 2


class Wrapper(nn.Module):
    """As some tools put around a module to watch it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Constant(nn.Module):
    """An FFN that someone has taken out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def wrap_ffn(model: Any) -> None:
    model.model.layers[1].mlp = Wrapper(model.model.layers[1].mlp)


def take_ffn_out(model: Any) -> None:
    model.model.layers[1].mlp = Constant()


def test_an_ffn_that_cannot_be_read_any_more_is_a_warning_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, tiny_llama(), take_ffn_out)
    assert scored_steps(trainer) == [0, 2]
    assert caplog.text.count("UnreadableFFNError: model.layers.1 ") == 2


def swap_layers(model: Any) -> None:
    other = tiny_llama(seed=5)
    model.model.layers[0], model.model.layers[1] = other.model.layers[0], other.model.layers[1]


def wrap_layer_inside(model: Any) -> None:
    model.model.layers[1].mlp.gate_proj = Wrapper(model.model.layers[1].mlp.gate_proj)


def freeze(model: Any) -> None:
    model.model.layers.requires_grad_(False)


@pytest.mark.parametrize("change", [swap_layers, wrap_ffn, wrap_layer_inside, freeze])
def test_a_model_that_is_another_in_the_middle_is_scored_as_it_is(
    change: Callable[[Any], None], tmp_path: Path
) -> None:
    trainer = run(tmp_path, tiny_llama(), change)
    assert scored_steps(trainer) == [0, 2, 4, 6]
    report = NeuronXAEvaluator(ICELANDIC)(trainer.model, trainer.processing_class)
    assert score_lines(tmp_path)[-1]["score"] == report.score
    if change is freeze:
        assert not any(weight.requires_grad for weight in trainer.model.model.layers.parameters())


def test_hooks_of_others_stay_and_are_run(tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(model: Any) -> None:
        mlp = model.model.layers[1].mlp
        mlp.gate_proj.register_forward_hook(lambda module, args, output: seen.append(output.numel()))
        mlp.gate_proj.register_forward_hook(lambda module, args, output: output * 0.5)
        mlp.down_proj.register_forward_pre_hook(lambda module, args: None)

    trainer = run(tmp_path, tiny_llama(), watch)
    assert scored_steps(trainer) == [0, 2, 4, 6]
    assert len(hooks_of(trainer.model)) == 3
    assert seen


def test_a_tokenizer_without_a_pad_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=3, quality="chrf", tokenizer=without_pad())])
    trainer.train()
    assert scored_steps(trainer) == [0, 3, 6]
    padded = NeuronXAEvaluator(ICELANDIC)(trainer.model, tokenizer)
    assert score_lines(tmp_path)[-1]["score"] == padded.score


def without_pad() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    return tokenizer


@pytest.mark.parametrize("call", [5, 15])
def test_ctrl_c_in_an_evaluation_ends_the_run_and_leaves_no_hook(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_decoder, calls = Decoder.run, iter(range(1000))

    def interrupt(*arguments: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return run_decoder(*arguments)

    monkeypatch.setattr(Decoder, "run", interrupt)
    model = tiny_llama()
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2, token_budget=64)], model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not hooks_of(model)
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_ctrl_c_while_it_translates_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, calls = translation._generate, iter(range(1000))

    def interrupt(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return generate(*arguments)

    monkeypatch.setattr(translation, "_generate", interrupt)
    model = tiny_llama()
    generation = model.generation_config
    trainer = sft(tmp_path, [NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf")], model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert model.generation_config is generation
    assert not hooks_of(model)
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_evaluations_that_take_too_much_of_the_run_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, tiny_llama(), max_overhead=1e-6)
    assert caplog.text.count("more than max_overhead=1e-06. Evaluate every ") == 1
    assert all("eval_neuronxa_runtime" in entry for entry in trainer.state.log_history if "eval_nasca" in entry)


class TestFewCarriers:
    def test_a_language_pair_is_named_once_a_run(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A model of random weights does not align all 10 pairs."""
        with caplog.at_level(logging.WARNING):
            trainer = run(tmp_path, tiny_llama(), methods=("nasca", "mexa", "nasca_rank"))
        assert scored_steps(trainer) == [0, 2, 4, 6]
        few = [message for message in caplog.messages if "eng_Latn-isl_Latn (" in message]
        assert len(few) == 1
        surface = score_lines(tmp_path)[0]["languages"]["eng_Latn-isl_Latn"]["surface"]
        least = min(surface["carriers"].values())
        assert least < 10
        assert ("none of the" if least == 0 else f"comes from {least} of") in few[0]

    def test_scores_that_every_pair_carries_are_not_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            run(tmp_path, tiny_llama(), methods=("nasca_rank", "cka"))
        assert "eng_Latn-isl_Latn (" not in caplog.text
