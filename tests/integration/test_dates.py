"""A chat template that writes today's date makes no other measurement of tomorrow's."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils
from typer.testing import CliRunner

from neuronxa_callback import NeuronXACallback
from neuronxa_callback.cli import app
from tests.support import ICELANDIC, StopAt, make_tokenizer, raw_lines, score_lines, sft

pytestmark = pytest.mark.trainer

DATED = (
    "{%- set date_string = strftime_now('%d %b %Y') %}Today Date: {{ date_string }}\n"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SAVING = {"save_strategy": "steps", "save_steps": 2}


def dated_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = DATED
    return tokenizer


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the day of March 2031 that transformers' chat templates read."""

    def set_day(day: int) -> None:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Clock:
                return cls(2031, 3, day, 23, 59)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        written = dated_tokenizer().apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        assert f"{day:02} Mar 2031" in written

    return set_day


def test_a_run_resumed_on_another_day_goes_on(
    today: Callable[[int], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def callback() -> NeuronXACallback:
        return NeuronXACallback(ICELANDIC, eval_steps=2, quality="chrf")

    today(1)
    sft(tmp_path, [callback(), StopAt(4)], tokenizer=dated_tokenizer(), **SAVING).train()
    today(2)
    with caplog.at_level(logging.WARNING):
        sft(tmp_path, [callback()], tokenizer=dated_tokenizer(), **SAVING).train(resume_from_checkpoint=True)
    assert "other pairs or options" not in caplog.text
    lines = score_lines(tmp_path)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert len({line["quality"][ICELANDIC.name]["signature"] for line in lines}) == 1


def test_a_sweep_goes_on_on_another_day(today: Callable[[int], None], tmp_path: Path) -> None:
    sft(tmp_path, [], tokenizer=dated_tokenizer(), **SAVING, max_steps=4).train()
    pairs = tmp_path / "pairs.tsv"
    rows = zip(ICELANDIC.source, ICELANDIC.target, strict=True)
    pairs.write_text("eng_Latn\tisl_Latn\n" + "".join(f"{source}\t{target}\n" for source, target in rows))
    command = ["sweep", str(tmp_path), "--pairs", str(pairs), "--quality", "chrf", "--device", "cpu"]
    scores = tmp_path / "neuronxa" / "scores.jsonl"

    today(1)
    assert CliRunner().invoke(app, command).exit_code == 0
    whole = raw_lines(scores)
    scores.write_text(scores.read_text().splitlines(keepends=True)[0])  # as if it had been interrupted
    today(2)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    again = raw_lines(scores)
    assert [line["quality"] for line in again] == [line["quality"] for line in whole]
