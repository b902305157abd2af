"""WMT's test sets: .sgm, XML with several references, plain files, WMT24++, NTREX, and sacrebleu's own copies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from sacrebleu.dataset.fake_sgml import FakeSGMLDataset
from sacrebleu.dataset.wmt_xml import WMTXMLDataset

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.corpora import open_corpus
from neuronxa_callback.text.pairs import PairsError
from tests.text.samples import CODES, ENGLISH, EXPECTED, ICELANDIC, ROWS, refused, write

pytestmark = pytest.mark.unit

OTHER = ("Hafið er kyrrt.", "Rauðar dyr opnuðust.", "Enginn hló neitt.")


def sgm(side: str, sentences: Sequence[str], languages: str = 'srclang="en" trglang="is"') -> str:
    lines = [f'<seg id="{number}"> {sentence}</seg>' for number, sentence in enumerate(sentences, start=1)]
    body = "\n".join(['<doc docid="news.1" genre="news" origlang="en">', "<p>", *lines, "</p>", "</doc>"])
    return f'<{side}set setid="newstest2020" {languages}>\n{body}\n</{side}set>\n'


def two_sgm(folder: Path, source: str, target: str) -> tuple[Path, Path]:
    return (
        write(folder / "newstest2020-enis-src.en.sgm", source),
        write(folder / "newstest2020-enis-ref.is.sgm", target),
    )


class TestSgm:
    def test_two_files(self, tmp_path: Path) -> None:
        assert ParallelPairs.load(two_sgm(tmp_path, sgm("src", ENGLISH), sgm("ref", ICELANDIC))) == EXPECTED

    def test_as_sacrebleu_reads_them(self, tmp_path: Path) -> None:
        sentences = ("Salt & pepper.", 'He  said "no".', "<b>Bold</b> and 3 < 4.", "100 %.")
        paths = two_sgm(tmp_path, sgm("src", sentences), sgm("ref", [f"{s} Já." for s in sentences]))
        for path, side in zip(paths, ("source", "target"), strict=True):
            FakeSGMLDataset("x")._convert_format(str(path), str(tmp_path / side))
        pairs = ParallelPairs.load(paths)
        assert list(pairs.source) == (tmp_path / "source").read_text(encoding="utf-8").splitlines()
        assert list(pairs.target) == (tmp_path / "target").read_text(encoding="utf-8").splitlines()

    def test_escaped_characters(self, tmp_path: Path) -> None:
        paths = two_sgm(tmp_path, sgm("src", ("A &amp; b.", "&quot;C&quot; &lt; d.")), sgm("ref", ("A.", "C.")))
        assert ParallelPairs.load(paths).source == ("A & b.", '"C" < d.')

    def test_a_region_in_lower_case(self, tmp_path: Path) -> None:
        sides = (
            sgm(side, text, 'srclang="sv-se" trglang="pt-br"') for side, text in (("src", ENGLISH), ("ref", ICELANDIC))
        )
        pairs = ParallelPairs.load(two_sgm(tmp_path, *sides))
        assert (pairs.source_lang, pairs.target_lang) == ("swe_Latn", "por_Latn")

    def test_languages_from_the_names_or_the_user(self, tmp_path: Path) -> None:
        unsaid = [sgm(side, text, "") for side, text in (("src", ENGLISH), ("ref", ICELANDIC))]
        paths = two_sgm(tmp_path, *unsaid)
        assert ParallelPairs.load(paths) == EXPECTED
        assert ParallelPairs.load(paths, "eng_Latn", "fao_Latn").target_lang == "fao_Latn"

    def test_several_references(self, tmp_path: Path) -> None:
        doc = '<doc sysid="{}" docid="d">\n{}\n</doc>\n'
        body = "".join(
            doc.format(name, "\n".join(f'<seg id="{i}">{s}</seg>' for i, s in enumerate(side, start=1)))
            for name, side in (("A", ICELANDIC), ("B", OTHER))
        )
        source = f'<srcset srclang="en">\n{doc.format("", "")}</srcset>'.replace(
            "\n\n", "\n" + "\n".join(f'<seg id="{i}">{s}</seg>' for i, s in enumerate(ENGLISH, start=1)) + "\n"
        )
        paths = two_sgm(tmp_path, source, f'<refset trglang="is">\n{body}</refset>')
        assert ParallelPairs.load(paths) == EXPECTED
        assert ParallelPairs.load(paths, reference="B").target == OTHER
        refused(r"ref\.is\.sgm has no reference C; it has A, B", paths, reference="C")

    def test_different_segments(self, tmp_path: Path) -> None:
        paths = two_sgm(tmp_path, sgm("src", ENGLISH), sgm("ref", ICELANDIC[:2]))
        refused(r"src\.en\.sgm, line 6, has segment 3 of document news\.1, which .*ref\.is\.sgm lacks; give", paths)
        turned = (
            sgm("ref", ICELANDIC).replace('id="1"', 'id="x"').replace('id="2"', 'id="1"').replace('id="x"', 'id="2"')
        )
        refused("have their segments in different orders", two_sgm(tmp_path, sgm("src", ENGLISH), turned))

    def test_broken_files(self, tmp_path: Path) -> None:
        open_segment = sgm("src", ENGLISH).replace("</seg>", "")
        paths = two_sgm(tmp_path, open_segment, sgm("ref", ICELANDIC))
        refused(r"src\.en\.sgm, line 4, begins a segment that does not end; add its </seg>", paths)
        refused(r"src\.en\.sgm holds no <seg>", two_sgm(tmp_path, sgm("src", ()), sgm("ref", ICELANDIC)))
        refused(
            r"src\.en\.sgm is in WMT's \.sgm format and .*ref\.is\.sgm is not; give both",
            two_sgm(tmp_path, sgm("src", ENGLISH), "\n".join(ICELANDIC)),
        )
        empty = two_sgm(tmp_path, sgm("src", ENGLISH), sgm("ref", ("Einn.", "", "Þrír.")))
        refused(r"ref\.is\.sgm, line 5 \(segment 2 of document news\.1\), has an empty isl_Latn sentence", empty)

    def test_one_side_alone(self, tmp_path: Path) -> None:
        path = write(tmp_path / "src.en.sgm", sgm("src", ENGLISH))
        refused(r"src\.en\.sgm holds one side of a test set; give a tuple of two paths", path)
        xml = write(tmp_path / "src.en.xml", sgm("src", ENGLISH))
        refused(r"src\.en\.xml holds one side of a test set; give a tuple", xml)
        other = write(tmp_path / "ref.is.xml", sgm("ref", ICELANDIC))
        assert ParallelPairs.load((xml, other)) == EXPECTED


def wmt_xml(*references: tuple[str, Sequence[str]], more: str = "") -> str:
    def side(sentences: Sequence[str]) -> str:
        return (
            "<p>"
            + "\n".join(f'<seg id="{number}">{escape(s)}</seg>' for number, s in enumerate(sentences, start=1) if s)
            + "</p>"
        )

    refs = "\n".join(
        f'<ref lang="is"{f""" translator="{name}" """ if name else ""}>{side(text)}</ref>' for name, text in references
    )
    return (
        "<?xml version='1.0' encoding='utf-8'?>\n<dataset id=\"newstest2021.en-is\">\n"
        f'<doc id="d1" origlang="en">\n<src lang="en">{side(ENGLISH)}</src>\n{refs}\n'
        f'<hyp system="X" language="is">{side(ENGLISH)}</hyp>\n</doc>\n{more}</dataset>\n'
    )


class TestXml:
    @pytest.mark.parametrize("names", [("A", "B"), ("", ""), ("B", "A")])
    def test_the_first_reference(self, names: tuple[str, str], tmp_path: Path) -> None:
        path = write(tmp_path / "t.xml", wmt_xml((names[0], ICELANDIC), *([(names[1], OTHER)] if names[1] else [])))
        assert ParallelPairs.load(path) == EXPECTED
        assert ParallelPairs.load(path, "isl_Latn", "eng_Latn").source == ICELANDIC
        assert open_corpus(path).pairs(*CODES).target == ICELANDIC

    def test_languages_that_it_does_not_say(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.xml", wmt_xml(("A", ICELANDIC)).replace(' lang="is"', ""))
        refused(r"the languages of .*t\.xml are not known", path)
        assert ParallelPairs.load(path, *CODES) == EXPECTED

    def test_another_reference(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.xml", wmt_xml(("A", ICELANDIC), ("B", OTHER)))
        assert ParallelPairs.load(path, reference="B").target == OTHER
        assert ParallelPairs.load(path, reference="A").target == ICELANDIC
        refused(r"t\.xml has no reference C; it has A, B", path, reference="C")

    def test_as_sacrebleu_reads_it(self, tmp_path: Path) -> None:
        tests = '<doc id="t" origlang="en" testsuite="x"><src lang="en"><p><seg id="1">No.</seg></p></src></doc>'
        without = '<doc id="d2" origlang="en"><src lang="en"><p><seg id="1">No.</seg></p></src></doc>'
        path = write(tmp_path / "t.xml", wmt_xml(("A", (*ICELANDIC[:2], "  Salt &\n pipar. ")), more=tests + without))
        fields = WMTXMLDataset._unwrap_wmt21_or_later(str(path))
        pairs = ParallelPairs.load(path)
        assert list(pairs.source) == fields["src"]
        assert list(pairs.target) == [WMTXMLDataset._clean(line) for line in fields["ref:A"]]

    def test_a_segment_without_the_reference(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write(tmp_path / "t.xml", wmt_xml(("A", ("Einn.", "", "Þrír.")), ("B", OTHER)))
        refused(r"t\.xml, line 5 \(segment 2 of document d1\), has no reference A, only B; add it or choose", path)
        assert ParallelPairs.load(path, reference="B").target == OTHER
        path = write(tmp_path / "t.xml", wmt_xml(("A", ("Einn.", "", "Þrír."))))
        caplog.clear()
        assert ParallelPairs.load(path).source == (ENGLISH[0], ENGLISH[2])
        assert caplog.messages == [
            f"NeuronXA: {path}: segments without a reference are left out, 1 in all; the first is {path}, line 5 "
            "(segment 2 of document d1)."
        ]
        lower = write(tmp_path / "l.xml", wmt_xml(("A", ICELANDIC)).replace('lang="en"', 'lang="en-us"'))
        assert ParallelPairs.load(lower) == EXPECTED

    def test_no_reference(self, tmp_path: Path) -> None:
        refused(
            r"t\.xml holds no reference; give a test set with <src> and <ref>", write(tmp_path / "t.xml", wmt_xml())
        )
        path = write(tmp_path / "t.xml", wmt_xml(("A", ICELANDIC)).replace("src", "source"))
        refused(r"t\.xml, line 3, has a document without <src>", path)


class TestPlainFiles:
    @pytest.mark.parametrize(
        "names",
        [
            ("newstest2021.en-is.src.en", "newstest2021.en-is.ref.A.is"),
            ("newstest2019-src.eng.txt", "newstest2019-ref.isl.txt"),
            ("Books.en-is.en", "Books.en-is.is"),
            ("en.txt", "is.txt"),
        ],
    )
    def test_languages_from_the_names(self, names: tuple[str, str], tmp_path: Path) -> None:
        paths = [
            write(tmp_path / name, "\n".join(s) + "\n") for name, s in zip(names, (ENGLISH, ICELANDIC), strict=True)
        ]
        assert ParallelPairs.load(tuple(paths)) == EXPECTED
        assert ParallelPairs.load([str(path) for path in paths]) == EXPECTED

    def test_ntrex_as_a_tuple_with_a_script(self, tmp_path: Path) -> None:
        names = ("newstest2019-src.eng.txt", "newstest2019-ref.tgk-Cyrl.txt")
        paths = tuple(write(tmp_path / n, "\n".join(s)) for n, s in zip(names, (ENGLISH, ICELANDIC), strict=True))
        assert ParallelPairs.load(paths).target_lang == "tgk_Cyrl"

    def test_ntrex_as_a_folder(self, tmp_path: Path) -> None:
        tags = (
            "src.eng",
            "ref.eng-US",
            "ref.eng-GB",
            "ref.isl",
            "ref-2.isl",
            "ref.tgk-Cyrl",
            "ref.zho-CN",
            "ref.zho-TW",
            "ref.ven",
        )
        for tag in tags:
            write(tmp_path / f"newstest2019-{tag}.txt", "\n".join(f"{s} {tag}" for s in ICELANDIC))
        write(tmp_path / "README.md", "about")
        corpus = open_corpus(tmp_path)
        assert {*corpus.languages} == {"eng_Latn", "isl_Latn", "tgk_Cyrl", "zho_Hans", "zho_Hant", "ven_Latn"}
        assert corpus.pairs("eng_Latn", "zho_Hant").source[0].endswith("src.eng")
        assert corpus.pairs("eng_Latn", "isl_Latn").target[0].endswith("ref.isl")
        write(tmp_path / "newstest2020-ref.isl.txt", "x")
        with pytest.raises(PairsError, match=r"two files of isl_Latn, newstest2019-ref\.isl\.txt and newstest2020-ref"):
            open_corpus(tmp_path)


def wmt24pp() -> list[dict[str, Any]]:
    rows = [("canary", "Canary x.", True), ("news", "Not well-formed", True)]
    rows += [("news", sentence, False) for sentence in ENGLISH]
    return [
        {
            "lp": "en-is_IS",
            "domain": domain,
            "document_id": "d",
            "segment_id": number,
            "is_bad_source": bad,
            "source": sentence,
            "target": dict(ROWS).get(sentence, sentence),
            "original_target": "Ekki.",
        }
        for number, (domain, sentence, bad) in enumerate(rows)
    ]


class TestWmt24pp:
    def test_it_names_its_languages_and_its_bad_sources(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write(tmp_path / "en-is_IS.jsonl", "\n".join(map(json.dumps, wmt24pp())))
        assert ParallelPairs.load(path) == EXPECTED
        assert ParallelPairs.load(path, "isl_Latn", "eng_Latn").source == ICELANDIC
        assert ParallelPairs.load(path, n=2).source == ENGLISH[:2]
        assert caplog.messages[0] == (
            f"NeuronXA: {path} marks rows as is_bad_source, as WMT24++ does. They are left out; the first is {path}, "
            "line 1."
        )

    def test_places_are_those_of_the_file(self, tmp_path: Path) -> None:
        rows = wmt24pp()
        rows[3]["target"] = ""
        path = write(tmp_path / "w.jsonl", "\n".join(map(json.dumps, rows)))
        refused(r"w\.jsonl, line 4, has an empty isl_Latn sentence", path)
        refused(r"row 4 of the list has an empty isl_Latn sentence", rows)

    def test_languages_that_contradict_it(self, tmp_path: Path) -> None:
        refused(
            "the column lp of the list says en-is_IS, so target cannot be deu_Latn", wmt24pp(), "eng_Latn", "deu_Latn"
        )
        assert ParallelPairs.load(wmt24pp(), columns=("source", "target")) == EXPECTED
        assert ParallelPairs.load(wmt24pp(), "en", "is-IS", columns=("source", "target")) == EXPECTED

    def test_two_language_pairs_in_one_file(self, tmp_path: Path) -> None:
        rows = wmt24pp()
        rows[3]["lp"] = "en-de_DE"
        refused("row 4 of the list holds None where the isl_Latn sentence should be", rows)


class TestSacrebleu:
    """Each test is a process of its own, since sacrebleu reads the place of its cache when it is imported."""

    def cache(self, folder: Path, text: str = "") -> Path:
        """Write what sacrebleu has on the disk after a download of wmt21."""
        raw = folder / "wmt21" / "raw"
        (raw / "test").mkdir(parents=True)
        (raw / "wmt21.test.tgz").write_bytes(b"downloaded")
        write(raw / "test" / "newstest2021.en-is.xml", text or wmt_xml(("A", ICELANDIC), ("B", OTHER)))
        return folder

    def load(self, cache: Path, call: str, **settings: str) -> Any:
        script = (
            "import json; from neuronxa_callback import ParallelPairs\n"
            f"pairs = ParallelPairs.load({call})\n"
            "print(json.dumps([pairs.source, pairs.target, pairs.name]))"
        )
        # A proxy that is not there stands for a machine without a network.
        offline = {"https_proxy": "http://127.0.0.1:9", "SACREBLEU": str(cache), "HF_HUB_OFFLINE": "", **settings}
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **offline}, capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout) if done.stdout else done.stderr.strip().splitlines()[-1]

    def test_a_downloaded_set(self, tmp_path: Path) -> None:
        cache = self.cache(tmp_path)
        expected = [list(ENGLISH), list(ICELANDIC), EXPECTED.name]
        assert self.load(cache, "'wmt21:en-is'") == expected
        assert self.load(cache, "'wmt21:en-is'", HF_HUB_OFFLINE="1") == expected
        assert self.load(cache, "'wmt21:en-is', reference='B'")[1] == list(OTHER)
        assert self.load(cache, "'wmt21:en-is', 'isl_Latn', 'eng_Latn'")[0] == list(ICELANDIC)
        assert "wmt21:en-is has no reference C; it has " in self.load(cache, "'wmt21:en-is', reference='C'")

    def test_without_a_network(self, tmp_path: Path) -> None:
        remedy = f"run `sacrebleu -t wmt21 -l en-is --echo src` where there is a network, and copy {tmp_path}/wmt21."
        said = self.load(tmp_path, "'wmt21:en-is'")
        assert "PairsError: sacrebleu cannot give wmt21:en-is (" in said
        assert said.endswith(remedy)
        assert self.load(tmp_path, "'wmt21:en-is'") == said  # the attempt left nothing behind that reads as a download
        said = self.load(tmp_path, "'wmt21:en-is'", HF_HUB_OFFLINE="1")
        assert said.endswith(
            f"wmt21:en-is is not in {tmp_path}/wmt21/raw, and HF_HUB_OFFLINE forbids to download it; {remedy}"
        )

    def test_a_damaged_cache(self, tmp_path: Path) -> None:
        said = self.load(self.cache(tmp_path, "<dataset"), "'wmt21:en-is'")
        assert "PairsError: sacrebleu cannot give wmt21:en-is (" in said

    def test_what_it_does_not_have(self) -> None:
        refused("sacrebleu has no test set wmt99; `sacrebleu --list` names", "wmt99:en-is")
        refused("wmt21 has no en-xx; it has .*en-is", "wmt21:en-xx")

    def test_the_survey_reads_them(self, tmp_path: Path) -> None:
        command = ["score", "nothing", "--pairs", "wmt21:en-fr"]
        done = subprocess.run(
            [sys.executable, "-m", "neuronxa_callback", *command], capture_output=True, text=True, check=False
        )
        assert "Error: wmt21 has no en-fr; it has" in done.stderr.replace("\n", " ")
