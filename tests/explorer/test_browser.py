"""The page in a real browser: Chromium, from the file system, where every request and message is a failure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.synthetic import make_run
from support.tiny import run_tiny

from dynamics.explorer.build import build_page
from dynamics.records.reader import open_run

COMPLETE = "html[data-complete]"


@pytest.fixture(scope="session")
def pages(two_runs, tmp_path_factory):
    """A page of one run (that drops), and one of two."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "one": build_page(two_runs[1]).save(folder / "one.html"),
        "two": build_page(two_runs).save(folder / "two.html"),
    }


def until(tab, condition, argument=None):
    """Wait until a function of the page is true; what Playwright has for this needs eval, which the policy forbids."""
    for _ in range(200):
        if tab.evaluate(condition, argument):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def texts(tab, column=0):
    return tab.evaluate(
        "k => [...document.querySelectorAll('.tokens')[k].querySelectorAll(':scope > span')].map(s => s.textContent)",
        column,
    )


def colours(tab, column=0):
    return tab.evaluate(
        "k => [...document.querySelectorAll('.tokens')[k].querySelectorAll(':scope > span')].map(s => s.style.backgroundColor)",
        column,
    )


def facts(tab):
    return tab.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('#token dt')].map(t => [t.textContent, t.nextSibling.textContent]))"
    )


def items(tab, name):
    return tab.evaluate("name => [...document.querySelectorAll(`#${name} a`)].map(a => a.textContent)", name)


def set_epoch(tab, e):
    tab.locator("#epoch").evaluate(
        "(slider, e) => { slider.value = e; slider.dispatchEvent(new Event('input', {bubbles: true})); }", e
    )


def hover(tab, i, column=0):
    tab.locator(".tokens").nth(column).locator("> span").nth(i).hover()


def require_values(said, records, sequence, position, epoch, top, name):
    """Compare what the inspector says with the record: within the page's bound, and the second digit."""
    bound = top * (254 - 0.25) / 254**2 + 0.005 + 1e-6
    exact = getattr(records, name)(epoch)[sequence, position]
    assert float(said) == pytest.approx(float(exact), abs=bound)


def test_it_opens_without_a_request_or_a_message(visit, pages):
    with visit(pages["two"]) as tab:
        assert tab.title() == "baseline/seed-0 and entrodrop/seed-0: token explorer"
        assert tab.locator("#problem").is_hidden()
        assert tab.locator("#sparks svg").count() == 4  # two splits, two buckets
        assert tab.locator("#curves svg").count() == 2


def test_the_policy_keeps_the_page_from_the_network(visit, pages):
    """Were the script to ask for something after all, the browser would refuse."""
    with pytest.raises(AssertionError, match="Content Security Policy"), visit(pages["one"]) as tab:
        refused = tab.evaluate("fetch('https://example.invalid/').then(() => 'sent', () => 'refused')")
        assert refused == "refused"
        tab.evaluate(
            "() => { const one = new Image(); one.src = 'https://example.invalid/x.png'; document.body.append(one); }"
        )
        tab.wait_for_timeout(100)


def test_the_slider_changes_colours_and_the_address(visit, pages, two_runs):
    run = two_runs[1]
    with visit(pages["one"], "#doc=0&value=loss") as tab:
        seen = []
        for e in range(5):
            set_epoch(tab, e)
            assert tab.locator("#epoch-number").text_content() == str(e)
            seen.append(colours(tab))
        assert len({tuple(one) for one in seen}) == 5
        # Under one scale: of two tokens and epochs the darker has the higher recorded loss.
        of = run.records("validation")
        here = np.argwhere(of.document_id == 0)[: len(seen[0])]
        strength, loss = [], []
        for e in range(5):
            for colour, (s, p) in zip(seen[e], here, strict=True):
                if colour:
                    strength.append(-sum(map(int, colour[4:-1].split(","))))
                    loss.append(min(float(of.loss(e)[s, p]), 99))
        order = np.argsort(loss)
        assert (np.diff(np.array(strength)[order]) >= -30).all()  # but for the page's eight bits
        assert np.corrcoef(strength, loss)[0, 1] > 0.8
        until(tab, "() => location.hash.includes('epoch=4')")


