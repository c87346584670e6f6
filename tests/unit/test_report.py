"""The plot helper: figures hold the numbers given, pages hold everything they need."""

import re
from html.parser import HTMLParser

import pytest

from recbole_tiger.report import figures, pages


class Outline(HTMLParser):
    """Tags that are left open, ids, and addresses that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.fetched, self.headings = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.fetched += [attributes[key] for key in ("src", "srcset") if key in attributes]
        if tag == "link":
            self.fetched.append(attributes.get("href"))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)


def without_plotlyjs(text):
    return re.sub(r"<head>.*?</head>", "<head></head>", text, flags=re.DOTALL)


def sections():
    bars = figures.bars(["a", "b"], {"one": [1, 2], "two": [3, None]}, y_title="items")
    lines = figures.lines([0, 1], {"loss": [2.0, 1.0]})
    return [
        pages.Section("Bars & lines", "Text with <tags>.", [pages.Figure(bars, "Some bars"), pages.Figure(lines)]),
        pages.Section("Table", (), [pages.Table(["name", "n"], [["<b>x</b>", "1,000"], ["y", "2.5%"]], "T")]),
    ]


def test_page_is_whole_and_needs_no_network():
    text = pages.page("Title <1>", sections(), subtitle="below & so")
    outline = Outline(without_plotlyjs(text))
    assert outline.open == [] and outline.fetched == []
    assert outline.headings == ["Title <1>", "Bars & lines", "Some bars", "Table", "T"]
    assert len(outline.ids) == len(set(outline.ids))
    assert text.count(pages.get_plotlyjs()) == 1
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "cdn.plot.ly" not in without_plotlyjs(text)
    assert "<tags>" not in text and "&lt;tags&gt;" in text and "<b>x</b>" not in text


def test_same_input_same_bytes():
    assert pages.page("t", sections()) == pages.page("t", sections())


def test_no_plotlyjs_where_there_is_no_figure():
    text = pages.page("t", [pages.Section("only a table", (), [pages.Table(["a"], [["x"]])])])
    assert len(text) < 10_000 and "<script" not in text


def test_legend_of_the_page_names_every_series_once():
    text = without_plotlyjs(pages.page("t", sections()))
    legends = re.findall(r'<div class="legend">(.*?)</div>', text)
    assert [re.findall(r"</i>(.*?)</span>", legend) for legend in legends] == [["one", "two"]]


def test_no_text_of_a_page_is_read_as_html():
    name = "<!--<script>'\"&{{ x }}"
    plot = figures.lines([0, 1], {name: [1, 2], "other": [2, 1]})
    parts = [pages.Figure(plot, name, name, name), pages.Table([name, "b"], [[name, name]], name, name)]
    text = without_plotlyjs(pages.page(name, [pages.Section(name, name, parts), pages.Section(name)], subtitle=name))
    assert "<!--" not in text and "<script>'" not in text
    legend = re.search(r'<div class="legend">(.*?)</div>', text)[1]
    assert legend.count("&lt;!--&lt;script&gt;&#39;&#34;&amp;{{ x }}") == 2  # escaped once


def test_numbers_stand_right_and_words_left():
    text = pages.page("t", [pages.Section("s", (), [pages.Table(["k", "v", "w"], [["1", "-1.5e-3", "x"]])])])
    assert re.findall(r"<td( class=\"number\")?>", text) == ["", ' class="number"', ""]


def test_bars_hold_the_numbers():
    plot = figures.bars(["a", "b", "c"], {"x": [1, 2, 3], "y": [4]}, percent=True)
    assert [list(trace.y) for trace in plot.data] == [[1, 2, 3], [4, None, None]]
    assert plot.layout.barmode == "group" and plot.layout.yaxis.tickformat == ".1~%"
    lying = figures.bars(["a", "b"], {"x": [1, 2]}, horizontal=True, stacked=True)
    assert list(lying.data[0].x) == [1, 2] and list(lying.data[0].y) == ["a", "b"]
    assert lying.layout.barmode == "stack"


def test_equal_categories_have_bars_of_their_own():
    """Plotly draws bars of one category over each other: of two rows that look alike one would be hidden."""
    plot = figures.bars(["a", "b", "a", "a"], {"x": [1, 2, 3, 4]})
    assert len(set(plot.data[0].x)) == 4 and [name.strip("\u200b") for name in plot.data[0].x] == ["a", "b", "a", "a"]


def test_chance_is_drawn_over_its_own_bars():
    plot = figures.bars(["a"], {"x": [1], "y": [2]}, chance={"x": [0.1], "y": [0.2]})
    places = {(trace.offsetgroup, trace.y[0]) for trace in plot.data if trace.offsetgroup is not None}
    assert places == {("0", 1), ("0", 0.1), ("1", 2), ("1", 0.2)}
    assert [trace.name for trace in plot.data if trace.showlegend is not False] == ["x", "y", "shuffled"]


def test_labels_are_text_even_if_they_look_like_tags():
    assert figures.label("a <b> & c") == "a &lt;b&gt; &amp; c"
    assert figures.wrapped("Tools & Accessories") == "Tools &amp;<br>Accessories"
    assert figures.wrapped("") == " "
    plot = figures.bars(["a"], {"<i>": [1]})
    assert plot.data[0].name == "&lt;i&gt;"


@pytest.mark.parametrize("n", [1, 16, 40])
def test_there_are_colours_for_any_number_of_series(n):
    assert all(re.fullmatch("#[0-9a-f]{6}", figures.color(i)) for i in range(n))
    assert len({figures.color(i) for i in range(n)}) == min(n, len(figures.COLORS))
