"""YAML files of settings: what is read from them, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import settings
import translation_sft
from preflight import PreflightError
from trl import ModelConfig, SFTConfig

pytestmark = pytest.mark.recipe

TYPES = (translation_sft.RecipeArguments, SFTConfig, ModelConfig)


def parsed(folder: Path, content: str) -> tuple[Any, ...]:
    config = folder / "config.yaml"
    config.write_text(content, encoding="utf-8")
    return settings.parse(TYPES, ["--config", str(config), "--output_dir", str(folder), "--bf16", "false"])


def refusal(folder: Path, content: str) -> str:
    with pytest.raises(PreflightError) as raised:
        parsed(folder, content)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("learning_rat: 1\n", "config.yaml has the unknown key learning_rat; the nearest are learning_rate"),
        ("a: [\n", "config.yaml cannot be read as YAML"),
        ("just words\n", "config.yaml holds no settings"),
        ("learning_rate: fast\n", 'has learning_rate: "fast", which must be a number.'),
        ("max_steps: 1.5\n", "has max_steps: 1.5, which must be a whole number."),
        ("max_steps:\n", "has max_steps: null, which must be a whole number."),
        ("train_pairs: 1e6\n", 'has train_pairs: "1e6", which must be a whole number; write train_pairs: 1000000.'),
        ("train_pairs: 1.0e+6\n", "which must be a whole number; write train_pairs: 1000000."),
        ("held_out_pairs: true\n", "has held_out_pairs: true, which must be a whole number."),
        ("eval_strategy: no\n", 'must be text; put the word in quotes (such as eval_strategy: "no"), since YAML takes'),
        ("model_revision: 5\n", 'which must be text; put it in quotes, model_revision: "5".'),
        ("merge: 2\n", "has merge: 2, which must be true or false."),
        ("bf16: perhaps\n", 'has bf16: "perhaps", which must be true or false.'),
        ("lora_r: [8]\n", "has lora_r: [8], which must be a whole number."),
        ("lora_target_modules: 3\n", "has lora_target_modules: 3, which must be a list."),
        ("trackio_space_id: yes\n", 'put the word in quotes (such as trackio_space_id: "no")'),
        ("model_revision: 1.5\n", 'put it in quotes, model_revision: "1.5".'),
        ("chat_template_path: [a]\n", "which must be text."),
        ("lr_scheduler_kwargs: 3\n", 'which must be a mapping or text; put it in quotes, lr_scheduler_kwargs: "3".'),
        ("output_dir: 2026-01-01\n", 'has output_dir: "2026-01-01", which must be text.'),
        ("learning_rate: true\n", "which must be a number."),
        ("merge: 1\n", "has merge: 1, which must be true or false."),
        # Text of which the parser says it.
        ('merge: "on"\n', "argument --merge: Truthy value expected: got on but"),
        ('lora_r: "8.0"\n', "argument --lora_r/--lora-r: invalid int value: '8.0'."),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(tmp_path, content)


def test_a_configuration_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"none\.yaml does not exist"):
        settings.parse(TYPES, ["--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("content", "arguments", "target", "targets"),
    [
        ("target_lang: isl_Latn\n", [], "isl_Latn", None),
        ("target_lang: isl_Latn\n", ["--target_langs", "fra_Latn", "deu_Latn"], None, ["fra_Latn", "deu_Latn"]),
        ("target_langs: [fra_Latn]\n", ["--target-lang=isl_Latn"], "isl_Latn", None),
        ("", ["--target_langs", "fra_Latn", "--target_lang", "isl_Latn"], "isl_Latn", ["fra_Latn"]),
    ],
)
def test_the_command_line_names_the_targets_in_place_of_the_file(
    content: str, arguments: list[str], target: str | None, targets: list[str] | None, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(content + "seed: 1\n", encoding="utf-8")
    fixed = ["--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path), "--bf16", "false"]
    recipe, *_ = settings.parse(TYPES, [*fixed, *arguments])
    assert (recipe.target_lang, recipe.target_langs) == (target, targets)


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("learning_rate: 1\n", "learning_rate", 1),
        ("learning_rate: 1e-4\n", "learning_rate", 1e-4),  # text for YAML
        ('max_steps: "7"\n', "max_steps", 7),
        ('merge: "yes"\n', "merge", True),
        ("merge: no\n", "merge", False),
        ("train_pairs:\n", "train_pairs", None),
        ("lora_target_modules: all-linear\n", "lora_target_modules", "all-linear"),
        ("lora_target_modules: [q_proj, v_proj]\n", "lora_target_modules", ["q_proj", "v_proj"]),
        ("lr_scheduler_kwargs: {num_cycles: 2}\n", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("lr_scheduler_type: cosine\n", "lr_scheduler_type", "cosine"),
        ('eval_strategy: "no"\n', "eval_strategy", "no"),
    ],
)
def test_a_value_is_read_as_what_its_setting_takes(content: str, name: str, value: Any, tmp_path: Path) -> None:
    read = [getattr(part, name) for part in parsed(tmp_path, content) if hasattr(part, name)]
    assert read == [value]
