"""Selective decoding: rules on clips whose right answer can be counted by hand."""

import numpy as np
import pytest

from wm_pipelines.metrics.selective import by_change, by_stride, changes, in_force, laziest, share_right

# One clip of eight frames: the caption is 0, then from frame 3 on 1, then from frame 6 on 2.
TRUE = np.array([[0, 0, 0, 1, 1, 1, 2, 2]])


def test_a_stride_decodes_the_first_and_every_so_many():
    assert by_stride(2, 7, 3).tolist() == [[True, False, False, True, False, False, True]] * 2
    assert by_stride(1, 5, 1).all()


def test_a_caption_stays_in_force_until_the_next_one():
    said = np.arange(8)[None]
    decoded = np.array([[True, False, True, False, False, True, False, False]])
    assert in_force(decoded, said).tolist() == [[0, 0, 2, 2, 2, 5, 5, 5]]
    with pytest.raises(ValueError, match="first frame"):
        in_force(~decoded, said)


def test_shares_of_a_stride_are_those_counted():
    # Stride 4 says 0 at frame 0 and 1 at frame 4: frames 0-2 and 4, 5 are right.
    assert share_right(by_stride(1, 8, 4), TRUE, TRUE)[0] == 5 / 8
    assert share_right(by_stride(1, 8, 1), TRUE, TRUE)[0] == 1.0
    assert changes(TRUE)[0] == 2 / 7


def test_a_change_is_measured_from_what_was_last_decoded():
    slow = np.arange(10.0)[None, :, None]  # creeps by 1 a frame
    assert np.flatnonzero(by_change(slow, 2.5)[0]).tolist() == [0, 3, 6, 9]
    step = TRUE[..., None].astype(float)
    assert np.flatnonzero(by_change(step, 0.5)[0]).tolist() == [0, 3, 6]
    assert share_right(by_change(step, 0.5), TRUE, TRUE)[0] == 1.0
    assert by_change(step, -1.0).all()  # without motion, too
    two = np.stack([step[0], np.zeros((8, 1))])
    assert by_change(two, 0.5).sum(1).tolist() == [3, 1]  # clips do not meddle


def test_the_laziest_rule_that_is_good_enough_is_taken():
    rule = lambda k: by_stride(1, 8, int(k))  # noqa: E731
    strides = list(range(1, 9))
    shares = {k: share_right(rule(k), TRUE, TRUE)[0] for k in strides}
    assert laziest(rule, strides, TRUE, TRUE, 1.0) == 3  # frames 0, 3, 6 are where it changes
    enough = [k for k in strides if shares[k] >= 0.6]
    assert rule(laziest(rule, strides, TRUE, TRUE, 0.6)).sum() == min(rule(k).sum() for k in enough)
    wrong = np.full_like(TRUE, 9)
    assert laziest(rule, strides, wrong, TRUE, 0.5) == 1  # none is good enough: the first of the best
