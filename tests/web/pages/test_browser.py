"""What people see and do, in a real Chromium, with every other part real too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect

from rq_clock.callbacks import Callbacks, NewTask
from rq_clock.schedules.service import Schedules
from rq_clock.settings import Settings
from tests.helpers import PATIENCE, REQUIRED, lack, wait_until
from tests.web.pages import browser as lab
from tests.web.pages.browser import Place, log_in, seen
from tests.web.test_server import TOKEN

SCHEDULES = """
from rq_clock import command
clock.add("heartbeat", every(seconds=2), "demo.beat", tags=["ops"])
clock.add("nightly-report", cron("0 3 * * *", tz="Europe/Berlin"), "demo.report")
clock.add("flaky", every(days=30), "demo.flaky", queue="reports")
slow = "echo half way; until test -e go; do sleep 0.1; done; echo all the way"
clock.add("disk-usage", every(days=30), command(slow))
"""
TASKS = """
from pathlib import Path


def beat():
    print("beat")


def report():
    print("report")


def flaky():
    if not Path("mended").exists():
        raise ValueError("no such table: invoices")
"""
LONGEST_MS = 5_500
"""Within which an open page asks again."""
pytestmark = pytest.mark.skipif(not lab.chromium() and not REQUIRED, reason=lack("chromium"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert lab.chromium(), lack("chromium")
    expect.set_options(timeout=PATIENCE * 1000)
    with lab.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("place")
    with Place(path, SCHEDULES, TASKS, queues="default,reports") as place:
        yield place


@pytest.fixture(scope="module")
def session(chromium: Browser, place: Place) -> Any:
    """What a browser that is logged in keeps."""
    context = chromium.new_context()
    log_in(context.new_page(), place.url)
    kept = context.storage_state()
    context.close()
    return kept


@pytest.fixture
def context(chromium: Browser, session: Any) -> Iterator[BrowserContext]:
    context = chromium.new_context(storage_state=session)
    context.set_default_timeout(PATIENCE * 1000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, place: Place) -> Iterator[Page]:
    """The first page of somebody who is logged in, of which the console has no complaints."""
    page = context.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: logged.append(f"error: {error}"))
    page.goto(place.url)
    yield page
    words = "" if page.is_closed() else page.locator("body").inner_text()
    print(page.url, words, logged, place.web.text(), sep="\n")  # shown where a test fails
    faulty = re.compile(r"error: (?!.*(net::ERR|status of (4..|503)))")
    assert not list(filter(faulty.match, logged))


def live(page: Page) -> None:
    """Wait until the page is kept up to date."""
    expect(page.locator("#live")).to_have_text("Live")


def press(page: Page, name: str, role: Any = "button") -> None:
    page.get_by_role(role, name=name, exact=True).first.click()


class TestAPersonsPath:
    def test_from_the_login_to_a_takeover_of_the_clock(self, page: Page, place: Place) -> None:
        self.logs_in(page, place)
        self.sees_a_schedule_run(page)
        self.pauses_it_and_sees_it_skipped(page)
        self.resumes_it_and_runs_it_now(page)
        self.creates_one_and_reads_its_note_on_clocks(page)
        self.backfills_three_days(page)
        self.retries_what_failed(page, place)
        self.reads_output_while_it_is_printed(page, place)
        self.sees_a_clock_die_and_another_take_over(page, place)

    def logs_in(self, page: Page, place: Place) -> None:
        page.context.clear_cookies()
        log_in(page, place.url)  # a session of its own: the other tests' goes on
        press(page, "default · Log out")
        page.get_by_label("Token").fill("wrong-0123456789abcdef")
        press(page, "Log in")
        expect(page.get_by_role("alert")).to_contain_text("expected a token of RQ_CLOCK_TOKENS")
        log_in(page, place.url + "/schedules/heartbeat")
        expect(page.get_by_role("heading", level=1)).to_have_text("heartbeat")

    def sees_a_schedule_run(self, page: Page) -> None:
        live(page)
        rows = page.get_by_role("table", name="Fire times and their outcomes").locator("tbody tr")
        before = rows.first.inner_text()
        wait_until(lambda: rows.first.inner_text() != before, "another run")
        expect(rows.nth(1)).to_contain_text("ok")

    def pauses_it_and_sees_it_skipped(self, page: Page) -> None:
        press(page, "Pause…", "link")
        page.get_by_label("Reason").fill("the sender is being replaced")
        press(page, "Pause")
        seen(page, "Paused until it is resumed.")
        seen(page, "“the sender is being replaced”")
        rows = page.get_by_role("table", name="Fire times and their outcomes").locator("tbody tr")
        expect(rows.first).to_contain_text("paused")
        expect(rows.first).to_contain_text(re.compile(r"\d times"))

    def resumes_it_and_runs_it_now(self, page: Page) -> None:
        press(page, "Resume…", "link")
        press(page, "Resume")
        seen(page, "Resumed.")
        press(page, "Run now…", "link")
        page.get_by_label("Reason").fill("to see it work")
        press(page, "Run now")
        seen(page, "Enqueued ")
        seen(page, "manual · default")

    def creates_one_and_reads_its_note_on_clocks(self, page: Page) -> None:
        press(page, "Schedules", "link")
        press(page, "New schedule", "link")
        page.get_by_label("Name", exact=True).fill("early-mail")
        page.get_by_label("Zone", exact=True).fill("Europe/Berlin")
        page.get_by_label("Expression", exact=True).press_sequentially("30 2 * * mo", delay=20)
        seen(page, "Expression: ")
        page.get_by_label("Expression", exact=True).fill("30 2 * * *")
        seen(page, "At 02:30 every day, Europe/Berlin time.")
        seen(page, "02:30 does not exist that day (clocks go forward 02:00 → 03:00); runs at 03:00")
        page.get_by_label("Function", exact=True).fill("demo.report")
        press(page, "Create")
        expect(page.get_by_role("heading", level=1)).to_have_text("early-mail")

    def backfills_three_days(self, page: Page) -> None:
        press(page, "Schedules", "link")
        press(page, "nightly-report", "link")
        press(page, "Backfill…", "link")
        page.get_by_label("From").fill("2026-03-28T00:00")
        page.get_by_label("To").fill("2026-03-30T12:00")
        press(page, "Preview")
        seen(page, "3, oldest first")
        seen(page, "Sun 29 Mar 03:00 CEST")
        press(page, "Enqueue 3 runs")
        seen(page, "Started a backfill of 3 runs.")
        seen(page, "3 of 3")

    def retries_what_failed(self, page: Page, place: Place) -> None:
        page.goto(place.url + "/schedules/flaky/run")
        press(page, "Run now")
        seen(page, "ValueError: no such table: invoices")
        (place.path / "worker" / "mended").touch()
        press(page, "Queues", "link")
        page.get_by_role("link", name="Failed jobs").click()
        row = page.get_by_role("row").filter(has_text="flaky")
        row.get_by_role("link", name="Requeue").click()
        press(page, "Requeue")
        page.goto(place.url + "/schedules/flaky")
        seen(page, "attempt 2")
        expect(page.locator("#state")).to_contain_text("scheduled")

    def reads_output_while_it_is_printed(self, page: Page, place: Place) -> None:
        press(page, "Schedules", "link")
        press(page, "disk-usage", "link")
        press(page, "Run now…", "link")
        press(page, "Run now")
        page.locator("p").filter(has_text="is running").get_by_role("link").click()
        output = page.locator("#output")
        expect(output).to_contain_text("half way")
        expect(page.locator("main")).to_contain_text("running")
        expect(output).not_to_contain_text("all the way")
        (place.path / "worker" / "go").touch()
        expect(output).to_contain_text("all the way")
        expect(page.locator("main")).not_to_contain_text("running")

    def sees_a_clock_die_and_another_take_over(self, page: Page, place: Place) -> None:
        press(page, "Schedules", "link")
        live(page)
        place.clock.kill()
        seen(page, "No clock has been running since")
        expect(page.get_by_role("alert")).to_be_visible()
        place.clock = place.start_clock("clock.2")
        seen(page, "clock.2.")
        expect(page.get_by_role("alert")).to_have_count(0)


class TestLive:
    @pytest.fixture
    def polls(self, context: BrowserContext) -> list[tuple[Page, int]]:
        """Record each page that polls, with the status of the answer."""
        found: list[tuple[Page, int]] = []

        def note(answer: Response) -> None:
            if "if-none-match" in answer.request.headers:
                found.append((answer.request.frame.page, answer.status))

        context.on("response", note)
        return found

    def test_ten_tabs_are_kept_up_to_date(
        self, context: BrowserContext, page: Page, place: Place
    ) -> None:
        tabs = [page] + [context.new_page() for _ in range(9)]
        for tab in tabs[1:]:
            tab.goto(place.url)
        for tab in tabs:
            live(tab)
        with paused(place, "nightly-report", "while ten look"):
            for tab in tabs:
                seen(tab, "while ten look")

    def test_an_unchanged_page_is_not_sent_again(
        self, polls: list[tuple[Page, int]], page: Page, place: Place
    ) -> None:
        live(page)
        place.clock.kill()
        seen(page, "No clock has been running since")
        polls.clear()
        wait_until(lambda: page.title() and (page, 304) in polls, "the same page")
        place.clock = place.start_clock("clock.3")
        seen(page, "clock.3")

    def test_a_restart_of_the_server_is_seen_and_got_over(self, page: Page, place: Place) -> None:
        live(page)
        place.web.process.terminate()
        assert place.web.process.wait(PATIENCE) == 0
        expect(page.locator("#live")).to_have_text("Reconnecting…")
        place.web = place.start_web()
        live(page)
        with paused(place, "nightly-report", "after the restart"):
            seen(page, "after the restart")

    def test_a_page_reports_that_redis_is_away_and_recovers(self, page: Page, place: Place) -> None:
        live(page)
        place.server.pause()
        try:
            expect(page.locator("#live")).to_have_text("Redis cannot be used")
        finally:
            place.server.resume()
        live(page)

    def test_an_update_keeps_focus_selection_and_input(self, page: Page) -> None:
        live(page)
        box = page.get_by_label("Select nightly-report")
        box.check()
        page.get_by_role("searchbox").fill("half a wo")
        page.get_by_role("link", name="nightly-report", exact=True).focus()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
        page.evaluate("document.querySelector('h1').mark = document.activeElement.mark = 1")
        beat = page.locator("#row-heartbeat")
        for _ in range(2):
            before = beat.inner_text()
            wait_until(lambda: beat.inner_text() != before, "news of a run")  # noqa: B023
        expect(box).to_be_checked()
        expect(page.get_by_role("searchbox")).to_have_value("half a wo")
        assert page.evaluate("document.activeElement.textContent") == "nightly-report"
        assert page.evaluate("document.activeElement.mark") == 1
        assert page.evaluate("getSelection().toString()") == "Schedules"

    def test_updating_can_be_turned_off_for_good(
        self, polls: list[tuple[Page, int]], page: Page, place: Place
    ) -> None:
        live(page)
        press(page, "Stop updating")
        expect(page.locator("#live")).to_have_text("Not updated")
        page.reload()
        expect(page.locator("#live")).to_have_text("Not updated")
        polls.clear()
        with paused(place, "nightly-report", "unseen"):
            page.wait_for_timeout(LONGEST_MS)
            assert polls == []
            press(page, "Update live")
            seen(page, "unseen")

    def test_a_hidden_tab_fetches_nothing(
        self, polls: list[tuple[Page, int]], context: BrowserContext, page: Page, place: Place
    ) -> None:
        live(page)
        other = context.new_page()
        other.goto(place.url)
        live(other)
        self.hide(page, hidden=True)
        with paused(place, "nightly-report", "while hidden"):
            seen(other, "while hidden")
            polls.clear()
            wait_until(lambda: page.title() and len(polls) >= 3, "the other to ask thrice")
            assert {tab for tab, _ in polls} == {other}
            assert "while hidden" not in page.locator("body").inner_text()
            self.hide(page, hidden=False)
            seen(page, "while hidden")

    def hide(self, page: Page, *, hidden: bool) -> None:
        """As switching to another tab does, which a browser without a window cannot."""
        hiding = "{value: hidden, configurable: true}"
        page.evaluate(f"hidden => Object.defineProperty(document, 'hidden', {hiding})", hidden)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    def test_a_logout_elsewhere_leads_to_the_login(self, page: Page, place: Place) -> None:
        live(page)
        page.context.clear_cookies()
        with paused(place, "nightly-report", "unheard"):
            expect(page).to_have_url(place.url + "/login?next=/")


PAGES = [
    "/", "/?state=paused", "/schedules/heartbeat", "/schedules/nightly-report",
    "/schedules/heartbeat/pause", "/schedules/nightly-report/backfill", "/pause",
    "/new", "/timeline", "/runs", "RUN", "/queues", "/queues/default", "/jobs", "/clock", "/audit",
    "/callbacks", "/callbacks?state=waiting", "TASK", "/callbacks/configuration",
    "/bulk-callbacks/delete?state=waiting", "/nowhere",
]  # fmt: skip


def url_of(place: Place, path: str) -> str:
    """The address of a page; of "RUN", that of the newest run, of "TASK", that of a new task."""
    if path == "TASK":
        settings = Settings.from_env({"REDIS_URL": place.server.url})
        task = NewTask(url="https://example.com/jobs/42", payload={"order": 42}, dedup_key="42",
                       execute_at=datetime.now(UTC) + timedelta(days=1))  # fmt: skip
        added, _ = Callbacks(place.redis, by="ana", settings=settings).enqueue(task)
        path = f"/callbacks/{added.id}"
    if path == "RUN":
        found: Any = place.redis.xrevrange("rq-clock:default:runs", count=1)
        path = f"/runs/{found[0][1][b'job'].decode()}"
    return place.url + path


class TestLooks:
    @pytest.mark.parametrize("path", PAGES)
    def test_nothing_keeps_anybody_out_in_either_theme_on_either_screen(
        self, page: Page, place: Place, path: str
    ) -> None:
        page.emulate_media(reduced_motion="reduce")  # a color that is changing has no contrast yet
        page.goto(url_of(place, path))
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert faults(page, "light") == []
            assert faults(page, "dark", "color-contrast", "link-in-text-block") == []
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} scrolls sideways: {wide} > {width}"

    def test_the_login_too(self, chromium: Browser, place: Place) -> None:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(place.url)
        assert faults(page, "light") == faults(page, "dark") == []
        context.close()


def faults(page: Page, theme: Any, *rules: str) -> list[str]:
    """What axe finds, by all of its rules unless some are named, and where."""
    page.emulate_media(color_scheme=theme)
    page.evaluate(Axe().axe_script)  # each time: a page may have loaded itself anew
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("options => axe.run(options)", options)["violations"]
    return [f"{v['id']}: {v['help']}: {[node['html'] for node in v['nodes']]}" for v in found]


class TestKeys:
    def test_a_schedule_is_found_paused_and_resumed_without_a_mouse(
        self, page: Page, place: Place
    ) -> None:
        page.context.clear_cookies()
        page.goto(place.url)
        tab_to(page, "Token")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Schedules").wait_for()
        page.wait_for_load_state()  # the keys come with its scripts
        page.keyboard.press("/")
        page.keyboard.type("nightly")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="heartbeat", exact=True)).to_have_count(0)
        tab_to(page, "nightly-report")
        enter(page, "nightly-report")
        tab_to(page, "Pause…")
        enter(page, "Pause nightly-report")
        tab_to(page, "Reason")
        page.keyboard.type("by keys alone")
        enter(page, "nightly-report")
        seen(page, "“by keys alone”")
        tab_to(page, "Resume…")
        enter(page, "Resume nightly-report")
        tab_to(page, "Resume")
        page.keyboard.press("Enter")
        seen(page, "Resumed.")

    def test_the_first_tab_leads_past_the_head(self, page: Page) -> None:
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")

    def test_keys_go_from_page_to_page_and_row_to_row(self, page: Page, place: Place) -> None:
        page.keyboard.press("j")
        page.keyboard.press("j")
        second = focused(page)
        page.keyboard.press("k")
        first = focused(page)
        assert first != second
        assert page.locator("main tbody th > a").all_inner_texts()[:2] == [first, second]
        page.keyboard.type("gq")
        expect(page).to_have_url(place.url + "/queues")


def enter(page: Page, heading: str) -> None:
    """Press Enter, and wait for the page that this leads to."""
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)


def tab_to(page: Page, name: str) -> None:
    """Press Tab until an element of this name has the focus; each on the way can be seen to have
    it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "(({outlineStyle, outlineWidth, boxShadow}) => [outlineStyle, outlineWidth, boxShadow])"
            "(getComputedStyle(document.activeElement))"
        )
        bare = style[0] == "none" or style[1] == "0px"
        assert not bare or style[2] != "none", f"{focused(page)} does not show its focus"
        if focused(page) == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def focused(page: Page) -> str:
    """The name of the element that has the focus, as it is read aloud."""
    name = "(e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || e.value || '')"
    return str(page.evaluate(f"{name}(document.activeElement)")).strip()


