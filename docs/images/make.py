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
# For each picture: arms, the page's address, what is pressed then, and the height of the window.
SHOTS = {
    # One run: the token that rebounded most.
    "explorer-light": (("baseline",), "tab=tokens", "#tokens li:first-child a", 900),
    # Two runs, as the page opens.
    "explorer-comparison": (("baseline", "entrodrop"), "", None, 800),
    # Training text in dark: what was dropped in epoch 5 is hidden. The token that is shown was dropped in other epochs.
    "explorer-dark": (
        ("entrodrop",),
        "value=change&hide=now&epoch=5&split=train&doc={document}",
        "#text .tokens span:nth-child({token})",
        900,
    ),
}


def main() -> None:
    """Write the pictures."""
    study = load_example()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (arms, address, press, height) in SHOTS.items():
            runs = [study.run(arm, 0) for arm in arms]
            file = Path(folder) / f"{name}.html"
            build_page(runs).save(file)
            dark = "dark" if name.endswith("dark") else "light"
            page = browser.new_page(viewport={"width": 1400, "height": height}, color_scheme=dark)
            document, token = longest(runs[0])
            page.goto(f"{file.as_uri()}#{address.format(document=document)}")
            page.wait_for_selector("html[data-complete]")
            if press:
                page.click(press.format(token=token))
            page.wait_for_selector("#token dl")
            page.mouse.move(1, 1)
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
