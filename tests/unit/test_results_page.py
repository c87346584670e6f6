"""The pages of results/: all that the Markdown says, and the intervals drawn to scale."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(benchmark_script):
    return benchmark_script("results_page")


TEXT = """# Two & more

Some `code` here.

| model | ndcg@10 | 95% interval | p |
| --- | --- | --- | --- |
| A[x=1] | 0.0400 | 0.0300 to 0.0500 | 0.5 |
| Pop | 0.0100 | 0.0080 to 0.0120 |  |

| model | recall@10 |
| --- | --- |
| A | **0.0500** |
"""


class Words(HTMLParser):
    """What a reader sees, without pictures, and what a browser would fetch."""

    def __init__(self, page):
        super().__init__()
        self.words, self.fetched, self.hidden = [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in ("figure", "style", "title")
        self.fetched += [value for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag):
        self.hidden -= tag in ("figure", "style", "title")

    def handle_data(self, data):
        if not self.hidden:
            self.words += data.split()


def test_a_page_has_the_cells_and_draws_intervals_to_scale(script):
    page = script.results_page(TEXT)
    read = Words(page)
    words = (
        "Two & more Some code here. model ndcg@10 95% interval p A[x=1] 0.0400 0.0300 to 0.0500 0.5 Pop 0.0100 0.0080 "
        "to 0.0120 model recall@10 A 0.0500"
    )
    assert read.words == words.split()
    assert not read.fetched and "<script" not in page and "<title>Two &amp; more</title>" in page
    assert page.count("<svg") == 1
    drawn = [
        tuple(map(float, at))
        for at in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="\d+" y2="\d+" stroke="#0072b2"', page)
    ]
    points = [float(at) for at in re.findall(r'<circle cx="([\d.]+)"', page)]
    zero = float(re.search(r'<text x="([\d.]+)" [^>]*>0</text>', page)[1])
    per_unit = (points[0] - zero) / 0.04
    for (low, high), ends, point, value in zip(
        drawn, [(0.03, 0.05), (0.008, 0.012)], points, (0.04, 0.01), strict=True
    ):
        assert (low - zero, high - zero, point - zero) == pytest.approx([v * per_unit for v in (*ends, value)], abs=0.2)


def test_names_of_intervals_fit_the_picture(script):
    picture = script.intervals([("SASRec[train_batch_size=256,epochs=22]", 0.04, 0.03, 0.05)])
    end = float(re.search(r'<text x="([\d.]+)" y="20" text-anchor="end">', picture)[1])
    assert end > 7.5 * len("SASRec[train_batch_size=256,epochs=22]")


@pytest.mark.parametrize("source", sorted(ROOT.glob("results/*.md")), ids=lambda path: path.name)
def test_every_results_file_becomes_a_page_with_all_its_numbers(script, source):
    text = source.read_text(encoding="utf-8")
    words = " ".join(Words(script.results_page(text)).words)
    numbers = set(re.findall(r"(?<![\w.])\d*\.\d+(?![\w.])", text))
    assert numbers and all(number in words for number in numbers)
