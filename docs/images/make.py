"""Makes the pictures of the explorer again, from the packaged example: ``python docs/images/make.py``.

Needs Debian's chromium and playwright, as the tests of pages do.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from dynamics import load_example
from dynamics.explorer.build import build_page
from dynamics.records.reader import Run

HERE = Path(__file__).parent
# Of each picture: arms, the page's address, what is pressed then, the height, and what is scrolled to the top.
SHOTS = {
    # One run: the token that rebounded most.
    "explorer-light": (("baseline",), "tab=tokens&tsort=rebound", "#tokens li:first-child a", 1000, "body"),
    # Two runs side by side, in the passage that rebounded most.
    "explorer-comparison": (
        ("baseline", "entrodrop"),
        "value=change&runs=side&sort=rebound&split=validation",
        "#passages li:first-child a",
        900,
        "#numbers",
    ),
    # Training text in dark: what was dropped in epoch 5 is hidden, and a token is looked at that was in other epochs.
    "explorer-dark": (
        ("entrodrop",),
        "value=change&hide=now&epoch=5&split=train&doc={document}",
        "#text .tokens span:nth-child({token})",
        1000,
        "body",
    ),
}


def main() -> None:
    """Write the pictures."""
    study = load_example()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (arms, address, press, height, top) in SHOTS.items():
            runs = [study.run(arm, 0) for arm in arms]
            file = Path(folder) / f"{name}.html"
            build_page(runs).save(file)
            dark = "dark" if name.endswith("dark") else "light"
            page = browser.new_page(viewport={"width": 1400, "height": height}, color_scheme=dark)
            document, token = longest(runs[0])
            page.goto(f"{file.as_uri()}#{address.format(document=document)}")
            page.wait_for_selector("html[data-complete]")
            page.click(press.format(token=token))
            if not page.query_selector("#token dl"):
                page.click("#text .tokens span:nth-child(40)")
            page.eval_on_selector(top, "element => element.scrollIntoView()")
            page.screenshot(path=HERE / f"{name}.png")
            page.close()
        browser.close()


def longest(run: Run) -> tuple[int, int]:
    """Return the training document with the most recorded tokens, and one of them, from 1, that was dropped most."""
    records = run.records("train")
    document = int(np.bincount(records.document_id[records.document_id >= 0]).argmax())
    here = records.document_id == document
    dropped = np.sum([records.dropped(epoch)[here] for epoch in run.epochs[1:]], axis=0)
    return document, int(np.argmax(np.where(records.dropped(5)[here], -1, dropped)[:200])) + 1


if __name__ == "__main__":
    main()
