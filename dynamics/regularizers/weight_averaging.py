"""Weight averaging: a running mean of the weights, measured as a model of its own beside the one that is trained.

Nothing of the training changes: a mean follows the trained weights, and takes their places for as long as it is
measured. Sources: Polyak and Juditsky 1992 (the mean of the iterates converges faster than the last of them);
stochastic weight averaging, Izmailov et al. 2018 (arXiv 1803.05407, Algorithm 1); the exponential moving average,
evaluated by Morales-Brotons et al. 2024 (arXiv 2411.18704).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dynamics.errors import InputError
from dynamics.regularizers.base import ActsOn, Batch, Regularizer, Removable, signature_of_settings
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

Kind = Literal["ema", "swa"]


class WeightAveragingSettings(Settings):
    """The mean of the weights along training, measured beside the trained model."""

    name: Literal["weight_averaging"] = "weight_averaging"
    kind: Kind = Field(default="ema", description="exponential moving average, or plain mean from `start` on")
    decay: float = Field(default=0.999, gt=0.0, lt=1.0, description="ema: what an update keeps of the mean so far")
    warmup: bool = Field(default=True, description="ema: smaller decays first, min(decay, (1 + t) / (10 + t))")
    start: float = Field(default=0.75, ge=0.0, lt=1.0, description="swa: share of training from which on it averages")
    every: int = Field(default=1, ge=1, description="optimiser steps from one update of the mean to the next")

    @model_validator(mode="after")
    def _keys_are_read(self) -> WeightAveragingSettings:
        for key in self._unread():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is not read with kind: {self.kind}; leave it out")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_read(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key not in self._unread()}

    def _unread(self) -> tuple[str, ...]:
        return ("start",) if self.kind == "ema" else ("decay", "warmup")


class WeightAveraging(Regularizer):
    """Keep a mean of the weights that are trained, which is measured and recorded beside them.

    With ``ema``, update t = 1, 2, ... (one after every `every` optimiser steps) is

        mean <- d mean + (1 - d) weights,   d = min(decay, (1 + t) / (10 + t)),

    from the starting model's weights on, whose share after t updates is 10! (t + 1)! / (t + 10)! as long as d is below
    `decay`: under 1 % from t = 4 on. Without `warmup`, d is `decay` at once, and that share decay^t. With ``swa`` the
    mean is that of the weights after every `every`-th step from the share `start` of training on, each counted once;
    until there are any, the model beside is the trained one itself.

    The mean is in float32 (or float64, where the weights are), on the weights' device, of the weights that are trained
    when training begins; frozen weights and buffers are the trained model's own. Tied weights are one. Rounding can
    hold a float32 mean back by about 6e-8 / (1 - decay) of a weight's size (6e-5 by default).

    After training, ``with method.averaged(): model.save_pretrained(...)`` saves the mean.

    Parameters
    ----------
    kind : {"ema", "swa"}, default "ema"
        Exponential moving average (arXiv 2411.18704), or plain mean from `start` on (arXiv 1803.05407).
    decay : float, default 0.999
        With "ema": what an update keeps of the mean so far, in (0, 1).
    warmup : bool, default True
        With "ema": smaller decays first, min(decay, (1 + t) / (10 + t)).
    start : float, default 0.75
        With "swa": share of the planned optimiser steps after which averaging begins, in [0, 1).
    every : int, default 1
        Optimiser steps from one update of the mean to the next, at least 1.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = WeightAveragingSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("copy of the weights",)
    settings: WeightAveragingSettings

    @signature_of_settings
    def __init__(
        self, *, kind: Kind = "ema", decay: float = 0.999, warmup: bool = True, start: float = 0.75, every: int = 1
    ) -> None: ...

    def set_up(self) -> None:
        self._weights: dict[str, nn.Parameter] = {}
        self._frozen: dict[str, nn.Parameter] = {}
        self._means: dict[str, torch.Tensor] = {}
        self._steps = self._updates = 0
        self._progress = 0.0

    @property
    def key(self) -> str:
        return f"{super().key}-{self.settings.kind}"

    @classmethod
    def told_apart(cls, settings: Mapping[str, Any]) -> str:
        # The means of one training, an arm each, cost less than a training each.
        return str(settings.get("kind", cls.settings_model.model_fields["kind"].default))

    @property
    def beside(self) -> str:
        return self.settings.kind

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Begin a mean, with the weights as they are.

        Raises
        ------
        InputError
            The weights are in parts, in several processes or outside the device.
        """
        import torch

        require_whole(model)
        parameters = dict(model.named_parameters())
        self._weights = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        self._frozen = {name: weight for name, weight in parameters.items() if not weight.requires_grad}
        self._means = {
            name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in self._weights.items()
        }
        self._steps = self._updates = 0
        return ()

    def begin_batch(self, batch: Batch) -> None:
        self._progress = batch.progress

    def end_step(self) -> None:
        """Count a step, and bring the mean up to date where it is time.

        Raises
        ------
        InputError
            A weight is trained that was frozen when training began.
        """
        for name, weight in self._frozen.items():
            if weight.requires_grad:
                raise InputError(
                    f"WeightAveraging: {name} was frozen when training began and is trained now, and the mean does not "
                    "hold it; set requires_grad before training, or leave the averaging out"
                )
        self._steps += 1
        due = self._steps % self.settings.every == 0
        # A mean that has begun goes on, whatever the length of a training that is resumed.
        begun = self.settings.kind == "ema" or self._updates > 0 or self._progress >= self.settings.start
        if due and begun:
            self._updates += 1
            self._update(share_of_new(self.settings, self._updates))

    def _update(self, share: float) -> None:
        import torch

        with torch.no_grad():
            for name, mean in self._means.items():
                mean.lerp_(self._weights[name].to(mean.dtype), share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the mean in the places of the trained weights; on leaving they are back, to the last bit."""
        if self.settings.kind == "swa" and self._updates == 0:
            yield
            return
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        try:
            self._put(self._means)
            yield
        finally:
            self._put(trained)

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(values[name])

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps, "updates": self._updates}

    def load_state(self, state: dict[str, Any]) -> None:
        self._steps, self._updates = state["steps"], state["updates"]

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self._means)

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up the mean that a checkpoint holds.

        Raises
        ------
        InputError
            It is that of other weights than are trained now.
        """
        shapes = {name: tuple(mean.shape) for name, mean in self._means.items()}
        found = {name: tuple(mean.shape) for name, mean in tensors.items()}
        differing = sorted(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
        if differing:
            raise InputError(
                f"WeightAveraging: the checkpoint's mean is of other weights than are trained now ({differing[0]} is "
                f"one of {len(differing)}); resume with the same weights trained and frozen, or start anew"
            )
        for name, mean in self._means.items():
            mean.copy_(tensors[name])


def share_of_new(settings: WeightAveragingSettings, update: int) -> float:
    """Return the share that the weights have in the mean after an update, from 1: one minus what is kept of it."""
    if settings.kind == "swa":
        return 1.0 / update
    return 1.0 - (min(settings.decay, (1 + update) / (10 + update)) if settings.warmup else settings.decay)


# What marks a weight of which a process holds a part: FSDP2 and tensor parallel, FSDP 1 (two), DeepSpeed's third stage.
_MARKS = ("device_mesh", "_is_flat_param", "_fsdp_flattened", "ds_id")


def require_whole(model: nn.Module, *, sharded: bool = False) -> None:
    """Raise InputError where a process holds a part of the weights alone.

    Parameters
    ----------
    model : Module
    sharded : bool
        Whether it is known to be sharded once it is trained.
    """
    parts = (name for name, weight in model.named_parameters() if any(hasattr(weight, mark) for mark in _MARKS))
    name = next(parts, "the model" if sharded else None)
    if name is not None:
        raise InputError(
            f"WeightAveraging: {name} is sharded (FSDP, tensor parallel, DeepSpeed ZeRO 3), and each process keeps the "
            "mean of whole weights; train with DDP, or leave it out"
        )
