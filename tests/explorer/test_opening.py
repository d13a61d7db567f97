"""What a page opens on, the room that its text has, its keys and its charts: in Chromium, as in test_browser."""

from __future__ import annotations

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.explorer.build import build_page
from dynamics.records.reader import open_run

SIZES = {"desktop": (1400, 900), "small": (800, 600), "phone": (390, 844)}


def rebounding(n_best, scale=None):
    """Return losses that fall to epoch `n_best` and rise from there, by another amount for every token."""

    def losses(epoch, split, entropy, rng):
        rise = np.random.default_rng(7).gamma(1.0, 1.0, entropy.shape)
        return 2.0 - 0.2 * min(epoch, n_best) + max(0, epoch - n_best) * 0.1 * rise * (scale or 1.0)

    return losses


def falling(epoch, split, entropy, rng):
    return np.full(entropy.shape, 3.0 - 0.3 * epoch) + np.random.default_rng(1).gamma(1.0, 0.1, entropy.shape)


def diverging(epoch, split, entropy, rng):
    """Return losses that rebound after epoch 1, and are no numbers after epoch 2."""
    return rebounding(1)(epoch, split, entropy, rng) if epoch <= 2 else np.full(entropy.shape, np.nan)


@pytest.fixture
def saved(tmp_path):
    def save(*losses, **settings):
        runs = [
            open_run(make_run(tmp_path / name / "seed-0", loss_fn=loss, **settings))
            for name, loss in zip(("baseline", "entrodrop"), losses, strict=False)
        ]
        return runs, build_page(runs).save(tmp_path / "page.html")

    return save


def chosen(tab):
    return {name: tab.input_value(f"#{name}") for name in ("value", "runs", "sort", "split", "epoch")}


def current(tab):
    return tab.locator("#passages a[aria-current]").text_content()


def most_rebounded(records, epochs):
    """Return the document with the highest rise of its mean loss since its lowest, and its token that rose most."""
    curves = np.stack([records.loss(epoch) for epoch in epochs])
    rise = np.where(records.predicted, curves[-1] - curves.min(axis=0), -np.inf)
    of = records.document_id
    means = [
        np.array([curve[(of == d) & records.predicted].mean(dtype=float) for curve in curves])
        for d in range(records.n_documents)
    ]
    document = int(np.argmax([mean[-1] - mean.min() for mean in means]))
    return document, np.where(of == document, rise, -np.inf)


def test_it_opens_on_what_rebounded_most(visit, saved):
    (run,), path = saved(rebounding(2))
    document, rise = most_rebounded(run.records("validation"), range(5))
    with visit(path) as tab:
        assert chosen(tab) == {"value": "change", "runs": "a", "sort": "rebound", "split": "validation", "epoch": "4"}
        assert tab.locator("#passage-title").text_content() == f"validation document {document}"
        assert current(tab).startswith(f"validation document {document}")
        place = tab.locator("#token dd").last.text_content()  # sequence 3, position 5, token id 7
        sequence, position = (int(part.split()[1]) for part in place.split(", ")[:2])
        assert rise[sequence, position] >= rise.max() - 0.1  # but for the page's eight bits
        assert tab.locator(".tokens span.here").count() == 1
        assert tab.evaluate("scrollY") == 0


def test_two_runs_open_side_by_side_on_the_one_that_rebounded_more(visit, saved):
    runs, path = saved(rebounding(3, 0.1), rebounding(1))
    document, _ = most_rebounded(runs[1].records("validation"), range(5))
    with visit(path) as tab:
        assert chosen(tab)["runs"] == "side" and tab.locator(".tokens").count() == 2
        assert tab.locator("#passage-title").text_content() == f"validation document {document}"
        assert "by values of entrodrop/seed-0" in tab.locator("#passages-count").text_content()
        assert tab.locator("#best button").all_text_contents() == ["Best A: 3", "Best B: 1"]


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_run_that_only_falls_opens_on_its_loss(visit, saved, epochs):
    _, path = saved(falling, epochs=epochs)
    with visit(path) as tab:
        assert chosen(tab)["value"] == "loss" and chosen(tab)["sort"] == "place"
        assert chosen(tab)["epoch"] == str(epochs)
        assert tab.locator("#passage-title").text_content() == "validation document 0"
        assert tab.locator("#token").text_content().startswith("Point at a token")


def test_a_diverged_run_opens_before_it_diverged(visit, saved):
    _, path = saved(diverging)
    with visit(path) as tab:
        assert chosen(tab)["epoch"] == "2" and chosen(tab)["value"] == "change"
        note = "diverged: no finite mean loss after epoch 2"
        assert note in tab.locator("#subtitle").text_content()
        painted = tab.evaluate("document.querySelectorAll('.tokens > span[style*=background]').length")
        assert painted > 5


