"""The definition, rule by rule, mostly on markers given as ids."""

from dataclasses import replace
from typing import Any

import pytest
from marked import show_trained, unmarked

from rolemask import MarkerSet, PolicyError, TokenIds, load
from rolemask.markers.spec import EndWord, Marker
from rolemask.masker import Masker
from rolemask.masking import reference
from rolemask.masking.policy import make_policy
from rolemask.masking.reference import mask
from rolemask.matching.compiler import compile_rules
from rolemask.matching.toy_tokenizer import ToyTokenizer
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
    assert masker(USER, ASSISTANT, TOOL)([2, 3, 40, 9, 60, 2, 61, 9]) == [_, _, _, _, _, _, 61, 9]
    assert masker(USER, ASSISTANT, TOOL)([2, 3, 40, 1, 50, 9, 2, 61, 9]) == [_, _, _, _, _, _, _, 61, 9]


def test_an_end_inside_somebody_elses_open_span_is_not_the_models() -> None:
    endless = replace(TOOL, end=())  # Apertus: the results run to the end of the model's turn
    assert masker(USER, ASSISTANT, endless)([2, 60, 3, 40, 9]) == [_, 60, _, _, 9]
    ends_with_the_turn = replace(TOOL, end=(TokenIds((4,)), TokenIds((9,))), rewind=True)
    assert masker(USER, ASSISTANT, ends_with_the_turn)([2, 60, 3, 40, 9]) == [_, 60, _, _, 9]
    assert masker(USER, ASSISTANT, REASONING)([2, 5, 60, 9]) == [_, 5, 60, 9]
    assert masker(USER, ASSISTANT, TOOL).report([2, 60, 3, 40, 9]).unterminated == 1


def test_an_end_that_begins_in_the_last_token_of_a_spans_start_leaves_it_that_token() -> None:
    assistant = replace(ASSISTANT, end=(TokenIds((7, 9)),))
    tool = replace(TOOL, start=(TokenIds((3, 7)),))
    rules = compile_rules(MarkerSet("toy", "Toy", (USER, assistant, tool)), None)
    policy = make_policy(rules.roles, roles_to_train=["tool"])
    assert mask([2, 60, 3, 7, 9, 50], rules, policy).labels == [_, _, 3, 7, _, _]


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


# A cut answer, then a document with a system prompt of its own, where BOS is all that tells.
DOCUMENTS_IN_A_ROW = [
    (
        "deepseek_v3",
        "<bos>Sys one.<｜User｜>q<｜Assistant｜>[[Cut off]]<bos>Sys two.<｜User｜>q<｜Assistant｜>[[Full.<｜end▁of▁sentence｜>]]",
    ),
    (
        "deepseek_llm",
        "<bos>Sys one.\n\nUser: q\n\nAssistant:[[ Cut off]]<bos>Sys two.\n\nUser: q\n\nAssistant:[[ Full.<｜end▁of▁sentence｜>]]",
    ),
    ("janus", "<bos>Sys one.\n\n<|User|>: q\n\n<|Assistant|>:[[ Whole.]]<bos>Sys two.\n\n<|User|>: q\n\n<|Assistant|>:[[ Whole.]]"),
    ("vicuna", "<bos>Sys one. USER: q ASSISTANT:[[ Cut off]]<bos>Sys two. USER: q ASSISTANT:[[ Full.</s>]]"),
    ("mistral_v1", "<bos> [INST] q [/INST][[ Cut off]]<bos>Sys two. [INST] q [/INST][[ Full.</s>]]"),
    ("mistral_v3", "<bos>[INST] q[/INST][[ Cut off]]<bos>Sys two.[INST] q[/INST][[ Full.</s>]]"),
    ("mistral_v7_tekken", "<bos>[INST]q[/INST][[Cut off]]<bos>Sys two.[SYSTEM_PROMPT]Three.[/SYSTEM_PROMPT][INST]q[/INST][[Full.</s>]]"),
    (
        "llama3",
        "<bos><|start_header_id|>assistant<|end_header_id|>\n\n[[Cut off]]<bos>Sys two."
        "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[[Full.<|eot_id|>]]",
    ),
    ("gemma4", "<bos><|turn>model\n[[Cut off]]<bos>Sys two.<|turn>model\n[[Full.<turn|>]]"),
    ("glm4_moe", "[gMASK]<sop><|user|>\nq<|assistant|>[[\nWhole.]][gMASK]<sop><|system|>\nSys two.<|user|>\nq<|assistant|>[[\nWhole.]]"),
    ("glm4_moe", "[gMASK]<sop><|user|>\nq<|assistant|>[[\nCut off]]<sop>Sys two.<|user|>\nq<|assistant|>[[\nWhole.<|endoftext|>]]"),
]
IDS_ALONE = Vocabulary("ids alone", {}, {f"<{id_}>": id_ for id_ in range(100)})
BOS = {"deepseek_v3": "<｜begin▁of▁sentence｜>", "deepseek_llm": "<｜begin▁of▁sentence｜>", "janus": "<｜begin▁of▁sentence｜>"}


