"""The forty ways in which loss masks go wrong elsewhere, each met once: rolemask does it right, or is loud.

The number in a test's name is that of the class; the issue or pull request in its docstring is where the class was seen. In the texts below
the stretches between ``[[`` and ``]]`` are trained, everything else is not.

Without a test, or with a test of a part, since token ids alone do not tell:

- 5, literal markers in contents: their ids are those of real ones. Tested is that the counts give it away, and the way out.
- 13, 27, 28: whether a row's stop tokens, prefills and reasoning are those that the model meets at inference is the template's affair; no
  warning about unbalanced reasoning is made. Tested is what is trained of each, and the counts that show it.
- 15, an EOS that was put after a cut answer before masking: if it is the end marker, it looks like a real end. Tested is the cut.
- 24, 26, text that was tokenized in parts: the labels are those of the ids that came. Tested is the token at the seam.
- 30, a warning about two BOS tokens: none is made. Tested is that neither is trained.
- 31, 33, "the last n" and "the last round": not offered by name. Tested are `turns` and `train_turns`, which can say both.
- 40f, additional heads that forget the labels: outside this library, which makes labels and no losses.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marked import assistant, ids_of, read_vocabulary, show, unmarked, user
from mistral import encode as encode_mistral
from mistral import packaged, tekken
from real import byte_level, template_text

import rolemask
from rolemask import IGNORE_INDEX, EmptyRowError, InputError, MarkerSet, Masker, TokenizerMismatchError
from rolemask.chat_templates.scenarios import Scenario
from rolemask.cli.chats import Chat, render_with_markers
from rolemask.markers.spec import EndWord, Marker
from rolemask.masking.reference import mask
from rolemask.matching.toy_tokenizer import ToyTokenizer

ALPACA = MarkerSet(
    "alpaca_style",
    "Text markers, an EOS",
    (
        Marker("user", ("### Instruction:\n",), (EndWord.NEXT_START,), include_end=False, rewind=True),
        Marker("assistant", ("### Response:\n",), (EndWord.EOS_TOKEN,)),
    ),
)
VICUNA = MarkerSet.from_role_boundaries(
    [
        {"role": "user", "start": "USER:", "end": "ASSISTANT:", "include_end": False},
        {"role": "assistant", "start": "ASSISTANT:", "end": "eos_token"},
    ]
)
HI = "<|im_start|>user\nHi<|im_end|>\n"
YES = "<|im_start|>assistant\n[[Yes.<|im_end|>]]\n"


def qwen() -> Any:
    """Transformers' tokenizer with the real vocabulary of Qwen 3; made once."""
    return byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def qwen_masker(name: str = "qwen3", **policy: Any) -> Masker:
    return rolemask.load(name).compile(qwen(), **policy)


def embedded(name: str, **policy: Any) -> tuple[ToyTokenizer, Masker]:
    """A registered set, and the tokenizer that is made of it."""
    markers = rolemask.load(name)
    tokenizer = ToyTokenizer(markers)
    return tokenizer, markers.compile(tokenizer, **policy)


def assert_trains(masker: Masker, tokenizer: Any, marked: str, **rows: Any) -> None:
    """Hold the labels of a text to the brackets in it."""
    ids = ids_of(tokenizer, marked)
    labels = masker(ids, **rows)
    assert show(tokenizer, ids, labels) == marked
    assert labels == [id_ if label != IGNORE_INDEX else IGNORE_INDEX for id_, label in zip(ids, labels, strict=True)]


def contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    return any(list(ids[at : at + len(part)]) == list(part) for at in range(len(ids)))


# A. Finding the markers in token ids


def test_01_marker_tokenizes_differently_in_context() -> None:
    """A marker that was encoded alone is not among the ids of the chat, and the row trains nothing (trl#588, trl#1183)."""
    marked = "### Instruction:\nWhy?\n##### Response:\n\n[[So.<|im_end|>]]### Instruction:\nAnd?\n### Response:\n\n[[No.<|im_end|>]]"
    ids = ids_of(qwen(), marked)
    assert not contains(ids, ids_of(qwen(), "### Response:\n"))
    assert_trains(ALPACA.compile(qwen()), qwen(), marked)
    # SentencePiece adds a space to what begins a text, or follows a special token; a newline is always a token of its own.
    tokenizer = packaged("tokenizer.model.v1")
    ids = ids_of(tokenizer, "### Instruction:\nWhy?\n### Response:\nSo.</s>### Instruction:\nAnd?\n##### Response:\n\nNo.</s>")
    assert not contains(ids, ids_of(tokenizer, "### Response:\n"))
    labels = ALPACA.compile(tokenizer)(ids)
    expected = " ### Instruction:\nWhy?\n### Response:\n[[So.</s>]] ### Instruction:\nAnd?\n##### Response:\n[[\nNo.</s>]]"
    assert show(tokenizer, ids, labels) == expected


@pytest.mark.parametrize("newlines", ["\n", "\n\n", "\n\n\n\n"])
def test_02_leading_newline_merges_with_the_header(newlines: str) -> None:
    """Content that begins with a newline merges with the header's: user turns are trained, assistant turns lost (prime-rl#1103)."""
    marked = f"<|im_start|>user\n{newlines}- a<|im_end|>\n<|im_start|>assistant\n{newlines}[[- b<|im_end|>]]\n"
    ids = ids_of(qwen(), marked)
    assert not contains(ids, ids_of(qwen(), "assistant\n"))
    assert_trains(qwen_masker(), qwen(), marked)  # the token that both share is the header's
    assert qwen_masker().report(ids).turns == {"user": 1, "assistant": 1}


