"""Translations against a slow greedy loop, how they end, and that nothing of the model or tokenizer is changed."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from neuronxa_callback import ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.quality import translation
from neuronxa_callback.quality.prompts import CHAT_PROMPT, PLAIN_PROMPT, prompt_ids
from neuronxa_callback.quality.translation import Translations, translate
from tests.quality.scripted import follows
from tests.support import hooks_of, make_tokenizer, tiny_llama

ICELANDIC = ParallelPairs.load("eng_Latn-isl_Latn", n=8)
PAIR = ("eng_Latn", "isl_Latn")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def slowly(model: Any, tokenizer: Any, prompts: Sequence[list[int]], sources: Sequence[str]) -> list[str]:
    """Greedy search token by token, one sentence at a time, no cache, no padding, as anybody would write it."""
    texts = []
    for prompt, source in zip(prompts, sources, strict=True):
        limit = 4 * len(tokenizer(source, add_special_tokens=False)["input_ids"]) + 16
        made: list[int] = []
        while len(made) < limit and "\n" not in tokenizer.decode(made):
            with torch.no_grad():
                token = int(model(torch.tensor([prompt + made]), use_cache=False).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            made.append(token)
        texts.append(tokenizer.decode(made, skip_special_tokens=True).split("\n")[0].strip())
    return texts


class TestAgainstTheReference:
    @pytest.mark.parametrize("budget", [1, 60, 10_000])
    def test_every_batch_shape_gives_the_same(self, budget: int, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_llama().double()
        made = translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR, token_budget=budget)
        prompts = prompt_ids(tokenizer, ICELANDIC.source, *PAIR)
        assert list(made.texts) == slowly(model.eval(), tokenizer, prompts, ICELANDIC.source)
        assert len(set(made.texts)) > 5

    def test_on_the_real_model(self, smollm: Any, smollm_tokenizer: Any) -> None:
        for prompt, n in ((None, 1), (PLAIN_PROMPT, 3)):  # the loop takes its time
            sources = sorted(ICELANDIC.source, key=len)[:n]
            made = translate(Decoder.find(smollm, smollm_tokenizer), sources, "eng_Latn", "fra_Latn", prompt)
            prompts = prompt_ids(smollm_tokenizer, sources, "eng_Latn", "fra_Latn", prompt)
            assert list(made.texts) == slowly(smollm, smollm_tokenizer, prompts, sources)
            assert all(made.texts)

    def test_the_order_of_the_sentences_changes_nothing(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_llama()
        forward = translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR).texts
        assert translate(Decoder.find(model, tokenizer), ICELANDIC.source[::-1], *PAIR).texts == forward[::-1]

    def test_4bit_with_an_adapter(self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
        tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=nf4, dtype=torch.float32)
        plain = translate(Decoder.find(base, tokenizer), ICELANDIC.source, *PAIR).texts
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        with_adapter = translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR).texts
        assert with_adapter != plain
        prompts = prompt_ids(tokenizer, ICELANDIC.source, *PAIR)
        with Decoder.find(model, tokenizer).evaluation_mode():
            assert list(with_adapter) == slowly(model, tokenizer, prompts, ICELANDIC.source)


def test_how_translations_end(tokenizer: PreTrainedTokenizerFast) -> None:
    """At the end token, before they begin, at the limit, at a newline. A newline that comes first ends nothing."""
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in "abcdexyzq\n"}
    end = tokenizer.eos_token_id
    chain = {"a": "x", "x": end, "b": end, "c": "y", "y": "y", "d": "z", "z": "\n", "\n": "q", "e": "\n", "q": "q"}
    model = follows(tokenizer, {ids[k]: v if v is end else ids[str(v)] for k, v in chain.items()})
    for budget in (1, 1000):
        made = translate(Decoder.find(model, tokenizer), list("abcde"), *PAIR, prompt="{source}", token_budget=budget)
        assert made == Translations(("x", "", "y" * 20, "z", "q" * 19), empty=1, truncated=2)


def test_the_limit_is_each_sentences_own(tokenizer: PreTrainedTokenizerFast) -> None:
    letter = tokenizer("y", add_special_tokens=False)["input_ids"][0]
    model = follows(tokenizer, {letter: letter})
    made = translate(Decoder.find(model, tokenizer), ["y", "yyyyy"], *PAIR, prompt="{source}")
    longer = len(tokenizer("yyyyy", add_special_tokens=False)["input_ids"])
    assert [len(text) for text in made.texts] == [4 + 16, 4 * longer + 16]
    assert made.truncated == 2


class TestPrompts:
    def texts(self, tokenizer: Any, prompt: Any = None) -> str:
        (ids,) = prompt_ids(tokenizer, ["A {curly} fox."], *PAIR, prompt)
        return str(tokenizer.decode(ids))

    def test_plain_without_a_chat_template(self, tokenizer: PreTrainedTokenizerFast) -> None:
        assert self.texts(tokenizer) == "<s>English: A {curly} fox.\nIcelandic:"

    def test_the_chat_template_where_there_is_one(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE
        content = CHAT_PROMPT.format(source="A {curly} fox.", source_language="English", target_language="Icelandic")
        assert self.texts(tokenizer) == f"<s>[user]{content}[assistant]"  # one BOS, not two

    def test_a_template_is_taken_as_it_is(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE
        template = "{source_lang}>{target_lang} {source_language} {{}} {source} ="
        assert self.texts(tokenizer, template) == "<s>eng_Latn>isl_Latn English {} A {curly} fox. ="

    def test_a_function_may_give_text_or_messages(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE
        assert self.texts(tokenizer, lambda source, source_lang, target_lang: f"{source}|{target_lang}") == (
            "<s>A {curly} fox.|isl_Latn"
        )
        messages = lambda source, source_lang, target_lang: [{"role": "system", "content": source}]  # noqa: E731
        assert self.texts(tokenizer, messages) == "<s>[system]A {curly} fox.[assistant]"

    def test_an_end_token_of_the_tokenizers_is_left_out(self) -> None:
        tokenizer = make_tokenizer(bos=False)
        from tokenizers import processors

        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
        assert tokenizer("A")["input_ids"][-1] == tokenizer.eos_token_id
        assert self.texts(tokenizer, "{source}:") == "A {curly} fox.:"

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ("Translate:", "has no {source}, where the sentence would go"),
            ("{source} {langauge}", "has the unknown field {langauge}; use {source}"),
            ("{source} {", "cannot be read .*; write a literal brace twice"),
            (lambda *_: None, "the prompt function returned None for"),
            (
                lambda *_: ["Translate."],
                r"the prompt function returned \['Translate.'\] for .*; return a text or a list",
            ),
        ],
    )
    def test_what_cannot_be_used(self, prompt: Any, message: str, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(ValueError, match=message):
            prompt_ids(tokenizer, ICELANDIC.source, *PAIR, prompt)

    def test_no_room_in_the_context(self, tokenizer: PreTrainedTokenizerFast) -> None:
        model = tiny_llama(max_position_embeddings=20)
        with pytest.raises(ValueError, match="of a context of 20; the model has nothing to go on from or no room"):
            translation.check(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR)

    def test_signatures_tell_prompts_apart(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """By what the model is given, and so also closures and chat templates."""

        def ending_in(sign: str) -> Any:
            return lambda source, source_lang, target_lang: source + sign

        chat, other_chat = make_tokenizer(), make_tokenizer()
        chat.chat_template, other_chat.chat_template = CHAT_TEMPLATE, CHAT_TEMPLATE.replace("[", "<")
        model = tiny_llama()
        signatures = [
            str(translation.signature(Decoder.find(model, given[0]), *given[1:]))
            for given in (
                (tokenizer, ICELANDIC.source, *PAIR),
                (tokenizer, ICELANDIC.source, "eng_Latn", "fra_Latn"),
                (chat, ICELANDIC.source, *PAIR),
                (other_chat, ICELANDIC.source, *PAIR),
                (tokenizer, ICELANDIC.source, *PAIR, "{source}="),
                (tokenizer, ICELANDIC.source, *PAIR, ending_in(">")),
                (tokenizer, ICELANDIC.source, *PAIR, ending_in(":")),
            )
        ]
        assert len(set(signatures)) == 7
        assert re.fullmatch(r"prompt:plain-[0-9a-f]{8}\|decode:greedy\|limit:4x\+16", signatures[0])
        assert signatures[2].startswith("prompt:chat-")
        assert signatures[4].startswith("prompt:own-")
        same = translation.signature(
            Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR, lambda source, *_: f"{source}="
        )
        assert str(same) == signatures[4]

    @pytest.mark.parametrize(("template", "prompt"), [(None, "plain-b1c785cf"), (CHAT_TEMPLATE, "chat-3a9c9da2")])
    def test_signatures_are_those_of_earlier_versions(self, template: str | None, prompt: str) -> None:
        """Runs that earlier versions began go on."""
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        french = ParallelPairs.load("eng_Latn-fra_Latn", n=12)
        signature = translation.signature(Decoder.find(tiny_llama(), tokenizer), french.source, "eng_Latn", "fra_Latn")
        assert str(signature) == f"prompt:{prompt}|decode:greedy|limit:4x+16"

    def test_a_text_that_begins_with_bos_gets_no_second_one(self, tokenizer: PreTrainedTokenizerFast) -> None:
        assert self.texts(tokenizer, "<s>{source}:") == "<s>A {curly} fox.:"


class TestNothingIsChanged:
    def test_mode_configuration_random_state_and_tokenizer(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.padding_side = "right"
        model = get_peft_model(
            tiny_llama(attention_dropout=0.5), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5)
        )
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
        base = model.get_base_model()
        base.config.use_cache = False
        base.generation_config.do_sample, base.generation_config.temperature = True, 0.5
        base.model.layers[1].eval()
        before = (
            [module.training for module in model.modules()],
            copy.deepcopy(base.generation_config.to_dict()),
            copy.deepcopy(base.config.to_dict()),
            hooks_of(model),
            torch.get_rng_state().tolist(),
            dict(vars(tokenizer)).keys(),
            tokenizer.padding_side,
            [parameter.requires_grad for parameter in model.parameters()],
        )
        own = base.generation_config, model.generation_config
        translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR)
        after = (
            [module.training for module in model.modules()],
            base.generation_config.to_dict(),
            base.config.to_dict(),
            hooks_of(model),
            torch.get_rng_state().tolist(),
            dict(vars(tokenizer)).keys(),
            tokenizer.padding_side,
            [parameter.requires_grad for parameter in model.parameters()],
        )
        assert after == before
        assert (base.generation_config, model.generation_config) == own
        assert base.is_gradient_checkpointing

    def test_a_call_that_truncates_and_pads_gives_the_same_before_and_after(
        self, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Its truncation and padding are the last call's, and ours leaves them off."""
        options: dict[str, Any] = {"truncation": True, "max_length": 5, "padding": "max_length"}
        before = tokenizer("A fox.", **options)["input_ids"]
        assert tokenizer.backend_tokenizer.truncation["max_length"] == 5
        translate(Decoder.find(tiny_llama(), tokenizer), ICELANDIC.source[:2], *PAIR)
        assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == (None, None)
        assert tokenizer("A fox.", **options)["input_ids"] == before

    def test_also_when_it_fails(self, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny_llama().train()
        own = model.generation_config
        monkeypatch.setattr(model.lm_head, "forward", lambda hidden: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR)
        assert model.generation_config is own
        assert model.training

    def test_the_checkpoints_own_generation_settings_do_not_count(
        self, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = tiny_llama()
        plain = translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR)
        settings = model.generation_config
        settings.do_sample, settings.temperature, settings.top_k, settings.repetition_penalty = True, 9.0, 3, 5.0
        settings.min_new_tokens, settings.max_length = 60, 70
        hf_logging.enable_propagation()
        assert translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR) == plain
        hf_logging.disable_propagation()
        assert not caplog.records  # no warning about flags that are not used

    def test_end_tokens_of_the_checkpoint_count(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Llama 3 Instruct ends its turns with another token than its tokenizer's."""
        letter = tokenizer("y", add_special_tokens=False)["input_ids"][0]
        model = follows(tokenizer, {letter: letter})
        model.generation_config.eos_token_id = [1, letter]
        assert translate(Decoder.find(model, tokenizer), ["y"], *PAIR, prompt="{source}") == Translations(("",), 1, 0)

    def test_a_tokenizer_without_a_pad_token(self) -> None:
        tokenizer, model = make_tokenizer(), tiny_llama()
        expected = translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR)
        tokenizer.pad_token = None
        assert translate(Decoder.find(model, tokenizer), ICELANDIC.source, *PAIR) == expected
        assert tokenizer.pad_token is None
