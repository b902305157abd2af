"""`recipes/transfer_xnli.py` on made-up examples in XNLI's layout: trained, tested, interrupted, refused."""

from __future__ import annotations

import csv
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import settings
import torch
import transfer_xnli
import xnli_labels
import xnli_results
from datasets import Dataset
from peft import PeftModel
from preflight import PreflightError
from scipy import stats
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import ModelConfig, SFTConfig
from xnli_data import LABELS, LANGUAGES, TAGS, Example

from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.model.state import TokenBudget
from neuronxa_callback.signature import Signature
from neuronxa_callback.survey.results import read_results
from tests.support import make_tokenizer, raw_lines, tiny_llama

pytestmark = pytest.mark.recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "transfer_xnli.py"
CONFIG = RECIPE.parent / "configs" / "xnli-smoke.yaml"
WORDS = ("red", "blue", "green", "old", "new", "wet")


def examples(tag: str, count: int) -> list[dict[str, Any]]:
    """Examples whose label follows from the hypothesis alone: the same, another word, or a denial."""
    rows = []
    for number in range(count):
        word, label = WORDS[number % len(WORDS)], number % 3
        said = (f"It is {word}.", f"It is tall number {number}.", f"It is not {word}.")[label]
        rows.append({"premise": f"{tag}: the {word} car {number} is {word}.", "hypothesis": said, "label": label})
    return rows


