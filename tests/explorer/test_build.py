"""Whole pages, read back by an independent decoder and compared with what `open_run` says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.errors import InputError
from dynamics.explorer import build
from dynamics.explorer.build import build_page
from dynamics.predicted import predicted_mask
from dynamics.records.reader import open_run

CLASSES = ["high to low", "low to low", "low to high", "high to high", "rebounding"]


def stated_error(notes):
    (found,) = [re.search(r"off by at most ([\d.]+) nats here", note) for note in notes if "8 bits" in note]
    return float(found[1])


def require_recorded(page, decoded, runs):
    """Compare every value of every token in the page with the records; return how many tokens there were."""
    error, meta, n = stated_error(page.notes), decoded.meta, 0
    for passage in decoded.passages:
        split = passage.split
        documents = runs[0].records(split)
        for r, run in enumerate(runs):
            of = run.records(split)
            row = {int(sequence): at for at, sequence in enumerate(of.sequence_id)}
            at = np.array([row[sequence] for sequence in passage.columns["sequence"]]), passage.columns["position"]
            assert of.token_id[at].tolist() == passage.columns["token_id"]
            assert of.predicted[at].tolist() == [bool(p) for p in passage.columns["predicted"]]
            for e, epoch in enumerate(meta["epochs"]):
                for name, found in (("loss", passage.loss[r][e]), ("entropy", passage.entropy[r][e])):
                    exact = np.minimum(getattr(of, name)(epoch)[at].astype(float), meta["top"])
                    assert np.array_equal(np.isnan(exact), np.isnan(found))
                    assert np.nanmax(np.abs(exact - found), initial=0) <= error + 1e-6
                assert np.array_equal(of.correct(epoch)[at], passage.correct[r][e])
                if split == "train":
                    recorded = of.dropped(epoch)[at] if epoch else np.zeros(len(at[0]), dtype=bool)
                    assert np.array_equal(recorded, passage.dropped[r][e])
        row = {int(sequence): at for at, sequence in enumerate(documents.sequence_id)}
        at = np.array([row[sequence] for sequence in passage.columns["sequence"]]), passage.columns["position"]
        raw = documents.document_bytes(passage.entry["document"])
        first = int(documents.byte_start[at].min())
        assert raw[first : first + len(passage.text)] == passage.text
        pieces = [passage.text[a:b] for a, b in zip(passage.columns["start"], passage.columns["end"], strict=True)]
        spans = zip(documents.byte_start[at], documents.byte_end[at], strict=True)
        assert pieces == [raw[a:b] for a, b in spans]
        n += passage.entry["tokens"]
    return n


def test_every_validation_set_is_in_the_page_and_what_is_tuned_on_is_not(tmp_path, decode):
    run = open_run(make_run(tmp_path / "run", held_out=("validation", "tuning", "validation-general"), n_documents=8))
    page = build_page(run)
    decoded = decode(page.html)
    assert decoded.meta["splits"] == ["validation", "validation-general", "train"]
    assert require_recorded(page, decoded, [run]) == sum(page.total.values())
    assert {passage.split for passage in decoded.passages} == set(page.total)
    alone = open_run(make_run(tmp_path / "alone", held_out=("validation-one",), n_documents=8))
    assert decode(build_page(alone).html).meta["splits"] == ["validation-one", "train"]


def test_one_run_is_in_the_page_as_recorded(two_runs, decode):
    run = two_runs[1]
    page = build_page(run)
    decoded = decode(page.html)
    tokens = {split: int((run.records(split).document_id >= 0).sum()) for split in ("train", "validation")}
    assert require_recorded(page, decoded, [run]) == sum(tokens.values())
    assert page.embedded == page.total == tokens
    assert decoded.meta["epochs"] == [0, 1, 2, 3, 4]
    assert page.notes[0] == f"All {tokens['validation']:,} recorded validation tokens are in this page."
    assert decoded.meta["notes"] == page.notes
    # Classes are never shown without what they are worth.
    assert [note for note in page.notes if "one run confirms none" in note and "hold its luck" in note]
    assert any(passage.dropped[0].any() for passage in decoded.of("train"))


def test_two_runs_are_in_the_page_as_recorded(two_runs, decode):
    page = build_page(two_runs)
    decoded = decode(page.html)
    assert require_recorded(page, decoded, two_runs) == sum(page.total.values())
    assert [run["name"] for run in decoded.meta["runs"]] == ["baseline/seed-0", "entrodrop/seed-0"]
    assert decoded.meta["pools"] == [None, "entrodrop"]


def test_what_became_of_tokens_by_the_definitions(two_runs, decode):
    """Recomputed token by token in plain Python."""
    run = two_runs[0]
    decoded = decode(build_page(run).html)
    top, n_checked = decoded.meta["top"], 0
    for passage in decoded.passages:
        of = run.records(passage.split)
        train = run.records("train")
        ranked = train.reference_entropy[train.predicted]
        losses = np.stack([of.loss(e) for e in range(5)])
        correct = np.stack([of.correct(e) for e in range(5)])
        for i, (s, p) in enumerate(zip(passage.columns["sequence"], passage.columns["position"], strict=True)):
            fate = {name: codes[i] for name, codes in passage.fates[0].items()}
            if not passage.columns["predicted"][i]:
                assert passage.columns["rank"][i] == 65535 and passage.columns["bucket"][i] == 255
                assert (fate["rebound"], fate["gap"], fate["first_learned"], fate["kind"]) == (255, 0, 255, 255)
                continue
            n_checked += 1
            curve, right = losses[:, s, p].astype(float), correct[:, s, p]
            assert top * (fate["rebound"] / 254) ** 2 == pytest.approx(curve[-1] - curve.min(), abs=0.09)
            gap, code = curve[-1] - of.reference_loss[s, p], fate["gap"] - 128
            assert np.sign(code) * top * (code / 127) ** 2 == pytest.approx(gap, abs=0.16)
            assert fate["first_learned"] == (int(right.argmax()) if right.any() else 255)
            assert fate["forgetting"] == sum(right[e] and not right[e + 1] for e in range(4))
            rebounds = curve[0] - curve.min() > 0.2 and curve[-1] - curve.min() > 0.2
            assert (CLASSES[fate["kind"]] == "rebounding") == rebounds
            share = (ranked < of.reference_entropy[s, p]).mean() + (ranked == of.reference_entropy[s, p]).mean() / 2
            assert passage.columns["rank"][i] == pytest.approx(65534 * share, abs=1)
            assert decoded.meta["buckets"][passage.columns["bucket"][i]] == (
                "low" if of.reference_entropy[s, p] < np.median(ranked) else "high"
            )
    assert n_checked == sum(int(run.records(split).predicted.sum()) for split in run.splits)


def test_only_entrodrop_may_drop_and_only_in_its_pool(two_runs, decode):
    train = two_runs[1].records("train")
    edge = np.sort(train.reference_entropy[train.predicted])[round(0.5 * train.predicted.sum()) - 1]
    for passage in decode(build_page(two_runs).html).passages:
        assert set(passage.fates[0]["may_drop"]) == {0}
        at = np.array(passage.columns["sequence"]), np.array(passage.columns["position"])
        inside = train.reference_entropy[at] <= edge if passage.split == "train" else np.zeros(len(at[0]), dtype=bool)
        assert passage.fates[1]["may_drop"] == inside.astype(int).tolist()


def test_what_passages_are_sorted_by(two_runs, decode):
    run = two_runs[0]
    for passage in decode(build_page(run).html).passages:
        of = run.records(passage.split)
        here = of.predicted & (of.document_id == passage.entry["document"])
        curve = [float(of.loss(e)[here].mean(dtype=float)) for e in range(5)]
        correct = np.stack([of.correct(e)[here] for e in range(5)])
        first = [int(c.argmax()) for c in correct.T if c.any()]
        (facts,) = passage.entry["runs"]
        assert facts["rebound"] == pytest.approx(curve[-1] - min(curve), abs=1e-4)
        assert facts["gap"] == pytest.approx(curve[-1] - of.reference_loss[here].mean(dtype=float), abs=1e-4)
        assert facts["learned"] == pytest.approx(len(first) / here.sum(), abs=1e-4)
        assert facts["first"] == pytest.approx(np.mean(first), abs=1e-4)
        assert facts["forgetting"] == pytest.approx((correct[:-1] & ~correct[1:]).sum() / here.sum(), abs=1e-4)


def test_colours_span_99_percent_of_both_splits_and_runs(two_runs, decode):
    colours = decode(build_page(two_runs).html).meta["colours"]
    values = {name: [] for name in ("loss", "entropy", "overconfidence", "gap", "difference")}
    for split in ("train", "validation"):
        records = [run.records(split) for run in two_runs]
        for e in range(5):
            known = records[0].predicted
            loss, entropy = ([getattr(of, name)(e)[known] for of in records] for name in ("loss", "entropy"))
            for r in range(2):
                values["loss"].append(loss[r])
                values["entropy"].append(entropy[r])
                values["overconfidence"].append(np.abs(loss[r] - entropy[r]))
                values["gap"].append(np.abs(loss[r] - records[0].reference_loss[known]))
            values["difference"] += [np.abs(loss[0] - loss[1]), np.abs(entropy[0] - entropy[1])]
    for name, parts in values.items():
        exact = np.percentile(np.concatenate(parts), 99)
        assert exact <= colours[name] + 1e-6 and colours[name] < exact + 0.1 + 1e-6  # to the next tenth


def counted(n: int) -> str:
    return "1 passage" if n == 1 else f"{n} passages"


@pytest.mark.parametrize("budget", [100_000, 110_000, 140_000])
@pytest.mark.parametrize("n", [1, 2])
def test_a_page_keeps_its_budget_and_says_what_it_left_out(two_runs, decode, budget, n):
    page = build_page(two_runs[:n], budget=budget)
    assert len(page.html.encode()) <= budget
    decoded = decode(page.html)
    require_recorded(page, decoded, two_runs[:n])
    assert page.embedded == {
        split: sum(p.entry["tokens"] for p in decoded.of(split)) for split in ("train", "validation")
    }
    for split, count in page.embedded.items():
        whys = [p.entry["why"] for p in decoded.of(split)]
        if count < page.total[split]:
            random, most = whys.count("random"), whys.count("rebound")
            assert abs(random - most) <= 1
            what = f"recorded {split} tokens" if n == 1 else f"{split} tokens that both runs recorded"
            expected = (
                f"{count:,} of {page.total[split]:,} {what} are in this page, in {counted(random)} chosen at random "
            )
            (note,) = [note for note in page.notes if note.startswith(expected)]
            assert note.endswith(
                f"and {counted(most)} whose tokens rebounded most, since a page may have {budget / 1e6:g} MB."
            )
    assert decoded.meta["recorded"] == [6, 12]
    # In the order of the corpus.
    places = [(p.entry["split"], p.entry["document"], p.entry["part"]) for p in decoded.passages]
    assert places == sorted(places)


def test_a_budget_between_is_used(tmp_path):
    run = open_run(
        make_run(tmp_path / "run", n_documents=400, epochs=6, loss_fn=lambda e, s, h, rng: rng.gamma(1, 2, h.shape))
    )
    everything = len(build_page(run).html)
    budget = everything - 40_000
    page = build_page(run, budget=budget)
    assert 0.9 * budget < len(page.html) <= budget
    assert sum(page.embedded.values()) < sum(page.total.values())


def test_most_rebounding_are_in_and_others_too(tmp_path, decode):
    run = open_run(
        make_run(tmp_path / "run", n_documents=60, epochs=3, loss_fn=lambda e, s, h, rng: rng.gamma(1, 2, h.shape))
    )
    of = run.records("validation")
    curves = np.stack([of.loss(e) for e in range(4)])
    rise = curves[-1] - curves.min(axis=0)
    by_document = [np.nanmean(rise[of.document_id == d]) for d in range(of.n_documents)]
    order = np.argsort(by_document)[::-1].tolist()
    decoded = decode(build_page(run, budget=110_000).html)
    most = [p.entry["document"] for p in decoded.of("validation") if p.entry["why"] == "rebound"]
    random = [p.entry["document"] for p in decoded.of("validation") if p.entry["why"] == "random"]
    assert len(most) >= 3 and random
    # The first so many of the order, but for those that were drawn at random before.
    assert set(order[: len(most)]) <= {*most, *random}
    assert not set(random) & set(most)


def test_a_limit_on_reading_is_told(two_runs, monkeypatch):
    # So many bytes a token as no page has: then few tokens are read, and the budget is not what ends them.
    monkeypatch.setattr(build, "_LEAST_BYTES", 20_000)
    page = build_page(two_runs[0])
    assert sum(page.embedded.values()) < sum(page.total.values())
    assert any("no more than 200 are read for a page of 20 MB" in note for note in page.notes)


def test_a_tiny_budget_is_refused(two_runs):
    with pytest.raises(InputError, match=r"a page of 20,000 bytes holds no passage of these runs; raise --budget"):
        build_page(two_runs, budget=20_000)


@pytest.mark.parametrize("n", [0, 3])
def test_one_run_or_two(two_runs, n):
    with pytest.raises(InputError, match=f"a page shows one run or two; got {n}"):
        build_page([two_runs[0]] * n)


def test_other_tokens_are_refused(two_runs, tmp_path):
    other = open_run(make_run(tmp_path / "run", corpus_seed=2))
    with pytest.raises(InputError, match=r"have different tokens in 'train', so they cannot be compared"):
        build_page([two_runs[0], other])


def test_one_epoch_is_refused(two_runs, tmp_path):
    one = open_run(make_run(tmp_path / "run", epochs=[0]))
    with pytest.raises(InputError, match=r"a page needs two or more complete epochs, and there are 1 in common"):
        build_page(one)
    with pytest.raises(InputError, match=r"run1? and .*|.*there are 1 in common"):
        build_page([two_runs[0], one])


def test_epochs_of_one_run_are_left_out_and_told(two_runs, tmp_path, decode):
    longer = open_run(make_run(tmp_path / "run", epochs=6))
    page = build_page([two_runs[0], longer])
    assert decode(page.html).meta["epochs"] == [0, 1, 2, 3, 4]
    assert "Epochs that only one run has are left out: 5, 6." in page.notes


def test_recorded_sequences_differ(tmp_path, decode):
    runs = [
        open_run(make_run(tmp_path / "a", recorded={"train": [0, 1, 2, 5, 9]})),
        open_run(make_run(tmp_path / "b", recorded={"train": [1, 2, 3, 9, 11, 12]}, seed=1)),
    ]
    page = build_page(runs)
    decoded = decode(page.html)
    require_recorded(page, decoded, runs)
    assert {s for p in decoded.of("train") for s in p.columns["sequence"]} == {1, 2, 9}
    assert "Only the 3 train sequences that both runs recorded are compared; they recorded 5 and 6." in page.notes


def test_curves_are_over_what_both_runs_recorded(tmp_path, decode):
    """Each run has two training sequences of its own, on which its losses are far off."""
    rows = {"one": [0, 1, 2, 3], "two": [2, 3, 4, 5]}
    runs = []
    for name, recorded in rows.items():

        def losses(epoch, split, entropy, rng, own=[0, 1] if name == "one" else [2, 3]):
            values = np.full(entropy.shape, 1.0 + 0.1 * epoch)
            if split == "train":
                values[own] = 9.0
            return values

        path = tmp_path / name
        runs.append(open_run(make_run(path, loss_fn=losses, recorded={"train": recorded, "validation": range(4)})))
    for run in decode(build_page(runs).html).meta["runs"]:
        for curve in run["curves"]:
            assert [value for value in curve["estimate"] if value is not None] == pytest.approx(
                [1, 1.1, 1.2, 1.3, 1.4], abs=2e-3
            )


def test_runs_of_different_starting_models_have_the_references_of_the_first(two_runs, tmp_path, decode, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "support.synthetic._reference_entropy",
            lambda packed, seed: np.where(predicted_mask(packed.document_id), np.float32(7.0), np.float32(np.nan)),
        )
        other = open_run(make_run(tmp_path / "other", seed=1))
    page = build_page([two_runs[0], other])
    assert any(note.startswith("The runs began as different models") for note in page.notes)
    assert not any(note.startswith("The runs began") for note in build_page(two_runs).notes)
    decoded = decode(page.html)
    reference = two_runs[0].records("validation").reference_loss
    last = other.records("validation").loss(4)
    for passage in decoded.of("validation"):
        for i, (row, at) in enumerate(zip(passage.columns["sequence"], passage.columns["position"], strict=True)):
            if passage.columns["predicted"][i]:
                code = int(passage.fates[1]["gap"][i]) - 128
                exact = float(last[row, at] - reference[row, at])
                in_page = np.sign(code) * decoded.meta["top"] * (code / 127) ** 2
                assert in_page == pytest.approx(exact, abs=2 * decoded.meta["top"] / 127)


@pytest.mark.parametrize("budget", [float("inf"), float("nan")])
def test_a_budget_is_a_number(two_runs, budget):
    with pytest.raises(InputError, match="is no number of bytes"):
        build_page(two_runs, budget=budget)


def test_nothing_recorded_in_common(tmp_path):
    runs = [
        open_run(make_run(tmp_path / name, recorded={"train": rows}))
        for name, rows in (("a", [0, 1, 2]), ("b", [3, 4]))
    ]
    with pytest.raises(InputError, match="recorded no train sequence in common; explore them one at a time"):
        build_page(runs)


def test_more_epochs_than_a_byte_holds(tmp_path, decode):
    run = open_run(make_run(tmp_path / "run", n_documents=2, epochs=299))
    page = build_page(run)
    decoded = decode(page.html)
    epochs = decoded.meta["epochs"]
    assert len(epochs) == 250 and epochs[0] == 0 and epochs[-1] == 299
    assert set(np.diff(epochs).tolist()) == {1, 2}
    require_recorded(page, decoded, [run])
    assert "Of 300 epochs 250, evenly spaced, are in this page." in page.notes


def without(run, split):
    run.splits = [name for name in run.splits if name != split]
    return run


def test_without_a_training_set(tmp_path, decode):
    page = build_page(without(open_run(make_run(tmp_path / "run")), "train"))
    decoded = decode(page.html)
    assert (
        decoded.meta["splits"] == ["validation"] and decoded.meta["buckets"] == [] and decoded.meta["pools"] == [None]
    )
    assert {p.split for p in decoded.passages} == {"validation"}
    assert all(set(p.columns["rank"]) == {65535} and set(p.columns["bucket"]) == {255} for p in decoded.passages)


def test_without_a_validation_set(tmp_path, decode):
    run = without(open_run(make_run(tmp_path / "run")), "validation")
    decoded = decode(build_page(run).html)
    assert decoded.meta["splits"] == ["train"]
    # The planted training loss falls to the end.
    assert decoded.meta["runs"][0]["best"] == 4


def test_without_any(tmp_path):
    run = without(without(open_run(make_run(tmp_path / "run")), "validation"), "train")
    with pytest.raises(InputError, match="holds neither training nor validation tokens"):
        build_page(run)


def test_without_reference_values(tmp_path, decode, monkeypatch):
    monkeypatch.setattr(
        "support.synthetic._reference_entropy", lambda packed, seed: np.full(packed.token_id.shape, np.nan, np.float32)
    )
    run = open_run(
        make_run(
            tmp_path / "run",
            loss_fn=lambda e, s, h, rng: rng.gamma(1, 2, h.shape),
            entropy_fn=lambda e, s, h, rng: rng.gamma(1, 1, h.shape),
        )
    )
    page = build_page(run)
    decoded = decode(page.html)
    require_recorded(page, decoded, [run])
    assert decoded.meta["buckets"] == []
    assert all(set(p.columns["reference_loss"]) == {255} and set(p.fates[0]["gap"]) == {0} for p in decoded.passages)
    assert all(p.entry["runs"][0]["gap"] is None for p in decoded.passages)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("since", [0, 2])
def test_a_run_that_diverged(tmp_path, decode, value, since, two_runs):
    def loss(epoch, split, entropy, rng):
        return np.full(entropy.shape, value) if epoch >= since else entropy

    run = open_run(make_run(tmp_path / "run", loss_fn=loss))
    for runs in ([run], [two_runs[0], run]):
        page = build_page(runs)
        decoded = decode(page.html)
        require_recorded(page, decoded, runs)
        estimates = decoded.meta["runs"][-1]["curves"][0]["estimate"]
        # Infinite losses are stored as float16's highest number, whose mean is no measurement either.
        assert [estimate is None for estimate in estimates] == [epoch >= since for epoch in range(5)]
        if np.isinf(value):
            assert any("Values above 30 nats" in note for note in page.notes)
        assert all(np.isfinite(list(decoded.meta["colours"].values())))
        assert decoded.meta["runs"][-1]["best"] == 0
        # What a browser parses: no NaN or Infinity.
        json.dumps(decoded.meta, allow_nan=False)


def test_values_above_30_nats_are_told(tmp_path, decode):
    def loss(epoch, split, entropy, rng):
        return np.where(rng.random(entropy.shape) < 0.05, 45.5, entropy)

    run = open_run(make_run(tmp_path / "run", loss_fn=loss))
    page = build_page(run)
    decoded = decode(page.html)
    assert decoded.meta["top"] == 30
    require_recorded(page, decoded, [run])
    assert "Values above 30 nats are shown as that; the highest is 45.5." in page.notes


def test_the_curves_are_means_over_predicted_tokens(two_runs, decode):
    meta = decode(build_page(two_runs).html).meta
    for run, told in zip(two_runs, meta["runs"], strict=True):
        means = {}
        for split in ("validation", "train"):
            of = run.records(split)
            known = of.predicted
            means[split] = [float(of.loss(e)[known].mean(dtype=float)) for e in range(5)]
            low = known & (of.reference_entropy < meta["edges"][0])
            means[split, "low"] = [float(of.loss(e)[low].mean(dtype=float)) for e in range(5)]
        curves = {(c["split"], c["bucket"]): c for c in told["curves"]}
        assert set(curves) == {(s, b) for s in ("validation", "train") for b in ("", "low", "high")}
        for split in ("validation", "train"):
            assert curves[split, ""]["estimate"] == pytest.approx(means[split], abs=1e-4)
            assert curves[split, "low"]["estimate"] == pytest.approx(means[split, "low"], abs=1e-4)
        assert told["best"] == int(np.argmin(means["validation"]))
        for c in curves.values():
            assert all(a <= b <= d for a, b, d in zip(c["low"], c["estimate"], c["high"], strict=True))


def test_more_buckets(two_runs, decode):
    decoded = decode(build_page(two_runs[0], buckets=4).html)
    assert decoded.meta["buckets"] == ["1", "2", "3", "4"]
    counts = np.bincount([b for p in decoded.of("train") for b in p.columns["bucket"] if b != 255])
    assert len(counts) == 4 and counts.max() - counts.min() <= 1


def test_the_same_bytes_again(two_runs):
    assert build_page(two_runs, budget=110_000).html == build_page(two_runs, budget=110_000).html
    assert build_page(two_runs[0], budget=95_000, seed=0).html != build_page(two_runs[0], budget=95_000, seed=1).html


def test_a_cut_epoch_is_told(tmp_path, decode):
    run = open_run(make_run(tmp_path / "run", epochs=3, cut=2.5))
    page = build_page(run, budget=500_000)
    assert "Epoch 3 was cut: it stands for 2.5 passes over the data." in page.notes
    assert decode(page.html).meta["epochs"] == [0, 1, 2, 3]


def test_an_epoch_after_other_passes_is_not_compared(tmp_path, decode):
    runs = [
        open_run(make_run(tmp_path / name, name=name, epochs=epochs, cut=cut))
        for name, epochs, cut in (("cut", 3, 2.4), ("whole", 4, None))
    ]
    page = build_page(runs, budget=500_000)
    assert decode(page.html).meta["epochs"] == [0, 1, 2]
    assert "Epochs that only one run has are left out: 4." in page.notes
    assert "Epoch 3 is left out: it stands for 2.4 passes over the data in A and for 3 in B." in page.notes