def test_03_marker_with_a_space_that_the_next_token_takes() -> None:
    """A marker written with a blank after it never matches, since the blank is the next token's, and all is masked (unsloth#1262)."""
    markers = MarkerSet.from_role_boundaries(
        [
            {"role": "user", "start": "USER: ", "end": "ASSISTANT: ", "include_end": False},
            {"role": "assistant", "start": "ASSISTANT: ", "end": "eos_token"},
        ]
    )
    marked = "USER: Hi ASSISTANT: Yes[[, sir.<|im_end|>]]USER: Bye ASSISTANT: No[[!!!<|im_end|>]]"
    assert not contains(ids_of(qwen(), marked), ids_of(qwen(), "ASSISTANT: "))
    assert_trains(markers.compile(qwen()), qwen(), marked)


def test_03_dummy_space_of_sentencepiece() -> None:
    """SentencePiece writes a space after a special token, which markers spelled without it miss (unsloth PR#7062)."""
    tokenizer = packaged("mistral_instruct_tokenizer_241114.model.v7")
    chat = Scenario("two turns", (user("Hi"), assistant("Yes."), user("Bye"), assistant("Ciao!")))
    ids = encode_mistral(tokenizer, chat)
    labels = rolemask.load("mistral_v7_tekken").compile(tokenizer)(ids)
    assert show(tokenizer, ids, labels) == "<s>[INST] Hi[/INST][[ Yes.</s>]][INST] Bye[/INST][[ Ciao!</s>]]"


def test_03_single_token_marker_does_not_match_other_ids() -> None:
    """A marker of one token ended up as the id 0, which every exclamation mark matched (unsloth PR#7062)."""
    assert ids_of(qwen(), "!") == [0]
    markers = MarkerSet.from_role_boundaries(
        [{"role": "user", "start": "<|box_start|>"}, {"role": "assistant", "start": "<|box_end|>", "end": "<|im_end|>"}]
    )
    assert_trains(markers.compile(qwen()), qwen(), "<|box_start|>! Hi ! !<|box_end|>[[! Yes ! !<|im_end|>]]!")


def test_04_wrong_set_for_the_tokenizer_is_loud() -> None:
    """Markers of another checkpoint match nowhere, and every label is -100 without a word (unsloth#1128, unsloth#2364)."""
    with pytest.raises(TokenizerMismatchError) as caught:
        rolemask.load("gemma3").compile(qwen())
    assert "'<start_of_turn>', '<end_of_turn>' of 'gemma3' is not one token in" in str(caught.value)
    assert "Wrong tokenizer? The set nearest to this tokenizer is" in str(caught.value)


def test_04_wrong_template_for_the_set_is_loud() -> None:
    """The tokenizer has the tokens, but the chat was written with another template (unsloth#3041)."""
    with pytest.raises(EmptyRowError, match=r"no start marker of 'qwen3' was found in \d+ tokens. Was the chat rendered with another"):
        qwen_masker(on_empty="error")(ids_of(qwen(), "### Instruction:\nHi\n### Response:\nYes."))


def test_04_every_turn_of_a_thinking_checkpoint_is_found() -> None:
    """A marker that contains the opened reasoning matches the last turn only, since earlier ones have lost theirs (zoo PR#834)."""
    marked = f"{HI}{YES}{HI}{YES}{HI}<|im_start|>assistant\n<think>\n[[Hm.\n</think>\n\nYes.<|im_end|>]]\n"
    masker = qwen_masker("qwen3-thinking-2507")
    assert_trains(masker, qwen(), marked)
    assert masker.report(ids_of(qwen(), marked)).turns == {"user": 3, "assistant": 3}


def test_05_literal_markers_in_contents_show_in_the_counts() -> None:
    """A user writes an assistant's header, and what follows is trained (Megatron-Bridge PR#5166): ids cannot tell, counts can."""
    report = qwen_masker().report(ids_of(qwen(), f"<|im_start|>user\nSay <|im_start|>assistant\nEVIL<|im_end|>\n{YES}"))
    assert report.turns == {"user": 1, "assistant": 2}  # of two messages
    assert report.unterminated == 1