def test_hovering_shows_the_recorded_values(visit, pages, two_runs, decode):
    top = decode(pages["one"].read_text()).meta["top"]
    run = two_runs[1]
    for split in ("validation", "train"):
        of = run.records(split)
        with visit(pages["one"], f"#split={split}&doc=1") as tab:
            here = np.argwhere(of.document_id == 1)
            for i in range(0, len(here), 7):
                s, p = here[i].tolist()
                hover(tab, i)
                said = facts(tab)
                assert said["place"] == f"sequence {s}, position {p}, token id {of.token_id[s, p]}"
                if not of.predicted[s, p]:
                    assert said["value"].startswith("none")
                    continue
                require_values(said["loss, epoch 4"].split()[0], of, s, p, 4, top, "loss")
                require_values(said["entropy, epoch 4"].split()[0], of, s, p, 4, top, "entropy")
                assert said["most probable"] == ("yes" if of.correct(4)[s, p] else "no")
                edge = np.median(run.records("train").reference_entropy[run.records("train").predicted])
                low = of.reference_entropy[s, p] < edge
                assert said["bucket"].startswith("low" if low else "high")
                if split == "train":
                    epochs = [str(e) for e in range(1, 5) if of.dropped(e)[s, p]]
                    assert said["dropped in"] == (", ".join(epochs) or "no epoch")
                    assert said["may be dropped"] == (
                        "yes, by entrodrop" if low else "no: not in the pool of entrodrop"
                    )
                else:
                    assert said["may be dropped"] == "no: only training text is"
                # Every epoch, in the table below the curve.
                rows = tab.evaluate(
                    "() => [...document.querySelectorAll('#token tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
                )
                assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
                for e, row in enumerate(rows):
                    require_values(row[1], of, s, p, e, top, "loss")
                    require_values(row[2], of, s, p, e, top, "entropy")


def test_search_sort_and_filter_passages(visit, pages, two_runs):
    of = two_runs[1].records("train")
    with visit(pages["one"], "#split=train&doc=0&sort=place") as tab:
        assert len(items(tab, "passages")) == of.n_documents == 12
        tab.fill("#query", "MODULE with")
        expected = [d for d in range(12) if "module with" in of.document_text(d)]
        assert 0 < len(expected) < 12
        assert [
            int(name.removeprefix("train document "))
            for name in tab.locator("#passages a").evaluate_all("all => all.map((a) => a.firstChild.textContent)")
        ] == expected
        assert tab.locator(".tokens span.found").count() > 0 or 0 not in expected
        tab.fill("#query", "")
        tab.select_option("#sort", "rebound")
        curves = np.stack([of.loss(e) for e in range(5)])
        rise = []
        for d in range(12):
            mean = [np.nanmean(curve[of.document_id == d], dtype=float) for curve in curves]
            rise.append(mean[-1] - min(mean))
        shown = [float(text.split(" nats")[0].rsplit("document ", 1)[1][-4:]) for text in items(tab, "passages")]
        assert shown == pytest.approx(sorted(rise, reverse=True), abs=0.006)
        tab.fill("#least", "0.3")
        assert len(items(tab, "passages")) == sum(value >= 0.3 for value in rise) < 12
        assert "passages" in tab.locator("#passages-count").text_content()


def test_tokens_that_rebounded_most_lead_to_their_places(visit, pages, two_runs):
    of = two_runs[1].records("validation")
    curves = np.stack([of.loss(e) for e in range(5)])
    rise = np.nan_to_num(curves[-1] - curves.min(axis=0), nan=-1)
    with visit(pages["one"], "#tab=tokens") as tab:
        listed = items(tab, "tokens")
        assert f"{of.predicted.sum():,} tokens" in tab.locator("#tokens-count").text_content()
        shown = [
            float(
                text.split(" nats")[0]
                .rsplit(maxsplit=1)[-1]
                .split("»")[-1][-5:]
                .lstrip("abcdefghijklmnopqrstuvwxyz:é␣")
            )
            for text in listed[:1]
        ]
        assert shown[0] == pytest.approx(rise.max(), abs=0.1)
        tab.locator("#tokens a").nth(2).click()
        tab.wait_for_selector("#token dl")
        place = facts(tab)["place"].replace(",", "").split()
        s, p = int(place[1]), int(place[3])
        # The third of all, but for what eight bits cannot tell apart.
        assert rise[s, p] >= np.sort(rise.ravel())[-3] - 0.2
        assert tab.locator(".tokens span.here").count() == 1
        tab.fill("#token-query", "über")
        tab.select_option("#token-bucket", "low")
        edge = np.median(two_runs[1].records("train").reference_entropy[two_runs[1].records("train").predicted])
        expected = [
            (s, p)
            for s, p in np.argwhere(of.predicted & (of.reference_entropy < edge))
            if "über" in of.token_text(s, p)
        ]
        assert len(items(tab, "tokens")) == len(expected)