def test_beside_a_diverged_run_the_other_is_shown_to_its_end(visit, saved):
    runs, path = saved(diverging, rebounding(2))
    document, _ = most_rebounded(runs[1].records("validation"), range(5))
    with visit(path) as tab:
        assert chosen(tab) == {
            "value": "change",
            "runs": "side",
            "sort": "rebound",
            "split": "validation",
            "epoch": "4",
        }
        assert tab.locator("#passage-title").text_content() == f"validation document {document}"
        titles = tab.locator("#text h3").all_text_contents()
        assert ["diverged" in title for title in titles] == [True, False]
        # A passage without a value is in the list all the same.
        tab.select_option("#runs", "a")
        assert tab.locator("#passages a").count() == 6 and tab.locator("#passages b").first.text_content() == ""


def test_a_run_without_validation_opens_on_its_training_text(visit, saved):
    (run,), path = saved(rebounding(2), held_out=())
    assert list(run.splits) == ["train"]
    document, _ = most_rebounded(run.records("train"), range(5))
    with visit(path) as tab:
        assert chosen(tab)["split"] == "train" and chosen(tab)["value"] == "change"
        assert tab.locator("#passage-title").text_content() == f"train document {document}"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("#value=loss&runs=b&epoch=0", {"value": "loss", "runs": "b", "epoch": "0", "sort": "rebound"}),
        ("#sort=place&doc=3", {"sort": "place", "value": "change"}),
        ("#split=train", {"split": "train", "runs": "side"}),
        ("#epoch=99&value=none", {"epoch": "4", "value": "change"}),
    ],
)
def test_an_address_wins_over_the_opening(visit, saved, address, expected):
    _, path = saved(rebounding(2), rebounding(2, 0.5))
    with visit(path, address) as tab:
        found = chosen(tab)
        assert {key: found[key] for key in expected} == expected
        if "doc" in address:
            # A document that is named opens without a token, since none is named.
            assert tab.locator("#passage-title").text_content() == "validation document 3"
            assert tab.locator(".tokens span.here").count() == 0