def with_specials(name: str, *tokens: str) -> tuple[ToyTokenizer, MarkerSet]:
    """Return a toy tokenizer that has the tokens too, as special ones, and the set."""
    markers = load(name)
    return ToyTokenizer(replace(markers, special_tokens=tuple(dict.fromkeys([*markers.special_tokens, *tokens])))), markers


@pytest.mark.parametrize(("name", "marked"), DOCUMENTS_IN_A_ROW)
def test_what_begins_a_document_closes_the_turn_of_a_cut_answer(name: str, marked: str) -> None:
    bos = BOS.get(name, "<s>")
    tokenizer, markers = with_specials(name, bos, "[gMASK]", "<sop>")
    vocabulary = replace(tokenizer.vocabulary, bos_id=tokenizer.encode(bos)[0])
    rules = compile_rules(markers, vocabulary)
    expected = marked.replace("<bos>", bos)
    ids = tokenizer.encode(unmarked(expected))
    assert show_trained(vocabulary, ids, mask(ids, rules, make_policy(rules.roles)).labels) == expected


@pytest.mark.parametrize("token", ["bos", "eos", "pad"])
def test_a_special_token_of_the_tokenizer_that_no_marker_has_closes_a_turn(token: str) -> None:
    tokenizer, markers = with_specials("qwen3", "<|endoftext|>")
    id_ = tokenizer.encode("<|endoftext|>")[0]
    vocabulary = replace(tokenizer.vocabulary, **{f"{token}_id": id_})
    rules = compile_rules(markers, vocabulary)
    expected = "<|im_start|>assistant\n[[Cut off]]<|endoftext|>Raw text.<|im_start|>assistant\n[[Full.<|im_end|>]]\n"
    ids = tokenizer.encode(unmarked(expected))
    attention = [1] * len(ids)  # or a pad token is masked in any case
    assert show_trained(vocabulary, ids, mask(ids, rules, make_policy(rules.roles), attention=attention).labels) == expected
    everything = mask(ids, rules, make_policy(rules.roles, train_on_inputs=True), attention=attention)
    assert everything.labels == ids


def test_a_bos_token_that_is_the_end_marker_too_stays_the_end_marker() -> None:
    """OLMo 2: its BOS is its EOS. An answer is trained with it; a document behind a cut answer can't be told."""
    end = TokenIds((9,))
    rules = compile_rules(MarkerSet("toy", "Toy", (USER, replace(ASSISTANT, end=(end,)))), replace(IDS_ALONE, bos_id=9, eos_id=9))
    assert mask([1, 50, 2, 60, 9, 2, 61, 9], rules, make_policy(rules.roles)).labels == [_, _, _, 60, 9, _, 61, 9]


def test_a_document_start_is_no_border_between_documents() -> None:
    """Llama 2 writes a BOS token for every exchange: the last turn is the last of the row."""
    markers = MarkerSet("toy", "Toy", (USER, ASSISTANT), document_start=(TokenIds((7,)),))
    masked = markers.compile(turns="last")([7, 1, 50, 9, 2, 60, 9, 7, 1, 51, 9, 2, 61, 9])
    assert masked == [*[_] * 12, 61, 9]


def test_a_document_does_not_start_inside_a_marker() -> None:
    """Llama 2's header `[/INST]<s>[INST]` keeps its BOS token."""
    rules = compile_rules(MarkerSet("toy", "Toy", (replace(ASSISTANT, start=(TokenIds((2, 7, 3)),)),)), replace(IDS_ALONE, bos_id=7))
    assert mask([2, 7, 3, 60, 7, 61], rules, make_policy(rules.roles)).labels == [_, _, _, 60, _, _]


