"""Which route a head's products take: what chooses it, what keeps it, and that either is exact."""

import json
import logging

import pytest
import torch

from dynamics.errors import InputError
from dynamics.ops import chosen_routes, products, restore_routes, routes
from dynamics.ops.linear_statistics import linear_token_statistics

CPU = torch.device("cpu")
FAST_ONEDNN = {"onednn": 1.0, "mm": 2.0}
FAST_MM = {"onednn": 2.0, "mm": 1.0}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A process that has chosen nothing yet, and an empty cache."""
    monkeypatch.delenv("DYNAMICS_HEAD_ROUTE", raising=False)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(routes, "_chosen", {})
    monkeypatch.setattr(routes, "has_onednn", lambda dtype, device: dtype == torch.float32 and device == CPU)
    routes._warn.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """Puts timings in place of measurements, and lists the shapes asked for."""
    asked = []

    def put(seconds):
        monkeypatch.setattr(routes, "_measure", lambda h, v: asked.append((h, v)) or dict(seconds))
        return asked

    return put


def route(h=128, v=4096, dtype=torch.float32):
    return routes.head_route(h, v, dtype, CPU)


@pytest.mark.parametrize(("seconds", "expected"), [(FAST_ONEDNN, "onednn"), (FAST_MM, "mm")])
def test_the_faster_is_chosen_once_a_shape_class(measured, seconds, expected):
    asked = measured(seconds)
    shapes = [(128, 4096), (65, 2049), (128, 3000), (129, 4096), (128, 4097), (16, 10), (64, 1024)]
    assert {route(h, v) for h, v in shapes} == {expected}
    assert asked == [(128, 4096), (256, 4096), (128, 8192), (64, 1024)]
    chosen = chosen_routes()
    assert set(chosen.values()) == {expected} and len(chosen) == 4
    first = f"{routes.processor()}; torch {torch.__version__}; threads {torch.get_num_threads()}; H 128; V 4096"
    assert first in chosen and json.loads(json.dumps(chosen)) == chosen


def test_about_equal_is_mm():
    assert routes.faster({"onednn": 0.96, "mm": 1.0}) == "mm"
    assert routes.faster({"onednn": 0.94, "mm": 1.0}) == "onednn"


def test_timing_takes_the_least_of_warm_rounds_in_turns():
    now, order = [0.0], []
    # The first calls are slow, as libraries load; later one call of each is disturbed.
    spans = {"onednn": iter([9.0, 2.0, 8.0, 3.0, 2.5, 3.0]), "mm": iter([0.5, 4.0, 5.0, 9.0, 4.5, 4.0])}

    def call(name):
        order.append(name)
        now[0] += next(spans[name])

    calls = {name: lambda name=name: call(name) for name in spans}
    assert routes.time_routes(calls, lambda: now[0]) == {"onednn": 2.0, "mm": 4.0}
    assert order == ["mm", "onednn", "onednn", "mm"] * 3


def test_quick_calls_are_timed_more_often():
    counts = {"onednn": 0, "mm": 0}
    now = [0.0]

    def call(name):
        counts[name] += 1
        now[0] += 1e-4

    routes.time_routes({name: lambda name=name: call(name) for name in counts}, lambda: now[0])
    assert counts == {"onednn": 10, "mm": 10}


def test_another_process_finds_the_choice(measured, monkeypatch, tmp_path):
    measured(FAST_ONEDNN)
    assert route() == "onednn"
    path = tmp_path / "cache" / "head-routes.json"
    ((key, entry),) = json.loads(path.read_text()).items()
    assert entry == {"route": "onednn", "seconds": FAST_ONEDNN} and chosen_routes() == {key: "onednn"}
    monkeypatch.setattr(routes, "_chosen", {})
    asked = measured(FAST_MM)
    asked.clear()
    assert route() == "onednn" and not asked
    # Another shape, number of threads, processor or torch is another entry.
    assert route(h=1024) == "mm" and len(asked) == 1
    monkeypatch.setattr(routes, "processor", lambda: "another")
    assert route() == "mm" and len(asked) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert route() == "mm" and len(asked) == 3
    assert len(json.loads(path.read_text())) == 4


def test_this_process_keeps_to_its_choice(measured, tmp_path):
    measured(FAST_ONEDNN)
    assert route() == "onednn"
    (tmp_path / "cache" / "head-routes.json").unlink()
    measured(FAST_MM)
    assert route() == "onednn"


def test_restored_routes_are_not_measured(measured, monkeypatch):
    measured(FAST_ONEDNN)
    route()
    told = chosen_routes()
    monkeypatch.setattr(routes, "_chosen", {})
    asked = measured(FAST_MM)
    asked.clear()
    restore_routes({key: "mm" for key in told} | {"elsewhere; H 64; V 1024": "onednn"})
    assert route() == "mm" and not asked  # neither the cache's
    assert chosen_routes() == {key: "mm" for key in told} | {"elsewhere; H 64; V 1024": "onednn"}


def test_the_environment_overrides(measured, monkeypatch, tmp_path):
    asked = measured(FAST_MM)
    monkeypatch.setenv("DYNAMICS_HEAD_ROUTE", "onednn")
    assert route() == "onednn" and list(chosen_routes().values()) == ["onednn"]
    assert not asked and not (tmp_path / "cache").exists()
    # What is gone on with took another: that would change its bits.
    with pytest.raises(InputError, match="DYNAMICS_HEAD_ROUTE is onednn, but the resumed run used mm: unset"):
        restore_routes({key: "mm" for key in chosen_routes()})
    restore_routes({"elsewhere; H 64; V 1024": "mm"} | chosen_routes())


def test_bad_names(monkeypatch):
    monkeypatch.setenv("DYNAMICS_HEAD_ROUTE", "mkl")
    with pytest.raises(InputError, match="DYNAMICS_HEAD_ROUTE is 'mkl': give one of onednn, mm"):
        route()
    monkeypatch.delenv("DYNAMICS_HEAD_ROUTE")
    with pytest.raises(InputError, match="the route of 'a' is 3: give one of onednn, mm"):
        restore_routes({"a": 3})
    for wrong in ([("a", "mm")], None, {1: "mm"}):
        with pytest.raises(InputError, match=r"give what chosen_routes\(\) returned"):
            restore_routes(wrong)


def test_nothing_to_choose(measured):
    asked = measured(FAST_ONEDNN)
    assert route(dtype=torch.float64) == "mm"
    assert routes.head_route(128, 4096, torch.float32, torch.device("meta")) == "mm"
    assert not asked and chosen_routes() == {}


def test_where_there_is_a_choice(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert products.has_onednn(torch.float32, CPU)
    assert not products.has_onednn(torch.float64, CPU) and not products.has_onednn(torch.bfloat16, CPU)
    assert not products.has_onednn(torch.float32, torch.device("cuda"))
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not products.has_onednn(torch.float32, CPU)


def test_a_cache_that_cannot_be_written(measured, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "file" / "cache"))
    asked = measured(FAST_ONEDNN)
    with caplog.at_level(logging.WARNING):
        assert route() == route() == route(h=512) == "onednn"
    assert asked == [(128, 4096), (512, 4096)]
    assert len(caplog.messages) == 1 and "another run may take the other" in caplog.text


def test_a_disk_that_fills_up_measures_once(measured, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    asked = measured(FAST_ONEDNN)
    assert route() == "onednn" and len(asked) == 1


def test_an_entry_that_names_no_route(measured, tmp_path):
    measured(FAST_MM)
    route()
    path = tmp_path / "cache" / "head-routes.json"
    path.write_text(path.read_text().replace('"mm",', '"fast",'))
    routes._chosen.clear()
    with pytest.raises(InputError, match=r"head-routes.json.* is 'fast': give one of"):
        route()


def test_forced_for_a_while(measured):
    asked = measured(FAST_MM)
    with routes.forced("onednn"):
        assert route() == "onednn"
        with routes.forced("mm"):
            assert route() == "mm"
        assert route() == "onednn"
    assert not asked and chosen_routes() == {} and route() == "mm"


class Counting(torch.utils._python_dispatch.TorchDispatchMode):
    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not products.has_onednn(torch.float32, CPU), reason="no second route here")
def test_measuring_touches_nothing(monkeypatch):
    types = set()
    original = routes.hidden_product
    monkeypatch.setattr(routes, "hidden_product", lambda a, *b: types.add(a.dtype) or original(a, *b))
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad(), Counting() as mode:
        seconds = routes._measure(64, 1024)
    assert mode.seen == 0 and types == {torch.float32}
    assert torch.equal(torch.get_rng_state(), before)
    assert set(seconds) == {"onednn", "mm"} and all(0 < x < 5 for x in seconds.values())


@pytest.mark.skipif(not products.has_onednn(torch.float32, CPU), reason="no second route here")
def test_the_operator_measures_and_takes_what_it_chose(monkeypatch):
    taken = set()
    original = products._by_onednn
    monkeypatch.setattr(products, "_by_onednn", lambda *a: taken.add("onednn") or original(*a))
    hidden, weight = torch.randn(8, 16, requires_grad=True), torch.randn(50, 16)
    for expected, seconds in (("onednn", FAST_ONEDNN), ("mm", FAST_MM)):
        monkeypatch.setattr(routes, "_measure", lambda h, v, s=seconds: s)
        monkeypatch.setenv("DYNAMICS_CACHE", f"{routes.os.environ['DYNAMICS_CACHE']}-{expected}")
        routes._chosen.clear()
        taken.clear()
        linear_token_statistics(hidden, weight, torch.zeros(8, dtype=torch.int64)).total_loss.backward()
        assert taken == ({"onednn"} if expected == "onednn" else set())
        assert list(chosen_routes().values()) == [expected]


@pytest.mark.parametrize("shape", [(200, 64, 1500), (70, 700, 300), (5, 1, 1)])
@pytest.mark.parametrize("name", routes.ROUTES)
def test_products_are_exact(name, shape):
    n, h, v = shape
    g = torch.Generator().manual_seed(0)
    a, w, d = torch.randn(n, h, generator=g), torch.randn(v, h, generator=g), torch.randn(n, v, generator=g)
    bias = torch.randn(v, generator=g)
    slices = products.weight_slices(w, name)

    def near(got, want):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 * max(1.0, want.abs().max().item()))

    near(products.logits_product(a, slices, None, name), a.double() @ w.double().T)
    near(products.logits_product(a, slices, bias, name), a.double() @ w.double().T + bias.double())
    near(products.hidden_product(d, w, name), d.double() @ w.double())
    total = torch.full((v, h), torch.nan)
    products.accumulate_outer_(total, d, a, name, first=True)
    products.accumulate_outer_(total, d, a, name, first=False)
    near(total, 2 * d.double().T @ a.double())
