"""The evidence's arithmetic against slow references, and its checkpoints against the package and transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import checkpoints, curves, data, follow, record, stops, tables
from benchmarks.evidence.curves import CONTROL, HELD_OUT_LOSS, LOSS, STEP, RunCurves
from benchmarks.evidence.runs import ALL, RESULTS
from neuronxa_callback import NeuronXAEvaluator, ParallelPairs
from neuronxa_callback.model.decoder import Decoder
from neuronxa_callback.vocabulary import Direction, score_name
from tests.support import make_tokenizer, tiny_llama

STEPS = list(range(0, 100, 5))
RECORDED = tuple(run.name for run in ALL if run.is_recorded)
GOING_WELL = ("french-sft", "gemma-french-sft", "french-cpt-sft", "icelandic-wrong-tokens")


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
    assert follow.half_way(-values, STEPS) == 0
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
    assert set(made) == names | {"variants in short", "variants"}
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
def test_a_third_is_one_of_the_runs_own_layers() -> None:
    for layers in (6, 9):
        values = np.random.default_rng(layers).normal(size=(len(STEPS), layers))
        third = layers // 3
        for place, name in ((1, "middle third"), (2, "last third")):
            expected = [sum(row[place * third : (place + 1) * third]) / third for row in values.tolist()]
            assert tables.readings()[name](values) == pytest.approx(expected)


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


def read_page() -> str:
    return " ".join(evidence.PAGE.read_text(encoding="utf-8").split())


def number_of(run: RunCurves, predictor: str, number: str) -> str:
    """A number of how a predictor follows chrF in a run, as the page writes it."""
    found = follow.following(run.predictors[predictor], run.quality["chrf"], run.steps, run.copied)
    return f"{getattr(found, number):.2f}"


def lost_by(run: RunCurves, predictor: str, patience: int | None = None) -> str:
    """The chrF that the checkpoint chosen by a predictor loses, as the page writes it."""
    return f"{stops.outcome(run.predictors[predictor], run.quality['chrf'], run.steps, patience).lost:.1f}"


def listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}"


@pytest.mark.unit
def test_the_first_paragraph_of_results_says_what_the_runs_say() -> None:
    page = read_page()
    runs = [curves.read(RESULTS / name) for name in GOING_WELL]

    def numbers(predictor: str, number: str) -> str:
        return listed(number_of(run, predictor, number) for run in runs)

    nasca, rank = "NASCA", "NASCA rank"
    for sentence in (
        f"such runs, {listed(GOING_WELL)}, r with chrF is {numbers(nasca, 'r')} for NASCA, "
        f"and {numbers(rank, 'r')} for the rank score.",
        f"Without step 0 r is {numbers(nasca, 'r_trained')} for NASCA and {numbers(rank, 'r_trained')} for the rank",
        f"For the training loss, which costs nothing, it is {numbers(LOSS, 'r_trained')}.",
        f"For the step number, which knows nothing, it is {numbers(STEP, 'r_trained')}.",
        f"For the rank score of a language that is not trained on, it is {numbers(CONTROL, 'r_trained')}, though",
        f"is {numbers(nasca, 'r_diff_trained')} for NASCA, and {numbers(rank, 'r_diff_trained')} for the rank score.",
    ):
        assert sentence in page
    gemma = curves.read(RESULTS / "gemma-french-sft")
    lost = [stops.outcome(gemma.predictors[name], gemma.quality["chrf"], gemma.steps, 5) for name in (nasca, rank)]
    assert [found.stop for found in lost] == [105, 105]
    assert f"stopping there loses {lost[0].lost:.1f} and {lost[1].lost:.1f} of chrF." in page


@pytest.mark.unit
def test_the_paragraph_on_continued_pretraining_says_what_the_runs_say() -> None:
    page = read_page()
    pretrained, tuned, without = (
        curves.read(RESULTS / name) for name in ("french-cpt", "french-cpt-sft", "french-sft")
    )
    french, german = pretrained.predictors["NASCA rank"], pretrained.predictors[CONTROL]
    best = [
        f"{values['NASCA rank'].max():.3f} and {quality['chrf'].max():.1f}"
        for values, quality in ((run.predictors, run.quality) for run in (tuned, without))
    ]
    for sentence in (
        f"The rank score of French goes from {french[0]:.3f} to {french[-1]:.3f}, and that of German, "
        f"which is not in the text, from {german[0]:.3f} to {german[-1]:.3f}.",
        f"So chrF falls to {pretrained.quality['chrf'][-1]:.1f}, and its r with NASCA is "
        f"{number_of(pretrained, 'NASCA', 'r')}.",
        f"brings the rank score to {best[0].replace('and', 'and chrF to')}. "
        f"The run without continued pretraining reached {best[1]},",
    ):
        assert sentence in page


@pytest.mark.unit
def test_the_second_paragraph_of_results_says_what_the_runs_say() -> None:
    page = read_page()
    runs = {name: curves.read(RESULTS / name) for name in RECORDED}
    diverging = runs["german-diverging"]
    repeated = [runs["french-spoilt"], runs["french-repeated-wrong-tokens"]]
    tuned = [run for name, run in runs.items() if name != "french-cpt"]

    def both(predictor: str) -> str:
        return listed(number_of(run, predictor, "r_trained") for run in repeated)

    held_out = [-run.predictors[HELD_OUT_LOSS] for run in repeated]
    lowest = [int(np.argmin(losses)) for losses in held_out]
    places = [run.steps[place] for run, place in zip(repeated, lowest, strict=True)]
    rises = [f"from {losses[place]:.2f} to {losses[-1]:.2f}" for losses, place in zip(held_out, lowest, strict=True)]
    down = [
        follow.turn(values, diverging.steps).half_lost
        for values in (diverging.predictors["NASCA rank"], diverging.quality["chrf"])
    ]
    by_nasca, by_loss = ([lost_by(run, name) for run in tuned] for name in ("NASCA", LOSS))
    stopped = {
        name: [stops.outcome(run.predictors[name], run.quality["chrf"], run.steps, 5).stop for run in repeated]
        for name in ("NASCA", HELD_OUT_LOSS)
    }
    for sentence in (
        f"is lowest at step {places[0]} and at step {places[1]}, and then rises {rises[0]} and {rises[1]}.",
        f"Without step 0 its r with chrF is {both(HELD_OUT_LOSS)}. The checkpoint that it chooses loses "
        f"{listed(lost_by(run, HELD_OUT_LOSS) for run in repeated)} of chrF against the best one, and the one that "
        f"NASCA chooses loses {listed(lost_by(run, 'NASCA') for run in repeated)}.",
        f"But r without step 0 is {both('NASCA')} for NASCA, {both('NASCA rank')} for the rank score, and {both(LOSS)} "
        "for the training loss.",
        f"half-way down at step {down[0]:.0f} and its chrF at step {down[1]:.0f}.",
        f"its r is {number_of(diverging, LOSS, 'r')}, "
        f"that of the rank score {number_of(diverging, 'NASCA rank', 'r')}.",
        f"it loses {listed(by_nasca)} of chrF against the best one, and the other {listed(by_loss)}.",
        f"stops the runs at steps {listed(map(str, stopped[HELD_OUT_LOSS]))} with a patience of 5, and its checkpoints "
        f"lose {listed(lost_by(run, HELD_OUT_LOSS, 5) for run in repeated)} of chrF.",
        f"NASCA stops them at steps {listed(map(str, stopped['NASCA']))} and loses "
        f"{listed(lost_by(run, 'NASCA', 5) for run in repeated)}.",
        f"the checkpoint that NASCA chooses is within {max(by_nasca)} of the best one in every fine-tuning.",
    ):
        assert sentence in page
    assert all(float(nasca) <= float(loss) for nasca, loss in zip(by_nasca, by_loss, strict=True))


@pytest.mark.unit
def test_the_paragraph_on_variants_says_what_the_runs_say() -> None:
    page = read_page()
    spoilt, *others = (
        curves.read(RESULTS / name)
        for name in ("french-spoilt", "german-diverging", "french-repeated-wrong-tokens", "icelandic-wrong-tokens")
    )
    *french, icelandic = (spoilt, *others)

    def closeness(run: RunCurves, variant: str) -> float:
        values = run.variants[variant].mean(axis=1)
        r = follow.following(values, run.quality["chrf"], run.steps, run.copied).r_given_step
        assert r is not None
        return r

    def bare_and_inside(run: RunCurves, score: str) -> tuple[float, float]:
        return closeness(run, f"{score}, bare, 100"), closeness(run, f"{score}, in the prompt, weighted, 100")

    for score in checkpoints.SCORES:
        for run in french:
            bare, inside = bare_and_inside(run, score)
            assert inside > bare
        bare, inside = bare_and_inside(icelandic, score)
        assert (inside > bare) == (score == "navca")
    *ways, last = (
        "from {:.2f} to {:.2f}".format(*bare_and_inside(run, "rank of states")) for run in (*french, icelandic)
    )
    assert f"The rank score of states goes {', '.join(ways[:-1])}, and {ways[-1]}." in page
    assert f"In the Icelandic run it goes {last}, and only NAVCA follows closer." in page
    best = evidence.rebuilt(evidence.PAGE.read_text(encoding="utf-8")).partition("<!-- variants -->")[2].splitlines()[4]
    assert "| rank of embeddings, in the prompt, last, 100 | layer" in best
    first, *rest = (cell.split(",")[0].strip() for cell in best.split("|")[3:7])
    assert f"its r is {first} there, and {', '.join(rest[:-1])} and {rest[-1]} in the others." in page


# ---------------------------------------------------------------------------------------------- checkpoints


def test_the_variants_are_the_scores_of_the_package() -> None:
    model, tokenizer = tiny_llama().eval(), make_tokenizer()
    pairs = ParallelPairs.load("eng_Latn-fra_Latn", n=20)
    found = checkpoints.variants(Decoder.find(model, tokenizer), pairs, (10, 20, 1000))
    methods = {
        "nasca": "nasca",
        "rank of states": "nasca_rank",
        "navca": "navca",
        "mexa": "mexa",
    }
    for count in (10, 20):
        some = ParallelPairs.load("eng_Latn-fra_Latn", n=count)
        report = NeuronXAEvaluator(some, ("nasca", "nasca_rank", "navca", "mexa"))(model, tokenizer)
        for name, method in methods.items():
            per_layer = report.per_layer[method]  # type: ignore[index]
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
