"""The pages in a real browser: silent, alone, no wider than a phone, legible in both themes."""

import pytest
import report_sample as sample
from chrome import CHROMIUM, Chrome

from shammie.report import Figure, Markup, Section, render_page, run_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (tests/QUARANTINES.md)")

HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1">\'"\u202e\x00\ud800'


@pytest.fixture(scope="module")
def chrome():
    with Chrome() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    wide = {**sample.RUN, "results": [{"kind": "k", HOSTILE: "w" * 900, **{f"column {i}": i / 7 for i in range(30)}}]}
    texts = {
        "sample": sample.page(),
        "run": run_report(sample.RUN),
        "wide": run_report(wide),
        "empty": render_page("Nothing", "", [], []),
        "hostile": render_page(HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], [Section(HOSTILE, *[HOSTILE] * 3, [])], HOSTILE),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["sample", "run", "wide", "empty", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True), (320, False)])
def test_page_is_silent_alone_and_fits(chrome, pages, name, width, dark):
    address = (pages / f"{name}.html").as_uri()
    chrome.open(address, width, dark=dark, phone=width < 500)
    assert chrome.evaluate("document.documentElement.scrollWidth") <= width
    assert chrome.evaluate("document.querySelector('h1').getBoundingClientRect().width") > 0
    assert chrome.evaluate("window.broken") is None
    assert chrome.complaints() == []
    assert [url for url in chrome.requests() if not url.startswith("data:")] == [address]


@pytest.mark.parametrize("width", [1280, 390])
def test_no_text_is_under_eleven_pixels_or_cut_off(chrome, pages, width):
    chrome.open((pages / "sample.html").as_uri(), width, phone=width < 500)
    small = chrome.evaluate("""
        [...document.querySelectorAll('main *')]
          .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
          .filter(e => e.checkVisibility() && parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.outerHTML)
    """)
    assert small == []
    cut = chrome.evaluate("""
        [...document.querySelectorAll('main svg text')].filter(e => e.checkVisibility()).map(e => [e.textContent,
          e.getBoundingClientRect()]).filter(([t, b]) => b.left < 0 || b.right > innerWidth).map(([t, b]) => t)
    """)
    assert cut == []


@pytest.mark.parametrize("width", [1280, 390])
def test_tick_and_end_labels_do_not_cover_one_another(chrome, pages, width):
    chrome.open((pages / "sample.html").as_uri(), width, phone=width < 500)
    covered = chrome.evaluate("""
        [...document.querySelectorAll('.plot > svg, .bar-axis svg')].flatMap(svg => {
          const boxes = [...svg.querySelectorAll('.tick-label, .ends text')].filter(e => e.checkVisibility())
            .map(e => [e.textContent, e.getBoundingClientRect()]);
          return boxes.flatMap(([t, a], i) => boxes.slice(i + 1).filter(([u, b]) => a.left < b.right && b.left < a.right
            && a.top + 3 < b.bottom && b.top + 3 < a.bottom).map(([u]) => `${t} / ${u}`));
        })
    """)
    assert covered == []


def test_page_follows_the_theme(chrome, pages):
    for dark in (False, True):
        chrome.open((pages / "sample.html").as_uri(), 1280, dark=dark)
        paper, ink, surface = chrome.evaluate("""
            [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
             getComputedStyle(document.querySelector('.number')).backgroundColor]
        """)
        assert (sum(_rgb(paper)) < 200) == dark
        assert (sum(_rgb(ink)) < 200) != dark
        assert (sum(_rgb(surface)) < 200) == dark


def _rgb(text):
    return [int(part) for part in text[4:-1].split(",")]


def test_tooltip_answers_to_hover_and_tap_and_closes(chrome, pages):
    chrome.open((pages / "sample.html").as_uri(), 1280)
    text = chrome.evaluate("""
        (() => { const cell = document.querySelector('.heat tbody td');
          cell.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
          const tip = document.querySelector('.tip'); return tip.hidden ? null : tip.textContent; })()
    """)
    assert "probability of the top token" in text
    curve = chrome.evaluate("""
        (() => { document.querySelector('.marker .target').dispatchEvent(new MouseEvent('click', {bubbles: true}));
          return document.querySelector('.tip').textContent; })()
    """)
    assert "share in a bin" in curve or "probability" in curve
    hidden = chrome.evaluate("""
        (() => { document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
          return document.querySelector('.tip').hidden; })()
    """)
    assert hidden is True
    assert chrome.complaints() == []


def test_copying_a_command_never_fails(chrome, pages):
    chrome.open((pages / "sample.html").as_uri(), 1280)
    state = chrome.evaluate("""
        (async () => { const button = document.querySelector('.command button'); button.click();
          await new Promise(done => setTimeout(done, 300)); return button.textContent; })()
    """)
    assert state in ("Copied", "Selected")
    assert chrome.complaints() == []


def test_contents_fold_on_a_phone_and_stand_beside_on_a_desktop(chrome, pages):
    shown = "[...document.querySelectorAll('.side, .top')].map(e => e.checkVisibility())"
    chrome.open((pages / "sample.html").as_uri(), 1280)
    assert chrome.evaluate(shown) == [True, False]
    chrome.open((pages / "sample.html").as_uri(), 390, phone=True)
    assert chrome.evaluate(shown) == [False, True]


def test_policy_stops_script_that_slips_into_markup(chrome, tmp_path):
    hole = Markup("<div><script>window.broken = 1</script><img src='https://example.invalid/x.png' alt=''/></div>")
    path = tmp_path / "hole.html"
    path.write_text(render_page("t", "", [], [Section("a", "a", "", "", [Figure(hole, "c")])]), encoding="utf-8")
    chrome.open(path.as_uri(), 800)
    assert chrome.evaluate("window.broken") is None
    assert len(chrome.complaints()) == 2  # the browser says that it stopped both
    failed = [event["params"] for event in chrome.events if event.get("method") == "Network.loadingFailed"]
    assert [failure["blockedReason"] for failure in failed] == ["csp"]
