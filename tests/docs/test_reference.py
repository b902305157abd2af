"""The reference pages: each says all that there is, and nothing that there is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

import neuronxa_callback
from neuronxa_callback import NeuronXACallback, ParallelPairs, Quality
from neuronxa_callback.alignment.pair_scores import PairScores, Surface
from neuronxa_callback.cli import app
from neuronxa_callback.files import Record
from neuronxa_callback.training import records
from neuronxa_callback.vocabulary import Method
from tests.support import ROOT, sft

REFERENCE = ROOT / "docs" / "reference"
CODE = "[a-z]{3}_[A-Z][a-z]{3}"
# What a placeholder of the list of keys stands for in the run of this test.
STANDS_FOR = {
    "METHOD": f"(?:{'|'.join(get_args(Method))})",
    "RULED": f"(?:{'|'.join(get_args(Method))})",
    "METRIC": "(?:chrf|words)",
    "PAIR": f"{CODE}-{CODE}",
    "DIRECTION": f"{CODE}-{CODE}",
}


class Words:
    """A metric of one's own, with a score for each translation."""

    name = "words"

    def score(self, sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> list[float]:
        return [float(len(text.split())) + i for i, text in enumerate(translations)]


def section(page: str, heading: str) -> str:
    """The text of a page below a heading, up to the next one."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """The names in the first column of a table."""
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The keys that a run logs which watches two languages and has their translations scored."""
    pairs = [ParallelPairs.load(f"eng_Latn-{code}", n=6) for code in ("isl_Latn", "fra_Latn")]
    quality = Quality(("chrf", Words()), translate_n=5)
    callback = NeuronXACallback(pairs, eval_steps=1, quality=quality, on_error="raise", max_overhead=1)
    trainer = sft(tmp_path_factory.mktemp("run"), [callback], max_steps=4)
    trainer.train()
    return {key for entry in trainer.state.log_history for key in entry if key.startswith("eval_")}


@pytest.mark.trainer
def test_the_list_has_every_key_that_a_run_logs_and_no_other(logged: set[str]) -> None:
    listed = re.findall(r"^\| `(eval_\w+)` \|", (REFERENCE / "keys.md").read_text(encoding="utf-8"), re.MULTILINE)
    forms = {}
    for key in listed:
        pattern = re.escape(key)
        for placeholder, meaning in STANDS_FOR.items():
            pattern = pattern.replace(placeholder, meaning)
        forms[key] = re.compile(pattern)
    assert sorted(key for key in logged if not any(form.fullmatch(key) for form in forms.values())) == []
    unseen = {key for key, form in forms.items() if not any(form.fullmatch(found) for found in logged)}
    # A tiny model's translations are no text whose language could be judged; tests/quality has translations that are.
    assert unseen <= {"eval_translation_off_target", "eval_translation_off_target_DIRECTION"}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("The line", records.Evaluation),
        ("A language pair", PairScores),
        ("The surface", Surface),
        ("A direction", records.DirectionQuality),
        ("A metric's score", records.MetricScore),
        ("A missing score", records.NoScore),
        ("A correlation over the run", records.RunCorrelation),
        ("A correlation over the sentences", records.SentenceCorrelation),
        ("The verdict", records.Verdict),
    ],
)
def test_a_table_of_scores_jsonl_has_the_fields_of_its_record(heading: str, record: type[BaseModel]) -> None:
    also = {"format"} if record is records.Evaluation else set()
    named = first_cells(section("scores-jsonl.md", heading))
    assert sorted(named) == sorted(record.model_fields.keys() | also)


@pytest.mark.unit
def test_every_record_has_a_table() -> None:
    tables = re.findall(r"^\| field \|", (REFERENCE / "scores-jsonl.md").read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)]
    own = {kind for kind in kinds if kind.__module__ == records.__name__} - {records.SparseRecord}
    assert len(tables) == len(own | {PairScores, Surface})


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import docs_hooks

    return docs_hooks


def commands(found: Any, name: str = "neuronxa") -> dict[str, Any]:
    if not hasattr(found, "commands"):
        return {name: found}
    return {
        key: value for word, part in found.commands.items() for key, value in commands(part, f"{name} {word}").items()
    }


@pytest.mark.unit
def test_the_page_of_the_command_line_has_every_command_once(hooks: ModuleType) -> None:
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert sorted(hooks.OPTIONS.findall(page)) == sorted(commands(get_command(app)))


@pytest.mark.unit
@pytest.mark.parametrize(("name", "command"), commands(get_command(app)).items())
def test_the_site_shows_every_option_with_its_help(name: str, command: Any, hooks: ModuleType) -> None:
    shown = hooks.options_of(name)
    assert name in shown
    for parameter in command.params:
        assert " ".join(parameter.help.split()) in shown
        assert parameter.param_type_name == "argument" or f"`{parameter.opts[0]}" in shown


@pytest.mark.unit
def test_an_option_is_written_once(hooks: ModuleType) -> None:
    """The page itself has no table of options: the site makes them from the help."""
    assert "| option |" not in (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert "| option |" in hooks.options_of("neuronxa score")


@pytest.mark.unit
class TestLinksThatLeaveTheSite:
    def shown(self, hooks: ModuleType, text: str, repo_url: str | None = None) -> str:
        class Stub:
            src_uri = "how-to/page.md"

        page, config = Stub(), Stub()
        page.file, config.repo_url = Stub(), repo_url  # type: ignore[attr-defined]
        return str(hooks.on_page_markdown(text, page=page, config=config, files=None))

    def test_become_paths(self, hooks: ModuleType) -> None:
        assert (
            self.shown(hooks, "[figures](../../benchmarks/results/gpu.json)")
            == "figures (`benchmarks/results/gpu.json`)"
        )
        assert self.shown(hooks, "[recipes/](../../recipes)") == "`recipes`"

    def test_or_links_to_the_host(self, hooks: ModuleType) -> None:
        linked = self.shown(hooks, "[a](../../recipes/README.md#b)", "https://host/us/it/")
        assert linked == "[a](https://host/us/it/blob/main/recipes/README.md#b)"

    def test_others_stay(self, hooks: ModuleType) -> None:
        for text in ("[a](../index.md)", "[a](stop.md#b)", "![a](../images/demo.png)", "```\n[a](../../x)\n```"):
            assert self.shown(hooks, text) == text


@pytest.mark.unit
def test_the_page_of_the_api_has_every_public_name() -> None:
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: neuronxa_callback\.(\w+)$", page, re.MULTILINE)) == sorted(
        neuronxa_callback.__all__
    )
    assert sorted(first_cells(page)) == sorted(neuronxa_callback.__all__)


@pytest.mark.unit
def test_every_page_is_in_the_navigation() -> None:
    """`make docs` says so, too; this test needs no mkdocs."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md") if page.name != "report.md"]
    assert sorted(re.findall(r"[\w/.-]+\.md", navigation)) == sorted(pages)
