"""The page is one file that loads nothing, escapes what it shows, and can be read by all."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hvdkit.report.finding import find
from hvdkit.report.page import render
from tests.report.folders import configured, curve, job, trained, written

CSS = Path(__file__).parents[2] / "hvdkit/report/page.css"
HOSTILE = "</script><img src=x onerror=alert(1)>'\"&"


class Page(HTMLParser):
    """Elements with their attributes, and the text inside each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.text[tag] = self.text.get(tag, "") + data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("runs")
    trained(path / "whole")
    trained(path / "failed", lr=1e308, max_bad_steps=2)
    hostile = written(
        path / "hostile <b>&",
        [{**record, HOSTILE: 1.0} for record in curve(5)],
        {"status": HOSTILE, "error": HOSTILE, "framework": HOSTILE, "weights_sha256": HOSTILE},
    )
    configured(hostile, {HOSTILE: HOSTILE})
    written(path / "empty")
    return render(find([path]))


def test_nothing_in_the_page_is_loaded_from_elsewhere(page: str) -> None:
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            if value := attributes.get(name):
                assert value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("iframe", "object", "embed", "img")
    policies = [a.get("content") for _, a in parsed.elements if "http-equiv" in a]
    assert policies == [
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data: blob:"
    ]
    assert "url(" not in parsed.text["style"]
    assert "@import" not in parsed.text["style"]


def test_what_a_run_says_stays_text(page: str) -> None:
    parsed = Page(page)
    assert HOSTILE in parsed.text["main"]
    assert "onerror" not in {name for _, attributes in parsed.elements for name in attributes}
    assert len(re.findall(r"<script", page)) == len(re.findall(r"</script", page)) == 3
    assert "hostile <b>&" in parsed.text["main"]


def test_the_drawing_holds_what_was_logged(page: str) -> None:
    found = re.search(r'id="drawing">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    drawing = json.loads(found[1], parse_constant=pytest.fail)
    names = [run["name"] for run in drawing["runs"]]
    hostile = names.index("hostile <b>&")
    (loss,) = [chart for chart in drawing["charts"] if chart["key"] == "train/loss"]
    (series,) = [series for series in loss["series"] if series["run"] == hostile]
    assert series["step"] == [1, 2, 3, 4, 5]
    assert series["value"] == pytest.approx([r["train/loss"] for r in curve(5)], rel=1e-5)


def test_plotly_is_inside_whole(page: str) -> None:
    from plotly.offline import get_plotlyjs

    found = re.search(r'id="plotly">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert gzip.decompress(base64.b64decode(found[1])).decode() == get_plotlyjs()


def test_headings_tables_and_charts_have_names(page: str) -> None:
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.elements]
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert tags.count("table") == tags.count("caption") > 3
    charts = [a for _, a in parsed.elements if a.get("role") == "img"]
    assert len(charts) > 5
    assert all(chart.get("aria-label") and chart.get("tabindex") == "0" for chart in charts)
    for tag in ("header", "nav", "main", "footer"):
        assert tags.count(tag) == 1


def test_a_sweep_has_its_table_and_importance(tmp_path: Path) -> None:
    for number, lr in enumerate((0.1, 0.01, 0.001)):
        job(tmp_path / str(number), 0.9 - 0.1 * number, lr=lr)
    parsed = Page(render(find([tmp_path])))
    assert "Importance of the parameters" in parsed.text["main"]
    assert "eta squared" in parsed.text["main"]
    assert "3 jobs of" in parsed.text["caption"]


def test_runs_that_logged_nothing_make_a_page_without_curves(tmp_path: Path) -> None:
    written(tmp_path / "a")
    parsed = Page(render(find([tmp_path / "a"])))
    assert "nothing was logged yet" in parsed.text["main"]
    assert "Curves" not in parsed.text["main"]


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(scheme: str) -> None:
    blocks = re.findall(r":root[^{]*\{(.*?)\}", CSS.read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme == "dark"]))
    assert len(colours) == 17
    for ground in ("ground", "raised"):
        for text in ("ink", "quiet", "link"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text in ("good", "bad", "odd"):
        assert contrast(colours[text], colours["ground"]) >= 4.5, text
    for line in range(8):  # what WCAG 2 asks of graphics
        assert contrast(colours[f"c{line}"], colours["ground"]) >= 3, line