def test_comparison(visit, pages, two_runs, decode):
    top = decode(pages["two"].read_text()).meta["top"]
    with visit(pages["two"], "#split=train&doc=0&runs=side&value=loss") as tab:
        assert tab.locator(".tokens").count() == 2
        assert texts(tab, 0) == texts(tab, 1)
        assert colours(tab, 0) != colours(tab, 1)
        hover(tab, 3, column=1)
        place = facts(tab)["place"].replace(",", "").split()
        s, p = int(place[1]), int(place[3])
        for said, run in zip(facts(tab)["loss, epoch 4"].removesuffix(" nats").split(" | "), two_runs, strict=True):
            require_values(said, run.records("train"), s, p, 4, top, "loss")
        tab.select_option("#runs", "difference")
        assert tab.locator(".tokens").count() == 1
        assert "baseline/seed-0 minus entrodrop/seed-0" in tab.locator("#text h3").text_content()
        # Blue where the first run's loss is lower, orange where it is higher.
        found = colours(tab)
        first, second = (run.records("train") for run in two_runs)
        n = 0
        for colour, (s, p) in zip(found, np.argwhere(first.document_id == 0), strict=True):
            difference = float(first.loss(4)[s, p]) - float(second.loss(4)[s, p])
            if colour and abs(difference) > 1:
                red, _, blue = map(int, colour[4:-1].split(","))
                assert (red > blue) == (difference > 0)
                n += 1
        assert n > 10


def test_dropped_tokens_are_hidden(visit, pages, two_runs):
    of = two_runs[1].records("train")
    here = np.argwhere(of.document_id == 0)
    hidden = "() => [...document.querySelectorAll('.tokens > span')].map(s => s.classList.contains('hidden'))"
    with visit(pages["one"], "#split=train&doc=0&hide=4") as tab:
        assert tab.evaluate(hidden) == [bool(of.dropped(4)[s, p]) for s, p in here]
        assert any(tab.evaluate(hidden))
        tab.select_option("#hide", "now")
        set_epoch(tab, 3)
        assert tab.evaluate(hidden) == [bool(of.dropped(3)[s, p]) for s, p in here]
        tab.select_option("#hide", "")
        assert not any(tab.evaluate(hidden))
    # In the difference of two runs, what either dropped.
    with visit(pages["two"], "#split=train&doc=0&hide=4&runs=difference") as tab:
        assert tab.evaluate(hidden) == [bool(of.dropped(4)[s, p]) for s, p in here]


@pytest.mark.parametrize("value", ["loss", "entropy", "reference", "change", "gap", "overconfidence", "class"])
def test_every_value_has_its_colours_and_legend(visit, pages, value):
    with visit(pages["two"], f"#value={value}&epoch=4&runs=side") as tab:
        assert len(set(colours(tab))) > 2
        assert len(tab.locator("#legend").get_attribute("aria-label")) > 20
        legend = tab.locator("#legend").text_content()
        set_epoch(tab, 1)
        tab.select_option("#runs", "b")
        assert tab.locator("#legend").text_content() == legend  # one scale over epochs and runs


