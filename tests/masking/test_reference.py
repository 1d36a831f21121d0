"""The definition, rule by rule, mostly on markers given as ids."""

from dataclasses import replace
from typing import Any

import pytest

from rolemask import MarkerSet, PolicyError, TokenIds, load
from rolemask.markers.spec import EndWord, Marker
from rolemask.masker import Masker
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import compile_rules
from rolemask.matching.vocabulary import Vocabulary

# 1 user header, 2 assistant header, 3 tool result opens, 4 tool result closes, 5 reasoning opens, 6 reasoning closes, 9 end, 50.. words
USER = Marker("user", (TokenIds((1,)),), (TokenIds((9,)),))
ASSISTANT = Marker("assistant", (TokenIds((2,)),), (TokenIds((9,)),))
TOOL = Marker("tool", (TokenIds((3,)),), (TokenIds((4,)),), within="assistant")
REASONING = Marker("reasoning", (TokenIds((5,)),), (TokenIds((6,)),), within="assistant", follows_turn=True)
_ = -100


def masker(*markers: Marker, **policy: Any) -> Masker:
    return MarkerSet("toy", "Toy", markers).compile(**policy)


def test_the_words_and_the_end_marker_of_the_assistant_are_trained() -> None:
    assert masker(USER, ASSISTANT)([1, 50, 9, 8, 2, 60, 61, 9, 8]) == [_, _, _, _, _, 60, 61, 9, _]


def test_an_unfinished_turn_runs_to_the_end() -> None:
    assert masker(USER, ASSISTANT)([1, 50, 9, 2, 60]) == [_, _, _, _, 60]


def test_user_tokens_are_not_trained_where_an_end_marker_is_missing() -> None:
    ids = [2, 60, 1, 50, 9, 2, 61, 9]
    assert masker(USER, ASSISTANT)(ids) == [_, 60, _, _, _, _, 61, 9]
    assert masker(USER, ASSISTANT).report(ids).unterminated == 1


def test_the_longest_start_wins() -> None:
    prefilled = Marker("assistant", (TokenIds((2,)), TokenIds((2, 5, 6))), (TokenIds((9,)),))
    assert masker(prefilled)([2, 5, 6, 60, 9]) == [_, _, _, 60, 9]
    assert masker(prefilled)([2, 5, 7, 6, 60, 9]) == [_, 5, 7, 6, 60, 9]


def test_include_start_trains_the_header() -> None:
    assert masker(Marker("assistant", (TokenIds((2, 3)),), (TokenIds((9,)),), include_start=True))([2, 3, 60, 9]) == [2, 3, 60, 9]


def test_an_end_that_rewinds_starts_the_next_turn() -> None:
    user = Marker("user", (TokenIds((1,)),), (TokenIds((4,)),), include_end=False, rewind=True)
    assistant = Marker("assistant", (TokenIds((4,)),), (TokenIds((9,)),))
    for eos in ("turn", "all"):
        assert masker(user, assistant, train_on_eos=eos)([1, 50, 4, 60, 9, 1, 51, 4, 61, 9]) == [_, _, _, 60, 9, _, _, _, 61, 9]


def test_with_next_start_the_first_token_of_the_next_header_is_trained() -> None:
    user = Marker("user", (TokenIds((1, 8)),), (EndWord.NEXT_START,), include_end=False, rewind=True)
    assistant = Marker("assistant", (TokenIds((2,)),), (EndWord.NEXT_START,), rewind=True)
    ids = [1, 8, 50, 2, 60, 1, 8, 51, 2, 61]
    m = masker(user, assistant)
    assert m(ids) == [_, _, _, _, 60, 1, _, _, _, 61]
    assert [m.role_names[role] for role in m.role_ids(ids)] == ["user"] * 3 + ["assistant"] * 3 + ["user"] * 2 + ["assistant"] * 2


