"""Token dropout: a mask keyed by token and epoch, and what it does to a token. What EntroDrop and its controls share.

EntroDrop (arXiv 2512.23422) drops tokens that the model predicts with low entropy, more of them as training
goes on. This is a reconstruction from its abstract and summaries; docs/methods.md lists the readings. The
controls that make a claim about it worth anything drop the same expected share of tokens: `RandomTokenDropout` from all
predicted tokens, `InverseEntroDrop` from those of high entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from dynamics.errors import InputError
from dynamics.regularizers.base import ActsOn, Batch, Regularizer, Removable, TrainingData
from dynamics.regularizers.chances import uniform
from dynamics.regularizers.decoder import decoder_of
from dynamics.regularizers.entrances import (
    input_embedding,
    n_rows,
    neutral_token,
    place_of_ids,
    replace_embeddings,
    scaled,
    second_embeddings,
    table_mean,
    table_row,
)
from dynamics.regularizers.schedules import ScheduleSettings, strength
from dynamics.regularizers.sequence_edits import back_in_place, deleted, require_attention_mask, unattended
from dynamics.regularizers.tables import DeviceTable
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Target = Literal["input", "loss", "both"]
Replacement = Literal["zero", "mean", "token", "mask_token", "random", "unattended", "deleted"]
Rescale = Literal["none", "token", "mean"]

# Replacements that are `replacement_token`: as it is, or as a token that learns to stand for others.
_BY_TOKEN = ("token", "mask_token")


class TokenDropoutSettings(Settings):
    """What EntroDrop and its two controls share."""

    ratio: float = Field(
        default=0.15,
        gt=0.0,
        le=1.0,
        description="expected share of all predicted tokens dropped at the schedule's peak",
    )
    schedule: ScheduleSettings = ScheduleSettings()
    target: Target = Field(
        default="input",
        description="what a dropped token loses: its input embedding, its loss, or both",
    )
    replacement: Replacement = Field(
        default="zero",
        description="what stands in the input in place of a dropped token's embedding; or, at the sequence itself: no "
        "other token attends to it (and its own embedding is zero), or it is deleted and positions close up",
    )
    replacement_token: int | str | None = Field(
        default=None,
        description="for `replacement: token` or `mask_token`, whose embedding learns where it stands for others: a "
        "token's id or its text in the vocabulary",
    )
    rescale: Rescale = Field(
        default="none",
        description="what the embeddings of kept tokens are multiplied by: 1; 1 / (1 - p), with p the probability that "
        "this token was dropped; or 1 / (1 - ratio) for all predicted tokens (inverted dropout)",
    )
    normalize: Literal["all", "kept"] = Field(
        default="all", description="divide the loss by all predicted tokens, or by those kept"
    )

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _replacement_is_complete(self) -> TokenDropoutSettings:
        if self.replacement in _BY_TOKEN and self.replacement_token is None:
            raise ValueError(f"replacement: {self.replacement} needs replacement_token (a token's id or its text)")
        if self.replacement not in _BY_TOKEN and self.replacement_token is not None:
            raise ValueError("replacement_token is only read with replacement: token or mask_token")
        if self.target == "loss" and self.replacement != "zero":
            raise ValueError("replacement is only read with target: input or both")
        if self.target == "input" and self.replacement == "deleted":
            raise ValueError(
                "replacement: deleted takes a token out of the sequence, where it is no target either; use target: both"
            )
        if self.target == "input" and self.normalize != "all":
            raise ValueError("normalize is only read with target: loss or both")
        if self.rescale != "none" and (self.target == "loss" or self.replacement != "zero"):
            raise ValueError(
                f"rescale: {self.rescale} keeps the mean of an embedding that is 0 where it is dropped, and is only "
                "read with target: input or both and replacement: zero"
            )
        return self


class _Armed(NamedTuple):
    """The micro-batch under way: which of its tokens are dropped, and what the others are multiplied by."""

    batch: Batch
    mask: torch.Tensor
    scale: torch.Tensor | None


class TokenDropout(Regularizer):
    """What EntroDrop and its controls share.

    A dropped token is taken out of a model's input at every entrance: its id is replaced before the model sees it, so
    that whatever reads ids (a second embedding, hashed n-grams, a router) has none of it, and its embedding after
    that, so that no noise of NEFTune is left either.
    """

    acts_on: ClassVar[tuple[ActsOn, ...]] = ("input embeddings", "token losses")
    draws = "token dropout"
    settings: TokenDropoutSettings

    def set_up(self) -> None:
        token = self.settings.replacement_token
        self._predicted: DeviceTable | None = None
        self._seed = 0
        self._replacement_id = token if isinstance(token, int) else -1
        self._neutral_id = 0
        #: Rows of the input embedding of the model that hooks were put on.
        self.n_vocab = 0
        self._armed: _Armed | None = None
        self._bare = False  # dropped tokens are left in place, to see whether others attend to them
        self._source: torch.Tensor | None = None  # where each column's hidden state is, while tokens are deleted
        self._ids: torch.Tensor | None = None  # what the model is given in the forward pass under way

    @classmethod
    def divisor(cls, settings: Mapping[str, Any]) -> str | None:
        return None if settings.get("target") == "input" else settings.get("normalize")

    @property
    def pool(self) -> float:
        """Share of the predicted tokens that may be dropped."""
        return 1.0

    def prepare(self, data: TrainingData) -> None:
        self._predicted = DeviceTable(data.predicted)
        self._seed = data.seed
        if self.settings.replacement in _BY_TOKEN:
            self._replacement_id = _token_id(self.settings.replacement_token, data.tokenizer)

    def ratio(self, progress: float) -> float:
        return self.settings.ratio * strength(self.settings.schedule, progress)

    def probability(self, batch: Batch) -> torch.Tensor:
        """Return the probability with which each token of `batch` is dropped, float64 of shape (B, T).

        Its mean over all predicted tokens of the training set is the ratio. What it is for a token without a
        prediction means nothing.
        """
        return uniform(batch.predicted, self.ratio(batch.progress))

    def dropped(self, batch: Batch) -> torch.Tensor:
        """Return the tokens of `batch` that are dropped, bool of shape (B, T).

        Each with its own `probability`, by a draw that depends on nothing but (seed, epoch, sequence_id, position).
        """
        if self._armed is not None and self._armed.batch is batch:
            return self._armed.mask
        from dynamics.ops.keyed_random import STREAM_DROP

        return self._draw(STREAM_DROP, batch) < self._chances(batch)

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Hook the model's input and its embeddings.

        Raises
        ------
        InputError
            The model does not say what its input embedding is, and `embedding` does not either.
        """
        if self.settings.target == "loss":
            return ()
        embedding = input_embedding(model, type(self).__name__) if embedding is None else embedding
        self._neutral_id = neutral_token(model)
        self.n_vocab = n_rows(embedding)
        if self._replacement_id >= self.n_vocab:
            raise InputError(
                f"replacement_token: {self._replacement_id} is not among the {self.n_vocab} tokens of "
                f"{type(model).__name__}; give an id below that"
            )
        if self.settings.replacement == "deleted":
            decoder = decoder_of(model, type(self).__name__)
            return (
                model.register_forward_pre_hook(self._delete, with_kwargs=True),
                decoder.register_forward_hook(self._move_back),
            )
        hooks: list[Removable] = [
            model.register_forward_pre_hook(self._replace_ids, with_kwargs=True),
            embedding.register_forward_hook(self._replace),
        ]
        if self.settings.replacement == "unattended":
            require_attention_mask(model, type(self).__name__)
            hooks.append(model.register_forward_pre_hook(self._unattend, with_kwargs=True))
        if self.settings.replacement in ("zero", "mean", "unattended"):
            # A replacement that is a token has entered by its id at every other place.
            others = second_embeddings(model, embedding)
            hooks += [other.register_forward_hook(self._replace_second) for other in others]
        return hooks

    def begin_batch(self, batch: Batch) -> None:
        self._armed = _Armed(batch, self.dropped(batch), self._scale(batch))

    def end_batch(self) -> None:
        self._armed = self._ids = self._source = None

    @contextmanager
    def armed_with(self, mask: torch.Tensor, *, bare: bool = False) -> Iterator[None]:
        """Arm the hooks with a given mask, bool of shape (B, T), whatever the training set: to see what it does.

        With `bare`, ids and embeddings are left as they are, and only the attention mask hides them.
        """
        import torch

        shape, device = mask.shape, mask.device
        position = torch.arange(shape[1], device=device).expand(shape)
        row = torch.arange(shape[0], device=device)[:, None].expand(shape)
        batch = Batch(sequence_id=row, position=position, predicted=mask, epoch=1, progress=0.0)
        self._armed, self._bare = _Armed(batch, mask, None), bare
        try:
            yield
        finally:
            self._bare = False
            self.end_batch()

    def token_weight(self, batch: Batch) -> torch.Tensor | None:
        return None if self.settings.target == "input" else (~self.dropped(batch)).float()

    def _chances(self, batch: Batch) -> torch.Tensor:
        """Return `probability`, and 0 where nothing is predicted."""
        assert self._predicted is not None, "prepare() comes first"
        return self.probability(batch) * (batch.predicted & batch.look_up(self._predicted))

    def _scale(self, batch: Batch) -> torch.Tensor | None:
        """Return what the embeddings of kept tokens are multiplied by, float64 of shape (B, T), or None for 1."""
        import torch

        if self.settings.rescale == "none":
            return None
        if self.settings.rescale == "mean":
            chances = uniform(batch.predicted, self.ratio(batch.progress))
        else:
            chances = self._chances(batch)
        # Nothing is kept where all is dropped.
        return 1.0 / torch.where(chances < 1.0, 1.0 - chances, 1.0)

    def _draw(self, stream: int, batch: Batch) -> torch.Tensor:
        from dynamics.ops.keyed_random import keyed_uniform

        return keyed_uniform(
            seed=self._seed,
            stream=stream,
            epoch=batch.epoch,
            sequence_id=batch.sequence_id,
            position=batch.position,
        )

    def _random_ids(self, batch: Batch) -> torch.Tensor:
        from dynamics.ops.keyed_random import STREAM_REPLACEMENT

        return (self._draw(STREAM_REPLACEMENT, batch) * self.n_vocab).long()

    # Hooks; unarmed, in evaluation, generation and recording, they leave everything as it is. ------------------------

    def _delete(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._armed is None:
            return None
        mask = self._armed.mask
        if len(args) > 1 or place_of_ids(args, kwargs, mask.shape) is None:
            raise InputError(
                f"{type(self).__name__}: replacement: deleted finds no token ids to delete from; give the model "
                "input_ids, and all else by keywords, or use another replacement"
            )
        given = {"input_ids": args[0], **kwargs} if args else kwargs
        given, self._source = deleted(given, mask, type(self).__name__)
        # A model of one's own may call its first argument something else.
        return ((given.pop("input_ids"),), given) if args else ((), given)

    def _move_back(self, decoder: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._armed is None:
            return None
        assert self._source is not None, "the model's own hook comes first"
        return back_in_place(output, self._source, type(self).__name__)

    def _unattend(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._armed is None:
            return None
        if len(args) > 1:
            raise InputError(
                f"{type(self).__name__}: replacement: unattended finds no attention mask; give the model all but "
                "input_ids by keywords, or use another replacement"
            )
        return args, unattended(kwargs, self._armed.mask, model, type(self).__name__)

    def _replace_ids(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import torch

        if self._armed is None or self._bare:
            return None
        batch, mask, _ = self._armed
        place = place_of_ids(args, kwargs, mask.shape)
        if place is None:
            return None
        ids: torch.Tensor = kwargs[place] if isinstance(place, str) else args[place]
        stand_in: int | torch.Tensor = self._neutral_id
        if self.settings.replacement in _BY_TOKEN:
            assert self._replacement_id >= 0, "prepare() comes first: it finds the token's id"
            stand_in = self._replacement_id
        elif self.settings.replacement == "random":
            stand_in = self._random_ids(batch).to(ids.dtype)
        self._ids = torch.where(mask, stand_in, ids)
        if isinstance(place, str):
            return args, {**kwargs, place: self._ids}
        return (*args[:place], self._ids, *args[place + 1 :]), kwargs

    def _replace(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if self._armed is None or self._bare:
            return None
        batch, mask, scale = self._armed
        return replace_embeddings(scaled(output, scale), mask, self._replacement(module, batch))

    def _replace_second(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Replace what another table holds for dropped tokens, if it is given the ids and not positions or types."""
        import torch

        if self._armed is None or self._ids is None or not args or args[0].shape != self._ids.shape:
            return None
        batch, mask, scale = self._armed
        fed = (args[0] == self._ids).all()  # on the device
        if scale is not None:
            scale = torch.where(fed, scale, 1.0)
        return replace_embeddings(scaled(output, scale), mask & fed, self._replacement(module, batch))

    def _replacement(self, module: nn.Module, batch: Batch) -> torch.Tensor | float:
        # module.forward, not module(...): other hooks (NEFTune's noise) must not act on the replacement.
        match self.settings.replacement:
            case "zero" | "unattended":
                return 0.0
            case "mean":
                return table_mean(module)
            case "token":
                return table_row(module, self._replacement_id, batch.sequence_id.device).detach()
            case "mask_token":
                return table_row(module, self._replacement_id, batch.sequence_id.device)
            case "random":
                found: torch.Tensor = module.forward(self._random_ids(batch))
                return found
        raise AssertionError(self.settings.replacement)


def _token_id(token: int | str | None, tokenizer: PreTrainedTokenizerBase | None) -> int:
    if tokenizer is None:  # a training set of ids
        if isinstance(token, int) and token >= 0:
            return token
        raise InputError(f"replacement_token: {token!r} needs a tokenizer to be found by; give a token's id, from 0")
    if isinstance(token, int):
        if 0 <= token < len(tokenizer):
            return token
    elif token in (vocabulary := tokenizer.get_vocab()):
        return vocabulary[token]
    raise InputError(
        f"replacement_token: {token!r} is not in the tokenizer's vocabulary of {len(tokenizer)} entries; give an id "
        "below that, or a token as the vocabulary spells it"
    )
