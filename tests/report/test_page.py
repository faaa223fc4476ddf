"""The page of a report in a browser, Chromium without a window."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from recorded import HERE, RDED, RecordedStudy

from gift_fast.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

LOSSES = ("ce", "kl", "kl:scale_t2=true", "mse", "softce", "kl+ce", "mse+ce", "softce+ce", "gift")
RATES = (0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316, 1.0)


def many_runs(folder: Path) -> int:
    """Studies of all kinds; gives the number of their runs."""
    tuning = {"weight_decays": [0.0, 5e-4], "seeds": [1000, 1001], "set_seeds": [1000]}
    losses = RecordedStudy(folder, "losses", tuning=tuning, notes="What a reader should know.")
    made = dataclasses.replace(HERE, dataset="digits:heldout=100")
    for k, loss in enumerate(LOSSES):
        for set_seed in range(5):
            source = dataclasses.replace(made, seed=set_seed)
            for seed in range(2):
                score = 60.0 + k + 0.3 * set_seed + 0.1 * (seed * k % 3)
                losses.add(loss, score, source=source, seed=seed, best=score + 1.0)
                losses.add(
                    loss, score + 5.0, source=source, seed=seed, purpose="tuned", learning_rate=0.1
                )
        for rate in RATES:
            for weight_decay in tuning["weight_decays"]:
                for seed in tuning["seeds"]:
                    losses.add(
                        loss,
                        30.0 + k + 100.0 * weight_decay + 20.0 * (rate == 0.1),
                        source=dataclasses.replace(made, seed=1000),
                        seed=seed,
                        purpose="trial",
                        tested_on="heldout",
                        learning_rate=rate,
                        weight_decay=weight_decay,
                    )
    losses.write()
    gamma = RecordedStudy(folder, "gamma", title="Gamma", answers=["figure 3"])
    for value in (0.0, 0.05, 0.2, 0.3, 0.5, 0.7, 1.0):
        for seed in range(2):
            gamma.over_sets(f"gift:gamma={value}", [50.0 + value] * 5, seed=seed)
    gamma.write()
    main = RecordedStudy(folder, "main", title="Main", answers=["table 1"])
    for ipc in (1, 10, 50):
        for dataset, network in (("cifar100", "convnet3"), ("tinyimagenet", "convnet4")):
            source = dataclasses.replace(RDED, ipc=ipc, dataset=dataset, network=network)
            for k, loss in enumerate(LOSSES):
                for seed in range(3):
                    main.add(loss, 40.0 + k + 0.1 * seed, source=source, seed=seed)
    main.write()
    return len(losses.runs) + len(gamma.runs) + len(main.runs)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert many_runs(folder / "runs") > 600
    page, damaged = write_report(folder / "runs", folder / "report.html")
    assert damaged == ()
    return page


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # Chromium's own sandbox does not start for root, as in a container.
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, report):
    """The page at a desk; every error and request is noted in ``page.noted``."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.noted = []
    page.on("console", lambda message: page.noted.append(message.text))
    page.on("pageerror", lambda error: page.noted.append(str(error)))
    page.on("request", lambda request: page.noted.append(request.url))
    page.goto(report.as_uri())
    yield page
    context.close()


def test_it_opens_without_an_error_and_asks_for_nothing_else(opened, report):
    assert opened.noted == [report.as_uri()]
    assert opened.locator("main h2").all_inner_texts() == [
        *(
            "Main",
            "Losses on digits",
            "Gamma",
            "Published and measured accuracies",
            "How to read this",
        )
    ]
    assert opened.locator("figure svg[role=img]").count() > 10


def test_several_hundred_runs_are_a_page_of_few_elements_laid_out_a_few_times(browser, report):
    """The work of opening it, counted: seconds would measure the machine."""
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(report.as_uri())
    page.screenshot()  # all of it has been laid out and painted
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    page.close()
    assert metrics["Nodes"] < 20_000  # 6,194 when this was written, and 3 layouts
    assert metrics["LayoutCount"] <= 20


def first_column(table) -> list[str]:
    return table.locator("tbody th").all_inner_texts()


def test_a_click_on_a_head_sorts_by_its_column(opened):
    table = opened.locator("#losses table").first
    assert first_column(table)[:2] == ["CE", "KL (native)"]
    head = table.locator("thead tr").last.locator("th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert first_column(table)[0] == "GIFT"
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(table)[0] == "CE"
    values = table.locator("tbody tr td:nth-child(2)").evaluate_all(
        "cells => cells.map(cell => Number(cell.dataset.v))"
    )
    assert values == sorted(values)


def test_the_runs_behind_a_number_open_and_close_by_click_and_by_key(opened):
    number = opened.locator("#losses table").first.locator("button.cell").first
    dialog = opened.locator("dialog")
    number.click()
    assert dialog.is_visible()
    text = dialog.inner_text()
    for shown in (
        "CE on digits:validation=100, IPC 10",
        "learning rate",
        "0.001",
        "torch",
        "2.14.1",
    ):
        assert shown in text
    assert dialog.locator("tbody tr").count() == 10
    assert "ce-adamw-seed0-" in dialog.locator("tbody tr").first.inner_text()
    dialog.locator("button.close").click()
    assert not dialog.is_visible()
    number.focus()
    opened.keyboard.press("Enter")
    assert dialog.is_visible()
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert number.evaluate("button => button === document.activeElement")


def test_every_number_has_its_runs(opened):
    data = json.loads(opened.locator("#data").text_content())
    asked = opened.locator("[data-cell]").evaluate_all("all => all.map(b => +b.dataset.cell)")
    assert set(asked) == set(range(len(data["cells"])))
    assert all(cell["runs"] for cell in data["cells"])


def test_a_phone_scrolls_down_alone(browser, report):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(report.as_uri())
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    smallest = page.evaluate(
        """Math.min(...[...document.querySelectorAll("svg[role=img]")].map(svg =>
            12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"""
    )
    assert smallest >= 10  # pixels, of the letters in figures
    page.close()


def test_it_is_light_or_dark_as_the_system_is_unless_it_is_told(browser, report):
    def ground(page) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(colour.removeprefix("rgb(").partition(",")[0])

    for scheme, is_dark in (("light", False), ("dark", True)):
        page = browser.new_page(color_scheme=scheme)
        page.goto(report.as_uri())
        assert (ground(page) < 128) == is_dark
        page.locator("#theme").click()
        assert ground(page) > 128  # light
        page.locator("#theme").click()
        assert ground(page) < 128  # dark
        page.close()


def test_what_is_folded_is_printed(opened):
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details:not([open])").count() == 0


def test_a_script_in_a_title_does_not_run(browser, tmp_path):
    attack = "<img src=x onerror=\"document.title = 'run'\"><script>document.title = 'run'</script>"
    study = RecordedStudy(tmp_path / "runs", title=attack, notes=attack)
    study.over_sets("gift", [60.0, 61.0])
    report, _ = write_report(study.write())
    page = browser.new_page()
    page.goto(report.as_uri())
    page.locator("button.cell").first.click()
    assert page.title() == attack
    assert page.locator("img").count() == 0
    page.close()