def test_addresses_can_be_shared(visit, pages):
    def state(tab):
        controls = [
            "value",
            "runs",
            "hide",
            "split",
            "sort",
            "query",
            "least",
            "token-sort",
            "token-bucket",
            "token-class",
            "token-first",
            "token-query",
            "token-least",
            "epoch",
        ]
        return [
            tab.evaluate("ids => ids.map(id => document.getElementById(id).value)", controls),
            texts(tab),
            colours(tab),
            facts(tab),
            tab.locator("#passage-title").text_content(),
            items(tab, "tokens"),
        ]

    with visit(pages["two"]) as tab:
        tab.select_option("#value", "gap")
        tab.select_option("#runs", "b")
        tab.select_option("#split", "train")
        tab.select_option("#sort", "forgetting")
        tab.fill("#query", "the")
        tab.select_option("#hide", "2")
        tab.click("#tab-tokens")
        tab.select_option("#token-sort", "first")
        tab.select_option("#token-class", "rebounding")
        tab.fill("#token-least", "1")
        tab.locator("#tokens a").nth(1).click()
        set_epoch(tab, 2)
        until(tab, "() => location.hash.includes('epoch=2')")
        before, address = state(tab), tab.evaluate("location.hash")
    with visit(pages["two"], address) as tab:
        after = state(tab)
    assert before == after
    assert before[0][:4] == ["gap", "b", "2", "train"]


def test_the_count_of_a_class_never_stands_alone(visit, pages, two_runs):
    chosen = []
    for run in two_runs:
        curves = np.nan_to_num(np.stack([run.records("validation").loss(e) for e in range(5)]))
        lowest = curves.min(axis=0)
        chosen.append((curves[0] - lowest > 0.2) & (curves[-1] - lowest > 0.2))
    with visit(pages["one"], "#tab=tokens") as tab:
        assert "own losses" not in tab.locator("#tokens-count").text_content()
        tab.select_option("#token-class", "rebounding")
        count = tab.locator("#tokens-count").text_content()
        alone = " as this run's own losses chose, validated by no other run"
        assert count.startswith(f"{chosen[1].sum():,} tokens{alone}")
    with visit(pages["two"], "#tab=tokens") as tab:
        tab.select_option("#token-class", "rebounding")
        both = (chosen[0] & chosen[1]).sum()
        assert 0 < both
        for name, mine in zip("ab", chosen, strict=True):
            tab.select_option("#runs", name)
            count = tab.locator("#tokens-count").text_content()
            assert count.startswith(f"{mine.sum():,} tokens, {both:,} of this class in the other run too"), count


def test_a_link_leads_on_from_the_state_of_the_moment(visit, pages):
    with visit(pages["one"], "#split=train&doc=0&sort=place") as tab:
        set_epoch(tab, 1)
        tab.select_option("#hide", "now")
        tab.locator("#passages a").nth(2).click()
        tab.locator("#passage-title", has_text="document 2").wait_for()
        assert tab.locator("#epoch-number").text_content() == "1" and tab.input_value("#hide") == "now"
        # Followed at once after another change, to the place that the address still names; and back.
        tab.evaluate("document.querySelector('#next').click(); document.querySelectorAll('#passages a')[2].click()")
        tab.locator("#passage-title", has_text="document 2").wait_for()
        tab.locator("#passages a").nth(4).click()
        tab.locator("#passage-title", has_text="document 4").wait_for()
        tab.go_back()
        tab.locator("#passage-title", has_text="document 2").wait_for()


def test_the_inspector_forgets_the_token_of_another_passage(visit, pages):
    with visit(pages["one"], "#doc=0&sort=place") as tab:
        tab.locator(".tokens span").nth(3).click()
        assert tab.locator("#token dl").count() == 1
        tab.locator("#previous").focus()
        tab.mouse.move(1, 1)
        tab.click("#next")
        tab.locator("#passage-title", has_text="document 1").wait_for()
        until(tab, "document.querySelector('#token dl') === null")
        set_epoch(tab, 0)
        assert tab.locator("#token").text_content().startswith("Point at a token")


def test_a_page_saved_from_python_has_its_address(visit, two_runs, tmp_path):
    path = two_runs[0].explore(budget=1).save(tmp_path / "saved.html")
    with visit(path) as tab:
        assert tab.locator("#share").is_visible()
        set_epoch(tab, 2)
        until(tab, "location.hash.includes('epoch=2')")


def test_a_swipe_over_a_chart_is_the_charts(visit, pages):
    with visit(pages["one"]) as tab:
        assert tab.locator("#degradation .touch").evaluate("e => getComputedStyle(e).touchAction") == "pan-y"