def test_a_header_of_text_as_the_end_is_not_trained() -> None:
    from rolemask.matching.vocabulary import Vocabulary

    vocabulary = Vocabulary("toy", {1: b"USER:", 2: b"ASSISTANT:", 3: b" yes", 4: b" USER:"}, {"</s>": 9})
    user = Marker("user", ("USER:",), (EndWord.NEXT_START,), include_end=False, rewind=True)
    assistant = Marker("assistant", ("ASSISTANT:",), ("</s>", EndWord.NEXT_START), rewind=True)
    m = MarkerSet("toy", "Toy", (user, assistant)).compile(vocabulary)
    assert m([1, 3, 2, 3, 9, 1, 3, 2, 3]) == [_, _, _, 3, 9, _, _, _, 3]
    assert m([1, 3, 2, 3, 4, 3, 2, 3]) == [_, _, _, 3, _, _, _, 3]
    assert m.report([1, 3, 2, 3, 4, 3, 2, 3, 9]).unterminated == 0


def test_the_header_extends_to_header_end() -> None:
    named = Marker("assistant", (TokenIds((2,)),), (TokenIds((9,)),), header_end=(TokenIds((7,)),))
    assert masker(named)([2, 70, 71, 7, 60, 9]) == [_, _, _, _, 60, 9]
    assert masker(named)([2, 70, 71]) == [_, _, _]
    assert masker(named)([2, 70, 9, 60]) == [_, _, 9, _]


def test_a_turn_without_end_markers_runs_to_the_end_of_the_sequence() -> None:
    report = masker(Marker("assistant", (TokenIds((2,)),), ())).report([2, 60, 61])
    assert (report.trained, report.unterminated) == (2, 0)


def test_spans_have_their_own_role() -> None:
    ids = [2, 5, 55, 6, 60, 3, 40, 4, 61, 9]
    both = (USER, ASSISTANT, TOOL, REASONING)
    assert masker(*both)(ids) == [_, 5, 55, 6, 60, _, _, _, 61, 9]
    assert masker(*both, roles_to_train=["tool"])(ids) == [_, _, _, _, _, 3, 40, 4, _, _]
    assert masker(*both, roles_to_train=["reasoning"])(ids) == [_, 5, 55, 6, _, _, _, _, _, _]
    assert masker(*both).role_ids(ids) == [1, 3, 3, 3, 1, 2, 2, 2, 1, 1]


def test_a_span_start_may_belong_to_the_turn() -> None:
    stops = Marker("tool", (TokenIds((3,)),), (TokenIds((4,)),), within="assistant", start_owner="turn")
    assert masker(ASSISTANT, stops)([2, 60, 3, 40, 4, 61, 9]) == [_, 60, 3, _, _, 61, 9]


def test_of_several_spans_in_a_row_the_turn_opens_the_first() -> None:
    """Gemma 4 with parallel calls: the model stops once, all results follow."""
    stops = Marker("tool", (TokenIds((3,)),), (TokenIds((4,)),), within="assistant", start_owner="turn")
    assert masker(ASSISTANT, stops)([2, 60, 3, 40, 4, 3, 41, 4, 61, 3, 42, 4, 9]) == [_, 60, 3, _, _, _, _, _, 61, 3, _, _, 9]


def test_a_header_may_leave_a_span_open() -> None:
    """Qwen3.5: the generation prompt ends with the opening of the reasoning."""
    from rolemask.matching.toy_tokenizer import ToyTokenizer

    markers = load("qwen3_5")
    text = "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes.<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>"
    tokenizer = ToyTokenizer(markers, [text])
    ids = tokenizer.encode(text)

    def trained(*roles: str) -> str:
        labels = markers.compile(tokenizer, roles_to_train=roles)(ids)
        return tokenizer.vocabulary.text(label for label in labels if label != _)

    assert trained("assistant") == "Hm.\n</think>\n\nYes.<|im_end|>No.<|im_end|>"
    assert trained("reasoning") == "Hm.\n</think>"
    weights = markers.compile(tokenizer).weights(ids, role_weights={"assistant": 1.0, "reasoning": 0.0})
    assert tokenizer.vocabulary.text(id_ for id_, weight in zip(ids, weights, strict=True) if weight) == "\n\nYes.<|im_end|>No.<|im_end|>"


