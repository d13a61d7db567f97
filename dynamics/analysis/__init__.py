"""Statistics of the records, in numpy and scipy: curves, comparisons, intervals, buckets and power.

Functions take a study, a run, an arm, or several of these, and return numbers with their intervals. A name loads on
its first use.

Docstrings name the axes of arrays by one letter each, here and in `dynamics.records`:

====  ============================================================
S     sequences, those that are recorded
P     positions in a sequence, the block size
E     recorded epochs; 0 is before training
D     documents that have a token
K     buckets, groups or bins of tokens
M     seeds of an arm, one trained model each
C     classes of trajectories
R     resamples
N     predicted tokens
Q     any shape of estimates: (K,), (E, K) or ()
====  ============================================================
"""

from __future__ import annotations

from dynamics.faces import lazy_face

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    # isort: off
    from dynamics.analysis.comparisons.arm_comparisons import Comparison as Comparison, compare_arms as compare_arms
    from dynamics.analysis.comparisons.bucket_contrasts import (
        BucketContrast as BucketContrast,
        bucket_contrasts as bucket_contrasts,
    )
    from dynamics.analysis.comparisons.difference_curves import (
        DifferenceCurve as DifferenceCurve,
        minus_baseline_curves as minus_baseline_curves,
    )
    from dynamics.analysis.comparisons.family import (
        study_comparisons as study_comparisons,
        task_comparisons as task_comparisons,
    )
    from dynamics.analysis.comparisons.power import (
        Design as Design,
        detectable_difference as detectable_difference,
        documents_needed as documents_needed,
        pilot_design as pilot_design,
        power as power,
        seeds_needed as seeds_needed,
    )
    from dynamics.analysis.comparisons.significance import benjamini_hochberg as benjamini_hochberg, holm as holm
    from dynamics.analysis.comparisons.verdict import Finding as Finding, Verdict as Verdict, verdict as verdict
    from dynamics.analysis.estimands.bucket_dynamics import (
        BucketDynamics as BucketDynamics,
        RiseCurve as RiseCurve,
        bucket_dynamics as bucket_dynamics,
        rise_curves as rise_curves,
    )
    from dynamics.analysis.estimands.bucket_maps import (
        BucketMap as BucketMap,
        bucket_map as bucket_map,
        loss_landscape as loss_landscape,
    )
    from dynamics.analysis.estimands.calibration import (
        Calibration as Calibration,
        Overconfidence as Overconfidence,
        argmax_error_floor as argmax_error_floor,
        calibration as calibration,
        entropy_calibration_error as entropy_calibration_error,
        overconfidence as overconfidence,
    )
    from dynamics.analysis.estimands.entropy_distributions import (
        EntropyDistribution as EntropyDistribution,
        entropy_distributions as entropy_distributions,
    )
    from dynamics.analysis.estimands.forgetting import forgetting as forgetting, forgetting_table as forgetting_table
    from dynamics.analysis.estimands.learning import (
        EpochsToReach as EpochsToReach,
        LearningCurves as LearningCurves,
        epochs_to_reach_loss as epochs_to_reach_loss,
        learning_curves as learning_curves,
    )
    from dynamics.analysis.estimands.quantities import arm_compute as arm_compute, arm_quantity as arm_quantity
    from dynamics.analysis.estimands.summary import (
        ArmCurve as ArmCurve,
        ArmSummary as ArmSummary,
        arm_curves as arm_curves,
        arm_summary as arm_summary,
        arm_sums as arm_sums,
        dropped_share_by_epoch as dropped_share_by_epoch,
    )
    from dynamics.analysis.estimands.trajectory_shares import (
        CartographyMap as CartographyMap,
        ClassShares as ClassShares,
        cartography as cartography,
        class_shares as class_shares,
    )
    from dynamics.analysis.estimands.value_curves import (
        ValueCurve as ValueCurve,
        accuracy_curves as accuracy_curves,
        bits_per_byte_curves as bits_per_byte_curves,
        curves_by_split as curves_by_split,
        task_curves as task_curves,
        value_curves as value_curves,
    )
    from dynamics.analysis.intervals.bands import (
        curve_interval as curve_interval,
        gap_interval as gap_interval,
        uncertainty_over as uncertainty_over,
    )
    from dynamics.analysis.intervals.bootstrap import Resampling as Resampling
    from dynamics.analysis.intervals.contributions import Contributions as Contributions
    from dynamics.analysis.intervals.interval import Interval as Interval
    from dynamics.analysis.intervals.uncertainty import Uncertainty as Uncertainty, VariancePart as VariancePart
    from dynamics.analysis.sums.arms import (
        Arm as Arm,
        at_common_epochs as at_common_epochs,
        collect_arms as collect_arms,
        default_baseline as default_baseline,
        reference_buckets as reference_buckets,
    )
    from dynamics.analysis.sums.bits_per_byte import bits_per_byte_sums as bits_per_byte_sums
    from dynamics.analysis.sums.curves import (
        best_epoch as best_epoch,
        epochs_to_reach as epochs_to_reach,
        mean_curve as mean_curve,
        rebound as rebound,
    )
    from dynamics.analysis.sums.document_sums import (
        DocumentSums as DocumentSums,
        average_sums as average_sums,
        coarsen as coarsen,
        document_sums as document_sums,
    )
    from dynamics.analysis.sums.ensembles import Ensemble as Ensemble, ensemble as ensemble
    from dynamics.analysis.sums.kept_sums import kept_group as kept_group
    from dynamics.analysis.sums.summarising import Summarized as Summarized
    from dynamics.analysis.tokens.buckets import (
        Bucketing as Bucketing,
        Buckets as Buckets,
        MovingBuckets as MovingBuckets,
        TwoWayBuckets as TwoWayBuckets,
        entropy_buckets as entropy_buckets,
        make_buckets as make_buckets,
        moving_buckets as moving_buckets,
    )
    from dynamics.analysis.tokens.drop_pools import DropPool as DropPool, drop_pool as drop_pool
    from dynamics.analysis.tokens.groups import (
        Groups as Groups,
        groups_by_field as groups_by_field,
        groups_by_regex as groups_by_regex,
        own_groups as own_groups,
    )
    from dynamics.analysis.tokens.matches import (
        KINDS as KINDS,
        TASKS as TASKS,
        groups_by_kind as groups_by_kind,
        groups_by_match as groups_by_match,
        task_tokens as task_tokens,
    )
    from dynamics.analysis.tokens.signals import (
        Signal as Signal,
        own_signal as own_signal,
        token_frequency as token_frequency,
    )
    from dynamics.analysis.tokens.token_bytes import token_bytes as token_bytes
    from dynamics.analysis.tokens.token_records import TokenRecords as TokenRecords
    from dynamics.analysis.tokens.trajectories import (
        CHANGE as CHANGE,
        CLASSES as CLASSES,
        TokenTrajectories as TokenTrajectories,
        token_trajectories as token_trajectories,
    )
    from dynamics.display.results import Results as Results
