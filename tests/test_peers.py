"""Every bug of a peer that we know of, and the test that Kilter does not have it: no row without a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

BUGS = {
    "inspect_ai": {
        "delimiters are fixed and public": "test_inspect_ai_delimiters_are_fixed_and_public",
        "no pairwise mode and no swap of the order": "test_both_orders_speak_of_the_first_answer_*",
        "no log-probs": "test_soft_labels_reach_the_loss",
        "the model under test grades itself": "test_inspect_ai_lets_the_model_under_test_grade_itself_*",
        "a standard error of 0 where nothing was scored": "test_inspect_ai_has_a_standard_error_of_zero_*",
    },
    "AlpacaEval 2 LC": {
        "one order only": "test_alpaca_eval_asks_in_one_order",
        "a missing token is certainty": "test_alpaca_eval_takes_a_missing_token_for_certainty",
        "length control needs files of a hub": "test_alpaca_eval_length_control_is_a_logit_*",
        "difficulty needs a file of a hub": "test_alpaca_eval_needs_a_file_of_difficulties_*",
        "its error is the spread of predictions": "test_alpaca_eval_takes_the_spread_of_predictions_*",
        "a change of over ten points is only warned of": "test_alpaca_eval_only_warns_*",
    },
    "Arena-Hard 2": {
        "rows of two orders and weight 3 are independent": "test_arena_hard_counts_both_orders_*",
        "100 draws and 90 % are called an interval": "test_arena_hard_resamples_rows_a_hundred_times_*",
        "a second category overwrites the first": "test_arena_hard_overwrites_the_first_of_two_categories",
        "control for length keeps a model's column": "test_arena_hard_control_for_length_*",
    },
    "RewardBench 2, generative": {
        "the first verdict wherever it stands": "test_reward_bench_2_reads_the_first_verdict_*",
        "an unreadable verdict is a tie": "test_reward_bench_2_scores_an_unreadable_verdict_as_a_tie",
        "a shuffle without a seed": "test_reward_bench_2_shuffles_by_no_seed",
        "25 retries of ten seconds": "test_a_written_verdict_is_asked_for_once_more_and_then_unscored",
    },
    "FastChat MT-Bench": {
        "the first match": "test_fastchat_takes_the_first_match",
        "errors are dropped in silence": "test_fastchat_drops_errors_in_silence",
    },
    "open-instruct, judge": {
        "templates without question and answer": "test_open_instruct_templates_never_show_*",
        "a failure to parse or a time-out is reward 0": "test_open_instruct_rewards_a_failure_with_zero",
        "an overlong context is reward 0": "test_open_instruct_rewards_an_overlong_context_with_zero",
        "100 is 10, -3 is 3, incorrect is 1": "test_open_instruct_takes_100_for_10_*",
        "the template of safety is empty": "test_every_wording_shows_request_and_answer_*",
    },
    "open-instruct, preferences": {
        "the first is always chosen": "test_open_instruct_always_chooses_the_first_and_ignores_the_verdict",
        "a verdict that is neither 0 nor 1": "test_open_instruct_takes_a_verdict_that_was_never_offered",
        "a failed row ends all": "test_open_instruct_crashes_on_a_failed_row",
    },
    "prometheus-eval": {
        "Mistral's turns for every model": "test_prometheus_writes_mistral_turns_for_every_model"
    },
    "evalscope": {
        "yes anywhere is right": "test_evalscope_reads_yes_anywhere",
        "a candidate chooses its own score": "test_evalscope_lets_a_candidate_choose_its_own_score",
    },
    "taosmd": {"incorrect contains correct": "test_taosmd_finds_correct_in_incorrect"},
    "RLAIF-V": {"no rating or several is 0": "test_rlaif_v_counts_no_or_several_ratings_as_hallucinations"},
    "one token to fool a judge": {
        "a token wins": "test_one_token_fools_a_judge_and_its_audit_knows_the_tokens",
    },
    "llm-swarm, alignment-handbook": {
        "a revision is never checked to be better": "test_a_revision_that_nobody_checked_*",
        "prompts are cut at a colon or a blank line": "test_no_prompt_is_cut_at_a_colon_or_a_blank_line",
        "principles by no seed, and not stored": "test_the_drawn_principle_is_seeded_and_stored",
        "test rows are trained on": "test_no_test_row_is_drawn_from_what_is_trained_on",
    },
    "NeMo-Aligner": {
        "the whole constitution at once": "test_the_whole_constitution_is_not_asked_at_once",
        "candidates sorted by temperature, in one order": "test_the_order_of_the_answers_does_not_decide",
        "one index for chosen and rejected": "test_chosen_and_rejected_never_share_an_index",
        "the same in labels": "test_nemo_aligner_gives_chosen_and_rejected_one_index",
        "errors of the parser end the run": "test_a_reply_that_cannot_be_read_ends_no_other",
        "the last incomplete batch is dropped": "test_the_last_incomplete_batch_is_not_dropped",
        "no log-probs": "test_labels_carry_odds_and_history_and_training_on_them_needs_the_flag",
    },
    "Anthropic's RL-CAI": {"boilerplate of a model trained too long": "test_boilerplate_is_the_share_*"},
    "metrics of harm alone": {"declining is harmless": "test_a_refusal_is_no_shortcut_to_harmlessness"},
    "critics": {
        "a critique obeys what stands in the prompt": "test_a_critique_that_obeys_the_prompt_does_not_count",
        "an answer ends the question's turn": "test_an_answer_ends_no_turn_of_the_critics_question",
        "a revision that changes nothing counts": "test_an_identical_revision_is_dropped_*",
        "markers of a layout stand in the text": "test_dialogues_of_the_layout_are_read_by_their_turns_*",
    },
    "what judges are shown": {
        "a long answer is cut": "test_a_question_that_is_too_long_is_not_asked_and_not_cut",
        "braces of an answer are filled in, or it is empty": "test_odd_answers_are_shown_as_they_are",
        "roles and earlier turns are lost": "test_several_turns_and_a_system_prompt_are_shown_*",
        "the same answer twice is no tie": "test_odd_answers_are_shown_as_they_are",
    },
    "all of them": {
        "two judges of whom one failed": "test_a_panel_of_two_with_one_failure_has_no_majority",
        "a judge that is the policy": "test_a_judge_is_named_wherever_it_reads_answers_of_its_own_model",
        "a judge that the policy started from": "test_a_judge_that_the_policy_started_from_is_named",
        "a planted verdict counts": "test_no_hostile_reply_of_any_kind_counts_for_what_it_plants",
    },
}


@pytest.fixture(scope="module")
def known():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.glob("test_*.py")]
    return {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize(("peer", "bug"), [(peer, bug) for peer, bugs in BUGS.items() for bug in bugs])
def test_a_bug_of_a_peer_has_a_test(peer, bug, known):
    pattern = re.compile(re.escape(BUGS[peer][bug]).replace(r"\*", ".*"))
    assert any(pattern.fullmatch(name) for name in known)