@pytest.mark.parametrize("names", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_the_text_is_above_the_fold(visit, saved, size, names):
    width, height = SIZES[size]
    _, path = saved(*[rebounding(2), rebounding(2, 0.5)][:names], held_out=("validation", "validation-general"))
    with visit(path, viewport={"width": width, "height": height}) as tab:
        top = tab.locator(".tokens").first.bounding_box()["y"]
        foot = tab.locator("#inspector").bounding_box()["y"] if width < 1152 else height
        assert foot - top > 100, (top, foot)  # four lines at least
        assert top < height / 2
        assert tab.evaluate("[document.documentElement.scrollWidth, scrollY]") == [width, 0]


def test_the_hit_is_shown_in_the_snippet(visit, saved):
    (run,), path = saved(rebounding(2))
    of = run.records("train")
    with visit(path, "#split=train&sort=place") as tab:
        texts = [of.document_text(d) for d in range(of.n_documents)]
        text = max(texts, key=len)
        word = max(text[40:-40].split()[1:-1], key=text.index)
        tab.fill("#query", word.upper())
        holding = [d for d in range(of.n_documents) if word.lower() in texts[d].lower()]
        assert tab.locator("#passages a").count() == len(holding)
        marks = tab.locator("#passages mark").all_text_contents()
        assert [mark.lower() for mark in marks] == [word.lower()] * len(holding)
        snippet = tab.locator("#passages small").nth(holding.index(texts.index(text))).text_content()
        assert snippet.startswith("…") and snippet.endswith("…") and word in snippet and len(snippet) < 80
        assert " ".join(snippet.strip("…").split()) in " ".join(text.split())


def test_keys_of_the_page(visit, saved):
    _, path = saved(rebounding(2))
    focused = "document.activeElement.id || document.activeElement.className || document.activeElement.closest('li') && 'item'"
    with visit(path) as tab:
        tab.keyboard.press("/")
        assert tab.evaluate(focused) == "query" and tab.input_value("#query") == ""
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("ArrowDown")
        second = tab.evaluate("[...document.querySelectorAll('#passages a')].indexOf(document.activeElement)")
        assert second == 1
        name = tab.locator("#passages a").nth(1).evaluate("a => a.firstChild.textContent")
        tab.keyboard.press("Enter")
        tab.locator("#passage-title", has_text=name).wait_for()
        tab.keyboard.press("ArrowUp")
        tab.keyboard.press("ArrowUp")
        assert tab.evaluate(focused) == "query"
        tab.keyboard.type("a/?n")  # characters here
        assert tab.input_value("#query") == "a/?n" and not tab.locator("#help").is_visible()
        tab.fill("#query", "")
        tab.keyboard.press("Escape")
        assert tab.evaluate(focused) == "tokens"
        # Passages by their order in the list.
        names = tab.locator("#passages a").evaluate_all("all => all.map((a) => a.firstChild.textContent)")
        tab.keyboard.press("n")
        tab.locator("#passage-title", has_text=names[2]).wait_for()
        tab.keyboard.press("p")
        tab.locator("#passage-title", has_text=names[1]).wait_for()
        # The sheet, by its key; keys of one character can be turned off.
        tab.evaluate("document.activeElement.blur()")
        tab.keyboard.press("?")
        assert tab.locator("#help").is_visible()
        tab.uncheck("#single-keys")
        tab.keyboard.press("Escape")
        assert not tab.locator("#help").is_visible()
        tab.keyboard.press("/")
        tab.keyboard.press("?")
        assert tab.evaluate(focused) != "query" and not tab.locator("#help").is_visible()


def test_arrows_move_without_a_click_and_escape_leaves_the_token(visit, saved):
    _, path = saved(rebounding(2))
    here = "[...document.querySelectorAll('.tokens > span')].findIndex(s => s.classList.contains('here'))"
    with visit(path, "#doc=1&at=0.0") as tab:
        tab.keyboard.press("Home")  # nothing has the focus: the page's own
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate(here) == 1
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate(here) == 2
        tab.keyboard.press("Escape")
        assert tab.evaluate(here) == -1


def test_best_epochs_are_marked(visit, saved):
    _, path = saved(rebounding(2), rebounding(3))
    with visit(path) as tab:
        track = tab.locator("#epoch").bounding_box()
        for tick, share in zip(tab.locator("#ticks i").all(), (2 / 4, 3 / 4), strict=True):
            box = tick.bounding_box()
            thumb = track["x"] + 8 + share * (track["width"] - 16)
            assert box["x"] + box["width"] / 2 == pytest.approx(thumb, abs=4)
        assert tab.locator("#sparks .best.look-baseline").count() == tab.locator("#sparks svg").count()
        colours = tab.locator("#ticks i").evaluate_all("all => all.map((i) => getComputedStyle(i).backgroundColor)")
        assert colours == ["rgb(63, 63, 63)", "rgb(213, 94, 0)"]
        tab.locator("#best button").first.click()
        assert tab.input_value("#epoch") == "2"


def test_values_are_shown_where_the_pointer_is(visit, saved):
    (run,), path = saved(rebounding(2))
    means = [
        np.nanmean(
            np.where(run.records("validation").predicted, run.records("validation").loss(e), np.nan), dtype=float
        )
        for e in range(5)
    ]
    with visit(path) as tab:
        spark = tab.locator("#sparks figure").first
        assert f"{means[4]:.2f}" in spark.text_content() and f"+{means[4] - means[2]:.2f}" in spark.text_content()
        box = spark.locator("svg").bounding_box()
        tab.mouse.move(box["x"] + box["width"] * (4 + 112 / 4) / 120, box["y"] + 10)
        assert f"epoch 1{means[1]:.2f}" in spark.text_content()
        tab.mouse.move(1, 1)
        assert "epoch" not in spark.text_content()
        assert tab.input_value("#epoch") == "4"  # looked at, not chosen
        tab.locator("#curves summary").click()
        box = tab.locator("#degradation svg").bounding_box()
        tab.mouse.move(box["x"] + 38 / 460 * box["width"] + 1, box["y"] + 40)
        said = tab.locator("#degradation .readout").text_content()
        assert said.startswith("epoch 0, nats") and f"validation {means[0]:.2f} (" in said
        box = tab.locator("#token svg").bounding_box()
        tab.mouse.move(box["x"] + 38 / 300 * box["width"] + 1, box["y"] + 40)
        assert tab.locator("#token .readout").is_visible()


def test_lists_open_and_close_on_a_phone(visit, saved):
    _, path = saved(rebounding(2))
    with visit(path, has_touch=True, viewport={"width": 390, "height": 844}) as tab:
        assert not tab.locator("#passages").is_visible()
        tab.locator("#find > summary").tap()
        tab.locator("#passages a").nth(3).tap()
        assert not tab.locator("#passages").is_visible()
        tab.keyboard.press("/")
        assert tab.locator("#query").is_visible()
        # Values stay on the screen too.
        tab.locator("#curves > summary").tap()
        tab.locator("#degradation .touch").tap(position={"x": 100, "y": 40})
        readout = tab.locator("#degradation .readout").bounding_box()
        assert readout["x"] >= 0 and readout["x"] + readout["width"] <= 390
        assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_an_epoch_that_was_cut_is_the_last_one_all_the_same(visit, saved):
    _, path = saved(rebounding(2), cut=3.5)
    with visit(path) as tab:
        assert chosen(tab)["epoch"] == "4" and chosen(tab)["value"] == "change"
        tab.locator("#about summary").click()
        assert "Epoch 4 was cut: it stands for 3.5 passes over the data." in tab.locator("#notes").text_content()