class TestWithoutScripts:
    @pytest.fixture
    def page(self, chromium: Browser, session: Any, place: Place) -> Iterator[Page]:
        context = chromium.new_context(storage_state=session, java_script_enabled=False)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.goto(place.url)
        yield page
        context.close()

    def test_each_page_can_be_read(self, page: Page, place: Place) -> None:
        for path in PAGES:
            answer = page.goto(url_of(place, path))
            assert answer
            assert answer.status == (404 if path == "/nowhere" else 200), path
            assert page.locator("main h1").inner_text(), path
            assert len(page.locator("main").inner_text()) > 40, path

    def test_each_action_is_a_form(self, page: Page, place: Place) -> None:
        page.goto(place.url + "/schedules/nightly-report")
        press(page, "Pause…", "link")
        page.get_by_label("Reason").fill("no script")
        press(page, "Pause")
        seen(page, "Paused until it is resumed.")
        press(page, "Resume…", "link")
        press(page, "Resume")
        seen(page, "Resumed.")
        press(page, "Run now…", "link")
        press(page, "Run now")
        seen(page, "Enqueued ")
        press(page, "Backfill…", "link")
        page.get_by_label("From").fill("2026-04-01T00:00")
        page.get_by_label("To").fill("2026-04-02T12:00")
        press(page, "Preview")
        press(page, "Enqueue 2 runs")
        seen(page, "Started a backfill of 2 runs.")

    def test_many_are_paused_at_once(self, page: Page) -> None:
        for name in ("nightly-report", "flaky"):
            page.get_by_label(f"Select {name}").check()
        press(page, "Pause…")
        page.get_by_label("Reason").fill("both")
        press(page, "Pause 2 schedules")
        assert page.locator("main").inner_text().count("both") >= 2
        for name in ("nightly-report", "flaky"):
            page.get_by_label(f"Select {name}").check()
        press(page, "Resume…")
        press(page, "Resume 2 schedules")

    def test_one_is_created_after_a_preview(self, page: Page, place: Place) -> None:
        page.goto(place.url + "/new")
        page.get_by_label("Name", exact=True).fill("plain")
        page.get_by_label("Expression", exact=True).fill("15 4 * * 1")
        page.get_by_label("Function", exact=True).fill("demo.report")
        press(page, "Preview")
        seen(page, "04:15")
        press(page, "Create")
        expect(page.get_by_role("heading", level=1)).to_have_text("plain")


@contextmanager
def paused(place: Place, name: str, reason: str) -> Iterator[None]:
    """What somebody else does meanwhile."""
    schedules = Schedules(
        place.redis, by="ops", settings=Settings.from_env({"REDIS_URL": place.server.url})
    )
    schedules.pause(name, reason=reason)
    yield
    schedules.resume(name)
