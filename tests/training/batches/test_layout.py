"""Where a token of a batch stands: padded on either side, packed, with prompts; and hashes of sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.errors import InputError
from dynamics.training.batches.layout import layout, segment_hashes

PAD = 0


def tensor(*rows):
    return torch.tensor(rows)


def test_padded_on_the_right_with_a_prompt():
    ids = tensor([5, 6, 7, 8], [9, 4, PAD, PAD])
    labels = tensor([-100, -100, 7, 8], [9, 4, -100, -100])
    where = layout(ids, labels, attention_mask=tensor([1, 1, 1, 1], [1, 1, 0, 0]))
    assert where.segment.tolist() == [[0, 0, 0, 0], [1, 1, -1, -1]]
    assert where.position.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert where.predicted.tolist() == [[False, False, True, True], [False, True, False, False]]
    same = layout(ids, labels, pad_token_id=PAD)
    assert all(torch.equal(one, other) for one, other in zip(where, same, strict=True))


def test_padded_on_the_left():
    ids = tensor([PAD, PAD, 7, 8], [9, 4, 3, 2])
    where = layout(ids, ids, attention_mask=tensor([0, 0, 1, 1], [1, 1, 1, 1]))
    assert where.segment.tolist() == [[-1, -1, 0, 0], [1, 1, 1, 1]]
    assert where.position.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert where.predicted.tolist() == [[False, False, False, True], [False, True, True, True]]


def test_packed_rows_start_again_at_position_zero():
    ids = tensor([5, 6, 7, 8, 9, PAD])
    labels = tensor([5, 6, 7, 8, 9, -100])
    where = layout(ids, labels, position_ids=tensor([0, 1, 2, 0, 1, 0]), pad_token_id=PAD)
    assert where.segment.tolist() == [[0, 0, 0, 1, 1, -1]]
    assert where.position.tolist() == [[0, 1, 2, 0, 1, 0]]
    # The label of a first token is no prediction of its own sequence.
    assert where.predicted.tolist() == [[False, True, True, False, True, False]]


def test_a_padding_token_inside_a_sequence_is_a_token():
    ids = tensor([5, PAD, 7, PAD])
    where = layout(ids, tensor([-100, -100, 7, PAD]), pad_token_id=PAD)
    assert where.segment.tolist() == [[0, 0, 0, 0]]


def test_masks_of_other_shapes_are_refused():
    ids = tensor([5, 6])
    with pytest.raises(InputError, match=r"attention_mask has shape \(1, 1, 2, 2\)"):
        layout(ids, ids, attention_mask=torch.ones(1, 1, 2, 2))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=5), st.data())
def test_hashes_do_not_depend_on_the_layout(sequences, data):
    """The same sequences padded right, padded left, and packed in one row have the same hashes."""
    width = max(map(len, sequences)) + data.draw(st.integers(0, 2))
    right = torch.tensor([s + [PAD] * (width - len(s)) for s in sequences])
    left = torch.tensor([[PAD] * (width - len(s)) + s for s in sequences])
    flat = torch.tensor([sum(sequences, [])])
    positions = torch.tensor([[at for s in sequences for at in range(len(s))]])
    hashes = [
        segment_hashes(ids, layout(ids, ids.masked_fill(ids == PAD, -100), **more), size=len(sequences))
        for ids, more in (
            (right, {"attention_mask": (right != PAD).long()}),
            (left, {"attention_mask": (left != PAD).long()}),
            (flat, {"position_ids": positions}),
        )
    ]
    assert hashes[0].tolist() == hashes[1].tolist() == hashes[2].tolist()
    same = {tuple(s) for s in sequences}
    assert len(set(hashes[0].tolist())) == len(same)