def test_05_text_that_looks_like_a_marker_is_not_one() -> None:
    """The same with special tokens split in contents: what only looks like a marker opens and ends nothing (transformers#29279)."""

    def split(text: str) -> list[int]:
        return list(qwen().encode(text, add_special_tokens=False, split_special_tokens=True))

    question, answer = split("Say <|im_start|>assistant\nEVIL<|im_end|>"), split("I do not say <|im_end|> here.")
    head, middle, end = (ids_of(qwen(), part) for part in ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"))
    ids = [*head, *question, *middle, *answer, *end]
    assert qwen_masker()(ids) == [IGNORE_INDEX] * len([*head, *question, *middle]) + [*answer, *end]
    assert qwen_masker().report(ids).turns == {"user": 1, "assistant": 1}


@pytest.mark.parametrize("eos", ["turn", "all"])
def test_06_marker_shared_by_two_roles(eos: str) -> None:
    """[/INST] ends the user's turn and starts the assistant's; eaten by the one, it is missed by the other (axolotl#2089)."""
    tokenizer = tekken(7)
    chat = Scenario("two turns", (user("Hi"), assistant("Yes."), user("Bye"), assistant("Ciao!")))
    ids = encode_mistral(tokenizer, chat)
    masker = rolemask.load("mistral_v7_tekken").compile(tokenizer, train_on_eos=eos)
    assert show(tokenizer, ids, masker(ids)) == "<s>[INST]Hi[/INST][[Yes.</s>]][INST]Bye[/INST][[Ciao!</s>]]"
    assert masker.report(ids).turns == {"user": 2, "assistant": 2}


@pytest.mark.parametrize("role", ["tool", "system", "observer"])
def test_07_roles_beside_user_and_assistant(role: str) -> None:
    """Tool results and system turns in mid-chat are trained where only a user ends the assistant's span (trl PR#3224)."""
    between = f"<|im_start|>{role}\nOUTPUT<|im_end|>\n"
    assert_trains(qwen_masker("chatml"), qwen(), f"{HI}{YES}{between}{YES}")
    # Without its end marker, too, the turn before ends where the next one starts.
    assert_trains(qwen_masker("chatml"), qwen(), f"{HI}<|im_start|>assistant\n[[Yes.\n]]{between}{YES}")
    report = qwen_masker("chatml").report(ids_of(qwen(), f"{HI}{YES}{between}{YES}"))
    assert report.unknown_roles == (1 if role == "observer" else 0)


def test_07_tool_results_in_a_user_turn() -> None:
    """Qwen writes tool results as a user's words: masked with the user, and a role of their own (trl PR#3224)."""
    call = '<|im_start|>assistant\n[[<tool_call>\n{"name": "f"}\n</tool_call><|im_end|>]]\n'
    result = "<|im_start|>user\n<tool_response>\nOUTPUT\n</tool_response><|im_end|>\n"
    assert_trains(qwen_masker(), qwen(), f"{HI}{call}{result}{YES}")
    only_tool = result.replace("<tool_response>", "[[<tool_response>").replace("</tool_response>", "</tool_response>]]")
    assert_trains(qwen_masker(roles_to_train=["tool"]), qwen(), f"{HI}{unmarked(call)}{only_tool}{unmarked(YES)}")


def test_08_missing_end_marker_does_not_run_on() -> None:
    """An assistant turn without its end marker takes in the user turn after it, whose own end marker ends both (axolotl PR#3625)."""
    marked = f"{HI}<|im_start|>assistant\n[[Yes.\n]]{HI}{YES}"
    assert_trains(qwen_masker(), qwen(), marked)
    assert qwen_masker().report(ids_of(qwen(), marked)).unterminated == 1


def test_09_foreign_span_inside_the_turn() -> None:
    """Gemma 4 has tool results inside the model's turn, and the model learns to invent them (oumi PR#2589)."""
    tokenizer, masker = embedded("gemma4")
    question = "<|turn>user\nRain?<turn|>\n<|turn>model\n"
    call, result = "<|tool_call>f<tool_call|><|tool_response>", "OUTPUT<tool_response|>"
    assert_trains(masker, tokenizer, f"{question}[[{call}]]{result}[[{call}]]{result}[[Yes.<turn|>]]\n")
    assert_trains(masker, tokenizer, f"{question}[[{call}]]")  # where generation stops and waits


def test_10_role_header_is_not_trained() -> None:
    """The mask starts at the header, and the model answers "assistant" and a newline first (Automodel PR#3353, trl PR#5720)."""
    messages = [user("Hi"), assistant("Yes.")]
    template = template_text("trl/qwen2_5.jinja")
    whole = qwen().apply_chat_template(messages, chat_template=template, tokenize=False)
    prompt = qwen().apply_chat_template(messages[:1], chat_template=template, tokenize=False, add_generation_prompt=True)
    assert whole == f"{prompt}Yes.<|im_end|>\n"
    assert_trains(qwen_masker("qwen2_5"), qwen(), f"{prompt}[[Yes.<|im_end|>]]\n")


# B. The stop token


def test_11_pad_is_eos() -> None:
    """Padding is masked by its id, and where pad == eos the stop token is never learned (transformers#23530, trl#976)."""
    vocabulary = read_vocabulary(qwen())
    end = vocabulary.special_tokens["<|im_end|>"]
    masker = rolemask.load("qwen3").compile(replace(vocabulary, pad_id=end))
    ids = ids_of(qwen(), f"{HI}{YES}")
    alone = qwen_masker()(ids)
    assert alone.count(end) == 1
    ones, zeros, pads, masked = [1] * len(ids), [0] * 3, [end] * 3, [IGNORE_INDEX] * 3
    assert masker([*ids, *pads], [*ones, *zeros]) == [*alone, *masked]
    assert masker([*pads, *ids], [*zeros, *ones]) == [*masked, *alone]
    assert masker([*ids, *pads]) == [*alone, *masked]  # without an attention mask
    assert masker([*pads, *ids]) == [*masked, *alone]
    # Padding after an answer that was cut off is no stop token.
    cut = ids[:-2]
    assert masker([*cut, *pads], [*ones[:-2], *zeros]) == [*alone[:-2], *masked]


def test_12_eos_token_is_not_the_end_of_turn() -> None:
    """The tokenizer's EOS is trained and the token that ends a turn is not: answers never stop (axolotl#3754, torchtune#949)."""
    vocabulary = read_vocabulary(qwen())
    other_eos = replace(vocabulary, eos_id=vocabulary.special_tokens["<|endoftext|>"], pad_id=None)
    masker = rolemask.load("qwen3").compile(other_eos)
    assert_trains(masker, qwen(), f"{HI}{YES}{HI}{YES}<|endoftext|>")
    gemma, gemma_masker = embedded("gemma3")
    assert_trains(gemma_masker, gemma, "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n[[Yes.<end_of_turn>]]\n")


STOPS = {
    "chatml": HI + YES,
    "gemma3": "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n[[Yes.<end_of_turn>]]\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[[Yes.<|eot_id|>]]",
    "llava": "USER: Hi ASSISTANT:[[ Yes.</s>]]",
    "mistral_v7_tekken": "[INST]Hi[/INST][[Yes.</s>]]",
    "smolvlm2": "<|im_start|>User: Hi<end_of_utterance>\nAssistant:[[ Yes.<end_of_utterance>]]\n",
}


@pytest.mark.parametrize("name", STOPS)
def test_13_the_stop_token_belongs_to_the_turn(name: str) -> None:
    """The end marker falls outside the trained span, and the fine-tuned model runs on (trl#7230)."""
    tokenizer, masker = embedded(name)
    assert_trains(masker, tokenizer, STOPS[name])
    ids = ids_of(tokenizer, STOPS[name])
    last = [segment for segment in masker.explain(ids).segments if segment.trained][-1]
    assert (last.role, last.part, last.why) == ("assistant", "end marker", "end marker of assistant: train_on_eos=turn")
    assert masker.report(ids).unterminated == 0
    assert masker.report(ids).stops_trained == {"assistant": masker.report(ids).turns["assistant"]}
    # Whoever masks it has said so.
    without = rolemask.load(name).compile(tokenizer, train_on_eos="none")
    assert without.report(ids).stops_trained == {}
    assert without.report(ids).trained == masker.report(ids).trained - 1


def test_14_the_next_header_is_the_stop_token() -> None:
    """GLM stops by writing the next role's token; masked as a header, no turn is ever closed (prime-rl PR#2644, slime#514)."""
    tokenizer, masker = embedded("glm46v")
    call = "<|user|>\nRain?<|assistant|>\n[[<tool_call>f</tool_call><|observation|>]]\nOUTPUT"
    assert_trains(masker, tokenizer, f"{call}<|assistant|>\n[[Yes.<|user|>]]\nBye<|assistant|>\n[[Ciao.]]")
    # Of two assistant turns in a row the first has no stop token: the second header is no role's to write.
    assert_trains(masker, tokenizer, "<|user|>\nHi<|assistant|>\n[[A]]<|assistant|>\n[[B<|user|>]]")
    # The same without a list of the tokens that may come next; of a header of several tokens the first one is the stop token.
    markers = MarkerSet(
        "next_start_style",
        "No end markers",
        (
            Marker("user", ("<|box_start|>user\n",), (EndWord.NEXT_START,), include_end=False, rewind=True),
            Marker("assistant", ("<|box_end|>bot\n",), (EndWord.NEXT_START,), rewind=True),
        ),
    )
    marked = "<|box_start|>user\nHi<|box_end|>bot\n[[Yes.<|box_start|>]]user\nBye<|box_end|>bot\n[[Ciao.]]"
    assert_trains(markers.compile(qwen()), qwen(), marked)


def test_15_truncation_slices_the_labels() -> None:
    """Truncation masks the EOS of whole answers, or demands one of cut answers (torchtune#2792, trl PR#4698)."""
    masker = qwen_masker(on_empty="ignore")
    end = ids_of(qwen(), "<|im_end|>")[0]
    ids = ids_of(qwen(), f"{HI}{YES}{HI}{YES}")
    whole = masker(ids)
    assert whole.count(end) == 2
    for length in range(len(ids) + 1):
        assert masker(ids[:length]) == whole[:length]
    assert masker.report(ids[:-2]).unterminated == 1  # the last answer without its stop token
    assert masker.report(ids).unterminated == 0


def test_16_what_follows_the_stop_token_is_not_trained() -> None:
    """The newline after the end marker, or a second EOS, is trained too (unsloth#1467, axolotl#1921)."""
    assert_trains(qwen_masker(), qwen(), f"{HI}{YES}{HI}{YES}")
    assert_trains(qwen_masker(), qwen(), f"{HI}<|im_start|>assistant\n[[Yes.<|im_end|>]]<|im_end|>\n<|endoftext|>\n")


def test_17_the_stop_token_goes_with_its_turn() -> None:
    """History is masked and its stop tokens stay trained (LLaMA-Factory PR#10827)."""
    history = f"{HI}{unmarked(YES)}"
    assert_trains(qwen_masker(turns="last"), qwen(), f"{history}{HI}{YES}")
    assert_trains(qwen_masker(), qwen(), f"{HI}{YES}{history}", train_turns=[True, False])


# C. Masks from the chat template


def test_18_no_generation_tag_is_needed() -> None:
    """Templates without {% generation %} give a mask of zeros, silently (transformers#34172, marin#7237)."""
    template = template_text("trl/qwen3.jinja")
    assert "generation %}" not in template
    messages = [user("Hi"), assistant("Yes.")]
    text = qwen().apply_chat_template(messages, chat_template=template, tokenize=False)
    answer = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert text == f"{HI}{answer}Yes.<|im_end|>\n"
    assert_trains(qwen_masker(), qwen(), f"{HI}{answer}[[Yes.<|im_end|>]]\n")


def test_18_a_row_that_trains_nothing_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    """The same where nothing can be trained: a warning, or an error, with the reason (transformers#34172)."""
    ids = ids_of(qwen(), HI)
    reason = "turns found: 1 user; none of assistant. Wrong roles_to_train, or truncated?"
    with pytest.raises(EmptyRowError, match=reason.replace("?", r"\?")):
        qwen_masker(on_empty="error")(ids)
    qwen_masker()(ids)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"'qwen3': row 0 (of 0..0) trains nothing: {reason}" in warnings[0]


def test_19_a_span_at_token_0_does_not_run_on() -> None:
    """A span that starts or ends at token 0 counts as none, and the mask runs to the end of the sequence (transformers#47325)."""
    assert_trains(qwen_masker(), qwen(), f"{YES}{HI}")
    tokenizer, masker = embedded("gemma3", on_empty="ignore")
    end = ids_of(tokenizer, "<end_of_turn>")
    assert masker([*end, *ids_of(tokenizer, "Hi")]) == [IGNORE_INDEX] * 3
    # An answer that the template stripped to nothing is its stop token.
    assert_trains(qwen_masker(), qwen(), f"{HI}<|im_start|>assistant\n[[<|im_end|>]]\n{HI}")


def test_20_a_truncated_answer_keeps_its_labels() -> None:
    """An answer that was cut off gets a mask of zeros (transformers#34494)."""
    assert_trains(qwen_masker(), qwen(), f"{HI}<|im_start|>assistant\n[[The answer is]]")
    # Cut inside the header there is nothing to train.
    for header in ("<|im_start|>", "<|im_start|>assistant", "<|im_start|>assistant\n"):
        assert_trains(qwen_masker(on_empty="ignore"), qwen(), f"{HI}{header}")


@pytest.mark.parametrize("answer", ["🦜龘", "naïve 👩‍👩‍👧 ok"])
def test_21_no_offsets_are_needed(answer: str) -> None:
    """Offsets are wrong inside a character, or missing altogether (tokenizers#1553, transformers#3058)."""
    head, end = ids_of(qwen(), f"{HI}<|im_start|>assistant\n"), ids_of(qwen(), "<|im_end|>")
    content = ids_of(qwen(), answer)
    assert any("\ufffd" in read_vocabulary(qwen()).text([id_]) for id_ in content)  # a part of a character
    assert qwen_masker()([*head, *content, *end]) == [IGNORE_INDEX] * len(head) + [*content, *end]
    # A tokenizer that has no offsets at all.
    tokenizer = packaged("mistral_instruct_tokenizer_241114.model.v7")
    chat = Scenario("one turn", (user("Hi"), assistant(answer)))
    ids = encode_mistral(tokenizer, chat)
    prompt = encode_mistral(tokenizer, chat.through(1))
    labels = rolemask.load("mistral_v7_tekken").compile(tokenizer)(ids)
    assert labels == [IGNORE_INDEX] * len(prompt) + ids[len(prompt) :]


def test_22_expanded_media_do_not_shift_the_mask() -> None:
    """A mask made before an image's placeholder is expanded is too short, or shifted (transformers#46559, trl#3751)."""
    masker = rolemask.load("qwen2_vl").compile(SimpleNamespace(tokenizer=qwen()))  # a processor, as far as this goes
    for count in (1, 64):
        image = f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>"
        assert_trains(masker, qwen(), f"<|im_start|>user\n{image}What is this?<|im_end|>\n{YES}")


def test_23_left_padding_does_not_shift_the_mask() -> None:
    """With padding on the left the mask lies beside the answer (Automodel PR#2314)."""
    short, long = ids_of(qwen(), f"{HI}{YES}"), ids_of(qwen(), f"{HI}{YES}{HI}{YES}")
    count, pad = len(long) - len(short), qwen().pad_token_id
    alone, masked = qwen_masker()(short), [IGNORE_INDEX] * (len(long) - len(short))
    assert sum(label != IGNORE_INDEX for label in alone) == 3
    left = torch.tensor([[pad] * count + short, long])
    right = torch.tensor([short + [pad] * count, long])
    for attended in (True, False):
        left_mask, right_mask = ((left != pad).long(), (right != pad).long()) if attended else (None, None)
        assert qwen_masker()(left, left_mask).tolist() == [masked + alone, qwen_masker()(long)]
        assert qwen_masker()(right, right_mask).tolist() == [alone + masked, qwen_masker()(long)]
    # Padding after an answer that was cut off is not the answer's, even where no attention mask says so.
    assert qwen_masker()(short[:-2] + [pad] * count) == alone[:-2] + masked


# D. Assumptions about rendering, and about prefixes


def test_24_labels_are_those_of_the_ids_that_came() -> None:
    """Messages that are tokenized one by one, and then whole, have different ids, and so the mask of other ids (OpenRLHF#591)."""
    head, body = f"{HI}<|im_start|>assistant\n", "\n- b<|im_end|>\n"
    whole, parts = ids_of(qwen(), head + body), ids_of(qwen(), head) + ids_of(qwen(), body)
    assert whole != parts
    assert show(qwen(), whole, qwen_masker()(whole)) == f"{head}\n[[- b<|im_end|>]]\n"  # the newlines are one token
    assert show(qwen(), parts, qwen_masker()(parts)) == f"{head}[[\n- b<|im_end|>]]\n"


def test_25_a_template_that_rewrites_the_past() -> None:
    """Qwen3 drops earlier reasoning, so a mask by the length of earlier renderings trains the user (Automodel PR#3024, slime PR#330)."""
    messages = [user("Hi"), assistant("Yes.", reasoning_content="Long thoughts."), user("Hi"), assistant("No.", reasoning_content="Hm.")]
    render = qwen().apply_chat_template
    options = {"chat_template": template_text("trl/qwen3.jinja"), "tokenize": False}
    whole = render(messages, **options)
    assert not whole.startswith(render(messages[:2], **options))
    marked = f"{HI}{YES}{HI}<|im_start|>assistant\n[[<think>\nHm.\n</think>\n\nNo.<|im_end|>]]\n"
    assert whole == unmarked(marked)
    assert_trains(qwen_masker(), qwen(), marked)


@pytest.mark.parametrize(
    ("markers", "prompt", "completion", "trained"),
    [
        (rolemask.load("qwen3"), "<|im_start|>assistant\n", "\nYes.<|im_end|>", "Yes.<|im_end|>"),
        (rolemask.load("qwen3"), "<|im_start|>assistant\n<think>\n\n</think>\n\n", "\n\nYes.<|im_end|>", "Yes.<|im_end|>"),
        (ALPACA, "### Instruction:\nHi\n### Response:\n", "\nYes.<|im_end|>", "Yes.<|im_end|>"),
        (VICUNA, "USER: Hi ASSISTANT:", "//x<|im_end|>", "x<|im_end|>"),
    ],
    ids=["qwen3", "qwen3 without thinking", "alpaca", "vicuna"],
)
def test_26_the_token_across_prompt_and_completion(markers: MarkerSet, prompt: str, completion: str, trained: str) -> None:
    """A token across the seam makes len(prompt_ids) wrong, and the mask begins too late or too early (torchtitan PR#4504)."""
    ids, alone = ids_of(qwen(), prompt + completion), ids_of(qwen(), prompt)
    assert ids[: len(alone)] != alone
    labels = markers.compile(qwen())(ids)
    assert labels == [IGNORE_INDEX] * len(alone) + ids_of(qwen(), trained)


def test_27_what_the_generation_prompt_supplies_is_not_trained() -> None:
    """The empty reasoning block that the prompt supplies is trained, and the model forgets how to think (Automodel PR#3739, LF#7905)."""
    empty = "<think>\n\n</think>\n\n"
    assert_trains(qwen_masker(), qwen(), f"{HI}<|im_start|>assistant\n{empty}[[Yes.<|im_end|>]]\n")
    assert_trains(qwen_masker(), qwen(), f"{HI}<|im_start|>assistant\n[[<think>\nHm.\n</think>\n\nYes.<|im_end|>]]\n")
    # Where the prompt opens the reasoning, the model begins after that.
    newer = qwen_masker("qwen3_5")
    assert_trains(newer, qwen(), f"{HI}<|im_start|>assistant\n{empty}[[Yes.<|im_end|>]]\n")
    assert_trains(newer, qwen(), f"{HI}<|im_start|>assistant\n<think>\n[[Hm.\n</think>\n\nYes.<|im_end|>]]\n")


def test_28_unbalanced_reasoning_does_not_leak() -> None:
    """Reasoning is stripped, cut, or wrapped in an empty block again (ms-swift#4939, trl PR#6363): no other turn suffers, counts show it."""
    cut = f"{HI}<|im_start|>assistant\n[[<think>\nHm.<|im_end|>]]\n{HI}{YES}"
    assert_trains(qwen_masker(), qwen(), cut)
    only = f"{HI}<|im_start|>assistant\n[[<think>\nHm.]]<|im_end|>\n{HI}{unmarked(YES)}"
    assert_trains(qwen_masker(roles_to_train=["reasoning"]), qwen(), only)
    wrapped_again = f"{HI}<|im_start|>assistant\n<think>\n\n</think>\n\n[[Hm.\n</think>\n\nYes.<|im_end|>]]\n"
    assert_trains(qwen_masker(), qwen(), wrapped_again)
    counts = [qwen_masker().report(ids_of(qwen(), text)).role_tokens.get("reasoning", 0) for text in (cut, wrapped_again)]
    assert counts == [len(ids_of(qwen(), "<think>\nHm.")), 0]


def test_29_only_the_reasoning_or_only_the_answer() -> None:
    """Reasoning and answer cannot be told apart by any option (LLaMA-Factory#8445, LLaMA-Factory#9365)."""
    reasoning, answer = "<think>\nHm.\n</think>", "\n\nYes.<|im_end|>"
    head = f"{HI}<|im_start|>assistant\n"
    assert_trains(qwen_masker(roles_to_train=["reasoning"]), qwen(), f"{head}[[{reasoning}]]{answer}\n")
    weights = qwen_masker().weights(ids_of(qwen(), f"{head}{reasoning}{answer}\n"), role_weights={"assistant": 1.0, "reasoning": 0.0})
    sizes = [len(ids_of(qwen(), text)) for text in (head + reasoning, answer)]
    assert weights == [0.0] * sizes[0] + [1.0] * sizes[1] + [0.0]


def test_30_doubled_bos_is_not_trained() -> None:
    """The template writes BOS and the tokenizer adds another; either may be trained (trl#3328, LoongForge PR#170)."""
    chat = "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n[[Yes.<end_of_turn>]]\n"
    tokenizer = byte_level("qwen3", ("<bos>", "<start_of_turn>", "<end_of_turn>"), bos_token="<bos>")
    masker = rolemask.load("gemma3").compile(tokenizer)
    assert_trains(masker, tokenizer, f"<bos><bos>{chat}")
    assert masker.report(ids_of(tokenizer, f"<bos><bos>{chat}")).turns == {"user": 1, "assistant": 1}


# E. Which turns


def test_31_all_turns_or_the_last_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Only the last assistant turn is trained, or all are, and nobody said so (axolotl#1761, trl#1282)."""
    earlier = f"{HI}{unmarked(YES)}"
    with caplog.at_level(logging.INFO, "rolemask"):
        every, last = qwen_masker(), qwen_masker(turns="last")
    assert_trains(every, qwen(), f"{HI}{YES}" * 3)
    assert_trains(last, qwen(), f"{earlier}{earlier}{HI}{YES}{HI}")
    policies = [record.getMessage().split("; ")[0].rpartition("turns=")[2] for record in caplog.records]
    assert policies == ["all", "last"]
    assert str(every.report(ids_of(qwen(), f"{HI}{YES}" * 3))) == "9 of 39 tokens trained; turns: 3 user, 3 assistant"


def test_32_flags_per_message_are_counted() -> None:
    """Flags per message are lost, or shift when messages are merged (LLaMA-Factory PR#9630, ms-swift#9029)."""
    ids = ids_of(qwen(), f"{HI}{YES}" * 3)
    marked = f"{HI}{YES}{HI}{unmarked(YES)}{HI}{YES}"
    assert_trains(qwen_masker(), qwen(), marked, train_turns=[True, False, True])
    with pytest.raises(InputError, match="train_turns has 2 flags for row 0, where 3 turns of assistant were found"):
        qwen_masker()(ids, train_turns=[True, False])
    with pytest.raises(InputError, match="train_turns has 4 flags for row 0, where 3 turns of assistant were found"):
        qwen_masker()(ids, train_turns=[True, False, True, True])


def test_33_the_last_round_with_tools() -> None:
    """The last round leaves out the call before the tool result, or does not go with other options (ms-swift PR#9923, ms-swift#4175)."""
    call = "<|im_start|>assistant\n<think>\n\n</think>\n\n[[<tool_call>\nf\n</tool_call><|im_end|>]]\n"
    result = "<|im_start|>user\n<tool_response>\nOUTPUT\n</tool_response><|im_end|>\n"
    answer = "<|im_start|>assistant\n<think>\n\n</think>\n\n[[Yes.<|im_end|>]]\n"
    earlier = f"{HI}{unmarked(YES)}"
    # The empty reasoning stays masked, whichever turns are picked.
    assert_trains(qwen_masker(), qwen(), f"{earlier}{HI}{call}{result}{answer}", train_turns=[False, True, True])
    assert_trains(qwen_masker(turns="last"), qwen(), f"{earlier}{HI}{unmarked(call)}{result}{answer}")


def test_34_consecutive_assistant_messages() -> None:
    """Two assistant messages in a row are taken for one, header and all (trl PR#3224, Automodel PR#2325)."""
    assert_trains(qwen_masker(), qwen(), f"{HI}{YES}{YES}")
    marked = f"{HI}<|im_start|>assistant\n[[Yes.\n]]{YES}"  # the first without its end marker
    assert_trains(qwen_masker(), qwen(), marked)
    assert qwen_masker().report(ids_of(qwen(), marked)).turns == {"user": 1, "assistant": 2}


# F. Batch, loss, pipeline


def test_35_an_empty_row_is_told_with_the_reason() -> None:
    """A row of nothing but -100 makes the loss NaN, or 0.0 (trl#6668, nanochat PR#662, trl#3927)."""
    whole = ids_of(qwen(), f"{HI}{YES}")
    cut = ids_of(qwen(), f"{HI}<|im_start|>assistant\n")
    masker = qwen_masker(on_empty="error")
    assert masker.report(whole).trained == 3
    with pytest.raises(EmptyRowError) as caught:
        masker([whole, cut])
    reason = "every turn of assistant is cut off before its first word. Truncated?"
    assert f"'qwen3': row 1 (of 0..1) trains nothing: {reason}" in str(caught.value)
    reports = masker.report([whole, cut, ids_of(qwen(), "Hi")])
    assert [report.why_empty for report in reports] == [
        None,
        reason,
        "no start marker of 'qwen3' was found in 1 tokens. Was the chat rendered with another template?",
    ]


def test_36_packed_documents_keep_their_masks() -> None:
    """Packing drops the mask, or lets a turn run into the next document (trl#3728, unsloth#109, nanochat PR#582)."""
    cut, plain, chat = (ids_of(qwen(), text) for text in (f"{HI}<|im_start|>assistant\nThe answer", "Plain words.", f"{HI}{YES}"))
    row, lengths = [*cut, *plain, *chat], [len(cut), len(plain), len(chat)]
    masker = qwen_masker(on_empty="ignore")
    expected = [*masker(cut), *masker(plain), *masker(chat)]
    assert sum(label != IGNORE_INDEX for label in expected) == 2 + 0 + 3
    assert masker(row) != expected  # it does run on unless the documents are known
    starts = [index == 0 for length in lengths for index in range(length)]
    assert mask(row, masker.rules, masker.policy, starts=starts).labels == expected
    assert masker(row, seq_lens=lengths) == expected
    positions = torch.tensor([[index for length in lengths for index in range(length)]])
    assert masker(torch.tensor([row]), position_ids=positions).tolist() == [expected]


@pytest.mark.parametrize("kind", [list, torch.tensor])
@pytest.mark.parametrize("told_by", ["position_ids", "seq_lens"])
def test_36_packed_rows_of_a_dataset_keep_their_masks(kind: Any, told_by: str) -> None:
    """The same where the rows come from a dataset or a collator, which say in a column what was packed (trl#3728)."""
    cut, chat = ids_of(qwen(), f"{HI}<|im_start|>assistant\nThe answer"), ids_of(qwen(), f"Plain words.\n{HI}{YES}")
    masker = qwen_masker()
    column = {"position_ids": [*range(len(cut)), *range(len(chat))], "seq_lens": [len(cut), len(chat)]}[told_by]
    batch = {"input_ids": kind([[*cut, *chat]]), told_by: kind([column])}
    labels = masker.map_batch(batch)["labels"]
    assert (labels if kind is list else labels.tolist()) == [[*masker(cut), *masker(chat)]]


def test_37_the_first_token_of_a_document_is_not_predicted_from_the_one_before() -> None:
    """The last token of a document is trained to predict the first of the next (torchtitan PR#4075, torchtune#1177)."""
    document = ids_of(qwen(), f"{HI}{YES}")
    masker = qwen_masker(train_on_inputs=True)
    starts = [1, *[0] * (len(document) - 1)] * 2
    expected = [*document, IGNORE_INDEX, *document[1:]]
    assert mask(document * 2, masker.rules, masker.policy, starts=starts).labels == expected
    assert masker(document * 2, cu_seqlens=[0, len(document), 2 * len(document)]) == expected
    # Content too: a document that begins with an included header.
    markers = MarkerSet.from_role_boundaries([{"role": "assistant", "start": "<|box_start|>", "end": "<|im_end|>", "include_start": True}])
    turn = ids_of(qwen(), "<|box_start|>Yes.<|im_end|>")
    assert markers.compile(qwen())(turn * 2, seq_lens=[len(turn)] * 2) == [*turn, IGNORE_INDEX, *turn[1:]]


def test_38_labels_are_not_shifted() -> None:
    """Mask and labels are one token apart: the first word is not trained, or the stop token is lost (verl PR#3287, OpenRLHF#973)."""
    ids = ids_of(qwen(), f"{HI}{YES}")
    labels = qwen_masker()(torch.tensor([ids]))[0]
    words = [read_vocabulary(qwen()).text([id_]) for id_ in ids]
    predictions = [(words[at], words[at + 1]) for at in range(len(ids) - 1) if labels[at + 1] != IGNORE_INDEX]
    assert predictions == [("\n", "Yes"), ("Yes", "."), (".", "<|im_end|>")]
    # What a causal model does with labels: it shifts them, once.
    logits = torch.full((len(ids), len(qwen())), 0.0)
    for at, id_ in enumerate(ids[1:]):
        logits[at, id_] = 100.0  # certain of the next token, everywhere
    assert torch.nn.functional.cross_entropy(logits[:-1], labels[1:]).item() == 0.0
    assert torch.nn.functional.cross_entropy(logits, labels).item() > 99.0


def test_39_one_masker_for_both_splits_and_a_fingerprint_for_caches() -> None:
    """The evaluation split is not masked, or labels come from a cache made with other options (unsloth#1041, axolotl#1265)."""
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    ids = ids_of(qwen(), f"{HI}{YES}")
    masker = qwen_masker("chatml")
    train, evaluation = (Dataset.from_dict({"input_ids": [ids]}).map(masker.map_batch, batched=True) for _ in range(2))
    assert train["labels"][:] == evaluation["labels"][:] == [masker(ids)]
    fingerprint = Hasher.hash(masker.map_batch)
    assert Hasher.hash(qwen_masker("chatml").map_batch) == fingerprint
    others = [qwen_masker("chatml", turns="last"), qwen_masker("chatml", train_on_eos="none"), qwen_masker("qwen3")]
    assert len({fingerprint, *(Hasher.hash(other.map_batch) for other in others)}) == 4


# G. Several modalities

WITH_MEDIA = [name for name in rolemask.available() if rolemask.load(name).media]


@pytest.mark.parametrize("name", WITH_MEDIA)
def test_40a_options_hold_for_every_set_with_media(name: str) -> None:
    """Models with images and audio ignore the options and train on everything (axolotl#3617)."""
    markers = rolemask.load(name)
    tokenizer = ToyTokenizer(markers)
    ids = tokenizer.encode(render_with_markers(Chat([user("QUESTION"), assistant("ANSWER")]), markers))
    for role, expected in (("user", "QUESTION"), ("assistant", "ANSWER")):
        labels = markers.compile(tokenizer, roles_to_train=[role], train_on_eos="none")(ids)
        assert tokenizer.vocabulary.text(label for label in labels if label != IGNORE_INDEX) == expected


@pytest.mark.parametrize("name", WITH_MEDIA)
@pytest.mark.parametrize("train_on_inputs", [False, True])
def test_40b_40c_media_are_never_trained(name: str, train_on_inputs: bool) -> None:
    """Placeholders and delimiters of media are trained, in an answer too (zoo PR#836, VLM-R1#123, LLaMA-Factory#8402)."""
    markers = rolemask.load(name)
    tokenizer = ToyTokenizer(markers)
    media = "".join(token for token in markers.media_tokens if "*" not in token)
    text = render_with_markers(Chat([user(f"{media}QUESTION"), assistant(f"AN{media}SWER")]), markers)
    ids = [*tokenizer.encode(text), -200]  # some processors write ids below 0 for media
    labels = markers.compile(tokenizer, train_on_inputs=train_on_inputs, train_on_eos="none")(ids)
    expected = text.replace(media, "") if train_on_inputs else "ANSWER"
    assert tokenizer.vocabulary.text(label for label in labels if label != IGNORE_INDEX) == expected
    assert labels[-1] == IGNORE_INDEX


def test_40d_truncation_through_an_image() -> None:
    """A cut through an image shifts the rest, or leaves placeholders that are trained (trl PR#5904, EasyR1 PR#76)."""
    image = f"<|vision_start|>{'<|image_pad|>' * 4}<|vision_end|>"
    ids = ids_of(qwen(), f"<|im_start|>user\n{image}What?<|im_end|>\n<|im_start|>assistant\nHere: {image} Yes.<|im_end|>\n")
    masker = qwen_masker("qwen2_vl", on_empty="ignore")
    whole = masker(ids)
    assert qwen().decode([label for label in whole if label != IGNORE_INDEX]) == "Here:  Yes.<|im_end|>"
    for length in range(len(ids) + 1):
        assert masker(ids[:length]) == whole[:length]
    # Cut on the left, inside the first image: its remains belong to no turn.
    start = ids.index(read_vocabulary(qwen()).special_tokens["<|image_pad|>"]) + 2
    assert masker(ids[start:]) == whole[start:]


def test_40e_processor_or_tokenizer_and_rows_of_text_only() -> None:
    """A processor is taken for a tokenizer, and rows without an image break the batch (zoo PR#60, unsloth#1467)."""
    processor = SimpleNamespace(tokenizer=qwen(), image_processor=object())
    markers = rolemask.load("qwen2_vl")
    image = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n"
    rows = [ids_of(qwen(), f"{image}{YES}"), ids_of(qwen(), f"{HI}{YES}")]
    labels = markers.compile(processor)(rows)
    assert labels == markers.compile(qwen())(rows)
    assert [show(qwen(), *row) for row in zip(rows, labels, strict=True)] == [f"{image}{YES}", f"{HI}{YES}"]