def write(folder: Path, tag: str, split: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / tag).mkdir(parents=True, exist_ok=True)
    half = (len(rows) + 1) // 2  # in two files, as large splits are
    for part, some in enumerate((rows[:half], rows[half:])):
        if some:
            Dataset.from_list(list(some)).to_parquet(str(folder / tag / f"{split}-0000{part}-of-00002.parquet"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("xnli") / "tiny"
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def xnli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data") / "xnli"
    write(folder, "en", "train", examples("en", 48))
    for tag in TAGS:
        write(folder, tag, "test", examples(tag, 12))
    return folder


@pytest.fixture
def run(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the recipe as its command line would, in this process."""

    def run(xnli: Path, output_dir: Path, *more: Any) -> None:
        given = ["--model_name_or_path", model, "--xnli", xnli, "--output_dir", output_dir, *more]
        monkeypatch.setattr(sys, "argv", [str(RECIPE), "--config", str(CONFIG), *map(str, given)])
        runpy.run_path(str(RECIPE), run_name="__main__")

    return run


def refusal(run: Callable[..., None], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def lines(output_dir: Path) -> list[dict[str, Any]]:
    return raw_lines(output_dir / "xnli.jsonl")


# ---------------------------------------------------------------------------------------------- a run


def plain_probabilities(model: Any, tokenizer: Any, example: dict[str, Any]) -> list[float]:
    """One prompt at a time: the probability of each label's first token where the model begins its answer."""
    prompt = f"{xnli_labels.PROMPT.format(**example)}Answer:"
    ids = tokenizer(prompt)["input_ids"]
    first = [tokenizer(f"{prompt} {label}")["input_ids"][len(ids)] for label in LABELS]
    with torch.no_grad():
        likely = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
    return [float(likely[token]) for token in first]


def test_a_run_ends_with_its_table(
    model: Path, xnli: Path, tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run(xnli, tmp_path / "run", "--load_in_4bit", "false")
    found = {line["lang"]: line for line in lines(tmp_path / "run")}
    assert list(found) == list(LANGUAGES)
    assert len(found) == 15
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "run").eval()
    for code in ("eng_Latn", "swh_Latn"):
        rows = examples(LANGUAGES[code], 12)
        likely = np.array([plain_probabilities(trained, make_tokenizer(), row) for row in rows])
        confusion = [[0] * 3 for _ in LABELS]
        for row, its in zip(rows, likely, strict=True):
            confusion[row["label"]][int(its.argmax())] += 1
        assert found[code]["confusion"] == confusion
        right = sum(confusion[label][label] for label in range(3))
        assert found[code]["accuracy"] == right / 12
        wilson = stats.binomtest(right, 12).proportion_ci(method="wilson")
        assert found[code]["ci"] == pytest.approx([wilson.low, wilson.high])
        assert found[code]["mass"] == pytest.approx(likely.sum(axis=1).mean(), rel=1e-4)
    with (tmp_path / "run" / "xnli.csv").open(encoding="utf-8") as file:
        assert [row["lang"] for row in csv.DictReader(file)] == list(LANGUAGES)
    read = read_results(tmp_path / "run" / "xnli.csv")
    assert {(r.model, r.task, r.lang): r.value for r in read} == {
        ("", "xnli", code): line["accuracy"] for code, line in found.items()
    }
    printed = capsys.readouterr()
    assert "48 English examples to train on; 12 to test in each of 15 languages" in printed.err
    assert "The mean of the 14 languages that were not trained on is" in printed.out
    # The same command neither trains nor tests again.
    files = {path: path.read_bytes() for path in (tmp_path / "run").glob("xnli.*")}
    run(xnli, tmp_path / "run", "--load_in_4bit", "false")
    assert {path: path.read_bytes() for path in files} == files


def test_4_bit_weights_learn_the_labels(xnli: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    """After training the model answers with labels, which it does not before."""
    run(xnli, tmp_path / "run", "--max_steps", 60, "--learning_rate", 0.01, "--test_langs", "eng_Latn", "deu_Latn")
    english, german = lines(tmp_path / "run")
    assert (english["lang"], german["lang"]) == ("eng_Latn", "deu_Latn")
    assert english["mass"] > 0.9
    weights = (tmp_path / "run" / "adapter_model.safetensors").stat().st_size
    assert weights < 2_000_000


def test_a_run_goes_on_after_a_kill(
    xnli: Path, tmp_path: Path, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--load_in_4bit", "false", "--test_langs", "eng_Latn", "fra_Latn", "swh_Latn")
    run(xnli, tmp_path / "unbroken", *more)

    class Killed(BaseException):
        pass

    class Kill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                raise Killed

    with monkeypatch.context() as patch:
        init = sys.modules["trl"].SFTTrainer.__init__
        patch.setattr("trl.SFTTrainer.__init__", lambda self, **given: init(self, callbacks=[Kill()], **given))
        with pytest.raises(Killed):
            run(xnli, tmp_path / "run", *more)
    assert not (tmp_path / "run" / "xnli.jsonl").exists()
    run(xnli, tmp_path / "run", *more)
    names = ("adapter_model.safetensors", "xnli.jsonl", "xnli.csv", "xnli.md")
    assert all((tmp_path / "run" / n).read_bytes() == (tmp_path / "unbroken" / n).read_bytes() for n in names)
    # Killed in the middle of the test, it tests what is left.
    path = tmp_path / "run" / "xnli.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(whole[0] + whole[1][:30])
    run(xnli, tmp_path / "run", *more)
    assert path.read_bytes() == b"".join(whole)


def test_other_settings_are_another_run(xnli: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    more = ("--test_langs", "eng_Latn", "--test_examples", 3)
    run(xnli, tmp_path / "run", *more)
    said = refusal(run, xnli, tmp_path / "run", *more, "--train_examples", 40)
    assert "holds a run with other settings (train_pairs was 48 and is now 40" in said
    # The test may grow.
    run(xnli, tmp_path / "run", "--test_langs", "eng_Latn", "deu_Latn", "--test_examples", 6)
    assert [(line["lang"], np.sum(line["confusion"])) for line in lines(tmp_path / "run")] == [
        ("eng_Latn", 3),
        ("eng_Latn", 6),
        ("deu_Latn", 6),
    ]


def test_a_dry_run_trains_nothing(xnli: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    run(xnli, tmp_path / "run", "--dry_run", "--train_examples", 5)
    assert not (tmp_path / "run" / "settings.json").exists()


# ---------------------------------------------------------------------------------------------- its parts


@pytest.mark.parametrize("tokens", [1, 100, 5000])
def test_probabilities_depend_on_no_batch(tokens: int) -> None:
    model, tokenizer = tiny_llama(), make_tokenizer()
    rows = examples("en", 9)
    answers = xnli_labels.answers_of(tokenizer)
    made = [Example(row["premise"] * (1 + number % 4), row["hypothesis"], 0) for number, row in enumerate(rows)]
    prompts = [xnli_labels.prompt_ids(example, tokenizer, answers) for example in made]
    decoder = Decoder.find(model, tokenizer)
    with decoder.evaluation_mode():
        found = xnli_labels.label_probabilities(decoder, prompts, answers, TokenBudget(tokens))
    plain = [plain_probabilities(model, tokenizer, example._asdict()) for example in made]
    assert found == pytest.approx(np.array(plain), rel=1e-4)


def test_the_loss_is_on_the_answer_alone() -> None:
    tokenizer = make_tokenizer()
    answers = xnli_labels.answers_of(tokenizer)
    example = Example("A dog sleeps.", "An animal sleeps.", 2)
    row = xnli_labels.training_row(example, tokenizer, answers)
    learnt = [token for token, mask in zip(row["input_ids"], row["completion_mask"], strict=True) if mask]
    assert tokenizer.decode(learnt) == " contradiction</s>"
    assert row["input_ids"][: -len(learnt)] == xnli_labels.prompt_ids(example, tokenizer, answers)
    whole = tokenizer(f"{xnli_labels.PROMPT.format(**example._asdict())}Answer: contradiction")["input_ids"]
    assert row["input_ids"][:-1] == whole


def test_labels_that_begin_alike_are_refused() -> None:
    class Bytes:
        """As a tokenizer that writes every letter as one token, and a space before a word as another."""

        eos_token_id = None

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": list(text.encode())}

    with pytest.raises(PreflightError, match="begins two of entailment, neutral, contradiction with one token"):
        xnli_labels.answers_of(Bytes())


def test_a_line_by_hand() -> None:
    made = [Example("a", "b", label) for label in (0, 1, 2, 2)]
    likely = np.array([[0.5, 0.1, 0.1], [0.2, 0.1, 0.1], [0.0, 0.1, 0.3], [0.3, 0.1, 0.0]])
    line = xnli_results.line_of("deu_Latn", made, likely, Signature())
    assert line.confusion == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert (line.accuracy, line.n) == (0.5, 4)
    assert line.mass == pytest.approx(1.9 / 4)


# ---------------------------------------------------------------------------------------------- refusals


def changed(xnli: Path, folder: Path, tag: str, split: str, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """A copy of the data with one language's split changed."""
    write(folder, "en", "train", examples("en", 48))
    for other in ("en", "de"):
        write(folder, other, "test", examples(other, 12))
    rows = examples(tag, 48 if split == "train" else 12)
    rows = change(rows) or rows
    for path in (folder / tag).glob(f"{split}*"):
        path.unlink()
    write(folder, tag, split, rows)
    return folder


@pytest.mark.parametrize(
    ("tag", "split", "change", "said"),
    [
        ("de", "test", lambda rows: rows[:-1], "xnli/en has 12 test rows and "),
        ("de", "test", lambda rows: rows[1].update(label=0), "test row 2 has the label 1 in "),
        (
            "de",
            "test",
            lambda rows: rows[7].update(label=3),
            "xnli/de, split test, row 8, has the label 3, which",
        ),
        ("de", "test", lambda rows: rows[7].update(premise=" "), "xnli/de, split test, row 8, has no text in premise"),
        (
            "en",
            "train",
            lambda rows: rows[2].update(label=None),
            "split train, row 3, has the label None, which",
        ),
        (
            "en",
            "train",
            lambda rows: [r | {"label": 0.5} for r in rows],
            "which is none of 0 (entailment)",
        ),
        ("en", "train", lambda rows: [{"premise": "a", "label": 0}], "split train, has no column hypothesis among"),
    ],
)
def test_bad_data(
    xnli: Path, tmp_path: Path, run: Callable[..., None], tag: str, split: str, change: Any, said: str
) -> None:
    folder = changed(xnli, tmp_path / "xnli", tag, split, change)
    assert said in refusal(run, folder, tmp_path / "run", "--test_langs", "eng_Latn", "deu_Latn")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--test_langs", "isl_Latn"), "XNLI has no isl_Latn; it has arb_Arab, bul_Cyrl"),
        (("--max_length", "20"), "every training example is longer than --max_length 20; raise it"),
        (("--train_examples", "0"), "--train_examples 0 are too few"),
        (("--use_peft", "false"), "--use_peft must be given"),
    ],
)
def test_bad_settings(xnli: Path, tmp_path: Path, run: Callable[..., None], more: Sequence[str], said: str) -> None:
    assert said in refusal(run, xnli, tmp_path / "run", *more)


def test_data_that_is_not_there(tmp_path: Path, run: Callable[..., None]) -> None:
    said = refusal(run, tmp_path, tmp_path / "run")
    assert f"{tmp_path}/en has no train*.parquet; give --xnli a folder with en/train-*.parquet" in said
    assert "owner/none/en cannot be read" in refusal(run, Path("owner/none"), tmp_path / "run")


def test_long_examples(
    xnli: Path, tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"premise": "word " * 300, "hypothesis": "It is long.", "label": 0}
    folder = changed(xnli, tmp_path / "xnli", "en", "train", lambda rows: [long, *rows[:9]])
    run(folder, tmp_path / "run", "--dry_run", "--test_langs", "eng_Latn")
    assert "9 English examples to train on, 1 longer than --max_length left out" in capsys.readouterr().err
    longer = long | {"premise": "word " * 600}
    folder = changed(xnli, tmp_path / "other", "de", "test", lambda rows: [*rows[:6], longer, *rows[7:]])
    said = refusal(run, folder, tmp_path / "run", "--test_langs", "eng_Latn", "deu_Latn")
    assert "test row 7 has " in said
    assert "tokens in deu_Latn, more than the model's context of 512; take a model with a longer one" in said


def test_a_launcher_is_refused(
    xnli: Path, tmp_path: Path, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    assert "transfer_xnli.py runs in one process; start it with python." in refusal(run, xnli, tmp_path / "run")


def test_the_configuration_of_a_large_model_holds_known_settings() -> None:
    config = RECIPE.parent / "configs" / "xnli-llama-3.1-8b.yaml"
    recipe, args, _ = settings.parse(
        (transfer_xnli.XnliArguments, SFTConfig, ModelConfig), ["--config", str(config), "--bf16", "false"]
    )
    assert (recipe.xnli, recipe.train_examples, args.max_length) == ("facebook/xnli", None, 256)
