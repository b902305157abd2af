"""The prompt of XNLI, its three answers as tokens, and the label that a model gives: that of its first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from preflight import PreflightError
from torch import Tensor
from xnli_data import LABELS, Example

from neuronxa_callback.alignment.batches import batches
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget

# English in every language, as in zero-shot transfer: the model has seen this prompt in training.
PROMPT = (
    "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis (entailment), contradict it "
    "(contradiction), or neither (neutral)?\n"
)
ASKING = "Answer:"
CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 8192  # padded tokens of a batch


@dataclass(frozen=True)
class Answers:
    """The tokens of the answers, which follow the prompt's.

    Attributes:
        asking: the tokens that end every prompt.
        tokens: of each label its tokens. Their first ones differ.
        end: the tokens behind an answer in training.
    """

    asking: list[int]
    tokens: list[list[int]]
    end: list[int]

    @property
    def first(self) -> list[int]:
        """The token of each label by which it is told from the others."""
        return [ids[0] for ids in self.tokens]


def answers_of(tokenizer: Any) -> Answers:
    """Return the answers' tokens, as the tokenizer makes them behind the prompt.

    Raises:
        PreflightError: the tokenizer joins the prompt's end with an answer, or the answers begin with one token.
    """
    asking = _ids(tokenizer, ASKING)
    whole = [_ids(tokenizer, f"{ASKING} {label}") for label in LABELS]
    tokens = [ids[len(asking) :] for ids in whole]
    if any(ids[: len(asking)] != asking or not its for ids, its in zip(whole, tokens, strict=True)):
        raise PreflightError(f"The tokenizer makes no separate tokens of {ASKING!r} and its answer; use another model.")
    if len({ids[0] for ids in tokens}) < len(LABELS):
        raise PreflightError(
            f"The tokenizer begins two of {', '.join(LABELS)} with one token, and the first token is what tells them "
            "apart; use another model."
        )
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return Answers(asking, tokens, end)


def prompt_ids(example: Example, tokenizer: Any, answers: Answers) -> list[int]:
    """Return the tokens of a prompt, up to where the model answers. Training and test use the same ones."""
    text = PROMPT.format(premise=example.premise, hypothesis=example.hypothesis)
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
        ids.pop()
    return ids + answers.asking


def training_row(example: Example, tokenizer: Any, answers: Answers) -> dict[str, list[int]]:
    """Return an example as SFTTrainer takes it, with the loss on the answer alone."""
    prompt = prompt_ids(example, tokenizer, answers)
    answer = answers.tokens[example.label] + answers.end
    return {"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)}


def label_probabilities(
    decoder: Decoder, prompts: Sequence[Sequence[int]], answers: Answers, budget: TokenBudget | None = None
) -> NDArray[np.float64]:
    """Return the probability of each label's first token behind each prompt, among all tokens.

    Prompts are padded on the right, where a causal model does not see it. Logits are computed at the prompts' last
    tokens alone.

    Args:
        decoder: the model, in evaluation mode.
        prompts: the token ids of each prompt.
        answers: the labels' tokens.
        budget: the padded tokens of a batch, 1,024 on a CPU and 8,192 elsewhere. It is halved when memory runs out.

    Returns:
        (prompts, labels).

    Raises:
        PreflightError: the model returns numbers that are not finite.
    """

    def run(tokens: int) -> NDArray[np.float64]:
        found = np.zeros((len(prompts), len(LABELS)))
        for batch in batches(prompts, tokens, None):
            found[batch] = _of_batch(decoder, [prompts[row] for row in batch], answers).cpu().numpy()
        return found

    default = decoder.budget(CPU_TOKENS, ACCELERATOR_TOKENS)
    found = (budget or TokenBudget()).fit(run, lambda: max(map(len, prompts)), default)
    if not np.isfinite(found).all():
        raise PreflightError("The model's probabilities are not finite; lower --learning_rate, or train in bf16.")
    return found


def _of_batch(decoder: Decoder, prompts: Sequence[Sequence[int]], answers: Answers) -> Tensor:
    model: Any = decoder.base
    last = torch.tensor([len(ids) - 1 for ids in prompts], device=decoder.device)
    kept, place = last.unique(return_inverse=True)
    logits = model(**decoder.inputs(prompts), use_cache=False, logits_to_keep=kept).logits
    rows = torch.arange(len(prompts), device=decoder.device)
    likely: Tensor = logits[rows, place].float().softmax(dim=-1)
    return likely[:, answers.first].double()


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
