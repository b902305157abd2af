"""The evidence's arithmetic against slow references, and its checkpoints against the package and transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from scipy import stats

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import checkpoints, curves, data, follow, record, runs, stops, tables
from benchmarks.evidence.curves import CONTROL, HELD_OUT_LOSS, LOSS, STEP, RunCurves
from benchmarks.evidence.runs import ALL, RESULTS
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.vocabulary import Direction, score_name
from tests.support import make_tokenizer, tiny_llama

STEPS = list(range(0, 100, 5))
RECORDED = tuple(run.name for run in ALL if run.is_recorded)
FOLLOWING = ("french-sft", "gemma-french-sft", "french-cpt-sft", "icelandic-wrong-tokens")
REPEATED = ("french-spoilt", "french-repeated-wrong-tokens")
SCORED = tuple(name for name in RECORDED if (RESULTS / name / checkpoints.FILE).is_file())
CONFIRMING = tuple(name for name in SCORED if name != tables.CHOOSER)


def curve(seed: int, rise: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(STEPS)) / 10
    return np.asarray(rise * np.linspace(0, 1, len(STEPS)) + noise)


# ---------------------------------------------------------------------------------------------- following


@pytest.mark.unit
def test_following_is_what_scipy_says() -> None:
    predictor, quality, copied = curve(1), curve(2), curve(3)
    found = follow.following(predictor, quality, STEPS, copied)
    assert found.r == pytest.approx(stats.pearsonr(predictor, quality).statistic)
    assert found.r_trained == pytest.approx(stats.pearsonr(predictor[1:], quality[1:]).statistic)
    assert found.r_diff == pytest.approx(stats.pearsonr(np.diff(predictor), np.diff(quality)).statistic)
    without_start = stats.pearsonr(np.diff(predictor[1:]), np.diff(quality[1:])).statistic
    assert found.r_diff_trained == pytest.approx(without_start)
    for fixed, r in ((np.array(STEPS), found.r_given_step), (copied, found.r_given_copied)):
        left = [score - np.polyval(np.polyfit(fixed, score, 1), fixed) for score in (predictor, quality)]
        assert r == pytest.approx(stats.pearsonr(*left).statistic)


@pytest.mark.unit
@pytest.mark.parametrize("lag", [-2, 0, 3])
def test_a_curve_that_comes_before_has_a_positive_lag(lag: int) -> None:
    course = np.cumsum(np.random.default_rng(0).normal(size=40))
    quality = course[5:25]
    found = follow.following(course[5 + lag : 25 + lag], quality, STEPS, curve(3))
    assert found.lag == lag
    assert found.r_lag == pytest.approx(1)


@pytest.mark.unit
def test_half_way_is_where_a_smoothed_curve_has_made_half_of_its_rise() -> None:
    values = np.concatenate([np.zeros(10), np.ones(10)])
    # The mean of three is 0, 1/3, 2/3, 1 at steps 45, 50, 55, 60.
    assert follow.half_way(values, STEPS) == pytest.approx(52.5)
    assert follow.half_way(-values, STEPS) is None
    assert follow.following(values, -values, STEPS, curve(3)).lead is None
    later = np.concatenate([np.zeros(14), np.ones(6)])
    assert follow.following(values, later, STEPS, curve(3)).lead == pytest.approx(20)


@pytest.mark.unit
def test_a_curve_turns_at_the_highest_mean_of_three_evaluations() -> None:
    values = np.array([1.0, 4, 4, 9, 2, 4, 0, 3])
    means = [np.mean(values[max(0, now - 2) : now + 1]) for now in range(8)]
    top = max(range(8), key=lambda now: means[now])
    found = follow.turn(values, STEPS[:8])
    assert (top, found.step) == (3, 15)
    assert found.left == pytest.approx((means[-1] - means[0]) / (means[top] - means[0]))
    lowest = min(means[top:])  # 2, at step 30; half of the way down lies between steps 25 and 30
    assert found.half_lost == pytest.approx(25 + 5 * (means[5] - (means[top] + lowest) / 2) / (means[5] - means[6]))
    assert follow.turn(np.arange(8.0), STEPS[:8]) == (35, 1.0, None)
    assert follow.turn(np.array([3.0, 5, 1, 0, 0]), STEPS[:5]).left == pytest.approx(-8 / 3)  # ends below its start
    assert follow.turn(-np.arange(8.0), STEPS[:8])[:2] == (0, None)


@pytest.mark.unit
def test_a_curve_that_does_not_vary_follows_nothing() -> None:
    found = follow.following(np.ones(len(STEPS)), curve(2), STEPS, curve(3))
    assert (found.r, found.r_diff, found.r_given_step, found.r_lag) == (None, None, None, None)
    assert found.lag == 0


# ---------------------------------------------------------------------------------------------- stopping


@pytest.mark.unit
def test_a_rule_stops_where_its_line_no_longer_rises_and_keeps_the_best_checkpoint() -> None:
    metric = np.array([9.0, 1, 2, 3, 4, 4, 3, 2, 1, 0])
    quality = np.array([9.0, 1, 2, 3, 4, 5, 6, 7, 8, 7])
    steps = list(range(0, 100, 10))
    found = stops.outcome(metric, quality, steps, patience=3)
    slopes = [stats.linregress(range(4), metric[now - 3 : now + 1]).slope for now in range(3, 10)]
    first = 3 + next(place for place, slope in enumerate(slopes) if slope <= 0)
    assert found.stop == steps[first]
    assert found.saved == pytest.approx(1 - steps[first] / 90)
    chosen = max(range(1, first + 1), key=lambda now: metric[now])  # step 0 is no checkpoint
    assert (found.chosen, found.quality, found.lost) == (steps[chosen], quality[chosen], 9 - quality[chosen])
    never = stops.outcome(metric, quality, steps, patience=None)
    assert (never.stop, never.saved, never.chosen) == (90, 0, 40)


# ---------------------------------------------------------------------------------------------- tables


def a_run(name: str, seed: int) -> RunCurves:
    names = [*map(score_name, ("nasca", "nasca_rank", "navca", "mexa")), LOSS, HELD_OUT_LOSS]
    predictors = {name: curve(seed + place) for place, name in enumerate(names)}
    layers = np.random.default_rng(seed).normal(size=(len(STEPS), 6))
    layers[:, 2] = curve(seed + 50) * 10  # the quality's own curve
    return RunCurves(
        name=name,
        steps=STEPS,
        predictors=predictors | {STEP: np.array(STEPS, dtype=float)},
        quality={"chrf": curve(seed + 50) * 10, "bleu": curve(seed + 51)},
        copied=curve(seed + 52),
        off_target=np.zeros(len(STEPS)),
        controls={"eng_Latn-deu_Latn": curve(seed + 53)},
        over_sentences={("nasca", "chrf"): 0.25},
        variants={"nasca, bare, 100": layers},
    )


def cell_of(table: str, run: str, column: str) -> str:
    """The cell of a run in a table that has a row a run."""
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    return next(row for row in rows if row[0] == run)[header.index(column)]


@pytest.mark.unit
def test_the_tables_have_every_run_and_every_rival() -> None:
    first, second = a_run("first", 0), replace(a_run("second", 100), variants={})
    made = tables.all_tables([first, second])
    names = {"summary", "runs", "following chrF", "following BLEU", "over sentences", "turning", "stopping"}
    assert set(made) == names | {"variants in short", "variants", "agreement"}
    turned = follow.turn(second.quality["bleu"], STEPS)
    assert cell_of(made["turning"], "second", "BLEU") == f"{turned.step}, {turned.left:.0%}".replace("%", " %")
    peak = np.concatenate([np.arange(5.0), 4 - np.arange(15.0)])
    fallen = replace(second, quality={"bleu": -np.arange(20.0), "chrf": peak})
    lost = [follow.turn(values, STEPS).half_lost for values in fallen.quality.values()]
    cells = [cell_of(tables.turning_table([fallen]), "second", metric) for metric in ("BLEU", "chrF")]
    assert cells == [f"0, never rises, half lost at {lost[0]:.0f}", f"25, below its start, half lost at {lost[1]:.0f}"]
    for name in first.predictors:
        for run in (first, second):
            assert f"| {run.name} | {name} |" in made["following chrF"]
    r = stats.pearsonr(second.predictors[LOSS], second.quality["chrf"]).statistic
    assert f"| second | {LOSS} | {r:.2f} |" in made["following chrF"]
    assert cell_of(made["summary"], "second", LOSS).split(",")[0] == f"{r:.2f}"
    assert {cell_of(made["summary"], run, CONTROL) for run in ("first", "second")} == {"–"}
    assert tables.best_layer(first, "nasca, bare, 100") == 2
    # The variants' first row is the one that follows closest.
    assert "| nasca, bare, 100 | layer 3, chosen by first | 1.00, 1.00 |" in made["variants"].splitlines()[2]


@pytest.mark.unit
def test_an_evaluation_whose_language_cannot_be_told_does_not_count() -> None:
    garbage = np.array([np.nan, 0.25, np.nan, 1.0, 0.5, np.nan])
    run = replace(a_run("garbage", 0), off_target=garbage)
    assert "| 0.25 by 1.00 to 0.50 |" in tables.runs_table([run])


@pytest.mark.unit
def test_a_run_with_fewer_held_out_pairs_has_no_variant_of_more() -> None:
    first, second = a_run("first", 0), a_run("second", 100)
    variants = dict.fromkeys(("nasca, bare, 100", "nasca, bare, 1000"), first.variants["nasca, bare, 100"])
    made = tables.all_tables([replace(first, variants=variants), second])
    of_second = next(line for line in made["variants in short"].splitlines() if line.startswith("| second | nasca |"))
    means = second.variants["nasca, bare, 100"].mean(axis=1)
    r = stats.pearsonr(means[1:], second.quality["chrf"][1:]).statistic
    cells = of_second.split("|")[3:5]
    assert (cells[0].split(",")[1].strip(), cells[1].strip()) == (f"{r:.2f}", "–")
    rows = [line.split("|") for line in made["variants"].splitlines() if line.startswith("| nasca, bare, 1000 |")]
    assert rows
    assert {row[4].strip() for row in rows} == {"–"}


@pytest.mark.unit
def test_agreement_is_the_largest_difference_of_a_checkpoint_from_its_evaluation() -> None:
    run = a_run("run", 0)
    nasca = run.predictors["NASCA"]
    off = np.zeros(len(STEPS))
    off[[3, 9]] = 0.02, -0.05
    again = np.stack([nasca + off - 1, nasca + off + 1], axis=1)  # two layers, whose mean is off
    made = tables.agreement_table([replace(run, variants={"nasca, bare, 100": again})])
    assert (cell_of(made, "run", "NASCA"), cell_of(made, "run", "MEXA")) == ("0.0500", "–")


@pytest.mark.unit
def test_thirds_are_of_the_layers_that_the_run_has() -> None:
    for layers, first, second in ((18, 6, 12), (19, 7, 13), (30, 10, 20), (31, 11, 21)):
        values = np.random.default_rng(layers).normal(size=(len(STEPS), layers))
        for name, of in (("middle third", slice(first, second)), ("last third", slice(second, None))):
            expected = [sum(row[of]) / len(row[of]) for row in values.tolist()]
            assert tables.READINGS[name](values) == pytest.approx(expected)


@pytest.mark.unit
def test_a_chosen_layer_is_read_at_the_same_share_of_a_deeper_model() -> None:
    first = a_run(tables.CHOOSER, 0)
    twice = np.repeat(first.variants["nasca, bare, 100"], 2, axis=1)
    made = tables.all_tables([replace(first, name="deeper", variants={"nasca, bare, 100": twice}), first])["variants"]
    header, _, row = (line.split("|") for line in made.splitlines()[:3])
    assert [cell.strip() for cell in header[3:5]] == [tables.CHOOSER, "deeper"]  # the run that chooses comes first
    assert row[2].strip() == f"layer 3, chosen by {tables.CHOOSER}"
    assert row[3] == row[4]  # layers 5 and 6 of twelve are its layer 3


# ---------------------------------------------------------------------------------------------- text and records


@pytest.mark.unit
def test_a_recorded_line_has_no_text() -> None:
    line = {"step": 5, "quality": {"eng_Latn-fra_Latn": {"translations": ["Un.", "Deux."], "empty": 0}}}
    kept = json.loads(record.without_text(json.dumps(line)))
    assert kept == {"step": 5, "quality": {"eng_Latn-fra_Latn": {"translations": ["", ""], "empty": 0}}}


@pytest.mark.unit
def test_checkpoints_are_kept_beside_a_record_of_the_same_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.named("french-sft")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    run.output_dir.mkdir(parents=True)
    lines = (RESULTS / run.name / checkpoints.FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    scored = run.output_dir / checkpoints.FILE
    scored.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(SystemExit, match="french-sft is not recorded; leave --checkpoints out"):
        record.record_checkpoints(run)
    shutil.copytree(RESULTS / run.name, run.result, ignore=shutil.ignore_patterns(checkpoints.FILE))
    scored.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(SystemExit, match="score every checkpoint"):
        record.record_checkpoints(run)
    scored.write_text("".join(lines), encoding="utf-8")
    record.record_checkpoints(run)
    assert (run.result / checkpoints.FILE).read_text(encoding="utf-8") == "".join(lines)


@pytest.mark.unit
def test_tables_of_text_have_a_column_a_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "multi30k").mkdir()
    for split in ("train", "val"):
        for short in data.MULTI30K.values():
            (tmp_path / "multi30k" / f"{split}.{short}").write_text(f"{split} a\t{short}\n{split} b {short}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "MONOLINGUAL", {"fra_Latn": slice(1, 2)})
    data.multi30k(tmp_path)
    lines = Path("runs/data/multi30k.train.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "eng_Latn\tfra_Latn\tdeu_Latn\tces_Latn"
    assert lines[1] == "train a en\ttrain a fr\ttrain a de\ttrain a cs"
    assert len(lines) == 3
    assert Path("runs/data/multi30k.fra_Latn.txt").read_text(encoding="utf-8") == "train b fr\n"


@pytest.mark.unit
def test_icelandic_holds_out_short_news_and_trains_on_other_news_and_tatoeba(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("ntrex", "tatoeba"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(data, "NTREX_HELD_OUT", 2)
    news = ["short news", " ".join(["long"] * 17), "third", "fourth", "fifth"]
    for code, file in data.NTREX.items():
        (tmp_path / "ntrex" / file).write_text("".join(f"{line} {code}\n" for line in news))
    for file in data.TATOEBA:
        (tmp_path / "tatoeba" / file).write_text(f"one {file[-3:]}\ntwo {file[-3:]}\n")
    monkeypatch.chdir(tmp_path)
    data.icelandic(tmp_path)
    assert Path("runs/data/icelandic.held_out.tsv").read_text(encoding="utf-8").splitlines() == [
        "eng_Latn\tisl_Latn\tfao_Latn",
        "short news eng_Latn\tshort news isl_Latn\tshort news fao_Latn",
    ]
    assert Path("runs/data/icelandic.train.tsv").read_text(encoding="utf-8").splitlines() == [
        "eng_Latn\tisl_Latn",
        "third eng_Latn\tthird isl_Latn",
        "one eng\tone isl",
        "fourth eng_Latn\tfourth isl_Latn",
        "two eng\ttwo isl",
    ]


@pytest.mark.unit
def test_the_page_of_results_shows_the_tables_of_the_recorded_runs() -> None:
    page = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.rebuilt(page) == page
    for run in ALL:
        assert run.is_recorded == (f"[{run.name}]({run.name}/README.md)" in page)
        assert run.is_recorded == (run.minutes is not None)


def check_page(*sentences: str) -> None:
    """Check that the page of results has these sentences."""
    page = " ".join(evidence.PAGE.read_text(encoding="utf-8").split())
    for sentence in sentences:
        assert sentence in page


@cache
def recorded(name: str) -> RunCurves:
    return curves.read(RESULTS / name)


def follows(name: str, predictor: str | np.ndarray, number: str) -> float:
    """A number of how a predictor, or another curve, follows chrF in a recorded run."""
    run = recorded(name)
    values = run.predictors[predictor] if isinstance(predictor, str) else predictor
    return float(getattr(follow.following(values, run.quality["chrf"], run.steps, run.copied), number))


def stopped(name: str, predictor: str, patience: int | None) -> stops.Outcome:
    run = recorded(name)
    return stops.outcome(run.predictors[predictor], run.quality["chrf"], run.steps, patience)


def lost(name: str, predictor: str, patience: int | None = None) -> str:
    return f"{stopped(name, predictor, patience).lost:.1f}"


def listed(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}"


def spread(numbers: Iterable[float]) -> str:
    numbers = sorted(numbers)
    return f"{numbers[0]:.2f} to {numbers[-1]:.2f}"


@pytest.mark.unit
def test_the_first_paragraph_of_results_says_what_the_runs_say() -> None:
    def numbers(predictor: str, number: str) -> str:
        return spread(follows(name, predictor, number) for name in FOLLOWING)

    with_loss = [name for name in FOLLOWING if HELD_OUT_LOSS in recorded(name).predictors]
    assert len(with_loss) == 3

    def of_held_out(number: str) -> str:
        return spread(follows(name, HELD_OUT_LOSS, number) for name in with_loss)

    def of_icelandic(number: str) -> str:
        return listed(f"{follows('icelandic-gemma', name, number):.2f}" for name in ("NASCA", "NASCA rank"))

    def of_rival(rival: str) -> str:
        both = ("r_trained", "r_given_copied")
        return listed(f"{follows('icelandic-gemma', rival, number):.2f}" for number in both)

    check_page(
        f"In {listed(FOLLOWING)} r with chrF is {numbers('NASCA', 'r')} for NASCA, and "
        f"{numbers('NASCA rank', 'r')} for the rank score.",
        f"In the fifth, icelandic-gemma, r is {of_icelandic('r')}.",
        f"Without step 0 its r is {of_icelandic('r_trained')}, and with copying held fixed "
        f"{of_icelandic('r_given_copied')}. For the loss on the held-out targets these two are "
        f"{of_rival(HELD_OUT_LOSS)}, and for the step number {of_rival(STEP)}.",
        f"without step 0, r is {numbers('NASCA', 'r_trained')} for NASCA and {numbers('NASCA rank', 'r_trained')} for "
        f"the rank score. It is {of_held_out('r_trained')} for the held-out loss, which three of the four have, "
        f"{numbers(LOSS, 'r_trained')} for the training loss, which costs nothing, "
        f"{numbers(STEP, 'r_trained')} for the step number, which knows nothing, and "
        f"{numbers(CONTROL, 'r_trained')} for the rank score of a language that is not trained on.",
        f"is {numbers('NASCA', 'r_diff_trained')} for NASCA, {numbers('NASCA rank', 'r_diff_trained')} for the rank "
        f"score, and {of_held_out('r_diff_trained')} for the held-out loss.",
    )


@pytest.mark.unit
def test_the_paragraph_on_repeated_text_says_what_the_runs_say() -> None:
    held_out = [-recorded(name).predictors[HELD_OUT_LOSS] for name in REPEATED]
    places = [int(np.argmin(losses)) for losses in held_out]
    steps = [recorded(name).steps[place] for name, place in zip(REPEATED, places, strict=True)]
    rises = [f"from {losses[place]:.2f} to {losses[-1]:.2f}" for losses, place in zip(held_out, places, strict=True)]
    diverging = recorded("german-diverging")
    falls = diverging.predictors | diverging.quality
    down = {
        name: f"{follow.turn(falls[name], diverging.steps).half_lost:.0f}"
        for name in ("NASCA rank", HELD_OUT_LOSS, "chrf", LOSS)
    }
    tuned = [name for name in RECORDED if name != "french-cpt"]
    by_nasca, by_loss = ([float(lost(name, predictor)) for name in tuned] for predictor in ("NASCA", LOSS))

    def both(predictor: str) -> str:
        return listed(f"{follows(name, predictor, 'r_trained'):.2f}" for name in REPEATED)

    check_page(
        f"is lowest at step {steps[0]} and at step {steps[1]}, and then rises {listed(rises)}.",
        f"Without step 0 its r with chrF is {both(HELD_OUT_LOSS)}. The checkpoint that it chooses loses "
        f"{listed(lost(name, HELD_OUT_LOSS) for name in REPEATED)} of chrF against the best one, and the one that "
        f"NASCA chooses loses {listed(lost(name, 'NASCA') for name in REPEATED)}.",
        f"But r without step 0 is {both('NASCA')} for NASCA, {both('NASCA rank')} for the rank score, and {both(LOSS)} "
        "for the training loss.",
        f"is made at step {down['NASCA rank']} by the rank score, at {down[HELD_OUT_LOSS]} by the held-out loss, at "
        f"{down['chrf']} by chrF and at {down[LOSS]} by the training loss.",
        f"Over the whole run r is {follows('german-diverging', 'NASCA rank', 'r'):.2f} for the rank score and "
        f"{follows('german-diverging', LOSS, 'r'):.2f} for the training loss.",
        f"It loses at most {max(by_nasca)} of chrF against the best one, and the other at most {max(by_loss)}.",
        f"is within {max(by_nasca)} of the best one in every fine-tuning. In continued pretraining it loses "
        f"{lost('french-cpt', 'NASCA')},",
    )
    assert all(nasca <= loss for nasca, loss in zip(by_nasca, by_loss, strict=True))


@pytest.mark.unit
def test_the_paragraph_on_continued_pretraining_says_what_the_runs_say() -> None:
    before, tuned = recorded("french-cpt"), recorded("french-cpt-sft").predictors["NASCA rank"]
    french, german = before.predictors["NASCA rank"], before.predictors[CONTROL]
    held_out = -before.predictors[HELD_OUT_LOSS]

    def on_test(name: str) -> dict[str, float]:
        results = ModelCard.load(RESULTS / name / "README.md").data.eval_results
        return {result.metric_type: result.metric_value for result in results if result.dataset_split == "test"}

    ends = [on_test("french-cpt-sft"), on_test("french-sft")]
    check_page(
        f"The rank score of French goes from {french[0]:.3f} to {french[-1]:.3f}, and that of German, "
        f"which is not in the text, from {german[0]:.3f} to {german[-1]:.3f}.",
        f"chrF from English falls to {before.quality['chrf'][-1]:.1f}, and its r with NASCA is "
        f"{follows('french-cpt', 'NASCA', 'r'):.2f}. Yet the loss on the held-out targets, given the prompt, falls "
        f"from {held_out[0]:.2f} to {held_out[-1]:.2f}.",
        f"goes on to raise the rank score, from {tuned[0]:.3f} to {tuned[-1]:.3f}.",
        f"the rank score is {ends[0]['nasca_rank']:.3f} with it and {ends[1]['nasca_rank']:.3f} without it, and chrF "
        f"both ways is {ends[0]['chrf']:.1f} and {ends[1]['chrf']:.1f}.",
        f"The test at the end translates both ways and has a chrF of {on_test('french-cpt')['chrf']:.1f}.",
    )


@pytest.mark.unit
def test_the_paragraph_on_stopping_says_what_the_runs_say() -> None:
    gemma = [stopped("gemma-french-sft", predictor, 5) for predictor in ("NASCA", "NASCA rank")]
    assert {found.stop for found in gemma} == {105}
    check_page(
        f"stopping there loses {listed(f'{found.lost:.1f}' for found in gemma)} of chrF.",
        f"stops the runs at steps {listed(stopped(name, HELD_OUT_LOSS, 5).stop for name in REPEATED)} with a patience "
        f"of 5, and its checkpoints lose {listed(lost(name, HELD_OUT_LOSS, 5) for name in REPEATED)} of chrF.",
        f"NASCA stops them at steps {listed(stopped(name, 'NASCA', 5).stop for name in REPEATED)} and loses "
        f"{listed(lost(name, 'NASCA', 5) for name in REPEATED)}.",
    )


@pytest.mark.unit
def test_the_paragraph_on_sentences_says_what_the_runs_say() -> None:
    rhos = recorded("icelandic-wrong-tokens").over_sentences
    check_page(f"rho with chrF is {spread(rhos[method, 'chrf'] for method in curves.METHODS)}.")


@pytest.mark.unit
def test_the_paragraph_on_lost_checkpoints_says_what_the_runs_say() -> None:
    def difference(run: RunCurves) -> float:
        again = {score_name(of): run.variants[f"{name}, bare, 100"] for of, name in checkpoints.NAME_OF.items()}
        return max(float(np.abs(values.mean(axis=1) - run.predictors[name]).max()) for name, values in again.items())

    largest = {name: difference(recorded(name)) for name in SCORED}
    # The checkpoints' scores are kept with five digits, and a pair may change its rank with the order of a sum.
    assert {name for name in largest if largest[name] > 2e-5} == {"french-cpt", "french-cpt-sft", "icelandic-gemma"}
    assert tuple(checkpoints.NAME_OF) == curves.METHODS
    check_page(f"made again differ by at most {max(largest.values()):.4f}.")


def of_reading(name: str, variant: str, number: str) -> float:
    """A number of how the mean of a variant over the layers follows chrF in a recorded run."""
    return follows(name, recorded(name).variants[variant].mean(axis=1), number)


@pytest.mark.unit
def test_the_paragraph_on_the_last_token_says_what_the_runs_say() -> None:
    readings = list(recorded(CONFIRMING[0]).variants)  # those of 100 pairs, which every run has
    at_last = [reading for reading in readings if reading.endswith("in the prompt, last, 100")]

    def above_0(names: Sequence[str]) -> list[str]:
        return [of for of in readings if min(of_reading(name, of, "r_given_step") for name in names) > 0]

    def bare_closer(name: str) -> int:
        ways = [(f"{score}, bare, 100", f"{score}, in the prompt, last, 100") for score in checkpoints.SCORES]
        of_run = [[of_reading(name, reading, "r_given_step") for reading in way] for way in ways]
        return sum(bare > last for bare, last in of_run)

    assert above_0(SCORED) == at_last
    assert len(above_0([name for name in SCORED if name != "icelandic-gemma"])) == len(at_last) + 2
    lowest = min(of_reading(name, reading, "r_given_step") for name in SCORED for reading in at_last)
    losses = {loss: [follows(name, loss, "r_given_step") for name in SCORED] for loss in (LOSS, HELD_OUT_LOSS)}
    check_page(
        f"scores that are read at this token have an r above 0 in all {len(SCORED)} runs, with the step held fixed.",
        f"The training loss has {spread(losses[LOSS])}, and the held-out loss {spread(losses[HELD_OUT_LOSS])}.",
        f"the lowest one at this token is {lowest:.2f}.",
        f"closer for {bare_closer('french-sft')} of the {len(at_last)} scores, and in icelandic-wrong-tokens for "
        f"{bare_closer('icelandic-wrong-tokens')}.",
    )


@pytest.mark.unit
def test_the_chosen_reading_is_as_the_page_says() -> None:
    chooser, french = recorded(tables.CHOOSER), recorded("french-sft")
    chosen = max(chooser.variants, key=lambda variant: of_reading(tables.CHOOSER, variant, "r_given_step"))
    assert chosen == "rank of embeddings, in the prompt, last, 100"
    r = {name: of_reading(name, chosen, "r_given_step") for name in SCORED}
    ahead = [follows(name, LOSS, "r_given_step") - r[name] for name in SCORED]
    changes = [of_reading(name, chosen, "r_diff_trained") for name in SCORED]
    best = stops.outcome(french.variants[chosen].mean(axis=1), french.quality["chrf"], french.steps, None)
    header, _, row = tables.variants_table(chooser, [recorded(name) for name in CONFIRMING]).splitlines()[:3]
    assert row.startswith(f"| {chosen} | layer")
    cells = (line.split("|")[3:-1] for line in (header, row))
    layer = {name.strip(): cell.split(",")[0].strip() for name, cell in zip(*cells, strict=True)}
    assert sum(0 < more < 0.01 for more in ahead) == 1  # "in one of them by less than 0.01"
    check_page(
        f"With the step held fixed its r is {r[tables.CHOOSER]:.2f}. In the {len(CONFIRMING)} other runs r is "
        f"{spread(r[name] for name in CONFIRMING)}, and without step 0 "
        f"{spread(of_reading(name, chosen, 'r_trained') for name in CONFIRMING)}.",
        f"the training loss follows closer in {sum(more > 0 for more in ahead)} of the {len(SCORED)} runs,",
        f"r of the changes is {spread(changes)} without step 0, r with copying held fixed is "
        f"{of_reading('french-cpt', chosen, 'r_given_copied'):.2f} in continued pretraining,",
        f"in french-sft loses {best.lost:.1f} of chrF.",
        f"r of {layer.pop(tables.CHOOSER)} with the step held fixed, and {listed(layer.values())} in the others.",
    )


@pytest.mark.unit
def test_the_paragraph_on_pooled_prompts_says_what_the_runs_say() -> None:
    ordinary = [name for name in (*FOLLOWING, "icelandic-gemma") if name in SCORED]

    def wins(names: Sequence[str], number: str) -> int:
        cases = [(name, score) for name in names for score in checkpoints.SCORES]
        inside = [of_reading(name, f"{score}, in the prompt, weighted, 100", number) for name, score in cases]
        bare = [of_reading(name, f"{score}, bare, 100", number) for name, score in cases]
        return int(np.sum(np.array(inside) > bare))

    by_count = {
        score: [of_reading(tables.CHOOSER, f"{score}, bare, {count}", "r_given_step") for count in checkpoints.PAIRS]
        for score in checkpoints.SCORES
    }
    nasca, navca, mexa = (", ".join(f"{r:.2f}" for r in by_count[score]) for score in ("nasca", "navca", "mexa"))
    assert wins((*REPEATED, "german-diverging"), "r_given_step") == 3 * len(checkpoints.SCORES)
    check_page(
        f"it is so in {wins(ordinary, 'r_given_step')} of {len(ordinary) * len(checkpoints.SCORES)} cases, and without "
        f"step 0 in {wins(ordinary, 'r_trained')}, counted before rounding. In continued pretraining it is so for "
        f"{wins(['french-cpt'], 'r_given_step')} of the six.",
        f"r is {nasca} for NASCA, {navca} for NAVCA and {mexa} for MEXA.",
    )
    ranks = [rs for score, rs in by_count.items() if score.startswith("rank")]
    assert max(np.ptp(rs) for rs in ranks) < 0.045  # "at most 0.04"


# ---------------------------------------------------------------------------------------------- checkpoints


def test_the_variants_are_the_scores_of_the_package() -> None:
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=20)
    found = checkpoints.variants(Decoder.find(model, tokenizer), pairs, (10, 20, 1000))
    for count in (10, 20):
        some = ParallelPairs.load("eng_Latn-fra_Latn", n=count)
        report = NeuronXAEvaluator(some, ("nasca", "nasca_rank", "navca", "mexa"))(model, tokenizer)
        assert checkpoints.NAME_OF.keys() == report.per_layer.keys()
        for method, name in checkpoints.NAME_OF.items():
            per_layer = report.per_layer[method]
            assert found[f"{name}, bare, {count}"] == pytest.approx(per_layer.tolist(), abs=1e-5)
    assert not [name for name in found if name.endswith("1000")]
    last = NeuronXAEvaluator(checkpoints.prompted(ParallelPairs.load("eng_Latn-fra_Latn", n=10)), token_pooling="last")
    per_layer = last(model, tokenizer).per_layer["nasca"]
    assert found["nasca, in the prompt, last, 10"] == pytest.approx(per_layer.tolist(), abs=1e-5)


@pytest.mark.parametrize("direction", ["both", "source->target"])
def test_the_held_out_loss_is_that_of_the_targets_tokens_alone(direction: Direction) -> None:
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=7)
    total, count = 0.0, 0
    ways = [(pairs.source, pairs.target, "English", "French"), (pairs.target, pairs.source, "French", "English")]
    for sources, targets, source_language, target_language in ways if direction == "both" else ways[:1]:
        for source, target in zip(sources, targets, strict=True):
            prompt = tokenizer(f"{source_language}: {source}\n{target_language}:")["input_ids"]
            target_ids = tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
            completion = [*target_ids, tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(prompt) + completion])
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([prompt + completion]), labels=labels).loss
            total, count = total + float(loss) * len(completion), count + len(completion)
    found = checkpoints.held_out_loss(Decoder.find(model, tokenizer), pairs, direction, batch=3)
    assert found == pytest.approx(total / count, rel=1e-5)