def test_a_span_never_outlives_its_turn() -> None:
    assert masker(USER, ASSISTANT, TOOL)([2, 3, 40, 9, 60, 2, 61, 9]) == [_, _, _, 9, _, _, 61, 9]
    assert masker(USER, ASSISTANT, TOOL)([2, 3, 40, 1, 50, 9, 2, 61, 9]) == [_, _, _, _, _, _, _, 61, 9]


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        ("turn", [_, _, _, _, 60, 9, _, _, _, _, 61, 9]),
        ("all", [_, _, 9, _, 60, 9, _, _, 9, _, 61, 9]),
        ("last", [_, _, _, _, 60, _, _, _, _, _, 61, 9]),
        ("none", [_, _, _, _, 60, _, _, _, _, _, 61, _]),
    ],
)
def test_train_on_eos(eos: str, expected: list[int]) -> None:
    assert masker(USER, ASSISTANT, train_on_eos=eos)([1, 50, 9, 2, 60, 9, 1, 51, 9, 2, 61, 9]) == expected


def test_last_is_the_last_turn_that_has_an_end_marker() -> None:
    assert masker(USER, ASSISTANT, train_on_eos="last")([2, 60, 9, 2, 61]) == [_, 60, 9, _, 61]


def test_turns_last_trains_the_last_trained_turn_only() -> None:
    assert masker(USER, ASSISTANT, turns="last")([2, 60, 9, 2, 61, 9, 1, 50, 9]) == [_, _, _, _, 61, 9, _, _, _]


def test_turns_last_round_trains_the_answers_behind_the_last_question() -> None:
    question, answer = [1, 50, 9], [2, 60, 9]
    last_round = masker(USER, ASSISTANT, turns="last_round")
    trained = [_, 60, 9]
    assert last_round([*question, *answer, *question, *answer, *answer]) == [_] * 9 + trained * 2
    assert last_round([*answer, *answer]) == trained * 2  # no question
    assert last_round([*answer, *question]) == [_] * 6
    assert last_round([*question, *question, *answer]) == [_] * 6 + trained
    assert (
        last_round([*question, *answer, *answer, *answer, *question, *answer], seq_lens=[9, 9]) == [_] * 3 + trained * 2 + [_] * 6 + trained
    )
    assert last_round([*question, *answer, *answer], train_turns=[True, False]) == [_] * 3 + trained + [_] * 3
    ends = masker(USER, ASSISTANT, turns="last_round", train_on_eos="last")
    assert ends([*question, *answer, *question, *answer, *answer]) == [_] * 10 + [60, _, _, 60, 9]
    assert last_round.report([*answer, *question]).why_empty == "no words of assistant follow the last question (turns=last_round)"
    with pytest.raises(PolicyError, match="turns='last_round' needs questions: the markers declare no role 'user', only assistant"):
        masker(ASSISTANT, turns="last_round")


def test_a_users_turn_that_carries_a_tools_result_is_no_question() -> None:
    result = Marker("tool", (TokenIds((3,)),), (TokenIds((4,)),), within="user")
    last_round = masker(USER, ASSISTANT, result, turns="last_round")
    ids = [1, 50, 9, 2, 60, 9, 1, 3, 70, 4, 3, 71, 4, 9, 2, 61, 9]
    assert last_round(ids) == [_, _, _, _, 60, 9, *[_] * 9, 61, 9]
    assert last_round(ids[6:]) == [_] * 9 + [61, 9]


