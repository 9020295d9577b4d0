import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.evaluation.figures import new_figure, png_of
from tweedie_diffusion.evaluation.pages import (
    Html,
    figure,
    notice,
    page,
    paragraph,
    preformatted,
    section,
    side_by_side,
    table,
)

PIXELS = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
NO_END = {"meta", "link", "img"}


class Reader(HTMLParser):
    """The elements of a page: [(name, attributes, text directly in it)]; an error where they are not nested."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs))
        self.elements.append([tag, dict(attrs), ""])
        if tag not in NO_END:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, name):
        return [(attrs, text) for tag, attrs, text in self.elements if tag == name]


def whole_page():
    drawn, _ = new_figure(1, 1, width=3, height=2)
    return page(
        "Run <1>",
        notice("It works & is good", "good"),
        section(
            "Pictures", figure(PIXELS, "tiny", "a ramp", pixels=True), side_by_side(figure(drawn, "", "axes"), "b")
        ),
        section("Numbers", table(["measure", "value"], [["Fréchet", 1.23456]], "distances"), preformatted("a\n b")),
    )


def test_elements_are_nested_and_named():
    read = Reader(whole_page())
    assert [tag for tag, _, _ in read.elements[:2]] == ["html", "head"]
    assert read.all("html")[0][0] == {"lang": "en"}
    assert [text for _, text in read.all("title")] == ["Run <1>"]
    assert [text for _, text in read.all("h2")] == ["Pictures", "Numbers"]
    assert len(read.all("main")) == len(read.all("h1")) == 1
    assert whole_page().startswith("<!DOCTYPE html>\n")
    assert all(attrs["alt"] for attrs, _ in read.all("img"))
    ids = [attrs["id"] for _, attrs, _ in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_run_and_nothing_fetched():
    read = Reader(whole_page())
    assert {tag for tag, _, _ in read.elements}.isdisjoint({"script", "iframe", "object", "embed", "form", "base"})
    for _, attrs, _ in read.elements:
        assert not any(name.startswith("on") or name == "style" for name in attrs)
        for name in attrs.keys() & {"src", "href"}:
            assert attrs[name].startswith(("data:", "#"))
    (style,) = [text for _, text in read.all("style")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_the_own_style_and_pictures_only():
    read = Reader(whole_page())
    (policy,) = [a["content"] for a, _ in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = [text for _, text in read.all("style")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


@pytest.mark.parametrize("make", [paragraph, preformatted, lambda t: notice(t, "bad"), lambda t: section(t, t).content])
def test_text_is_text(make):
    nasty = "<script>alert('1')</script> & \"b\""
    read = Reader(page(nasty, nasty, section(nasty, make(nasty))))
    assert read.all("script") == []
    assert read.all("h1")[0][1] == read.all("title")[0][1] == nasty
    texts = [text for _, _, text in read.elements]
    assert texts.count(nasty) == 5  # title, h1, lead, h2, part


def test_text_in_attributes_and_cells_is_text():
    nasty = "\" onload='x' <b>"
    read = Reader(page("a", "b", section("c", figure(PIXELS, nasty, nasty), table([nasty], [[nasty]], nasty))))
    assert read.all("img")[0][0]["alt"] == nasty
    assert read.all("b") == []
    assert [text for tag, _, text in read.elements if tag in ("figcaption", "caption", "th")] == [nasty] * 4


def test_names_that_are_no_text_are_shown_as_far_as_they_are():
    text = page("a\x00b\x1b\udcffc\ud800", "d")
    assert "<h1>a�b��c�</h1>" in text
    text.encode()


def test_cells_are_shown_by_their_kind():
    rows = [["Fréchet", 12.34567, 5, None, Html("<b>x</b>"), "no"], ["KID", np.float32(0.5), np.int64(7), 0.1, "", "y"]]
    html = table(["measure", "value", "n", "floor", "mark", "word"], rows, "how far").text
    read = Reader(html)
    assert [text for _, text in read.all("caption")] == ["how far"]
    assert [(a["scope"], t) for a, t in read.all("th") if a["scope"] == "row"] == [("row", "Fréchet"), ("row", "KID")]
    cells = [text for _, text in read.all("td")]
    assert cells == ["12.35", "5", "", "", "no", "0.5", "7", "0.1", "", "y"]
    assert [a.get("class") for a, _ in read.all("td")] == ["number", "number", "number", None, None] * 2
    assert [text for _, text in read.all("b")] == ["x"]


def test_a_table_without_rows_has_its_headers():
    read = Reader(table(["a", "b"], [], "none").text)
    assert [text for _, text in read.all("th")] == ["a", "b"]
    assert read.all("td") == []


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row must have 2 cells"):
        table(["a", "b"], [[1, 2], [3]], "")


def picture_of(html):
    mime, data = re.search(r'src="data:([a-z/]+);base64,([^"]+)"', html.text).groups()
    return mime, Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_picture_is_inside_the_page_pixel_by_pixel():
    html = figure(PIXELS, "", "a ramp", pixels=True)
    mime, image = picture_of(html)
    assert mime == "image/png"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(PIXELS))
    assert 'class="pixels"' in html.text
    assert "figcaption" not in html.text


def test_a_figure_is_shown_in_its_inches_and_a_grid_pixel_by_pixel():
    drawn, _ = new_figure(1, 1, width=3, height=2)
    for picture in (drawn, png_of(drawn)):
        html = figure(picture, "", "axes")
        assert 'width="288" height="192"' in html.text  # 96 pixels an inch
        assert picture_of(html)[1].size == (480, 320)
    assert 'width="4" height="3"' in figure(PIXELS, "", "a ramp").text


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_bytes_are_known_by_what_they_are(kind):
    file = io.BytesIO()
    PIXELS.save(file, kind)
    mime, image = picture_of(figure(file.getvalue(), "", "a ramp"))
    assert (mime, image.format) == (f"image/{kind.lower()}", kind)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="must be a PNG or a GIF"):
        figure(b"<svg onload=x>", "", "a")
    with pytest.raises(ValueError, match="alt is empty"):
        figure(PIXELS, "", " ")
    with pytest.raises(ValueError, match="kind must be one of good, doubtful, bad"):
        notice("a", "ugly")


def test_a_long_page_begins_with_links_to_its_sections():
    read = Reader(page("a", "b", *(section(f"part {i}", "c") for i in range(4))))
    links = [(attrs["href"], text) for attrs, text in read.all("a")]
    assert links == [(f"#s{i}", f"part {i}") for i in range(4)]
    assert {attrs["id"] for attrs, _ in read.all("section")} == {f"s{i}" for i in range(4)}
    assert Reader(page("a", "b", section("c", "d"))).all("a") == []
