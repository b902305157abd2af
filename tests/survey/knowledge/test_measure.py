"""`neuronxa knowledge` on small models on the disk, and its results beside alignment."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from statistics import fmean

import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronxa_callback.cli import app
from neuronxa_callback.files import read_records
from neuronxa_callback.survey.knowledge.measure import measure
from neuronxa_callback.survey.knowledge.prompts import MASK, open_prompts
from neuronxa_callback.survey.knowledge.records import KnowledgeLine
from neuronxa_callback.survey.measure import ModelChoice
from neuronxa_callback.survey.results import ResultsError, TaskResult, read_results
from neuronxa_callback.text.embedded import embedded
from tests.support import raw_lines, tiny_llama
from tests.survey.test_measure import RUNNER, rows, run, write_models

CODES = {"de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn", "is": "isl_Latn"}
FACTS = 12


def write_prompts(folder: Path, facts: int = FACTS) -> None:
    """Write prompts in five languages: a word is missing in each sentence. Many facts begin again from the first."""
    folder.mkdir()
    for tag, code in CODES.items():
        sentences = embedded("heldout.tsv")[code]
        words = [sentence.split()[-1].strip(",.") for sentence in sentences]
        rows = ["Prompt\tAns\tCandidate Ans\tSubject"]
        for number in (fact % FACTS for fact in range(facts)):
            candidates = list(dict.fromkeys(words[number : number + 2 + number % 3]))
            answers = ", ".join(candidates[: 1 + number % 2])
            rows.append(f"{' '.join(sentences[number].split()[:-1])} {MASK}.\t{answers}\t{', '.join(candidates)}\tx")
        (folder / f"{tag}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, an adapter of the first, and prompts in five languages."""
    folder: Path = write_models(tmp_path_factory.mktemp("knowledge"))
    write_prompts(folder / "BMLAMA53")
    return folder


def lines(output: Path) -> list[KnowledgeLine]:
    return list(read_records(output / "knowledge.jsonl", KnowledgeLine))


def by_hand(model: Path, prompts: Path, tag: str) -> tuple[list[list[int]], float]:
    """The rankings and the accuracy of one language, as BMLAMA's authors compute them: one sentence at a time."""
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    rankings, right, count = [], 0, 0
    for row in csv.DictReader((prompts / f"{tag}.tsv").open(encoding="utf-8"), delimiter="\t"):
        losses = {}
        for candidate in row["Candidate Ans"].split(", "):
            ids = torch.tensor([tokenizer(row["Prompt"].replace(MASK, candidate))["input_ids"]])
            with torch.no_grad():
                logits = loaded(input_ids=ids).logits[0, :-1]
            losses[candidate] = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
        ranked = sorted(losses, key=losses.__getitem__)
        rankings.append([list(losses).index(candidate) for candidate in ranked])
        answers = row["Ans"].split(", ")
        right += sum(answer in ranked[: len(answers)] for answer in answers)
        count += len(answers)
    return rankings, right / count


def expected_by_chance(line: KnowledgeLine) -> float:
    """The mean accuracy over every order of every fact's candidates."""
    found = [
        fmean(sum(place in order[: len(right)] for place in right) for order in permutations(range(len(ranking))))
        for ranking, right in zip(line.rankings, line.answers, strict=True)
    ]
    return sum(found) / sum(map(len, line.answers))


def test_the_table_and_its_lines(folder: Path, tmp_path: Path) -> None:
    command = ["knowledge", folder / "one", folder / "BMLAMA53", "--output", tmp_path, "--format", "csv"]
    table = rows(run(*command))
    measured = {line.lang: line for line in lines(tmp_path)}
    assert [row["language"] for row in table] == list(measured) == list(CODES.values())
    for tag, code in CODES.items():
        line = measured[code]
        rankings, accuracy = by_hand(folder / "one", folder / "BMLAMA53", tag)
        assert line.rankings == rankings
        assert line.accuracy == pytest.approx(accuracy)
        assert line.facts == list(range(1, FACTS + 1))
        assert line.chance == pytest.approx(expected_by_chance(line))
        wilson = stats.binomtest(round(accuracy * 18), 18).proportion_ci(method="wilson")
        assert line.ci == pytest.approx((wilson.low, wilson.high))
    assert [row["RankC with eng_Latn"] == "" for row in table] == [code == "eng_Latn" for code in CODES.values()]
    assert "prompts:BMLAMA53|n:12|data:" in table[0]["signature"]
    # Nothing is measured again, and so no model is loaded.
    assert rows(run(*command)) == table
    assert len(raw_lines(tmp_path / "knowledge.jsonl")) == len(CODES)


def test_the_first_facts_and_some_languages(folder: Path, tmp_path: Path) -> None:
    command = ["knowledge", folder / "one", folder / "BMLAMA53", "--output", tmp_path, "--format", "csv"]
    some = rows(run(*command, "--n", 4, "--langs", "isl_Latn,eng_Latn", "--pivot", "isl_Latn"))
    assert [(row["language"], row["facts"]) for row in some] == [("isl_Latn", "4"), ("eng_Latn", "4")]
    assert some[0]["RankC with isl_Latn"] == ""
    assert by_hand(folder / "one", folder / "BMLAMA53", "is")[0][:4] == lines(tmp_path)[0].rankings
    pairs = rows(run(*command, "--n", 4, "--langs", "isl_Latn,eng_Latn,deu_Latn", "--consistency"))
    assert [(row["first"], row["second"]) for row in pairs] == [
        ("isl_Latn", "eng_Latn"),
        ("isl_Latn", "deu_Latn"),
        ("eng_Latn", "deu_Latn"),
    ]
    assert pairs[0]["RankC"] == some[1]["RankC with isl_Latn"]
    assert [line.lang for line in lines(tmp_path)] == ["isl_Latn", "eng_Latn", "deu_Latn"]
    shown = run("knowledge", folder / "one", folder / "BMLAMA53", "--output", tmp_path, "--n", 4)
    assert "The mean accuracy of the languages but eng_Latn is" in shown