def test_train_on_inputs_trains_all_but_media_and_padding() -> None:
    markers = MarkerSet("toy", "Toy", (USER, ASSISTANT), media={"image": ("<image>",)})
    from rolemask.matching.vocabulary import Vocabulary

    vocabulary = Vocabulary("toy", {id_: b"w" for id_ in range(80) if id_ not in (7, 0)}, {"<image>": 7, "<pad>": 0}, pad_id=0)
    ids = [8, 1, 7, 50, 9, 2, 60, 9, 0, 0]
    assert markers.compile(vocabulary, train_on_inputs=True)(ids) == [8, 1, _, 50, 9, 2, 60, 9, _, _]
    # With a mask, the pad id is an ordinary id.
    assert markers.compile(vocabulary, train_on_inputs=True)(ids, [1] * 9 + [0]) == [8, 1, _, 50, 9, 2, 60, 9, 0, _]


def test_the_pad_id_is_trained_only_where_it_ends_a_turn() -> None:
    from rolemask.matching.vocabulary import Vocabulary

    vocabulary = Vocabulary("toy", dict.fromkeys(range(80), b"w"), {}, pad_id=9)
    m = MarkerSet("toy", "Toy", (USER, ASSISTANT)).compile(vocabulary)
    assert m([1, 50, 9, 2, 60, 9, 9, 9]) == [_, _, _, _, 60, 9, _, _]
    assert m([9, 9, 2, 60, 9], [0, 0, 1, 1, 1]) == [_, _, _, 60, 9]
    assert m([2, 60, 9, 9], [1, 1, 0, 0]) == [_, 60, _, _]


def test_a_marker_never_spans_a_masked_token() -> None:
    m = masker(Marker("assistant", (TokenIds((2, 3)),), (TokenIds((9,)),)))
    assert m([2, 3, 60], [1, 0, 1]) == [_, _, _]


def test_negative_ids_are_never_trained() -> None:
    assert masker(ASSISTANT)([2, 60, -200, 61, 9]) == [_, 60, _, 61, 9]


def test_a_masked_role_is_never_trained() -> None:
    ids = [1, 50, 9, 2, 5, 70, 6, 60, 9]
    assert masker(USER, ASSISTANT, REASONING)(ids) == [_, _, _, _, 5, 70, 6, 60, 9]
    assert masker(USER, ASSISTANT, REASONING, roles_to_mask=["reasoning"])(ids) == [_, _, _, _, _, _, _, 60, 9]
    assert masker(USER, ASSISTANT, REASONING, roles_to_mask=["reasoning"], train_on_inputs=True)(ids) == [1, 50, 9, 2, _, _, _, 60, 9]
    assert masker(USER, ASSISTANT, REASONING, roles_to_mask=["user"], train_on_eos="all")(ids) == [_, _, _, _, 5, 70, 6, 60, 9]
    assert masker(USER, ASSISTANT, REASONING, roles_to_mask=["user"], train_on_inputs=True)(ids) == [_, _, _, 2, 5, 70, 6, 60, 9]
    segments = masker(USER, ASSISTANT, REASONING, roles_to_mask=["reasoning"]).explain(ids).segments
    assert "words of reasoning, which is in roles_to_mask" in [segment.why for segment in segments]


def test_a_turn_of_which_only_a_masked_span_would_be_trained_is_no_trainable_turn() -> None:
    tool = Marker("tool", (TokenIds((2,)),), (TokenIds((9,)),))
    reasoning = Marker("reasoning", (TokenIds((5,)),), (TokenIds((6,)),), within="tool", follows_turn=True)
    other = Marker("assistant", (TokenIds((1,)),), (TokenIds((9,)),))
    ids = [1, 50, 9, 2, 5, 70, 6, 60, 9]
    options: dict[str, Any] = {"roles_to_train": ["assistant"], "turns": "last"}
    assert masker(tool, reasoning, other, roles_to_mask=["reasoning", "tool"], **options)(ids) == [_, 50, 9, _, _, _, _, _, _]


