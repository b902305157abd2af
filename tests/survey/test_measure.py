"""`neuronxa score` and `neuronxa compare`, on small models on the disk."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer, BartConfig, T5Config
from typer.testing import CliRunner

from neuronxa_callback import NeuronXAEvaluator, ParallelPairs, significance
from neuronxa_callback.alignment.scores import random_orders
from neuronxa_callback.alignment.surface import ngram_alignment
from neuronxa_callback.cli import app
from neuronxa_callback.survey.records import RetrievalLine
from neuronxa_callback.survey.tables import retrieval_summary
from neuronxa_callback.text.embedded import embedded
from neuronxa_callback.text.languages import head_languages, language_codes
from neuronxa_callback.text.surface import shared_forms
from tests import reference
from tests.architectures import MULTIMODAL, tiny_multimodal
from tests.support import make_tokenizer, raw_lines, tiny_llama

RUNNER = CliRunner()
TEXT = embedded("heldout.tsv")


def write_models(folder: Path) -> Path:
    """Write two models and a LoRA adapter of the first, with their tokenizer."""
    for name, seed in (("one", 0), ("other", 1)):
        tiny_llama(seed).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder / "one"),
        LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, base_model_name_or_path=str(folder / "one")
        ),
    )
    adapted.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty "languages": those of the embedded set with their words in other orders."""
    folder: Path = tmp_path_factory.mktemp("text") / "devtest"
    folder.mkdir()
    codes = sorted(language_codes() - set(TEXT))[:55]
    columns = dict(TEXT) | {
        code: tuple(" ".join(s.split()[number % 7 :] + s.split()[: number % 7]) for s in TEXT["fra_Latn"])
        for number, code in enumerate(codes)
    }
    for code, sentences in columns.items():
        (folder / f"{code}.devtest").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder


def run(*arguments: Any) -> str:
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output + done.stderr
    return done.stdout


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def hits(folder: Path, pair: ParallelPairs, read: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Direction -> (layers, sources, targets): whether the two would find each other if they were a pair."""
    model, tokenizer = (loader.from_pretrained(folder) for loader in (AutoModelForCausalLM, AutoTokenizer))
    sides = [reference.encode(model.eval(), tokenizer, side, read) for side in (pair.source, pair.target)]
    cosines = np.array(
        [[[reference.cosine(one, other) for other in t] for one in s] for s, t in zip(*sides, strict=True)]
    )
    found = {
        "source->target": _strictly_greatest(cosines),
        "target->source": _strictly_greatest(cosines.swapaxes(1, 2)),
    }
    found["target->source"] = found["target->source"].swapaxes(1, 2)
    return found | {"both": found["source->target"] & found["target->source"]}


def _strictly_greatest(cosines: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    n = cosines.shape[-1]
    found = np.zeros(cosines.shape, dtype=bool)
    for layer, i, j in product(range(len(cosines)), range(n), range(n)):
        found[layer, i, j] = all(cosines[layer, i, j] > cosines[layer, i, k] + 1e-9 for k in range(n) if k != j)
    return found


def torn_apart(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The value of each layer for each of the 9,999 random orders of the targets, (layers, orders)."""
    n = table.shape[-1]
    orders = random_orders(n, 9999)
    assert orders is not None
    return np.asarray(table[:, np.arange(n), orders.numpy()].mean(axis=2))


def as_high(torn: np.ndarray[Any, Any], value: float) -> float:
    return float((1 + np.sum(torn >= value - 1e-9)) / (1 + len(torn)))


def test_score_says_what_the_evaluator_says(models: Path, tmp_path: Path) -> None:
    options = ("--langs", "isl_Latn,fra_Latn", "--methods", "nasca,sads,cka", "--n", 20, "--permutations", 19)
    command = ("score", models / "one", *options, "--output", tmp_path)
    found = rows(run(*command, "--format", "csv"))
    pairs = [ParallelPairs.load(f"eng_Latn-{code}", n=20) for code in ("isl_Latn", "fra_Latn")]
    evaluator = NeuronXAEvaluator(pairs, ("nasca", "sads", "cka"), permutations=19)
    model, tokenizer = (loader.from_pretrained(models / "one") for loader in (AutoModelForCausalLM, AutoTokenizer))
    report = evaluator(model.eval(), tokenizer)
    assert [(row["language"], row["method"]) for row in found] == [
        (code, method) for code in ("isl_Latn", "fra_Latn") for method in ("nasca", "sads", "cka")
    ]
    for row in found:
        language = report.by_language[f"eng_Latn-{row['language']}"]
        method: Any = row["method"]
        assert float(row["score"]) == language.score[method]
        assert float(row["p"]) == language.p_value[method]
        assert row["signature"] == language.signature
        assert (row["low"], row["high"]) == tuple(map(str, language.ci.get(method, ("", ""))))
        assert float(row["chance"]) == language.chance[method]
    p_values = [float(row["p"]) for row in found if row["method"] == "nasca"]
    assert [float(row["p (Holm)"]) for row in found if row["method"] == "nasca"] == significance.holm(p_values)

    for pair, row in zip(pairs, (row for row in found if row["method"] == "nasca"), strict=True):
        table = hits(models / "one", pair, "nas")["both"]
        assert float(row["chance"]) == pytest.approx(table.mean())
        assert float(row["p"]) == as_high(torn_apart(table).mean(axis=0), float(row["score"]))

    printed = run(*command)  # from the file, for a reader
    assert "Alignment of one with eng_Latn" in printed
    assert (
        "p is the share of 9,999 random re-pairings (19 of cka), the true pairing counted, that score as high."
        in printed
    )
    assert "The paper's chance level of NASCA, NAVCA and MEXA (Eq. 5): 0.0256 for 20 pairs." in printed
    assert "Signature: method:nasca+sads+cka|n:20|pair:(in the file)|data:(in the file)|tokens:weighted|" in printed
    assert r"\begin{tabular}" in run(*command, "--format", "latex")
    assert len(json.loads(run(*command, "--format", "json"))["rows"]) == 6
    assert len(raw_lines(tmp_path / "scores.jsonl")) == 2


def test_score_says_how_much_the_surface_of_the_text_explains(models: Path, tmp_path: Path) -> None:
    options = ("--langs", "isl_Latn,fra_Latn", "--methods", "nasca,nasca_rank,cka", "--n", 30, "--output", tmp_path)
    found = rows(run("score", models / "one", *options, "--format", "csv"))
    lines = {record["lang"]: record for record in raw_lines(tmp_path / "scores.jsonl")}
    for row in found:
        if row["method"] == "cka":
            assert row["no shared form"] == row["4-grams"] == row["carriers"] == ""
            continue
        pair = ParallelPairs.load(f"eng_Latn-{row['language']}", n=30)
        parts = lines[row["language"]]["per_pair"][row["method"]]
        sharing = shared_forms(pair)
        others = [part for part, forms in zip(parts, sharing, strict=True) if not forms]
        assert 0 < len(others) < 30
        assert float(row["no shared form"]) == pytest.approx(sum(others) / len(others))
        if row["method"] == "nasca_rank":  # every pair has a rank, and so carries it
            assert row["4-grams"] == row["carriers"] == ""
            continue
        assert float(row["4-grams"]) == ngram_alignment(pair)
        assert int(row["carriers"]) == sum(part > 0 for part in parts)
        surface = lines[row["language"]]["surface"]
        assert surface["carriers_sharing"] == {
            "nasca": sum(part > 0 and bool(forms) for part, forms in zip(parts, sharing, strict=True))
        }
        assert surface["n_without_shared"] == len(others)
    printed = run("score", models / "one", *options, "--format", "markdown")
    first, second = printed.split("**Alignment of one with eng_Latn, and the surface of the text**")
    assert "| language | method | score | low | high | chance | p | p (Holm) |" in first
    assert "| language | method | score | no shared form | 4-grams | carriers |" in second
    few = [row["language"] for row in found if row["carriers"] and int(row["carriers"]) < 10]
    assert f"Fewer than 10 pairs carry a score of {', '.join(few)}." in second


def test_what_is_measured_otherwise_is_measured_anew(models: Path, tmp_path: Path) -> None:
    command = ("score", models / "one", "--langs", "isl_Latn", "--n", 10, "--output", tmp_path, "--format", "csv")
    first = run(*command)
    for options in (("--n", 12), ("--layer-pooling", "max"), ("--token-pooling", "last"), ("--pivot", "deu_Latn")):
        run(*command, *options)
    run("score", models / "other", *command[2:])
    assert len(raw_lines(tmp_path / "scores.jsonl")) == 6
    assert run(*command) == first
    assert len(raw_lines(tmp_path / "scores.jsonl")) == 6


def test_new_weights_in_the_same_folder_are_measured_anew(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    command = ("score", folder, "--langs", "fra_Latn", "--n", 30, "--output", tmp_path / "out", "--format", "csv")
    found = []
    for seed in (0, 1):
        tiny_llama(seed).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        found.append(run(*command))
    assert len(raw_lines(tmp_path / "out" / "scores.jsonl")) == 2
    assert rows(found[0])[0]["score"] != rows(found[1])[0]["score"]


def test_the_scores_of_a_training_run_are_left_alone(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"step": 0, "score": {"nasca": 0.1}}\n')
    done = RUNNER.invoke(app, ["score", str(models / "one"), "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "holds scores of something else, such as a training run; choose another --output" in done.stderr
    assert path.read_text().count("\n") == 1


def test_an_adapter_is_put_on(models: Path, tmp_path: Path) -> None:
    options = ("--langs", "fra_Latn", "--methods", "nasca,mexa", "--n", 30, "--output", tmp_path, "--format", "csv")
    on_the_model = rows(run("score", models / "one", "--adapter", models / "adapter", *options))
    by_itself = rows(run("score", models / "adapter", *options))
    bare = rows(run("score", models / "one", *options))
    scores = [[row["score"] for row in found] for found in (on_the_model, by_itself, bare)]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_a_language_whose_text_cannot_be_used_is_left_out_and_said(models: Path, many: Path, tmp_path: Path) -> None:
    for code in ("eng_Latn", "isl_Latn", "fra_Latn"):
        (tmp_path / f"{code}.txt").write_bytes((many / f"{code}.devtest").read_bytes())
    lines = (tmp_path / "isl_Latn.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "isl_Latn.txt").write_text("\n".join([lines[1], *lines[1:]]), encoding="utf-8")
    printed = run("score", models / "one", "--pairs", tmp_path, "--n", 10, "--output", tmp_path / "out")
    assert "isl_Latn is left out: line 2 of" in printed
    assert "fra_Latn" in printed


def test_a_language_beyond_the_models_context_is_left_out_and_said(models: Path, many: Path, tmp_path: Path) -> None:
    tiny_llama(max_position_embeddings=40).save_pretrained(tmp_path / "short")
    make_tokenizer().save_pretrained(tmp_path / "short")
    folder = tmp_path / "text"
    folder.mkdir()
    for code in ("eng_Latn", "isl_Latn", "fra_Latn"):
        lines = ["a", *(many / f"{code}.devtest").read_text(encoding="utf-8").splitlines()[:7]]
        lines = [" ".join(line.split()[:4]) for line in lines]
        if code == "isl_Latn":
            lines[3] = "ha " * 60
        (folder / f"{code}.txt").write_text("\n".join(lines), encoding="utf-8")
    command = ("score", tmp_path / "short", "--pairs", folder, "--n", 8, "--output", tmp_path / "out")
    printed = run(*command, "--format", "markdown")
    assert "isl_Latn is left out: the sentence 'ha ha" in printed
    assert "| fra_Latn | nasca |" in printed
    done = RUNNER.invoke(app, [str(word) for word in (*command, "--langs", "isl_Latn")])
    assert done.exit_code == 1
    assert "more than the model's context of 40" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("config", [BartConfig(d_model=16, vocab_size=600), T5Config(d_model=16, num_layers=1)])
def test_an_encoder_decoder_is_refused(config: Any, models: Path, tmp_path: Path) -> None:
    """AutoModelForCausalLM would make a decoder alone of BART."""
    config.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    done = RUNNER.invoke(app, ["score", str(tmp_path / "model"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert f"is an encoder-decoder ({config.model_type}); NeuronXA is defined" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_multimodal_checkpoint_is_scored_from_the_disk(name: str, tmp_path: Path) -> None:
    """Loaded as a language model alone, its neurons are those of the tower inside the whole."""
    whole = tiny_multimodal(name)
    whole.save_pretrained(tmp_path / "model")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    found = rows(
        run("score", tmp_path / "model", "--langs", "fra_Latn", "--n", 12, "--output", tmp_path, "--format", "csv")
    )
    report = NeuronXAEvaluator(ParallelPairs.load("eng_Latn-fra_Latn", n=12))(whole, tokenizer)
    assert float(found[0]["score"]) == report.score["nasca"]


@pytest.mark.once
def test_killed_and_started_again(models: Path, many: Path, tmp_path: Path) -> None:
    """The table is that of an unbroken run, and no language is computed twice."""

    survey = ["score", models / "one", "--pairs", many, "--methods", "nasca,mexa", "--format", "csv", "--output"]
    path = tmp_path / "broken" / "scores.jsonl"
    kills = 0
    for enough in (1, 12, 25):
        command = [sys.executable, "-m", "neuronxa_callback", *map(str, survey), str(path.parent)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < enough):
            time.sleep(0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        with path.open("ab") as file:
            file.write(b'{"model": "one", "la')  # as a kill within a write leaves it
    assert kills == 3
    before = [json.loads(line) for line in path.read_bytes().splitlines()[:-1]]
    assert 25 <= len(before) < 59
    again, unbroken = run(*survey, path.parent), run(*survey, tmp_path / "unbroken")
    assert again == unbroken
    assert len(rows(again)) == 2 * 59
    after = raw_lines(path)
    assert after[: len(before)] == before
    assert sorted(record["lang"] for record in after) == sorted({row["language"] for row in rows(again)})


def test_compare_is_the_paired_test_of_each_language(models: Path, tmp_path: Path) -> None:
    options = ("--langs", "fra_Latn,deu_Latn", "--methods", "nasca,cka", "--n", 30, "--output", tmp_path)
    found = rows(run("compare", models / "one", models / "other", *options, "--format", "csv"))
    lines = {(record["model"], record["lang"]): record for record in raw_lines(tmp_path / "scores.jsonl")}
    assert [row["language"] for row in found] == ["fra_Latn", "deu_Latn"]  # CKA has no value a pair
    for row in found:
        one, other = (lines[name, row["language"]] for name in ("one", "other"))
        before, now = (record["per_pair"]["nasca"] for record in (one, other))
        assert (float(row["one"]), float(row["other"])) == (one["score"]["nasca"], other["score"]["nasca"])
        assert float(row["difference"]) == pytest.approx(sum(now) / 30 - sum(before) / 30, abs=1e-6)
        assert float(row["p"]) == significance.paired_p_value(now, before, "two-sided")
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    assert [float(row["p (Holm)"]) for row in found] == significance.holm([float(row["p"]) for row in found])
    run("score", models / "one", *options)
    assert len(raw_lines(tmp_path / "scores.jsonl")) == len(lines)  # `score` takes them from there, CKA too
    printed = run("compare", models / "one", models / "one", *options, "--format", "markdown")
    assert "**second against first, with eng_Latn**" in printed
    assert printed.count("| 0.0000 | 0.0000 | 0.0000 | 1.0000 | 1.0000 |") == 2


def test_compare_needs_a_method_with_a_value_a_pair(models: Path, tmp_path: Path) -> None:
    places = [str(models / "one"), str(models / "other")]
    done = RUNNER.invoke(app, ["compare", *places, "--methods", "cka,anc", "--output", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "add one of nasca, navca, mexa, nasca_rank, sads to --methods" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_retrieval_is_the_share_of_sentences_that_find_their_own(models: Path, tmp_path: Path) -> None:
    command = ("retrieve", models / "one", "--langs", "isl_Latn,fra_Latn", "--n", 20, "--output", tmp_path)
    found = rows(run(*command, "--format", "csv"))
    assert len(found) == 2 * 2 * 3
    tables = {
        (code, read): hits(models / "one", ParallelPairs.load(f"eng_Latn-{code}", n=20), read)
        for code in ("isl_Latn", "fra_Latn")
        for read in ("embedding", "nas")
    }
    for row in found:
        table = tables[row["language"], row["representation"]][row["direction"]]
        best = max(layer.diagonal().mean() for layer in table)
        assert float(row["accuracy"]) == pytest.approx(best)
        greatest = torn_apart(table).max(axis=0)
        assert float(row["chance"]) == pytest.approx(greatest.mean())
        assert float(row["p"]) == as_high(greatest, best)
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert row["group"] == "head"
        assert row["signature"].startswith("method:retrieval(embedding+nas)|n:20|")
        assert "|layers:max|" in row["signature"]
    printed = run(*command, "--format", "markdown")
    accuracy = [float(row["accuracy"]) for row in found if (row["representation"], row["direction"]) == ("nas", "both")]
    mean, low, high = sum(accuracy) / 2, min(accuracy), max(accuracy)  # resamples of two languages reach both
    numbers = f"{mean:.4f} | {low:.4f} | {high:.4f}"
    assert f"| nas | both | 20 | 2 | {numbers} | 0 |  |  |  | 2 | {numbers} |" in printed
    assert "| representation | direction | n | head languages | head | head low | head high |" in printed
    (row,) = [r for r in rows(run(*command, "--summary", "--format", "csv")) if r["representation"] == "nas"][2:]
    assert float(row["head"]) == pytest.approx(mean)
    assert (row["long-tail languages"], row["long-tail"], row["direction"]) == ("0", "", "both")
    assert row["signature"].startswith("method:retrieval(embedding+nas)|n:20|pair:(in the file)|")


def test_english_is_neither_head_nor_long_tail(models: Path, many: Path, tmp_path: Path) -> None:
    """Table 5: another pivot, among whose languages English is."""
    codes = "eng_Latn,deu_Latn,ace_Latn"
    command = ("retrieve", models / "one", "--pairs", many, "--pivot", "fra_Latn", "--langs", codes, "--n", 20)
    found = rows(run(*command, "--output", tmp_path, "--format", "csv"))
    groups = {row["language"]: row["group"] for row in found}
    assert groups == {"eng_Latn": "", "deu_Latn": "head", "ace_Latn": "long-tail"}
    counts = ("head languages", "long-tail languages", "all languages")
    means = rows(run(*command, "--output", tmp_path, "--summary", "--format", "csv"))
    assert {tuple(row[name] for name in counts) for row in means} == {("1", "1", "3")}


def test_languages_with_other_numbers_of_pairs_are_not_averaged_together() -> None:
    def line(lang: str, n: int, accuracy: float) -> RetrievalLine:
        numbers = {"accuracy": accuracy, "p_value": 0.5, "ci": (0, 1), "per_layer": [accuracy]}
        named = {"model": "m", "lang": lang, "pivot": "eng_Latn", "signature": f"n:{n}", "key": "model:m"}
        return RetrievalLine.model_validate(named | {"retrieval": {"nas": {"both": numbers}}})

    records = [line("isl_Latn", 20, 0.2), line("deu_Latn", 100, 0.1), line("fra_Latn", 20, 0.4)]
    table = retrieval_summary(records, {"deu_Latn", "fra_Latn"})
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["n"], row["all languages"], row["all"]) for row in found] == [
        (20, 2, pytest.approx(0.3)),
        (100, 1, 0.1),
    ]
    assert [(row["head languages"], row["head"], row["long-tail"]) for row in found] == [(1, 0.4, 0.2), (1, 0.1, None)]
    assert "Languages with different n are not averaged together: 20, 100." in table.notes
    assert len(retrieval_summary(records[:1], set()).notes) == 1


def test_tatoeba_has_head_languages_of_its_own(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tatoeba"
    folder.mkdir()
    for name, code in (("est", "isl_Latn"), ("isl", "deu_Latn")):  # Icelandic is a head language in FLORES-200 alone
        (folder / f"tatoeba.{name}-eng.{name}").write_text("\n".join(TEXT[code][:12]), encoding="utf-8")
        (folder / f"tatoeba.{name}-eng.eng").write_text("\n".join(TEXT["eng_Latn"][:12]), encoding="utf-8")
    command = ("retrieve", models / "one", "--pairs", folder, "--output", tmp_path / "out", "--format", "csv")
    groups = {row["language"]: row["group"] for row in rows(run(*command))}
    assert groups == {"est_Latn": "head", "isl_Latn": "long-tail"}


def test_layers_prints_and_draws_what_score_has_measured(models: Path, tmp_path: Path) -> None:
    options = ("--langs", "isl_Latn,fra_Latn", "--methods", "nasca,mexa", "--n", 20, "--output", tmp_path)
    run("score", models / "one", *options)
    records = raw_lines(tmp_path / "scores.jsonl")
    found = rows(run("layers", models / "one", *options, "--format", "csv"))
    assert raw_lines(tmp_path / "scores.jsonl") == records
    lines = {record["lang"]: record for record in records}
    tables = {
        (code, method): hits(models / "one", ParallelPairs.load(f"eng_Latn-{code}", n=20), read)["both"]
        for code in ("isl_Latn", "fra_Latn")
        for method, read in (("nasca", "nas"), ("mexa", "embedding"))
    }
    assert [(row["language"], row["method"], row["layer"]) for row in found] == [
        (code, method, str(layer))
        for method, first in (("nasca", 1), ("mexa", 0))
        for code in ("isl_Latn", "fra_Latn")
        for layer in range(first, 4)
    ]
    for row in found:
        layer = int(row["layer"]) - (row["method"] == "nasca")
        value = lines[row["language"]]["per_layer"][row["method"]][layer]
        assert float(row["score"]) == value
        wilson = stats.binomtest(round(value * 20), 20).proportion_ci(method="wilson")
        assert (float(row["low"]), float(row["high"])) == pytest.approx((wilson.low, wilson.high))
        torn = tables[row["language"], row["method"]]
        assert float(row["chance"]) == pytest.approx(torn[layer].mean())
        apart = torn_apart(torn)
        spread = apart.std(axis=1, keepdims=True)
        standing = (apart - apart.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
        own = (torn[layer].diagonal().mean() - apart[layer].mean()) / (spread[layer, 0] or 1)
        p_value = as_high(standing.max(axis=0), own)
        assert float(row["p (layers)"]) == p_value
        assert float(row["p (languages)"]) == min(1, 2 * p_value)
    for method in ("nasca", "mexa"):
        assert (tmp_path / f"layers-one-{method}.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_head_languages() -> None:
    assert len(head_languages()) == 68
    assert head_languages() < language_codes()
    assert len(language_codes() - head_languages() - {"eng_Latn"}) == 135


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["/no/such/model"], "/no/such/model could not be loaded"),
        (["MODEL", "--langs", "is"], "'is' is not a FLORES-200 language code"),
        (["MODEL", "--langs", "fao_Latn"], "embedded has no fao_Latn; it has eng_Latn"),
        (["MODEL", "--langs", "eng_Latn"], "there is no language beside eng_Latn"),
        (["MODEL", "--pairs", "/no/such/text.tsv"], "/no/such/text.tsv does not exist"),
        (["MODEL", "--methods", "bleu"], "method 'bleu' is unknown; choose from nasca"),
        (["MODEL", "--representation", "cka"], "--representation cka is no choice such as cka=nav"),
        (["MODEL", "--representation", "cka=nav"], "a representation is chosen for 'cka', but methods are nasca"),
        (["MODEL", "--format", "html"], "format 'html' is unknown; choose from json"),
        (["MODEL", "--layers", "1,first"], "--layers first is no number of a layer, such as 16"),
        (["MODEL", "--layers", "9"], "layers=[9] must be different numbers from 1 to"),
        (["MODEL", "--layer-pooling", "median"], "layer_pooling 'median' is unknown; choose from mean, max"),
        (["MODEL", "--dtype", "int8"], "dtype 'int8' is unknown; choose from auto"),
        (["MODEL", "--device", "gpu"], "device 'gpu' is unknown; use cpu"),
        (["MODEL", "--adapter", "/no/such/adapter"], "/no/such/adapter"),
    ],
)
def test_bad_options(options: list[str], message: str, models: Path, tmp_path: Path) -> None:
    arguments = [str(models / "one") if option == "MODEL" else option for option in options]
    done = RUNNER.invoke(app, ["score", *arguments, "--output", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
