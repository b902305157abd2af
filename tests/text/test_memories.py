"""TMX and XLIFF as translate-toolkit writes them, and what their specifications allow beside that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuronxa_callback import ParallelPairs
from neuronxa_callback.text.corpora import open_corpus
from tests.text.samples import CODES, EXPECTED, ROWS, refused, write

# translate-toolkit writes XLIFF 2 in the versions that need lxml 6.1, and so beside the newest versions alone.
pytest.importorskip("translate.storage.xliff2")
from translate.storage import tmx, xliff, xliff2

pytestmark = pytest.mark.unit

SPECIAL = [("Salt & <pepper>.", "Salt & <pipar>."), ('He said "no".', "Hann sagði „nei“."), *ROWS]


def of_rows(rows: list[tuple[str, str]]) -> ParallelPairs:
    return ParallelPairs(tuple(s for s, _ in rows), tuple(t for _, t in rows), *CODES)


def write_tmx(path: Path, rows: list[tuple[str, str]], tags: tuple[str, str] = ("en", "is")) -> Path:
    file = tmx.tmxfile()
    for source, target in rows:
        file.addtranslation(source, tags[0], target, tags[1])
    file.savefile(str(path))
    return path


def write_xliff(path: Path, kind: Any, tags: tuple[str, str] = ("en", "is")) -> Path:
    file = kind(sourcelanguage=tags[0], targetlanguage=tags[1])
    for source, target in SPECIAL:
        file.addsourceunit(source).target = target
    file.savefile(str(path))
    return path


def tmx_text(*units: str, header: str = '<header srclang="en"/>', before: str = "") -> str:
    body = "\n".join(units)
    return f'<?xml version="1.0"?>\n{before}<tmx version="1.4">\n{header}<body>\n{body}\n</body></tmx>\n'


def unit(*sides: tuple[str, str], name: str = "xml:lang") -> str:
    return "<tu>" + "".join(f'<tuv {name}="{tag}"><seg>{text}</seg></tuv>' for tag, text in sides) + "</tu>"


class TestTmx:
    @pytest.mark.parametrize("tags", [("en", "is"), ("en-US", "is-IS"), ("EN-GB", "IS"), CODES])
    def test_what_translate_toolkit_writes_comes_back(self, tags: tuple[str, str], tmp_path: Path) -> None:
        path = write_tmx(tmp_path / "m.tmx", SPECIAL, tags)
        assert ParallelPairs.load(path) == of_rows(SPECIAL)
        back = ParallelPairs.load(path, "isl_Latn", "eng_Latn")
        assert (back.source, back.source_lang) == (of_rows(SPECIAL).target, "isl_Latn")

    def test_the_header_says_which_language_is_the_source(self, tmp_path: Path) -> None:
        units = [unit(("is", t), ("en", s)) for s, t in ROWS]
        assert ParallelPairs.load(write(tmp_path / "m.tmx", tmx_text(*units))) == EXPECTED
        unsaid = write(tmp_path / "u.tmx", tmx_text(*units, header='<header srclang="*all*"/>'))
        assert ParallelPairs.load(unsaid).source_lang == "isl_Latn"

    def test_lang_as_in_older_versions(self, tmp_path: Path) -> None:
        units = [unit(("en", s), ("is", t), name="lang") for s, t in ROWS]
        assert ParallelPairs.load(write(tmp_path / "m.xml", tmx_text(*units))) == EXPECTED

    @pytest.mark.parametrize(
        ("segment", "text"),
        [
            ('<bpt i="1">&lt;b&gt;</bpt>The<ept i="1">&lt;/b&gt;</ept> sea.', "The sea."),
            ('The <ph x="1">&lt;br/&gt;</ph>sea<it pos="begin">{\\i</it>.', "The sea."),
            ('The <hi type="bold">blue <hi>sea</hi></hi>.', "The blue sea."),
            ("The<ut>{\\b}</ut> sea.", "The sea."),
            ("The<ph>&lt;br/&gt;</ph>sea.", "The sea."),
            ("The <ph>&lt;BR&gt;</ph> sea.", "The sea."),
            ('The<ph type="lb">x</ph>sea.', "The sea."),
            ('<hi>The<ph type="lb"/></hi>sea.', "The sea."),
            ("The<ph>\n</ph>sea.", "The sea."),
            ("The<ph>\\n</ph>sea.", "The sea."),
            ("The<ph>&lt;brand/&gt;</ph>se<ph/>a.", "Thesea."),
            ('The <bpt i="1">&lt;a title="<sub>A footnote.</sub>"&gt;</bpt>sea<ept i="1"/>.', "The sea."),
            ("The <!-- blue --><?x y?>sea.", "The sea."),
            ("<![CDATA[Salt & pepper.]]>", "Salt & pepper."),
        ],
    )
    def test_inline_tags(self, segment: str, text: str, tmp_path: Path) -> None:
        path = write(
            tmp_path / "m.tmx", tmx_text(unit(("en", segment), ("is", "Sjór.")), unit(("en", "A."), ("is", "B.")))
        )
        assert ParallelPairs.load(path).source[0] == text

    def test_several_languages(self, tmp_path: Path) -> None:
        units = [unit(("en", s), ("is", t), ("zh-CN", f"{t}中")) for s, t in ROWS]
        path = write(tmp_path / "m.tmx", tmx_text(*units))
        refused(r"m\.tmx holds 3 languages; choose two", path)
        assert ParallelPairs.load(path, *CODES) == EXPECTED
        corpus = open_corpus(path)
        assert corpus.languages == ("eng_Latn", "isl_Latn", "zho_Hans")
        assert corpus.pairs("isl_Latn", "zho_Hans").target[0] == "Sjórinn er lygn.中"

    def test_two_regions_of_one_language(self, tmp_path: Path) -> None:
        units = [unit(("en-US", s), ("en-GB", s + "!"), ("is", t)) for s, t in ROWS]
        path = write(tmp_path / "m.tmx", tmx_text(*units))
        refused(r"m\.tmx has the columns en-US and en-GB, which are all eng_Latn; choose with columns=", path, *CODES)
        assert ParallelPairs.load(path, columns=("en-US", "is")) == EXPECTED

    def test_a_missing_language(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        units = [unit(("en", "One."), ("is", "Einn.")), unit(("en", "Two.")), unit(("en", "Three."), ("is", "Þrír."))]
        path = write(tmp_path / "m.tmx", tmx_text(*units))
        said = f"NeuronXA: {path}: units without en or is are left out, 1 in all; the first is {path}, line 5."
        for options in ({"n": 2}, {"n": None}, {"columns": ("EN", "is")}):
            assert ParallelPairs.load(path, **options).target == ("Einn.", "Þrír.")
            assert caplog.messages == [said]
        refused(r"m\.tmx has the columns en, is, and none of them is deu_Latn", path, "eng_Latn", "deu_Latn")
        without = write(tmp_path / "w.tmx", tmx_text("<tu>\n<tuv><seg>One.</seg></tuv></tu>"))
        refused(r"w\.tmx, line 5, has a tuv without xml:lang; add it or remove that unit", without)
        empty = write(tmp_path / "e.tmx", tmx_text('<tu><tuv xml:lang="en"/></tu>'))
        refused(r"e\.tmx, line 4, has a tuv without seg; add it", empty)

    def test_units_of_two_of_many_languages(self, tmp_path: Path) -> None:
        """ELRC's Khresmoi pairs each English sentence with one other language a unit."""
        units = [unit(("en-GB", s), side) for s, t in ROWS for side in (("de-DE", f"{t}!"), ("is-IS", t))]
        path = write(tmp_path / "m.tmx", tmx_text(*units))
        assert ParallelPairs.load(path, *CODES) == EXPECTED
        assert ParallelPairs.load(path, "en", "is", n=2) == of_rows(ROWS[:2])
        back = ParallelPairs.load(path, "de", "en")
        assert (back.source[0], back.target) == ("Sjórinn er lygn.!", EXPECTED.source)
        assert ParallelPairs.load(path, columns=("en-GB", "is-IS"), n=2) == of_rows(ROWS[:2])
        refused(r"m\.tmx holds 3 languages; choose two", path)
        assert open_corpus(path).pairs("eng_Latn", "isl_Latn").target == EXPECTED.target
        refused(r"m\.tmx has no unit with both deu_Latn and isl_Latn; choose two", path, "deu_Latn", "isl_Latn")

    def test_the_first_unit_does_not_decide(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        units = [unit(("is", "Ein.")), *(unit(("en", s), ("is", t)) for s, t in ROWS), unit(("en", "One."))]
        path = write(tmp_path / "m.tmx", tmx_text(*units))
        for arguments in ((), CODES, ("en",)):
            assert ParallelPairs.load(path, *arguments, n=3) == EXPECTED
        assert open_corpus(path, n=3).pairs(*CODES).target == EXPECTED.target
        assert [message.partition(": units ")[2] for message in caplog.messages] == [
            f"without {names} are left out, 2 in all; the first is {path}, line 4."
            for names in ("en or is", "eng_Latn or isl_Latn", "eng_Latn or is")
        ]
        empty = tmx_text(*units[1:3], unit(("en", "One."), ("is", "")))
        refused(r"e\.tmx, line 6, has an empty isl_Latn sentence; fill it in", write(tmp_path / "e.tmx", empty))

    @pytest.mark.parametrize(
        ("tag", "code"),
        [
            ("sv-se", "swe_Latn"),
            ("nb-no", "nob_Latn"),
            ("pt_br", "por_Latn"),
            ("zh-tw", "zho_Hant"),
            ("en-is", "eng_Latn"),
            ("PT-br", "por_Latn"),
        ],
    )
    def test_tags_know_no_case(self, tag: str, code: str, tmp_path: Path) -> None:
        """BCP 47. In the name of a column or file, "en-is" is two languages."""
        units = [unit((spelled, s), ("fo", t)) for spelled, (s, t) in zip((tag, tag.upper(), tag), ROWS, strict=True)]
        path = write(tmp_path / "m.tmx", tmx_text(*units))
        for options in ({}, {"source_lang": tag}, {"columns": (tag, "fo")}, {"columns": (tag.upper(), "FO")}):
            pairs = ParallelPairs.load(path, **options)
            assert (pairs.source_lang, pairs.source) == (code, EXPECTED.source)
        xlf = write_xliff(tmp_path / "x.xlf", xliff.xlifffile, (tag, "fo"))
        assert ParallelPairs.load(xlf).source_lang == code

    def test_regions_that_change_between_units(self, tmp_path: Path) -> None:
        tags = ("en-US", "en-GB", "en")
        units = [unit((tag, s), ("is", t)) for tag, (s, t) in zip(tags, ROWS, strict=True)]
        assert ParallelPairs.load(write(tmp_path / "m.tmx", tmx_text(*units)), *CODES) == EXPECTED

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_utf_16_with_and_without_its_mark(self, encoding: str, tmp_path: Path) -> None:
        text = tmx_text(*(unit(("en", s), ("is", t)) for s, t in ROWS)).replace("?>", ' encoding="UTF-16"?>', 1)
        (tmp_path / "m.tmx").write_bytes(text.encode(encoding))
        assert ParallelPairs.load(tmp_path / "m.tmx") == EXPECTED

    def test_no_units(self, tmp_path: Path) -> None:
        refused(r"m\.tmx holds no pairs", write(tmp_path / "m.tmx", tmx_text()))


class TestXliff:
    @pytest.mark.parametrize("kind", [xliff.xlifffile, xliff2.Xliff2File])
    @pytest.mark.parametrize("suffix", ["xlf", "xliff", "xml", "xlf.gz"])
    def test_what_translate_toolkit_writes_comes_back(self, kind: Any, suffix: str, tmp_path: Path) -> None:
        path = write_xliff(tmp_path / f"x.{suffix.removesuffix('.gz')}", kind)
        if suffix.endswith(".gz"):
            import gzip

            content = path.read_bytes()
            path = path.with_suffix(".xlf.gz")
            path.write_bytes(gzip.compress(content))
        assert ParallelPairs.load(path) == of_rows(SPECIAL)

    def test_inline_elements_of_version_1(self, tmp_path: Path) -> None:
        units = (
            '<trans-unit id="1"><source>The <g id="1">blue</g> <x id="2"/>sea<ph id="3">&lt;b/&gt;</ph>.</source>'
            '<seg-source>No.</seg-source><target><mrk mtype="seg" mid="0">Blár sjór</mrk><bpt id="4">{</bpt>.</target>'
            "<alt-trans><source>Other.</source><target>Annað.</target></alt-trans></trans-unit>"
            '<trans-unit id="2"><source>Two.</source><target>Tveir.</target></trans-unit>'
        )
        path = write(tmp_path / "x.xlf", xliff_1(units))
        assert ParallelPairs.load(path) == ParallelPairs(("The blue sea.", "Two."), ("Blár sjór.", "Tveir."), *CODES)

    def test_inline_elements_and_segments_of_version_2(self, tmp_path: Path) -> None:
        text = (
            '<xliff xmlns="urn:oasis:names:tc:xliff:document:2.1" version="2.1" srcLang="en-US" trgLang="is">'
            '<file id="f"><unit id="u"><segment id="s1"><source>The <pc id="1">blue</pc> <ph id="2"/>sea.</source>'
            '<target>Blár <mrk id="m" type="term">sjór</mrk>.</target></segment>'
            "<ignorable><source> </source></ignorable>"
            '<segment id="s2"><source>Two.</source><target>Tveir.</target></segment></unit></file></xliff>'
        )
        path = write(tmp_path / "x.xliff", text)
        assert ParallelPairs.load(path) == ParallelPairs(("The blue sea.", "Two."), ("Blár sjór.", "Tveir."), *CODES)

    @pytest.mark.parametrize(
        "line_break", ['<x id="1" ctype="lb"/>', '<ph id="1" ctype="lb">x</ph>', '<ph id="1">&lt;br /&gt;</ph>']
    )
    def test_line_breaks_of_version_1(self, line_break: str, tmp_path: Path) -> None:
        units = "".join(
            f"<trans-unit id='{s}'><source>{s.replace(' ', line_break)}</source><target>{t}</target></trans-unit>"
            for s, t in ROWS
        )
        assert ParallelPairs.load(write(tmp_path / "x.xlf", xliff_1(units))) == EXPECTED

    @pytest.mark.parametrize("line_break", ['<ph id="1" type="fmt" subType="xlf:lb"/>', '<ph id="1" dataRef="d2"/>'])
    def test_line_breaks_of_version_2(self, line_break: str, tmp_path: Path) -> None:
        data = '<originalData><data id="d1">{b}</data><data id="d2">&lt;br/&gt;</data></originalData>'
        segments = "".join(
            f'<unit id="u{n}">{data}<segment><source>{s.replace(" ", line_break)}<ph id="2" dataRef="d1"/></source>'
            f"<target>{t}</target></segment></unit>"
            for n, (s, t) in enumerate(ROWS)
        )
        assert ParallelPairs.load(write(tmp_path / "x.xlf", xliff_2(segments))) == EXPECTED

    @pytest.mark.parametrize("state", ["new", "needs-translation", "needs-adaptation", "needs-l10n"])
    def test_unfinished_targets_of_version_1(
        self, state: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        states = ("", "translated", "needs-review-translation", state, state)
        units = "\n".join(
            f"<trans-unit><source>{s}</source><target{f' state={name!r}' if name else ''}>{t}</target></trans-unit>"
            for (s, t), name in zip([*ROWS, ("Four.", "Four."), ("Five.", "Five.")], states, strict=True)
        )
        path = write(tmp_path / "x.xlf", xliff_1(units))
        assert ParallelPairs.load(path) == EXPECTED
        assert caplog.messages == [
            f"NeuronXA: {path}: units whose state says that they are not yet translated are left out, 2 in all; the "
            f"first is {path}, line 4."
        ]

    def test_unfinished_targets_of_version_2(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        segments = "".join(
            f'<unit id="u{n}"><segment{state}><source>{s}</source><target>{t}</target></segment></unit>'
            for n, ((s, t), state) in enumerate(
                [
                    (ROWS[0], ""),
                    (("No.", "No."), ' state="initial"'),
                    *((row, ' state="translated"') for row in ROWS[1:]),
                ]
            )
        )
        path = write(
            tmp_path / "x.xlf",
            xliff_2(segments + '<unit id="e"><segment state="initial"><source>No.</source></segment></unit>'),
        )
        assert ParallelPairs.load(path) == EXPECTED
        assert "are left out, 2 in all" in caplog.messages[0]

    def test_a_unit_without_a_translation(self, tmp_path: Path) -> None:
        units = '\n<trans-unit id="u7"><source>One.</source></trans-unit>'
        refused(
            r"x\.xlf, line 2, has no target in the unit u7; translate it or remove it",
            write(tmp_path / "x.xlf", xliff_1(units)),
        )
        units = "".join(f"<trans-unit><source>{s}</source><target/></trans-unit>" for s, _ in ROWS)
        refused(r"x\.xlf, line 1, has an empty isl_Latn sentence", write(tmp_path / "x.xlf", xliff_1(units)))

    def test_languages_that_it_does_not_say(self, tmp_path: Path) -> None:
        units = "".join(f"<trans-unit><source>{s}</source><target>{t}</target></trans-unit>" for s, t in ROWS)
        path = write(tmp_path / "x.xlf", xliff_1(units).replace(' target-language="is"', ""))
        refused(r"the languages of .*x\.xlf are not known; name .*or pass source_lang and target_lang", path)
        assert ParallelPairs.load(path, *CODES) == EXPECTED


def xliff_1(units: str) -> str:
    return (
        '<xliff xmlns="urn:oasis:names:tc:xliff:document:1.2" version="1.2"><file source-language="en" '
        f'target-language="is"><body>{units}</body></file></xliff>'
    )


def xliff_2(units: str) -> str:
    return (
        '<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en" trgLang="is">'
        f'<file id="f">{units}</file></xliff>'
    )


class TestXml:
    """Bad and hostile XML."""

    def test_broken_xml_has_its_line(self, tmp_path: Path) -> None:
        text = tmx_text(unit(("en", "Salt & pepper."), ("is", "Salt.")))
        refused(r"m\.tmx, line 4, is not well-formed XML \(.*\); correct it", write(tmp_path / "m.tmx", text))
        cut = tmx_text(unit(("en", "One."), ("is", "Einn.")))[:-20]
        refused(r"m\.tmx, line 4, is not well-formed XML \(Premature end", write(tmp_path / "m.tmx", cut))
        refused(r"m\.tmx, line 1, is not well-formed XML", write(tmp_path / "m.tmx", ""))

    def test_a_wrong_root(self, tmp_path: Path) -> None:
        refused(r"m\.tmx has the root element html, and so is no TMX; give", write(tmp_path / "m.tmx", "<html/>"))
        refused(r"m\.xlf has the root element html, and so is no XLIFF", write(tmp_path / "m.xlf", "<html/>"))
        refused(r"m\.xml has the root element html, and so is no TMX, XLIFF", write(tmp_path / "m.xml", "<html/>"))

    def test_a_secret_is_not_read(self, tmp_path: Path) -> None:
        secret = write(tmp_path / "secret", "token")
        before = f'<!DOCTYPE tmx [<!ENTITY s SYSTEM "file://{secret}">]>\n'
        text = tmx_text(unit(("en", "A &s;"), ("is", "B")), before=before)
        refused(
            r"m\.tmx, line 5, uses the entity &s;, which is not read; write the character",
            write(tmp_path / "m.tmx", text),
        )

    def test_a_billion_laughs(self, tmp_path: Path) -> None:
        entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
        before = f'<!DOCTYPE tmx [<!ENTITY l0 "lol">{entities}]>\n'
        text = tmx_text(unit(("en", "A &l11;"), ("is", "B")), before=before)
        refused(
            r"m\.tmx, line 1, is not well-formed XML \(Maximum entity amplification", write(tmp_path / "m.tmx", text)
        )

    def test_a_document_type_elsewhere_is_not_fetched(self, tmp_path: Path) -> None:
        write(tmp_path / "tmx14.dtd", '<!ENTITY nbsp "x">')
        text = tmx_text(unit(("en", "A&nbsp;b."), ("is", "B")), before='<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n')
        refused(r"m\.tmx, line 5, uses the entity &nbsp;, which is not read", write(tmp_path / "m.tmx", text))

    def test_a_very_deep_tree(self, tmp_path: Path) -> None:
        deep = "<hi>" * 10_000 + "x" + "</hi>" * 10_000
        refused(r"m\.tmx, line 4, is not well-formed XML", write(tmp_path / "m.tmx", tmx_text(unit(("en", deep)))))


def test_a_reference_where_there_is_none_to_choose(tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", ROWS)
    refused(r"m\.tmx has no references to choose from; leave out reference='B'", path, reference="B")
    refused("the list has no references to choose from", [{"en": "a", "is": "b"}], reference="B")