else:
    __all__, __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "dynamics.analysis.comparisons.arm_comparisons": ["Comparison", "compare_arms"],
            "dynamics.analysis.comparisons.bucket_contrasts": ["BucketContrast", "bucket_contrasts"],
            "dynamics.analysis.comparisons.difference_curves": ["DifferenceCurve", "minus_baseline_curves"],
            "dynamics.analysis.comparisons.family": ["study_comparisons", "task_comparisons"],
            "dynamics.analysis.comparisons.power": [
                "Design",
                "detectable_difference",
                "documents_needed",
                "pilot_design",
                "power",
                "seeds_needed",
            ],
            "dynamics.analysis.comparisons.significance": ["benjamini_hochberg", "holm"],
            "dynamics.analysis.comparisons.verdict": ["Finding", "Verdict", "verdict"],
            "dynamics.analysis.estimands.bucket_dynamics": [
                "BucketDynamics",
                "RiseCurve",
                "bucket_dynamics",
                "rise_curves",
            ],
            "dynamics.analysis.estimands.bucket_maps": ["BucketMap", "bucket_map", "loss_landscape"],
            "dynamics.analysis.estimands.calibration": [
                "Calibration",
                "Overconfidence",
                "argmax_error_floor",
                "calibration",
                "entropy_calibration_error",
                "overconfidence",
            ],
            "dynamics.analysis.estimands.entropy_distributions": ["EntropyDistribution", "entropy_distributions"],
            "dynamics.analysis.estimands.forgetting": ["forgetting", "forgetting_table"],
            "dynamics.analysis.estimands.learning": [
                "EpochsToReach",
                "LearningCurves",
                "epochs_to_reach_loss",
                "learning_curves",
            ],
            "dynamics.analysis.estimands.quantities": ["arm_compute", "arm_quantity"],
            "dynamics.analysis.estimands.summary": [
                "ArmCurve",
                "ArmSummary",
                "arm_curves",
                "arm_summary",
                "arm_sums",
                "dropped_share_by_epoch",
            ],
            "dynamics.analysis.estimands.trajectory_shares": [
                "CartographyMap",
                "ClassShares",
                "cartography",
                "class_shares",
            ],
            "dynamics.analysis.estimands.value_curves": [
                "ValueCurve",
                "accuracy_curves",
                "bits_per_byte_curves",
                "curves_by_split",
                "task_curves",
                "value_curves",
            ],
            "dynamics.analysis.intervals.bands": ["curve_interval", "gap_interval", "uncertainty_over"],
            "dynamics.analysis.intervals.bootstrap": ["Resampling"],
            "dynamics.analysis.intervals.contributions": ["Contributions"],
            "dynamics.analysis.intervals.interval": ["Interval"],
            "dynamics.analysis.intervals.uncertainty": ["Uncertainty", "VariancePart"],
            "dynamics.analysis.sums.arms": [
                "Arm",
                "at_common_epochs",
                "collect_arms",
                "default_baseline",
                "reference_buckets",
            ],
            "dynamics.analysis.sums.bits_per_byte": ["bits_per_byte_sums"],
            "dynamics.analysis.sums.curves": ["best_epoch", "epochs_to_reach", "mean_curve", "rebound"],
            "dynamics.analysis.sums.document_sums": ["DocumentSums", "average_sums", "coarsen", "document_sums"],
            "dynamics.analysis.sums.ensembles": ["Ensemble", "ensemble"],
            "dynamics.analysis.sums.kept_sums": ["kept_group"],
            "dynamics.analysis.sums.summarising": ["Summarized"],
            "dynamics.analysis.tokens.buckets": [
                "Bucketing",
                "Buckets",
                "MovingBuckets",
                "TwoWayBuckets",
                "entropy_buckets",
                "make_buckets",
                "moving_buckets",
            ],
            "dynamics.analysis.tokens.drop_pools": ["DropPool", "drop_pool"],
            "dynamics.analysis.tokens.groups": ["Groups", "groups_by_field", "groups_by_regex", "own_groups"],
            "dynamics.analysis.tokens.matches": [
                "KINDS",
                "TASKS",
                "groups_by_kind",
                "groups_by_match",
                "task_tokens",
            ],
            "dynamics.analysis.tokens.signals": ["Signal", "own_signal", "token_frequency"],
            "dynamics.analysis.tokens.token_bytes": ["token_bytes"],
            "dynamics.analysis.tokens.token_records": ["TokenRecords"],
            "dynamics.analysis.tokens.trajectories": ["CHANGE", "CLASSES", "TokenTrajectories", "token_trajectories"],
            "dynamics.display.results": ["Results"],
        },
    )
