"""`benchmarks/table3` on a tiny model and made-up languages in the layouts of BMLAMA-53 and NTREX-128."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.table3 import data, measure, recorded
from benchmarks.table3.records import SETTINGS, Setting, TextLine
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.files import read_records
from neuronxa_callback.survey.knowledge.prompts import open_prompts
from neuronxa_callback.text.embedded import embedded
from tests.support import make_tokenizer, raw_lines, tiny_llama

# The tags of BMLAMA-53's files and of NTREX-128's. Russian is in the second text alone, Latin in the first.
BMLAMA = ("en", "de", "fr", "it", "cs", "da", "es", "is", "nl", "pl", "pt", "sv", "la")
NTREX = ("eng", "deu", "fra", "ita", "ces", "dan", "spa", "isl", "nld", "pol", "por", "swe", "rus")
SHARED = [f"{tag}_Latn" for tag in NTREX[:-1]]
FACTS, LINES = 10, 42
EMPTY, REPEATED = 4, 9  # lines of one language, from 1


def ciphered(sentence: str, place: int) -> str:
    """The sentence in a made-up language, which shares more words with English the smaller its place is."""
    words = [
        word if number % len(NTREX) >= place else "".join(chr((ord(letter) + place) % 26 + 97) for letter in word)
        for number, word in enumerate(sentence.split())
    ]
    return " ".join(words)


def write_ntrex(folder: Path) -> None:
    folder.mkdir()
    english = embedded("heldout.tsv")["eng_Latn"]
    for place, tag in enumerate(NTREX):
        lines = [ciphered(sentence, place) for sentence in english[:LINES]]
        if tag == "isl":
            lines[EMPTY - 1] = ""
        if tag == "pol":
            lines[REPEATED - 1] = lines[0]
        side = {"eng": "src", "spa": "ref-2"}.get(tag, "ref")
        (folder / f"newstest2019-{side}.{tag}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_bmlama(folder: Path) -> None:
    folder.mkdir()
    english = [sentence.rstrip(".").split() for sentence in embedded("heldout.tsv")["eng_Latn"]]
    for place, tag in enumerate(BMLAMA):
        rows = ["Prompt\tAns\tCandidate Ans\tSubject"]
        for number in range(FACTS):
            candidates = [ciphered(english[other][-1], place) for other in range(number, number + 4)]
            prompt = ciphered(" ".join(english[number][:-1]), place)
            rows.append(f"{prompt} <mask>.\t{candidates[number % 3]}\t{', '.join(candidates)}\tx")
        (folder / f"{tag}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("table3")
    tiny_llama(max_position_embeddings=2048).save_pretrained(folder / "tiny")
    make_tokenizer().save_pretrained(folder / "tiny")
    write_bmlama(folder / "BMLAMA53")
    write_ntrex(folder / "ntrex")
    run_measure(folder, folder / "results" / "tiny")
    return folder


def run_measure(places: Path, output: Path) -> None:
    with Progress(disable=True) as progress:
        measure.measure(
            places / "tiny", open_prompts(str(places / "BMLAMA53")), places / "ntrex", FACTS, output, progress
        )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


# ---------------------------------------------------------------------------------------------- what is measured


def test_the_sentences_are_the_same_in_every_language(places: Path) -> None:
    text = data.shared_text(places / "ntrex", open_prompts(str(places / "BMLAMA53")).languages)
    assert sorted(text.sentences) == sorted(SHARED)
    assert text.left_out == (EMPTY, REPEATED)
    kept = [place for place in range(LINES) if place + 1 not in text.left_out]
    english = embedded("heldout.tsv")["eng_Latn"]
    for place, tag in enumerate(NTREX[:-1]):
        assert text.sentences[f"{tag}_Latn"] == tuple(ciphered(english[line], place) for line in kept)


def test_every_language_has_its_lines(places: Path) -> None:
    found = recorded.read(places / "results" / "tiny")
    assert sorted([*found.languages, "eng_Latn"]) == sorted(SHARED)
    assert found.prompts == FACTS
    assert found.text.keys() == set(SHARED)
    assert found.alignment.keys() == {(lang, its) for lang in SHARED for its in SETTINGS if lang != its.pivot}


def test_tokens_and_loss_are_those_of_a_plain_loop(places: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(places / "tiny").eval()
    tokenizer = AutoTokenizer.from_pretrained(places / "tiny")
    text = data.shared_text(places / "ntrex", SHARED)
    for line in read_records(places / "results" / "tiny" / "text.jsonl", TextLine):
        sentences = text.sentences[line.lang]
        loss, predicted = 0.0, 0
        for sentence in sentences:
            ids = torch.tensor([tokenizer(sentence)["input_ids"]])
            with torch.no_grad():
                logits = model(ids).logits[0, :-1].double()
            loss -= logits.log_softmax(dim=-1)[range(ids.shape[1] - 1), ids[0, 1:]].sum().item()
            predicted += ids.shape[1] - 1
        tokens = sum(len(tokenizer(sentence, add_special_tokens=False)["input_ids"]) for sentence in sentences)
        assert line.loss == pytest.approx(loss, rel=1e-5)
        assert (line.sentences, line.tokens, line.predicted) == (len(sentences), tokens, predicted)
        assert line.tokens_per_character == tokens / sum(map(len, sentences))
        assert line.loss_per_token == line.loss / predicted
        assert line.loss_per_sentence == line.loss / len(sentences)


@pytest.mark.parametrize(
    "setting", [SETTINGS[0], Setting("weighted", "deu_Latn", 100), Setting("average", "eng_Latn", 100)]
)
def test_the_scores_are_those_of_the_evaluator(places: Path, setting: Setting) -> None:
    model = AutoModelForCausalLM.from_pretrained(places / "tiny").eval()
    tokenizer = AutoTokenizer.from_pretrained(places / "tiny")
    text = data.shared_text(places / "ntrex", SHARED)
    alignment = recorded.read(places / "results" / "tiny").alignment
    for lang in ("isl_Latn", "swe_Latn"):
        source, target = text.sentences[setting.pivot][: setting.n], text.sentences[lang][: setting.n]
        pairs = ParallelPairs(source, target, setting.pivot, lang)
        line = alignment[lang, setting]
        methods = tuple(name for name in line.score if name != "4-grams")
        evaluator = NeuronXAEvaluator(pairs, methods, setting.pooling, permutations=0)  # type: ignore[arg-type]
        report = evaluator(model, tokenizer)
        assert len(methods) == 8
        assert {method: line.score[method] for method in methods} == pytest.approx(report.score, abs=1e-5)
        assert line.pairs == len(source)


def test_a_killed_measurement_goes_on(places: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    whole = files(places / "results" / "tiny")
    output.mkdir()
    for name, content in whole.items():
        lines = content.splitlines(keepends=True)
        half = b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:40]  # the last line was cut short
        (output / name).write_bytes(half)
    run_measure(places, output)
    for name, content in whole.items():
        now = {json.dumps(line, sort_keys=True) for line in raw_lines(output / name)}
        assert len(now) == len(content.splitlines())
    again = files(output)
    run_measure(places, output)
    assert files(output) == again
    assert recorded.read(output).alignment.keys() == recorded.read(places / "results" / "tiny").alignment.keys()
    then, now_scores = (recorded.read(folder).alignment for folder in (places / "results" / "tiny", output))
    for key, line in then.items():
        assert now_scores[key].score == pytest.approx(line.score, abs=1e-6)


def test_sentences_that_no_model_can_be_asked_about() -> None:
    """NTREX-128 has a line that is a comma alone in Spanish."""
    assert data._unusable(["One dog.", ",", "One dog.", "", "7", "你好"]) == {1, 2, 3}