def test_a_killed_run_goes_on(folder: Path, tmp_path: Path) -> None:
    command = ["knowledge", folder / "one", folder / "BMLAMA53", "--output", tmp_path, "--format", "csv"]
    whole = run(*command)
    path = tmp_path / "knowledge.jsonl"
    written = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(written[:2]) + written[2][:40])  # as a kill within the third line leaves it
    assert run(*command) == whole
    assert path.read_bytes() == b"".join(written)


def test_new_weights_are_measured_anew(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "one", tmp_path / "model")
    prompts = open_prompts(str(folder / "BMLAMA53"))
    before = measure(ModelChoice(str(tmp_path / "model")), prompts, ["isl_Latn", "eng_Latn"], None, tmp_path)
    tiny_llama(1).save_pretrained(tmp_path / "model")
    after = measure(ModelChoice(str(tmp_path / "model")), prompts, ["isl_Latn"], None, tmp_path)
    assert after[0].rankings != before[0].rankings
    # Of the old weights' answers none is left in the results, although English has no newer one.
    assert [(result.lang, result.value) for result in read_results(tmp_path)] == [("isl_Latn", after[0].accuracy)]


def test_adapters_and_4_bit(folder: Path, tmp_path: Path) -> None:
    command = ["knowledge", folder / "one", folder / "BMLAMA53", "--output", tmp_path, "--langs", "isl_Latn"]
    for more in ([], ["--adapter", folder / "adapter"], ["--load-in-4bit"]):
        run(*command, *more)
    run("knowledge", folder / "adapter", folder / "BMLAMA53", "--output", tmp_path, "--langs", "isl_Latn")
    plain, adapted, quantised, named_by_its_adapter = lines(tmp_path)
    assert [line.model for line in (plain, adapted, quantised)] == ["one", "one + adapter", "one (nf4)"]
    assert adapted.rankings == named_by_its_adapter.rankings != plain.rankings
    assert quantised.signature["dtype"] == "float32/nf4"


def test_results_beside_alignment(folder: Path, tmp_path: Path) -> None:
    run("knowledge", folder / "one", folder / "BMLAMA53", "--output", tmp_path)
    run("score", folder / "one", "--n", 20, "--methods", "nasca", "--output", tmp_path)
    found = read_results(tmp_path)
    assert found == read_results(tmp_path / "knowledge.jsonl")
    accuracies = {line.lang: line.accuracy for line in lines(tmp_path)}
    assert [r for r in found if not r.task.startswith("RankC")] == [
        TaskResult("one", "BMLAMA53, 12 facts", lang, value) for lang, value in accuracies.items()
    ]
    consistent = [result for result in found if result.task == "RankC with eng_Latn, BMLAMA53, 12 facts"]
    assert [result.lang for result in consistent] == [code for code in accuracies if code != "eng_Latn"]
    table = rows(run("correlate", tmp_path, tmp_path, "--format", "csv"))
    assert [(row["task"], row["n"]) for row in table] == [
        ("BMLAMA53, 12 facts", "4"),
        ("RankC with eng_Latn, BMLAMA53, 12 facts", "4"),
    ]
    aligned = {line["lang"]: line["score"]["nasca"] for line in raw_lines(tmp_path / "scores.jsonl")}
    r = stats.pearsonr(list(aligned.values()), [accuracies[code] for code in aligned]).statistic
    assert float(table[0]["Pearson r"]) == pytest.approx(r)


def test_two_models_of_one_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "other", tmp_path / "one")
    for model in (folder / "one", tmp_path / "one"):
        run("knowledge", model, folder / "BMLAMA53", "--output", tmp_path, "--langs", "isl_Latn", "--n", 2)
    with pytest.raises(ResultsError, match=r"holds two models named one .* into separate --output folders"):
        read_results(tmp_path)
    with pytest.raises(ResultsError, match=r"knowledge\.jsonl holds no answers by language; neuronxa knowledge writes"):
        read_results(folder)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--langs", "fao_Latn"], "BMLAMA53 has no prompts in fao_Latn; it has deu_Latn"),
        (["--langs", "isl_Latn", "--consistency"], "--consistency compares two languages"),
        (["--n", "13"], "de.tsv has 12 facts; ask for no more (--n)."),
        (["--format", "html"], "format 'html' is unknown"),
        (["--pivot", "is"], "'is' is not a FLORES-200 language code"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, more: Sequence[str], said: str) -> None:
    command = ["knowledge", str(folder / "one"), str(folder / "BMLAMA53"), "--output", str(tmp_path)]
    done = RUNNER.invoke(app, [*command, *more])
    assert done.exit_code == 1
    assert said in " ".join(done.stderr.split())


def test_bad_prompts_are_told_before_the_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["knowledge", str(folder / "no model"), str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "none does not exist; give a folder with a file such as is.tsv" in " ".join(done.stderr.split())
