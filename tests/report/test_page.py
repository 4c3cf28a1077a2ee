"""Pages: the same words in Markdown and HTML, whatever they are, and a file that needs nothing but itself."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.figure
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.report import page as page_module
from pipeline.report.page import (
    Code,
    Figure,
    Heading,
    Paragraph,
    Part,
    Table,
    as_html,
    as_markdown,
    code,
    plain,
    write_page,
)
from pipeline.utils.errors import RecipeError

NASTY = r"""a|b \| `tick` ``two`` *star* _under_ <script>alert(1)</script> [x](y) # & &amp; ~~no~~ **b** \\ $x$"""
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(" |`*_\\<>[]&#~"), min_size=1
)
SVG = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="1pt"><g id="a"/><use href="#a"/></svg>'


class Reader(HTMLParser):
    """Tags with their attributes, cells of tables, and all text; complains about tags that do not match."""

    VOID = ("meta", "br", "img")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def rendered(markdown: str) -> Reader:
    return Reader(MarkdownIt("commonmark").enable("table").render(markdown))


def both(*parts: Part) -> tuple[Reader, Reader]:
    """What readers of the Markdown and of the HTML see."""
    return rendered(as_markdown(parts)), Reader(as_html("title", parts, {"f": SVG}))


def seen(text: str) -> str:
    return " ".join(text.split())


@given(WORDS, WORDS)
@example(NASTY, NASTY)
def test_any_words_read_as_they_are_in_paragraphs_and_in_tables(one: str, other: str) -> None:
    table = Table(["x", plain(other)], [[plain(one), "1"], ["y", plain(other)]], "lr")
    markdown, page = both(Paragraph(f"It says: {plain(one)}."), table)
    for reader in (markdown, page):
        assert seen(reader.text).startswith(seen(f"{'title ' if reader is page else ''}It says: {seen(one)}."))
        cells = [[seen(cell) for cell in row] for row in reader.rows]
        assert cells == [["x", seen(other)], [seen(one), "1"], ["y", seen(other)]]


@given(WORDS)
@example(NASTY)
@example(" ")
def test_any_words_can_be_code(words: str) -> None:
    for reader in both(Paragraph(f"Run {code(words)} now.")):
        assert [tag for tag, _ in reader.tags if tag == "code"] == ["code"] * bool(words.strip())
        assert seen(reader.text).removeprefix("title ") == seen(f"Run {seen(words)} now.")


def test_markup_is_understood() -> None:
    markdown, page = both(Heading("A *name*", 1), Paragraph("**bold** and `code | x`", note=True), Heading("B"))
    assert {"h1", "h2"} <= {tag for tag, _ in page.tags}
    assert "<strong>bold</strong> and <code>code | x</code>" in as_html("t", [Paragraph("**bold** and `code | x`")], {})
    assert [tag for tag, _ in markdown.tags] == ["h1", "em", "p", "strong", "code", "h2"]
    assert [tag for tag, _ in page.tags if tag in ("em", "strong", "code")] == ["em", "strong", "code"]


def test_tables_have_headers_in_both_forms() -> None:
    table = Table(["split", "exact match"], [[code("a|b"), "1.000"], ["id", "0.5"]], "lr")
    markdown, page = both(table)
    assert "| --- | ---: |" in as_markdown([table])
    assert markdown.rows[1] == ["a|b", "1.000"]
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col", "col", "row", "row"]
    assert not any(tag == "thead" for tag, _ in both(Table(["", ""], [["a", "b"]], "ll"))[1].tags)


@pytest.mark.parametrize("text", ["a: 1\n", "```\nfence\n```", "x = '`'\n````\n"])
def test_code_is_whole_whatever_it_holds(text: str) -> None:
    for reader in both(Code(text, "yaml", folded="The recipe")):
        assert text.strip() in reader.text
    assert "<details><summary>The recipe</summary>" in as_markdown([Code(text, folded="The recipe")])


