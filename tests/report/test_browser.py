"""The page in Chromium: drawn, wide and narrow, light and dark, by keyboard, and alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver.common.keys import Keys

from hvdkit.report import run
from tests.report.browser import Browser
from tests.report.folders import configured, curve, job, trained, written

pytestmark = [
    pytest.mark.launch,
    pytest.mark.system("chromium", "chromedriver"),
    # Selenium leaves the closing of its sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

HOSTILE = "</script><img src=x onerror='window.broken=1'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs, one that failed, one with gaps, one with a point, and ones gone bad."""
    path = tmp_path_factory.mktemp("runs")
    trained(path / "whole")
    trained(path / "whole again")
    trained(path / "other", lr=0.2, num_steps=60)
    trained(path / "failed", lr=1e308, max_bad_steps=2)
    gaps = curve(50)
    for record in gaps[20:30]:
        record["train/loss"] = None
    written(path / "gaps", gaps)
    written(path / "point", curve(1))
    written(path / "empty")
    bad = written(path / "bad <i>", [{HOSTILE: 1.0, **curve(1)[0]}], {"error": HOSTILE})
    configured(bad, {HOSTILE: HOSTILE})
    return made(path)


def made(path: Path) -> Path:
    out = path.with_name(f"{path.name}.html")
    run([path], output=out, as_text=False)
    return out


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty jobs."""
    path = tmp_path_factory.mktemp("sweep")
    for number in range(60):
        folder = path / str(number)
        job(folder, 0.5 + number / 200, optimizer__lr=number % 10, width=number // 10)
        written(folder, curve(1000, scale=1 + number))
    return made(path)


DRAWN = """
return [...document.querySelectorAll('.plot')].map((plot) => {
  const lines = [...plot.querySelectorAll('.scatterlayer .trace path')];
  const boxes = lines.map((line) => line.getBoundingClientRect());
  const seen = boxes.filter((box) => box.width + box.height > 0).length;
  const whole = plot.querySelector('svg.main-svg').getBoundingClientRect();
  return [plot.getAttribute('aria-label'), seen, whole.width, whole.height];
});
"""


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["page", "sweep"])
def test_all_is_drawn_within_the_width_and_nothing_is_asked_for(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    path = request.getfixturevalue(which)
    browser.open(path, width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    charts = browser.run(DRAWN)
    assert len(charts) >= 4
    for name, lines, chart_width, height in charts:
        assert lines >= 1, name
        assert 250 <= chart_width <= width, name
        assert height >= 250, name
    if which == "sweep":
        assert charts[0][1] == 60
    assert browser.run("return window.broken") is None
    assert browser.complaints() == []
    asked = browser.requests()
    assert path.as_uri() in asked  # the log does tell
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [url for url in asked if url.startswith("file:")] == [path.as_uri()]
    entries = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert [name for name in browser.run(entries) if not name.startswith("data:")] == []


def test_the_policy_keeps_the_page_from_the_network(browser: Browser, page: Path) -> None:
    """What a run's text might smuggle in could ask for nothing either."""
    browser.open(page)
    browser.run("fetch('http://127.0.0.1:9/').catch(() => { window.refused = true; })")
    browser.wait("return window.refused")
    assert any("Content Security Policy" in text for text in browser.complaints())
    assert not [url for url in browser.requests() if url.startswith("http")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(browser: Browser, page: Path, scheme: str) -> None:
    """axe-core's rules, contrast among them; what Plotly draws has a name and is one image."""
    browser.open(page, scheme=scheme)
    browser.run("for (const box of document.querySelectorAll('details')) box.open = true")
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    rules = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # what the scheme decides
    found = Axe().run(
        browser.driver,
        context={"exclude": [[".plot svg"]]},
        options=rules if scheme == "dark" else None,
    )
    broken = [(rule["id"], [n["html"] for n in rule["nodes"]][:3]) for rule in found["violations"]]
    assert broken == []
    passed = {rule["id"] for rule in found["passes"]}
    assert "color-contrast" in passed
    assert scheme == "dark" or {"label", "landmark-one-main", "aria-allowed-attr"} <= passed


# What can be worked: radios are one stop for Tab, and what is not shown is none.
STOPS = """
const all = document.querySelectorAll('a[href], button, summary, input, [tabindex="0"]');
return [...all].filter((element) =>
  element.checkVisibility() && (element.type !== 'radio' || element.checked));
"""
FOCUS = """
const element = document.activeElement;
const style = getComputedStyle(element);
return [element, element === document.body,
  style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
"""


def test_tab_reaches_everything_and_shows_where_it_is(browser: Browser, page: Path) -> None:
    browser.open(page, width=400)
    stops = browser.run(STOPS)
    assert len(stops) > 40
    reached = []
    for _ in range(len(stops) + 5):
        browser.tab()
        element, left, visible = browser.run(FOCUS)
        if left:
            break
        assert visible, element.get_attribute("outerHTML")[:200]
        reached.append(element)
    assert set(reached) == set(stops)
    assert reached == stops  # in the order of the page


CHECK = """
const label = [...document.querySelectorAll('#legend li label')];
label.find((one) => one.textContent.trim() === arguments[0]).click();
"""


def test_keys_work_charts_and_tables(browser: Browser, page: Path) -> None:
    browser.open(page)
    said = "return document.getElementById('spoken').textContent"
    labels = "return document.querySelectorAll('#chart-0 .hovertext').length"
    browser.run("document.querySelector('[data-draw=none]').click()")
    for name in ("whole", "other"):
        browser.run(CHECK, name)
    browser.run("document.getElementById('chart-0').focus()")
    assert browser.run(labels) == 0
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.run(said).startswith("other, step 4: ")  # every second step is logged
    assert browser.run(labels) == 1
    browser.press(Keys.ARROW_DOWN)
    assert browser.run(said).startswith("whole, step 4: ")
    browser.press(Keys.END)
    assert browser.run(said).startswith("whole, step 40: ")
    browser.press(Keys.ESCAPE)
    assert browser.run(labels) == 0

    browser.run("document.querySelector('#runs th button').focus()")
    names = "return [...document.querySelectorAll('#runs tbody th')].map((th) => th.textContent)"
    browser.press(Keys.ENTER)
    up = browser.run(names)
    browser.press(Keys.ENTER)
    assert browser.run(names) == up[::-1]
    assert up == sorted(up)
    sort = browser.run("return document.querySelector('#runs th').ariaSort")
    assert sort == "descending"


def test_runs_and_axes_can_be_chosen(browser: Browser, page: Path) -> None:
    browser.open(page)
    visible = "return document.querySelectorAll('#chart-0 .scatterlayer .trace').length"
    axis = "return document.querySelector('#chart-0 .xtitle').textContent"
    all_runs = browser.run(visible)
    browser.run("document.querySelector('[data-run]').focus()")
    browser.press(Keys.SPACE)
    assert browser.run(visible) == all_runs - 1
    browser.run("document.querySelector('[data-draw=none]').click()")
    assert browser.run(visible) == 0
    browser.run("document.querySelector('[data-draw=all]').click()")
    assert browser.run(visible) == all_runs
    assert browser.run(axis) == "step"
    browser.run("document.querySelector('[name=across]:checked').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.run(axis) == "epoch"
    browser.press(Keys.ARROW_RIGHT)
    assert browser.run(axis) == "minutes"
    browser.run("document.querySelector('[data-log=\"0\"]').click()")
    assert browser.complaints() == []


def test_without_scripts_the_numbers_are_there(browser: Browser, page: Path) -> None:
    browser.open(page, scripts=False)
    seen = browser.driver.find_element("tag name", "main").text
    assert "drawn by JavaScript, which is off" in seen
    assert "whole again" in seen
    assert "Median step, ms" in seen


def test_a_printed_page_has_the_curves(browser: Browser, page: Path) -> None:
    browser.open(page, scheme="dark")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    browser.command("Emulation.setEmulatedMedia", media="print")
    browser.command(
        "Emulation.setDeviceMetricsOverride",
        width=700,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    widths = [width for _, _, width, _ in browser.run(DRAWN)]
    assert set(widths) == {640}
    assert len(browser.command("Page.printToPDF")["data"]) > 10_000
    browser.command("Emulation.setEmulatedMedia", media="")


@pytest.mark.soak
def test_sixty_runs_of_ten_thousand_points_open_quickly(browser: Browser, tmp_path: Path) -> None:
    for number in range(60):
        folder = tmp_path / "sweep" / str(number)
        job(folder, 0.5 + number / 200, lr=number % 10, width=number // 10)
        written(folder, curve(10_000, scale=1 + number))
    start = time.monotonic()
    page = made(tmp_path / "sweep")
    assert time.monotonic() - start < 60
    assert page.stat().st_size < 5e6
    start = time.monotonic()
    browser.open(page)
    assert time.monotonic() - start < 30
    assert browser.run(DRAWN)[0][1] == 60
    assert browser.complaints() == []