def test_labels_of_many_lines_stay_in_their_chart(visit, two_runs, tmp_path):
    path = build_page(two_runs, buckets=10).save(tmp_path / "ten.html")
    with visit(path) as tab:
        chart = tab.locator("#bucket-curves svg").bounding_box()
        boxes = tab.locator("#bucket-curves svg text").evaluate_all(
            "all => all.map((e) => e.getBoundingClientRect().top)"
        )
        assert min(boxes) >= chart["y"] - 4


def test_the_scale_of_a_difference_is_fixed_too(visit, pages):
    legends = []
    for epoch in (1, 4):
        with visit(pages["two"], f"#runs=difference&value=loss&epoch={epoch}") as tab:
            legends.append(tab.locator("#legend").text_content())
    assert legends[0] == legends[1] and legends[0].startswith("difference of loss")


@pytest.mark.parametrize(
    "address",
    [
        "#split=nowhere&doc=-7&part=x&epoch=99&value=evil&runs=c&hide=zz&at=..",
        "#doc=1e99&at=__proto__&tab=toString",
        "#q=((&tq=%5B%5B%ff&least=abc",
        "#&&&=&%",
    ],
)
def test_wrong_addresses_show_the_usual(visit, pages, address):
    with visit(pages["one"], address) as tab:
        assert len(texts(tab)) > 5
        assert tab.locator("#problem").is_hidden()


def test_play_goes_on_by_itself(visit, pages):
    with visit(pages["one"], "#epoch=0") as tab:
        tab.click("#play")
        assert tab.locator("#play").get_attribute("aria-pressed") == "true"
        until(tab, "() => document.getElementById('epoch').value === '2'")
        tab.click("#play")
        assert tab.locator("#play").text_content() == "Play"


def test_a_chart_is_tied_to_the_slider(visit, pages):
    with visit(pages["one"]) as tab:
        tab.locator("#curves summary").click()
        box = tab.locator("#degradation svg").bounding_box()
        tab.mouse.click(box["x"] + 38 / 460 * box["width"] + 1, box["y"] + box["height"] / 2)
        assert tab.locator("#epoch").input_value() == "0"
        assert tab.locator("#epoch-number").text_content() == "0"


def test_tapping_on_a_touch_screen(visit, pages):
    with visit(pages["one"], has_touch=True, viewport={"width": 400, "height": 800}) as tab:
        tab.locator(".tokens > span").nth(4).tap()
        assert facts(tab)["place"].startswith("sequence")
        until(tab, "() => location.hash.includes('at=')")  # chosen, not only looked at
        # Everything in one column, and nothing reaches beyond a narrow screen.
        assert tab.locator(".tokens").bounding_box()["width"] > 350
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400


def focused(tab):
    return tab.evaluate(
        "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
    )


def test_the_keyboard_reaches_everything(visit, pages):
    with visit(pages["two"], "#runs=side&split=train&doc=0&sort=place") as tab:
        reached = []
        for _ in range(60):
            tab.keyboard.press("Tab")
            reached.append(focused(tab))
            at_all = "getComputedStyle(document.activeElement).outlineStyle !== 'none' || document.activeElement === document.body"
            assert tab.evaluate(at_all)  # it is seen where one is
        wanted = [
            "skip",
            "keys",
            "theme",
            "share",
            "sparks",
            "epoch",
            "play",
            "value",
            "runs",
            "hide",
            "tab-passages",
            "query",
            "split",
            "sort",
            "previous",
            "next",
            "tokens",
        ]
        assert [name for name in wanted if name not in reached] == []
        places = [reached.index(name) for name in wanted]
        assert places == sorted(places)
        assert reached.count("SUMMARY") >= 2 and reached.count("tokens") >= 2


