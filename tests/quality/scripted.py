"""A tokenizer with a chat template, and Llamas of which it is known what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support import make_tokenizer, tiny_llama

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
    "<|user|>",
    "<|assistant|>",
)


def chat_tokenizer(template: Any, special: bool = True) -> PreTrainedTokenizerFast:
    """A base model's tokenizer whose end of sequence is </s>, with the tokens that chat templates write."""
    tokenizer = make_tokenizer()
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    else:
        tokenizer.add_tokens(list(MARKS))
    tokenizer.chat_template = template
    return tokenizer


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def follows(tokenizer: Any, next_token: Mapping[int, int]) -> LlamaForCausalLM:
    """A Llama that says a fixed token after each token: one-hot embeddings, layers that add nothing."""
    words = len(tokenizer)
    size = -(-words // 64) * 64
    model = tiny_llama(
        vocab_size=words, hidden_size=size, num_hidden_layers=1, intermediate_size=8, tie_word_embeddings=False
    )
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(words, size))
        model.lm_head.weight.zero_()
        for token, following in next_token.items():
            model.lm_head.weight[following, token] = 1
    return model


class Reciting(LlamaForCausalLM):
    """A Llama that answers any prompt with the same tokens, and says the last of them again and again."""

    answer: Sequence[int] = ()
    asked = 0  # tokens of the prompts

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **settings: Any) -> Any:
        known = past_key_values.get_seq_length()
        self.asked = self.asked if known else input_ids.shape[1]
        output = super().forward(input_ids=input_ids, past_key_values=past_key_values, **settings)
        said = min(known + input_ids.shape[1] - self.asked, len(self.answer) - 1)
        output.logits = torch.zeros_like(output.logits)
        output.logits[:, -1, self.answer[said]] = 1
        return output


def says(tokenizer: Any, answer: str) -> Reciting:
    """A base model that answers any prompt in the same way."""
    model = Reciting(tiny_llama(vocab_size=len(tokenizer)).config)
    model.answer = ids(tokenizer, answer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model
