"""The pages as a reader has them: clicked in a Chromium that is installed. AXE=axe.min.js checks accessibility too."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from evidence_runs import make_run
from kilter.pipeline.report import write_comparison, write_report
from kilter.pipeline.watch import Server, Watch

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # A container has no user namespaces, and the page is our own.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    place = tmp_path_factory.mktemp("pages")
    first = make_run(place / "first", verdict="fail", names=("base", "sft", "dpo"))
    second = make_run(place / "second", seed=1)
    return {"run": write_report(first), "pair": write_comparison(second, make_run(place / "third", seed=2))}


@pytest.fixture
def tab(browser):
    """Opens an address; errors of the page fail the test."""
    contexts, problems = [], []

    def visit(address, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        page.wait_for_selector("form.filters:not([hidden])")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


def shown(page) -> list[str]:
    return [text.split("(")[1].split(")")[0] for text in page.locator(".browse .place").all_inner_texts()]


def choose(page, name):
    page.get_by_role("radio", name=name, exact=True).check()
    return shown(page)


def test_filters_and_search_find_what_was_planted(pages, tab):
    page = tab(pages["run"])
    assert shown(page)[0] == "q0"  # the worst comes first without a click
    assert choose(page, "Best")[0] == "q4"
    assert choose(page, "Unscored") == ["q1"]
    assert choose(page, "Declined") == ["q2"]
    assert choose(page, "Harmful") == ["q3"]
    assert len(choose(page, "All")) == 10
    page.get_by_role("button", name="Show more").click()
    assert len(shown(page)) == 30
    page.get_by_role("searchbox").fill("question 17")
    assert shown(page) == ["q17"]
    assert "1 of 1 matching prompts shown, of 40." in page.locator(".count").inner_text()
    page.get_by_role("searchbox").fill("nowhere at all")
    assert page.locator(".count").inner_text() == "No prompt matches."


def test_harmful_text_stands_behind_a_click(pages, tab):
    page = tab(pages["run"])
    choose(page, "Harmful")
    text = page.locator(".browse").get_by_text("secret powder")
    assert not text.is_visible()
    page.locator(".browse summary", has_text="harmful answer").last.click()
    assert text.is_visible()
    page.get_by_role("checkbox", name="Show harmful text").check()
    assert text.is_visible()
    page.emulate_media(media="print")
    assert not page.locator("form.filters").is_visible()


@pytest.mark.parametrize(("width", "media"), [(360, "screen"), (1200, "screen"), (720, "print")])
def test_nothing_is_wider_than_phone_screen_or_paper(pages, tab, width, media):
    page = tab(pages["run"], viewport={"width": width, "height": 700})
    page.emulate_media(media=media)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_reaches_everything(pages, tab):
    page = tab(pages["run"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.get_by_role("radio", name="Worst", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert shown(page)[0] == "q4"


def test_light_and_dark_follow_the_system_and_the_button(pages, tab):
    ground = "getComputedStyle(document.body).backgroundColor"
    page = tab(pages["run"], color_scheme="dark")
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light page").click()
    assert page.evaluate(ground) != dark
    page.get_by_role("button", name="Dark page").click()
    assert page.evaluate(ground) == dark


def test_two_runs_are_browsed_alike(pages, tab):
    page = tab(pages["pair"])
    choose(page, "Changed most")
    assert page.locator(".browse .answer .head").first.inner_text().startswith("second: dpo")


def test_a_watched_run_is_followed_and_what_the_reader_chose_stays(tmp_path, tab):
    run = make_run(tmp_path / "run", gate=False)
    manifest = run / "dpo" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "running"}))
    server = Server(Watch([run]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        page = tab(server.url)
        page.wait_for_selector("text=step 8")
        choose(page, "Declined")
        with (run / "dpo" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 9, "epoch": 1.1, "loss": 0.1}) + "\n")
        page.wait_for_selector("text=step 9")
        assert shown(page) == ["q2"]
        assert page.get_by_role("radio", name="Declined").is_checked()
        page.goto("about:blank")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.skipif("AXE" not in os.environ, reason="AXE names no axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run", "pair"])
def test_axe_finds_no_serious_violation(pages, tab, name, scheme):
    page = tab(pages[name], color_scheme=scheme)
    page.evaluate(Path(os.environ["AXE"]).read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [
        (v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")
    ] == []
