"""From an estimate's variance to its interval and p-values.

An estimate's variance often has several parts, each known with its own few degrees of freedom: seeds with two,
documents with seventy. Student's t knows one number of them. Here the critical value is the mean of the parts' own,
weighted by their shares of the variance (Cochran 1964, Approximate significance levels of the Behrens-Fisher test,
Biometrics 20; Cochran and Cox 1950, Experimental Designs). Satterthwaite's t, which makes up one number of degrees of
freedom from the estimated parts, is too short for them: where by chance the seeds lie together it forgets that there
are only three, and 1 of 50 comparisons of identical arms is significant at the level of 0.5 % (docs/analysis.md has
the table).

Few documents of a skewed distribution make an estimate's own distribution skewed. Hall's (1992) cubic transformation
(On the removal of skewness by transformation, JRSS B 54) corrects for that; as it is a correction from few documents
too, the interval is the union of both, and a p-value the larger of the two.

Shape suffixes: Q any shape of estimates, C parts of a variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from dynamics.analysis.intervals.interval import Interval, require_share
from dynamics.analysis.tokens.token_records import Floats

_LEAST_LOG_P = -690.0  # about the logarithm of the least number that is kept in full
_HALVINGS = 80


@dataclass(frozen=True, slots=True)
class VariancePart:
    """A part of a variance, and the degrees of freedom with which it is known: arrays of shape Q.

    Attributes
    ----------
    variance, degrees : ndarray of float64, shape Q
        The part, in the squared unit of the estimate, and its degrees of freedom.
    """

    variance: Floats
    degrees: Floats


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """An estimate with the parts of its variance.

    Attributes
    ----------
    estimate : ndarray, shape Q
    parts : sequence of VariancePart
        Independent; their variances add up to that of the estimate.
    skewness : ndarray, shape Q
        Of the estimate's distribution; 0 for none.
    """

    estimate: Floats
    parts: Sequence[VariancePart]
    skewness: Floats

    @property
    def variance(self) -> Floats:
        """Of the estimate, shape Q."""
        total: Floats = np.sum([part.variance for part in self.parts], axis=0)
        return total

    @property
    def standard_error(self) -> Floats:
        """Of the estimate, shape Q."""
        error: Floats = np.sqrt(self.variance)
        return error

    def critical(self, tail: float) -> Floats:
        """Return the number of standard errors that is exceeded with probability `tail`, shape Q."""
        return _weighted(self._weights, [quantile(tail, part.degrees) for part in self.parts])

    def interval(self, level: float) -> Interval:
        """Return the estimate with an interval that covers the truth with probability `level`.

        NaN where the estimate or its variance is; of no width where nothing varies.
        """
        require_share(level)
        critical = self.critical((1.0 - level) / 2.0)
        error = self.standard_error
        low, high = self.estimate - error * critical, self.estimate + error * critical
        return Interval(
            np.fmin(low, self.estimate - error * unskewed(critical, self.skewness)),
            np.fmax(high, self.estimate - error * unskewed(-critical, self.skewness)),
            self.estimate,
        )

    def p_value(self) -> Floats:
        """Return the two-sided p-value of "the truth is 0", shape Q; 1 where it is not known."""
        p: Floats = np.minimum(1.0, 2.0 * np.minimum(self.p_below(0.0), self.p_above(0.0)))
        return p

    def p_below(self, bound: float) -> Floats:
        """Return the one-sided p-value against "the truth is `bound` or more", shape Q; 1 where it is not known."""
        return self._tail(bound, -1.0)

    def p_above(self, bound: float) -> Floats:
        """Return the one-sided p-value against "the truth is `bound` or less", shape Q; 1 where it is not known."""
        return self._tail(bound, 1.0)

    def _tail(self, bound: float, side: float) -> Floats:
        error = self.standard_error
        off = self.estimate - bound
        # Where nothing varies, the sign alone decides.
        statistic = np.where(off == 0, 0.0, np.copysign(np.inf, off))
        np.divide(off, error, out=statistic, where=error > 0)
        known = np.isfinite(self.estimate) & np.isfinite(error)
        statistic = np.where(known, statistic, 0.0)
        straight = self._exceeding(side * statistic)
        turned = self._exceeding(side * skewed(statistic, np.where(known, self.skewness, 0.0)))
        return np.where(known, np.maximum(straight, turned), 1.0)

    def _exceeding(self, statistic: Floats) -> Floats:
        """Return the tail probability whose critical value a statistic is, shape Q."""
        far = np.abs(statistic)
        if len(self.parts) == 1:
            tail = stdtr(np.nan_to_num(self.parts[0].degrees, nan=1.0), -far)
        else:
            weights = np.nan_to_num(self._weights)
            degrees = [np.nan_to_num(part.degrees, nan=1.0) for part in self.parts]
            low, high = np.full(far.shape, _LEAST_LOG_P), np.full(far.shape, np.log(0.5))
            for _ in range(_HALVINGS):
                middle = (low + high) / 2.0
                reached = _weighted(weights, [quantile(np.exp(middle), each) for each in degrees])
                low, high = np.where(reached > far, middle, low), np.where(reached > far, high, middle)
            tail = np.exp(high)
        exceeding: Floats = np.where(statistic >= 0, tail, 1.0 - tail)
        return exceeding

    @property
    def _weights(self) -> Floats:
        """Shares of the parts in the variance, shape (C, Q); equal where there is none."""
        variances = np.stack(np.broadcast_arrays(*[part.variance for part in self.parts]))
        total = variances.sum(axis=0)
        equal = np.full_like(variances, 1.0 / len(variances))
        shares: Floats = np.divide(variances, total, out=equal, where=total > 0)
        return shares


def quantile(tail: Floats | float, degrees: Floats | float) -> Floats:
    """Return what Student's t with so many degrees of freedom exceeds with probability `tail`."""
    exceeded: Floats = -stdtrit(degrees, tail)
    return exceeded


def skewed(statistic: Floats, skewness: Floats) -> Floats:
    """Return Hall's transformation of a t statistic, t + g t^2 / 3 + g^2 t^3 / 27 + g / 6, g the skewness."""
    with np.errstate(invalid="ignore"):
        turned = statistic + skewness * statistic**2 / 3.0 + skewness**2 * statistic**3 / 27.0 + skewness / 6.0
    return np.where(np.isfinite(statistic), turned, statistic)


def unskewed(turned: Floats, skewness: Floats) -> Floats:
    """Return the statistic whose transformation (`skewed`) a number is."""
    # 3 / g ((1 + g y)^(1/3) - 1) with y = x - g / 6, written so that g may be 0.
    y = turned - skewness / 6.0
    root = np.cbrt(1.0 + skewness * y)
    statistic: Floats = 3.0 * y / (root**2 + root + 1.0)
    return statistic


def _weighted(weights: Floats, values: Sequence[Floats]) -> Floats:
    total: Floats = np.sum([weight * value for weight, value in zip(weights, values, strict=True)], axis=0)
    return total