def test_keys_in_the_text_and_the_tabs(visit, pages):
    with visit(pages["one"], "#doc=0&epoch=2&sort=place") as tab:
        tab.focus("#skip")
        tab.keyboard.press("Enter")
        assert focused(tab) == "tokens"
        here = "() => [...document.querySelectorAll('.tokens > span')].findIndex(s => s.classList.contains('here'))"
        tab.keyboard.press("Home")
        for key, at in (
            ("ArrowRight", 1),
            ("ArrowRight", 2),
            ("ArrowLeft", 1),
            ("End", len(texts(tab)) - 1),
            ("Home", 0),
        ):
            tab.keyboard.press(key)
            assert tab.evaluate(here) == at
        tab.keyboard.press("ArrowDown")
        below = tab.evaluate(here)
        boxes = tab.evaluate(
            "ks => ks.map(k => document.querySelectorAll('.tokens > span')[k].getClientRects()[0].top)", [0, below]
        )
        assert below > 1 and boxes[1] > boxes[0]
        tab.keyboard.press("ArrowUp")
        assert tab.evaluate(here) in (0, 1)  # on the first line again, above
        tab.keyboard.press("PageUp")
        assert tab.locator("#epoch").input_value() == "3"
        tab.keyboard.press("PageDown")
        tab.keyboard.press("PageDown")
        assert tab.locator("#epoch").input_value() == "1"
        assert "epoch 1" in tab.locator("#spoken").text_content()
        tab.focus("#tab-passages")
        tab.keyboard.press("ArrowRight")
        assert focused(tab) == "tab-tokens" and tab.locator("#panel-tokens").is_visible()
        tab.keyboard.press("ArrowLeft")
        assert focused(tab) == "tab-passages" and tab.locator("#panel-passages").is_visible()
        # Whoever follows a link of a list stays in the list.
        tab.locator("#passages a").nth(2).focus()
        tab.keyboard.press("Enter")
        until(tab, "() => document.getElementById('passage-title').textContent.endsWith('document 2')")
        until(tab, "() => document.activeElement.matches('#passages li:nth-child(3) a')")


VIEWS = [
    ("light", "two", "#runs=side&split=train&at=0.3", {"color_scheme": "light"}),
    ("dark", "two", "#runs=side&value=change&split=train&at=0.3", {"color_scheme": "dark"}),
    ("difference, tokens", "two", "#runs=difference&tab=tokens", {"color_scheme": "light"}),
    ("one, dark, tokens, classes", "one", "#tab=tokens&value=class&split=train&hide=3", {"color_scheme": "dark"}),
    ("narrow", "one", "#split=train&at=0.3&value=overconfidence", {"viewport": {"width": 400, "height": 800}}),
]