UNANSWERED = replace(ASSISTANT, unanswered="user")


def test_of_two_questions_in_a_row_neither_is_an_answer() -> None:
    """1 opens a question, 2 stands behind every question: 1 q 2 q 2 a 9."""
    user = replace(USER, end=(TokenIds((2,)),), include_end=False, rewind=True)
    ids = [1, 50, 2, 51, 2, 60, 9, 1, 52, 2, 61, 9]
    asked = masker(user, UNANSWERED)
    assert masker(user, ASSISTANT)(ids) == [_, _, _, 51, _, 60, 9, _, _, _, 61, 9]
    assert asked(ids) == [_, _, _, _, _, 60, 9, _, _, _, 61, 9]
    assert asked.report(ids).turns == {"user": 3, "assistant": 2}
    assert asked.report(ids).unterminated == 0
    assert asked(ids, train_turns=[False, True]) == [*[_] * 10, 61, 9]
    assert masker(user, UNANSWERED, turns="last")(ids[:7]) == [*[_] * 5, 60, 9]
    assert masker(user, UNANSWERED, roles_to_train=["user"])(ids) == [_, 50, _, 51, _, _, _, _, 52, _, _, _]


def test_the_next_start_of_its_own_is_no_answers_end() -> None:
    user = replace(USER, end=(TokenIds((2,)),), include_end=False, rewind=True)
    at_next_start = replace(UNANSWERED, end=(EndWord.NEXT_START,), rewind=True)
    assert masker(user, at_next_start)([1, 50, 2, 51, 2, 60, 1, 52]) == [_, _, _, _, _, 60, 1, _]


def test_an_answer_with_its_end_is_one_however_many_follow() -> None:
    assert masker(USER, UNANSWERED)([1, 50, 9, 2, 60, 9, 2, 61, 9, 2, 62]) == [_, _, _, _, 60, 9, _, 61, 9, _, 62]


def test_spans_of_an_unanswered_turn_are_the_questions() -> None:
    assert masker(USER, UNANSWERED, REASONING)([2, 5, 51, 6, 52, 2, 5, 60, 6, 61, 9]) == [*[_] * 6, 5, 60, 6, 61, 9]


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("hunyuan_a13b", "<|startoftext|>q1<|extra_0|>SECRET of the user.<|extra_0|>[[Answer.<|eos|>]]"),
        ("llama2", "[INST] q1 [/INST] SECRET [/INST][[ Answer.</s>]]"),
        (
            "gemma4",
            "<|turn>model\n[[<|tool_call>call:f{}<tool_call|><|tool_response>]]response:f{value:lon<turn|>\n<|turn>model\n[[Yes.<turn|>]]\n",
        ),
        ("orion", "<s>Human: q1\n\nAssistant: </s>Human: SECRET\n\nAssistant: </s>[[Answer.</s>]]"),
        ("mistral_v3", "<s>[INST] q1[/INST] SECRET[/INST][[ Answer.</s>]]"),
        ("glm4", "[gMASK]<sop><|user|>\nq<|assistant|>[[\nOne.]]<|assistant|>[[\nTwo.<|user|>]]"),
    ],
)
def test_what_is_not_the_models_in_real_sets(name: str, marked: str) -> None:
    tokenizer, markers = with_specials(name)
    rules = compile_rules(markers, tokenizer.vocabulary)
    ids = tokenizer.encode(unmarked(marked))
    assert show_trained(tokenizer.vocabulary, ids, mask(ids, rules, make_policy(rules.roles)).labels) == marked


def test_the_last_end_of_many_turns_is_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def count(*args: Any) -> bool:
        nonlocal asked
        asked += 1
        return role_is_trained(*args)

    role_is_trained = reference.role_is_trained
    monkeypatch.setattr(reference, "role_is_trained", count)
    rules = MarkerSet("toy", "Toy", (USER, ASSISTANT)).compile().rules
    masked = mask([1, 50, 9, 2, 60, 9] * 2000, rules, make_policy(rules.roles, train_on_eos="last"))
    assert masked.labels == [_, _, _, _, 60, _] * 1999 + [_, _, _, _, 60, 9]
    assert asked <= 4 * len(masked.turns)