def test_a_masked_role_has_no_weight() -> None:
    weighed = masker(USER, ASSISTANT, REASONING, roles_to_mask=["reasoning"])
    assert weighed.weights([2, 5, 70, 6, 60, 9], role_weights={"assistant": 2.0}) == [0, 0, 0, 0, 2, 2]
    with pytest.raises(PolicyError, match="roles_to_train and roles_to_mask both name the role 'reasoning'"):
        weighed.weights([2, 60], role_weights={"assistant": 2.0, "reasoning": 1.0})


def test_no_role_trains_nothing_and_none_means_the_assistant() -> None:
    assert masker(USER, ASSISTANT, roles_to_train=[])([2, 60, 9]) == [_, _, _]
    assert masker(USER, ASSISTANT, roles_to_train=None)([2, 60, 9]) == [_, 60, 9]
    assert masker(USER, ASSISTANT, roles_to_train=["user"])([1, 50, 9, 2, 60, 9]) == [_, 50, 9, _, _, _]


def test_a_spans_end_that_is_longer_than_the_turns_keeps_the_turn_open() -> None:
    """gpt-oss ends its reasoning with the end marker of a turn followed by a turn start."""
    reasoning = replace(REASONING, end=(TokenIds((9, 2)),))
    masked = masker(USER, ASSISTANT, reasoning)
    assert masked([1, 50, 9, 2, 5, 60, 9, 2, 61, 9, 1, 51, 9]) == [_, _, _, _, 5, 60, 9, 2, 61, 9, _, _, _]
    assert masked([1, 50, 9, 2, 5, 60, 9, 1, 51, 9]) == [_, _, _, _, 5, 60, 9, _, _, _]


def test_a_spans_end_that_is_left_in_place_is_no_longer_than_the_turns() -> None:
    reasoning = replace(REASONING, end=(TokenIds((9, 2)),), include_end=False, rewind=True)
    assert masker(USER, ASSISTANT, reasoning)([2, 5, 60, 9, 2, 61, 9]) == [_, 5, 60, 9, _, 61, 9]


# Each letter is a token, and so is the seam of two text markers, "><", as in many vocabularies.
SEAM = Vocabulary("seams", {index: piece.encode() for index, piece in enumerate(["<", ">", "><", "u", "m", "e", "t", "x", "/t"])}, {})


def spelled(text: str) -> list[int]:
    """Return ids, the longest token first."""
    ids = []
    while text:
        id_ = max((id_ for id_, piece in SEAM.pieces.items() if text.encode().startswith(piece)), key=lambda id_: len(SEAM.pieces[id_]))
        ids.append(id_)
        text = text[len(SEAM.pieces[id_]) :]
    return ids


@pytest.mark.parametrize(
    ("text", "trained"),
    [
        ("<u>x<m>x<e><u>x<m>x<e>", "x<e><x<e>"),  # the end marker reaches into the next header, whose role is found all the same
        ("<m><u>x<m>x<e>", "x<e>"),  # an empty answer without its end marker
        ("<m><e><u>x<m>x<e>", "e><x<e>"),  # an empty answer: the token that its end shares with the header is the header's
        ("<m><t>x</t><e><u>x", "t>x</t><e><"),  # a span begins in the header, the end in the span's end
    ],
)
def test_a_token_may_end_one_marker_and_begin_another(text: str, trained: str) -> None:
    next_start = text.startswith("<m><u>")
    end = (EndWord.NEXT_START, "<e>") if next_start else ("<e>",)
    markers = (
        Marker("user", ("<u>",), (EndWord.NEXT_START,), include_end=False, rewind=True),
        Marker("assistant", ("<m>",), end),
        Marker("reasoning", ("<t>",), ("</t>",), within="assistant", follows_turn=True),
    )
    rules = compile_rules(MarkerSet("seams", "Seams", markers), SEAM)
    ids = spelled(text)
    masked = mask(ids, rules, make_policy(rules.roles))
    assert b"".join(SEAM.pieces[id_] for id_ in masked.labels if id_ != _).decode() == trained
