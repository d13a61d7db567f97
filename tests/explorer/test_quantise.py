"""Eight bits: codes by hand, and the stated bound for every number that a float16 can be."""

from __future__ import annotations

import numpy as np
import pytest

from dynamics.explorer.quantise import UNKNOWN, Scale, over_epochs

EVERY_FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16)
EVERY_FLOAT16[np.isnan(EVERY_FLOAT16)] = np.nan  # no signalling ones: no arithmetic makes them


def test_codes_by_hand():
    # 254 squared is 64516, so that under this top code c stands for c * c / 1000 nats.
    scale = Scale(64.516)
    values = [0.0, 0.001, 0.1, 64.516, 0.0003, 0.0002, np.nan, np.inf, 1000.0, -0.5]
    assert scale.encode(np.array(values)).tolist() == [0, 1, 10, 254, 1, 0, 255, 254, 254, 0]
    assert scale.decode(np.array([0, 1, 10, 100, 254], dtype=np.uint8)) == pytest.approx([0, 0.001, 0.1, 10, 64.516])
    assert np.isnan(scale.decode(np.array([UNKNOWN], dtype=np.uint8))).all()


def test_signed_codes_by_hand():
    # 127 squared is 16129.
    scale = Scale(16.129)
    values = [0.0, 0.1, -0.1, 16.129, -16.129, 99.0, np.inf, -np.inf, np.nan, 1e-9, -1e-9]
    assert scale.encode_signed(np.array(values)).tolist() == [128, 138, 118, 255, 1, 255, 255, 1, 0, 128, 128]


def test_bound_by_hand():
    # Between the codes 253 and 254 lies 253.5: 30 * (254**2 - 253.5**2) / 254**2.
    assert Scale(30.0).bound == pytest.approx(30 * (64516 - 64262.25) / 64516)
    assert Scale(30.0).bound == pytest.approx(0.1180, abs=1e-4)


@pytest.mark.parametrize("top", [1e-3, 0.5, 7.3, 19.21875, 30.0])
def test_bound_holds_for_every_float16(top):
    scale = Scale(top)
    codes = scale.encode(EVERY_FLOAT16)
    assert np.array_equal(codes == UNKNOWN, np.isnan(EVERY_FLOAT16))
    values = EVERY_FLOAT16.astype(np.float64)
    back = scale.decode(codes).astype(np.float64)
    inside = (values >= 0) & (values <= top)
    off = np.abs(back - values)[inside]
    assert off.max() <= scale.bound * (1 + 1e-5)
    assert off.max() > 0.9 * scale.bound  # the bound is no larger than it need be
    assert back[values > top] == pytest.approx(top)
    assert (back[values < 0] == 0).all()


def test_order_is_kept():
    values = np.sort(EVERY_FLOAT16[np.isfinite(EVERY_FLOAT16)])
    assert (np.diff(Scale(30.0).encode(values).astype(int)) >= 0).all()
    assert (np.diff(Scale(30.0).encode_signed(values).astype(int)) >= 0).all()


def test_small_values_are_finer():
    scale = Scale(30.0)
    small = np.linspace(0, 0.1, 1000)
    assert np.abs(scale.decode(scale.encode(small)) - small).max() < 0.008


def test_differences_over_epochs_by_hand():
    codes = np.array([[3, 250, 255], [5, 4, 0], [5, 255, 255]], dtype=np.uint8)
    before = codes.copy()
    assert over_epochs(codes).tolist() == [[3, 250, 255], [2, 10, 1], [0, 251, 255]]
    assert np.array_equal(codes, before)


def test_differences_sum_up_again():
    codes = np.random.default_rng(0).integers(0, 256, (30, 50)).astype(np.uint8)
    assert np.array_equal(np.cumsum(over_epochs(codes), axis=0) % 256, codes)
