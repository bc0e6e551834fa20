"""Masks expanded while training runs change no byte of an upload, and belong to one attempt."""

from __future__ import annotations

from fedvlm_secure.rounds.actions import Train, Upload
from fedvlm_secure.secagg.attempt_masks import AttemptMasks, ExpandedMask
from tests.support.liars import LyingAggregator


def begun(attempts: int = 1) -> tuple[LyingAggregator, Train, AttemptMasks]:
    """Node a trains; later attempts of the round open meanwhile. Its masks as they were told with the first plan."""
    liar = LyingAggregator(4)
    (train,) = liar.tell("a", liar.plan())
    masks = liar.node("a").run.masks()
    assert isinstance(train, Train) and masks is not None
    for attempt in range(1, attempts):
        assert liar.tell("a", liar.plan(attempt=attempt)) == ()
    return liar, train, masks


def uploaded(liar: LyingAggregator, train: Train, mask: ExpandedMask | None) -> Upload:
    work = liar.node("a").work.train(train.round, train.state)
    (upload,) = liar.node("a").run.trained(train.round, work, mask)
    assert isinstance(upload, Upload)
    return upload


def test_upload_under_a_mask_expanded_ahead_is_the_same_to_the_byte() -> None:
    liar, train, masks = begun()
    ahead = uploaded(liar, train, masks.expand())
    assert liar.node("a").run.masks() is None, "there is nothing left to hide"
    other, train, _ = begun()
    on_the_way = uploaded(other, train, None)
    assert (ahead.bundle, ahead.content) == (on_the_way.bundle, on_the_way.content)


def test_mask_of_an_earlier_attempt_hides_nothing_in_a_later_one() -> None:
    liar, train, stale = begun(attempts=2)
    present = liar.node("a").run.masks()
    assert present is not None and present.ctx != stale.ctx
    upload = uploaded(liar, train, stale.expand())
    other, train, _ = begun(attempts=2)
    assert upload.content == uploaded(other, train, None).content
    assert upload.bundle.header.ctx == present.ctx


def test_masks_are_the_same_after_a_crash_and_no_mask_is_on_disk() -> None:
    liar, _, masks = begun()
    expanded = masks.expand().chunks[0].tobytes()
    liar.restart("a")
    again = liar.node("a").run.masks()
    assert again is not None and again.expand().chunks[0].tobytes() == expanded
    image = b"|".join(liar.journal("a").values())
    assert expanded[:16] not in image


def test_voided_round_has_no_masks() -> None:
    liar, _, _ = begun()
    liar.close_void("abcd")
    assert liar.node("a").run.masks() is None