@pytest.mark.parametrize(("page", "address", "context"), [view[1:] for view in VIEWS], ids=[view[0] for view in VIEWS])
def test_no_serious_violation_of_accessibility(visit, pages, page, address, context):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visit(pages[page], address, **context) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        found = axe.run(tab).response["violations"]
        serious = [
            (
                one["id"],
                one["impact"],
                [node["html"][:150] for node in one["nodes"][:3]],
                one["nodes"][0]["failureSummary"][:300],
            )
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []


def test_the_help_sheet_is_accessible(visit, pages):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme in ("light", "dark"):
        with visit(pages["one"], color_scheme=scheme) as tab:
            tab.click("#keys")
            assert tab.evaluate("document.activeElement.closest('dialog') !== null")
            found = axe.run(tab).response["violations"]
            assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
            tab.click("#help-close")
            assert tab.evaluate("document.activeElement.id") == "keys"


def test_inline_in_a_notebook(browser, visit, two_runs, tmp_path):
    frame = two_runs[1].explore(budget=1)._repr_html_()
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><title>notebook</title><p>above</p>{frame}<p>below</p>", encoding="utf-8")
    seen = []
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    tab = context.new_page()
    tab.on("console", lambda message: seen.append(message.text))
    tab.on("pageerror", lambda error: seen.append(str(error)))
    tab.goto(path.as_uri())
    inner = tab.frame_locator("iframe")
    inner.locator(COMPLETE).wait_for(state="attached")
    assert inner.locator("#share").is_hidden()
    inner.locator("#sort").select_option("place")
    inner.locator("#passages a").nth(3).click()
    inner.locator("#passage-title", has_text="document 3").wait_for()
    inner.locator("#tab-tokens").click()
    inner.locator("#tokens a").first.click()
    inner.locator(".tokens span.here").wait_for()
    inner.locator("#skip").focus()
    inner.locator("#skip").press("Enter")
    inner.locator(".tokens").first.press("PageDown")
    assert inner.locator("#epoch-number").text_content() == "3"
    assert tab.url == path.as_uri()
    assert seen == []
    context.close()


def test_opening_inside_a_notebook_scrolls_the_text_and_not_the_notebook(browser, two_runs, tmp_path):
    frame = two_runs[1].explore(budget=1)._repr_html_()
    path = tmp_path / "notebook.html"
    above = '<div style="height: 700px">above</div>'
    path.write_text(f"<!doctype html><title>notebook</title>{above}{frame}<p>below</p>", encoding="utf-8")
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    tab = context.new_page()
    tab.goto(path.as_uri())
    inner = tab.frame_locator("iframe")
    inner.locator(COMPLETE).wait_for(state="attached")
    here = inner.locator(".tokens span.here").first
    here.wait_for()
    assert tab.evaluate("window.scrollY") == 0
    # The token that the page opens on is in view within the frame.
    top = here.evaluate("element => element.getBoundingClientRect().top")
    assert 0 <= top <= inner.locator("body").evaluate("() => window.innerHeight")
    context.close()


def test_two_epochs_a_diverged_run_and_no_reference(visit, tmp_path, monkeypatch):
    def nothing(epoch, split, entropy, rng):
        return np.full(entropy.shape, np.nan)

    monkeypatch.setattr(
        "support.synthetic._reference_entropy", lambda packed, seed: np.full(packed.token_id.shape, np.nan, np.float32)
    )
    run = open_run(make_run(tmp_path / "run", epochs=1, loss_fn=nothing, entropy_fn=nothing))
    path = build_page(run).save(tmp_path / "page.html")
    with visit(path) as tab:
        assert set(colours(tab)) == {""}
        hover(tab, 2)
        assert facts(tab)["loss, epoch 1"] == "– nats"
        for name in ("change", "gap", "class"):
            tab.select_option("#value", name)
        tab.click("#tab-tokens")
        assert tab.locator("#tokens-count").text_content() == "0 tokens"
        assert tab.locator("#bucket-title").text_content().startswith("No reference entropy")


# ------------------------------------------------------------------ text that breaks pages, through the real route

HOSTILE = {
    "ends a script": "</script><script>alert(1)</script><!-- ]]> --> &amp; &lt; </textarea></style>",
    "an image": "<img src=x onerror=alert(2)><svg onload=alert(3)><iframe src='javascript:alert(4)'></iframe>",
    "a link": '[x](javascript:alert(5)) <a href="javascript:alert(6)">x</a> data:text/html,<script>alert(7)</script>',
    "templates": "{{7*7}} ${alert(8)} `${x}` {% raw %} %META% %SCRIPT% <%= x %> #{x}",
    "controls": "nul \0 in \x01 the \x7f middle \x1b[31m red \x08 bell \x07 \x85 next",
    "turned around": "abc\u202edef\u202cghi \u2067x\u2069 zero\u200bwidth soft\u00adhyphen \ufeffmark \u2060joiner",
    "right to left": "שלום עולם، مرحبا بالعالم 123 end",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇺🇳 ❤️‍🔥 plain",
    "marks": "e\u0301 Z\u0351\u036b\u0343 한국어 ﷽ \u0301alone",
    "lines": "a\tb\t\tc\r\nd\re\n\nf\u2028g\u2029h\x0bi",
    "special tokens": "<|endoftext|> <s></s> [MASK] \ufffd",
}


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A real run on hostile text, in a hostile place, and its page; a recipe's name may hold nothing of the kind."""
    folder = tmp_path_factory.mktemp("hostile")
    file = folder / "<img src=x onerror=alert(9)>" / "rows.jsonl"
    file.parent.mkdir()
    texts = [*HOSTILE.values(), *[f"Document {n} is a plain one, of plain words." for n in range(6)]]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICS_CACHE", str(folder / "cache"))
        run = run_tiny(
            folder / "<script>alert(10)<" / "run",
            corpus={"source": str(file)},
            validation={"fraction": 0.2},
            tokenizer={"train": {"vocab_size": 280}},
            recording={"train_sequences": "all", "validation_sequences": "all"},
        )
    return run, build_page(run).save(folder / "page.html")


def test_hostile_text_is_shown_as_text_and_does_not_run(visit, hostile):
    run, path = hostile
    documents = [
        (split, d, run.records(split).document_text(d))
        for split in run.splits
        for d in range(run.records(split).n_documents)
    ]
    assert set(HOSTILE.values()) <= {text for _, _, text in documents}
    with visit(path) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        for split, document, text in documents:
            tab.evaluate("address => { location.hash = address; }", f"#split={split}&doc={document}")
            until(
                tab,
                "name => document.getElementById('passage-title').textContent === name",
                f"{split} document {document}",
            )
            # Without the marks of what cannot be seen, the text is the document, but for the characters they stand for.
            shown = tab.evaluate("""() => {
                const copy = document.querySelector('.tokens').cloneNode(true);
                copy.querySelectorAll('i').forEach(mark => mark.remove());
                return copy.textContent;
            }""")
            assert shown == "".join(c for c in text if not unseen(c))
            elements = tab.evaluate(
                "[...new Set([...document.querySelectorAll('.tokens *')].map(e => e.tagName))].sort()"
            )
            assert set(elements) <= {"I", "SPAN"}
        for where in ("#recipes", "#subtitle"):
            assert tab.locator(where).evaluate("e => e.querySelectorAll('img, script, b, svg, iframe').length") == 0
        assert "onerror=alert(9)" in tab.locator("#recipes").text_content()
        # Nothing turns the lists around either, or hides in them.
        for split in run.splits:
            tab.select_option("#split", split)
            assert not any(unseen(c) for text in items(tab, "passages") for c in text)
        # Searched as it stands, not as a pattern.
        tab.select_option("#split", next(split for split, _, text in documents if text == HOSTILE["templates"]))
        tab.fill("#query", "${alert(8)}")
        assert len(items(tab, "passages")) == 1
        tab.click("#tab-tokens")
        assert tab.locator("#tokens a").count() > 5
        assert tab.evaluate("[...document.querySelectorAll('a')].every(a => a.getAttribute('href').startsWith('#'))")


def unseen(c):
    """What is shown by a mark alone; tabs and newlines have a mark, and do what they say besides."""
    code = ord(c)
    marked = {0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x2028, 0x202F), *range(0x2060, 0x2070)}
    return (code < 0x20 and c not in "\t\n") or 0x7F <= code < 0xA0 or code in marked


