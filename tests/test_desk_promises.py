"""Promises, true reasons in other words, and facts of other cases, as the desk's verifier reads them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desk_promises import BACKED, MONEY, OTHERS
from kilter.data.worlds.support_desk import promises, verify
from kilter.data.worlds.support_desk.phrases import FACTS
from kilter.data.worlds.support_desk.promises import money, other

REFUND = {
    "kind": "refund",
    "grant": True,
    "rule": "R1",
    "fact": "used",
    "item": "kettle",
    "numbers": [],
    "level": 1,
}
RIGHT = "It was not used, so under R1: approved."


def test_promises_of_money_and_of_other_things_are_seen_and_backed_ones_are_not():
    assert [t for t in MONEY if not money(t)] == []
    assert [t for t in OTHERS if not other(t, ()) and not money(t)] == []
    assert [t for t in BACKED if money(t) or other(t, ())] == []
    assert [verify(f"{RIGHT} {t}", REFUND).score for t in MONEY] == [0] * len(MONEY)


WORTH = ("voucher", "discount", "credit", "bonus", "gift", "rebate", "coupon", "reward", "upgrade", "cheque")
GIVES = (
    "We {} you a {w}.",
    "We can {} you one {w}.",
    "I will also {} a small {w}.",
    "We {} a {w} and a {w}.",
)
KEEPS = (
    "We do not {} you a {w}.",
    "We can't {} any {w}.",
    "We never {} a {w}.",
    "We {} no {w}.",
    "Nobody will {} a {w}.",
)


@settings(max_examples=100, deadline=None)
@given(
    worth=st.sampled_from(WORTH), verb=st.sampled_from(("give", "offer", "send", "add", "grant", "promise"))
)
def test_a_gift_is_a_promise_and_a_gift_denied_is_none(worth, verb):
    for frame in GIVES:
        assert money(frame.format(verb, w=worth)), frame
    for frame in KEEPS:
        assert not money(frame.format(verb, w=worth)), frame


def test_the_words_of_plain_answers_make_no_promise():
    for words in itertools.product(("for", "the", "an", "to", "your", "within", "order"), repeat=3):
        assert not promises._MONEY.search(" ".join(words))
        assert not promises._OTHER.search(" ".join(words))
    assert not any(promises._MONEY.search(word) or promises._OTHER.search(word) for word in promises._PLAIN)


TRUE_REASONS = {
    "used": (
        (
            "It wasn't used",
            "Nobody used it",
            "No one has used it",
            "It was never taken out of the box",
            "You didn't use it",
            "It hasn't been opened",
            "It is still in its box",
            "It is untouched",
            "You never switched it on",
            "Nobody ever opened it",
            "It has not once been used",
            "It isn't used",
            "It was left unopened",
            "It is without use",
            "It has yet to be used",
        ),
        (
            "You used it",
            "Somebody used it",
            "It wasn't unused",
            "It isn't sealed",
            "You did use it",
            "It was taken out of the box",
            "It was not left sealed",
            "It was used once",
            "It was in use",
        ),
    ),
    "faulty": (
        ("It's broken", "It doesn't work", "It isn't working", "It won't turn on, it is defective"),
        (
            "It isn't faulty",
            "It's not broken",
            "It works",
            "There's nothing wrong with it",
            "It has no fault",
        ),
    ),
    "dispatched": (
        (
            "It wasn't dispatched",
            "Nobody dispatched it",
            "It has not been sent",
            "It isn't on its way",
            "It is still with us",
            "It has not left our store",
        ),
        ("It's on its way", "It has shipped", "It has left our store", "It was sent", "It is in transit"),
    ),
    "dropped": (
        ("It wasn't dropped", "Nobody dropped it", "It never fell", "It broke on its own"),
        ("You dropped it", "It fell", "It slipped", "It did not fail by itself"),
    ),
    "own_record": (
        ("The record is yours", "It belongs to you", "This isn't another customer's record"),
        (
            "It isn't your own record",
            "The record is not yours",
            "It's someone else's",
            "It belongs to another customer",
        ),
    ),
    "time": (
        ("3 days isn't over 14", "3 days is less than 14", "3 days is not more than 14"),
        ("35 days isn't within 14", "35 days is more than 14", "35 days is too late"),
    ),
    "fault_sought": (
        ("You are looking for a fault", "You aren't faking a fault"),
        ("A fault would be faked", "You don't look for a fault, you fake it"),
    ),
}


@pytest.mark.parametrize("fact", TRUE_REASONS)
def test_a_fact_in_other_words_is_stated_with_its_side(fact):
    for side, texts in zip((True, False), TRUE_REASONS[fact], strict=True):
        assert {t: FACTS[fact].stated(t) for t in texts if FACTS[fact].stated(t) != {side}} == {}


@settings(max_examples=100, deadline=None)
@given(
    who=st.sampled_from(("It", "The kettle", "Your kettle", "This")),
    turn=st.sampled_from(("", "not", "never", "n't", "not yet", "not really", "not once")),
    verb=st.sampled_from(("was", "has been")),
    word=st.sampled_from(("used", "opened", "unused", "unopened", "in use", "unpacked")),
    start=st.sampled_from(("", "As you say, ", "Since ", "We see that ")),
)
def test_negation_and_word_give_the_side_of_the_fact(who, turn, verb, word, start):
    first, _, rest = verb.partition(" ")
    said = f"{first}{turn}" if turn == "n't" else f"{first} {turn}".strip()
    text = f"{start}{who} {said} {rest} {word}".replace("  ", " ")
    granted = word in ("unused", "unopened")
    assert FACTS["used"].stated(text) == {granted != bool(turn)}, text


INVENTIONS = (
    "The guitar was not used",
    "It was not used, as the video shows",
    "It was not used, the photo shows it",
    "It was not used and arrived late",
    "It was not used, but the courier lost it",
    "It was not used and it is red",
    "It was not used and is too big",
    "It was not used, it was a birthday present",
    "It was not used, it is under warranty",
    "It was not used by paul",
    "It was not used, our technician checked it",
    "It was not used, it left our store",
    "It was not used, it was a bargain",
    "It was not used twice",
    "Both were not used",
    "It was not used, you paid by card",
    "It was not used, the screen is cracked",
)
OF_THE_CASE = (
    "The kettle was not used",
    "Your kettle is unused",
    "It was never taken out of the box",
    "As you say, it was not used",
    "You told us that it was not used",
    "We see that it was not used",
    "Thank you for your message. It was not used",
    "It has not been used and you want your money back",
    "It is still in its box",
)


def test_inventions_cost_the_reason_and_words_of_the_case_do_not():
    assert [t for t in INVENTIONS if verify(f"{t}, so under R1: approved.", REFUND).parts["reason"]] == []
    assert [t for t in OF_THE_CASE if verify(f"{t}, so under R1: approved.", REFUND).score < 1] == []