def test_figures_have_alternative_texts_and_ids_of_their_own() -> None:
    figure = Figure("f", 'Exact "match" ] of <id>', "The `caption`.")
    markdown, page = both(figure)
    [image] = [attributes for tag, attributes in markdown.tags if tag == "img"]
    assert image == {"src": "figures/f.png", "alt": 'Exact "match" ] of <id>'}
    [drawing] = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert drawing["role"] == "img" and drawing["aria-label"] == 'Exact "match" ] of <id>'
    assert {"id": "figure1-a"} in [attributes for _, attributes in page.tags]
    assert {"href": "#figure1-a"} in [attributes for _, attributes in page.tags]
    assert "The caption." in markdown.text and "The caption." in page.text


def test_a_page_says_its_language_title_and_width() -> None:
    html = as_html("a < b", [Paragraph("x")], {})
    page = Reader(html)
    assert ("html", {"lang": "en"}) in page.tags and "a < b" in page.text
    assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")
    assert "prefers-color-scheme:dark" in html and "@media print" in html


def test_a_written_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    drawing = matplotlib.figure.Figure()
    drawing.add_subplot().plot([0, 1])
    write_page(tmp_path, "t", [Heading("T", 1), Figure("f", "alt", "caption")], {"f": drawing})
    assert {path.name for path in tmp_path.rglob("*")} == {"report.md", "report.html", "figures", "f.png", "f.svg"}
    needs_nothing_but_itself((tmp_path / "report.html").read_text())


def scripts_are_ours(text: str) -> None:
    """Every script of a page is one of this package's files, or numbers for it as JSON."""
    ours = [(Path(page_module.__file__).parent / name).read_text() for name in ("pointer.js", "player.js")]
    for attributes, script in re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL):
        if attributes:
            assert attributes == ' type="application/json"' and json.loads(script)
        else:
            assert script.removeprefix("\n") in ours


def needs_nothing_but_itself(text: str) -> None:
    """No script but those of this package and their numbers, and no address of anything outside the page."""
    scripts_are_ours(text)
    for tag, attributes in Reader(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            if name in ("href", "xlink:href", "src", "srcset", "action", "data"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_nothing_is_written_when_a_figure_cannot_be_drawn(tmp_path: Path) -> None:
    class Broken(matplotlib.figure.Figure):
        def savefig(self, *args: object, **kwargs: object) -> None:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_page(tmp_path, "t", [], {"good": matplotlib.figure.Figure(), "broken": Broken()})
    assert not list(tmp_path.iterdir())


def test_text_is_escaped_once() -> None:
    assert html.unescape(Reader(as_html("t", [Paragraph(plain("a &amp; b"))], {})).text).strip().endswith("a & b")


SCRIPTS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</title></style><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "<https://evil.example>",
    "`<script>`<script>alert(1)</script>",
    "\\<script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt; \x1b[31mred\x1b[0m \x00\x07 \u202e",
)


@pytest.mark.parametrize("text", SCRIPTS)
def test_no_text_becomes_a_tag_a_link_or_a_script(text: str) -> None:
    """Also where the code that writes a page has forgotten to escape it."""
    parts: list[Part] = [
        Heading(text, 1),
        Paragraph(text),
        Table([text, "b"], [[text, text]], "lr"),
        Figure("f", text, text),
        Code(text),
    ]
    markdown, page = both(*parts)
    rough = Reader(as_html(text, parts, {"f": SVG}))
    for reader in (markdown, page, rough):
        for tag, attributes in reader.tags:
            assert tag not in ("script", "a", "iframe", "object"), (tag, attributes)
            assert tag != "img" or attributes["src"] == "figures/f.png"
            assert not any(name.startswith("on") for name in attributes), attributes
    for words in (plain(text), code(text)):
        for reader in both(Paragraph(words)):
            known = {"p", "code", "html", "head", "meta", "title", "style", "body", "main"}
            assert {tag for tag, _ in reader.tags} <= known
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", reader.text)


def test_a_figure_has_the_name_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="which is no name of a file"):
        write_page(tmp_path / "run", "t", [], {"../../x": matplotlib.figure.Figure()})
    assert not list(tmp_path.iterdir())