def test_marks_stand_for_what_cannot_be_seen(visit, hostile):
    run, path = hostile
    wanted = {
        "controls": ["␀", "␁", "␡", "␛", "␈", "␇", "⟨U+0085⟩"],
        "turned around": [
            "⟨U+202E⟩",
            "⟨U+202C⟩",
            "⟨U+2067⟩",
            "⟨U+2069⟩",
            "⟨U+200B⟩",
            "⟨U+00AD⟩",
            "⟨U+FEFF⟩",
            "⟨U+2060⟩",
        ],
        "lines": ["⇥", "⇥", "⇥", "␍", "↵", "␍", "↵", "↵", "⟨U+2028⟩", "⟨U+2029⟩", "␋"],
    }
    for name, marks in wanted.items():
        split, document = next(
            (split, d)
            for split in run.splits
            for d in range(run.records(split).n_documents)
            if run.records(split).document_text(d) == HOSTILE[name]
        )
        with visit(path, f"#split={split}&doc={document}") as tab:
            found = tab.evaluate("[...document.querySelectorAll('.tokens .mark')].map(m => m.textContent)")
            assert [mark for mark in found if mark != "⟨end of text⟩"] == marks
            assert found[-1] == "⟨end of text⟩"


def test_split_characters_are_bytes_and_once_the_character(visit, hostile):
    run, path = hostile
    n_split = 0
    for split in run.splits:
        of = run.records(split)
        for document in range(of.n_documents):
            if of.document_text(document) not in (HOSTILE["emoji"], HOSTILE["right to left"], HOSTILE["marks"]):
                continue
            raw = of.document_bytes(document)
            here = of.document_id == document
            with visit(path, f"#split={split}&doc={document}") as tab:
                shown = texts(tab)
                for text, start, end in zip(shown, of.byte_start[here], of.byte_end[here], strict=True):
                    piece = raw[start:end]
                    if piece and piece[0] >= 0x80 and len(piece) == 1:  # a lone byte of some character
                        assert text.startswith(f"{piece[0]:02X}")
                        ends = end == len(raw) or raw[end] & 0xC0 != 0x80
                        assert (len(text) > 2) == ends  # its last byte brings the character
                        n_split += 1
    assert n_split > 20
