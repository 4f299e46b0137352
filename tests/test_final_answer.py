"""What counts as the final answer, and when two numbers are the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.feedback.verifiers import ExactMatch, MathAnswer
from kilter.types import Completion, Prompt

RIGHT = [
    ("17", r"At first \boxed{5}, and in the end \boxed{17}"),
    ("17", r"\fbox{17}"),
    ("17", "<answer>17</answer>"),
    ("17", "(17)"),
    ("17", "`17`"),
    ("17", "“17”"),
    ("17", "Answer:17"),
    ("17", "答えは17です。"),
    ("17", "１７"),
    ("-8", "It is \u22128"),
    (r"2\,500\,000", r"\boxed{2500000}"),
    ("2500000", "about 2.5e6"),
    (r"\[\frac{2}{7}\]", r"\boxed{\frac{2}{7}}"),
    (r"$\frac{2}{7}$", "2/7"),
    ("9 euros", "That makes 9"),
    ("9 euros", "9 euros"),
    ("3/4 cup", "It takes 3/4 cup."),
    (r"\$9", "$9.00"),
    ("B", "The answer is (B)."),
    ("B", r"\boxed{\text{B}}"),
    (r"\frac{\pi}{3}", "The angle is pi/3"),
    ("25%", r"\boxed{25\%}"),
    (r"2-\frac{1}{\mathrm{e}}", r"\boxed{2-\frac{1}{e}}"),
]
WRONG = [
    ("17", r"\boxed{17}, or rather \boxed{71}"),
    ("17", r"\boxed{17, 71}"),
    ("B", "The answer is C."),
    (r"\frac{1}{3^{80}}", r"$\frac{1}{3^{79}}$"),
    (r"\frac{1}{1500!}", r"$\frac{1}{1501!}$"),
    (r"2-\frac{1}{\mathrm{e}}", r"$2+\frac{1}{\mathrm{e}}$"),
    ("0.2222221", r"\boxed{0.2222222}"),
    ("(1,4)", r"\boxed{[1,4]}"),
    ("9 euros", "8 euros"),
    ("5:30", "$6:30$"),
]


def verdict(gold: str, text: str, **options) -> float | None:
    return MathAnswer(**options).judge(Prompt(text="q", metadata={"answer": gold}), Completion(text))[0]


@pytest.mark.parametrize(("gold", "text"), RIGHT)
def test_the_same_answer_in_another_form_is_right(gold, text):
    assert verdict(gold, text) == 1.0


@pytest.mark.parametrize(("gold", "text"), WRONG)
def test_another_answer_is_wrong(gold, text):
    assert verdict(gold, text) == 0.0


@pytest.mark.parametrize("gold", ["Oslo", "seven", "the blue one"])
def test_a_reference_that_is_no_mathematics_leaves_the_answer_unscored(gold):
    assert verdict(gold, "7") is None


def test_a_mark_encloses_or_precedes_the_answer():
    assert verdict("17", "The answer is:\n17", mark="The answer is") == 1.0
    prompt = Prompt(text="q", metadata={"answer": "17"})
    assert ExactMatch(mark="<answer>").judge(prompt, Completion("<answer>17</answer> done"))[0] == 1.0
    assert ExactMatch(mark="<answer>").judge(prompt, Completion("<answer>18</answer> 17"))[0] == 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-(10**9), 10**9),
    st.integers(-(10**9), 10**9),
    st.sampled_from([r"\boxed{%s}", "So it is %s.", "<answer>%s</answer>"]),
)
def test_integers_are_equal_if_they_are_the_same(one, other, form):
    assert verdict(str(one), form % one) == 1.0
    assert verdict(str(one), form % other) == float(one == other)


MATHS = [r"\infty", r"-\infty", r"+\infty", "3", "-3", "0", "0.5", r"\frac{1}{2}", r"\pi", "x+1"]


@pytest.mark.parametrize("gold", MATHS)
def test_verdicts_are_those_of_math_verify(gold):
    from math_verify import parse, verify

    # Without its own time limits, which a busy machine exceeds.
    read = lambda text: parse(text, parsing_timeout=None)
    for said in MATHS:
        answer = rf"So \boxed{{{said}}}"
        want = verify(read(f"${gold}$"), read(answer), timeout_seconds=None, allow_set_relation_comp=True)
        assert MathAnswer().equal(gold, answer) == want, said
