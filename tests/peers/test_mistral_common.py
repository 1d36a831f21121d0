"""Mistral's formats on mistral-common's own encoding: what it adds for an assistant's message is trained, and not a token more."""

from collections.abc import Callable
from functools import cache

import pytest
from marked import EMOJI, WHITE_SPACE
from mistral import encode, packaged, tekken
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

import rolemask
from rolemask.chat_templates.scenarios import SCENARIOS, THREE_TURNS, Scenario
from rolemask.matching.vocabulary import read_vocabulary

SPM = "mistral_instruct_tokenizer_241114.model.v7"
NAMED = {scenario.name: scenario for scenario in (*SCENARIOS, WHITE_SPACE, EMOJI)}
# What every version encodes. Two answers in a row become one message there, and an empty one is refused.
PLAIN = ["one turn", "three turns", "system", "code", "CJK", "emoji"]
PLAIN += ["newlines at the edges", "blanks at the edges", "punctuation at the edges", "white space", "emoji alone"]
CALLS = [*PLAIN, "tools", "two tool results", "a call at the end"]
V3 = [*CALLS, "parallel calls"]  # words or calls, not both
V7 = [*V3, "words before a call"]
THINK = [*V7, "reasoning", "reasoning in earlier turns", "reasoning and tools"]
SETTINGS = ["reasoning off", "reasoning on, none given"]
TOKENIZERS: dict[str, tuple[str, Callable[[], MistralTokenizer], list[str]]] = {
    "mistral_v1": ("mistral_v1", lambda: packaged("tokenizer.model.v1"), PLAIN),
    "mistral_v3-v2": ("mistral_v3", lambda: packaged("mistral_instruct_tokenizer_240216.model.v2"), CALLS),
    "mistral_v3-v3-spm": ("mistral_v3", lambda: packaged("mistral_instruct_tokenizer_240323.model.v3"), V3),
    "mistral_v3-v3-tekken": ("mistral_v3", lambda: packaged("tekken_240718.json"), V3),
    "pixtral-v3-tekken": ("pixtral", lambda: packaged("tekken_240911.json"), V3),
    "pixtral-v3-tekken-240718": ("pixtral", lambda: packaged("tekken_240718.json"), V3),
    "mistral_v7_tekken-v7": ("mistral_v7_tekken", lambda: tekken(7), V7),
    "mistral_v7_tekken-v11": ("mistral_v7_tekken", lambda: tekken(11), V7),
    "mistral_v7_tekken-v13": ("mistral_v7_tekken", lambda: tekken(13), THINK),
    "mistral_v7_tekken-v15": ("mistral_v7_tekken", lambda: tekken(15), [*THINK, *SETTINGS]),
    "mistral_v7_tekken-v7-spm": ("mistral_v7_tekken", lambda: packaged(SPM), V7),
    "mistral3-v7": ("mistral3", lambda: tekken(7), V7),
    "mistral3-v7-spm": ("mistral3", lambda: packaged(f"{SPM}m1"), V7),
    "mistral3-v11": ("mistral3", lambda: tekken(11), V7),
    "mistral3-v13": ("mistral3", lambda: tekken(13), THINK),
    "mistral3-v15": ("mistral3", lambda: tekken(15), [*THINK, *SETTINGS]),
    "magistral-v11": ("magistral", lambda: tekken(11), THINK),
    "voxtral-v7": ("voxtral", lambda: tekken(7, audio=True), V7),
    "voxtral-v13": ("voxtral", lambda: tekken(13, audio=True), V7),
    "voxtral-v15": ("voxtral", lambda: tekken(15, audio=True), [*V7, *SETTINGS]),
}


def answers(tokenizer: MistralTokenizer, scenario: Scenario) -> list[list[int]]:
    """Return, for each assistant message, the ids that the conversation through it adds to its prompt."""
    found = []
    for index, message in enumerate(scenario.messages):
        if message["role"] == "assistant":
            prompt = encode(tokenizer, scenario.through(index))
            through = encode(tokenizer, scenario.through(index + 1))
            assert through[: len(prompt)] == prompt
            found.append(through[len(prompt) :])
    return found


def runs(labels: list[int]) -> list[list[int]]:
    """Return the trained stretches."""
    found: list[list[int]] = []
    for before, label in zip([rolemask.IGNORE_INDEX, *labels], labels, strict=False):
        if label != rolemask.IGNORE_INDEX:
            if before == rolemask.IGNORE_INDEX:
                found.append([])
            found[-1].append(label)
    return found


@cache
def masker_of(marker_set: str, tokenizer: MistralTokenizer, eos: str) -> rolemask.Masker:
    return rolemask.load(marker_set).compile(tokenizer, train_on_eos=eos)


CASES = [pytest.param(name, scenario, id=f"{name}-{scenario}") for name, (_, _, takes) in TOKENIZERS.items() for scenario in takes]


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_labels_are_what_mistral_common_adds_for_the_assistant(name: str, scenario: str) -> None:
    marker_set, make, _ = TOKENIZERS[name]
    tokenizer = make()
    ids = encode(tokenizer, NAMED[scenario])
    expected = answers(tokenizer, NAMED[scenario])
    if name == "mistral_v3-v2" and scenario == "tools":
        expected.pop(0)  # calls, and their results, are left out once another question follows
    for eos in ("turn", "all"):  # the marker that ends the user's turn and opens the assistant's must not leak
        assert runs(masker_of(marker_set, tokenizer, eos)(ids)) == expected
    assert masker_of(marker_set, tokenizer, "turn").report(ids).unterminated == 0


@pytest.mark.parametrize(
    ("name", "media"), [("pixtral-v3-tekken", ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]), ("voxtral-v7", ["[BEGIN_AUDIO]", "[AUDIO]"])]
)
def test_media_tokens_are_never_trained(name: str, media: list[str]) -> None:
    marker_set, make, _ = TOKENIZERS[name]
    tokenizer = make()
    vocabulary = read_vocabulary(tokenizer)
    begin, end, eos, *placeholders = (vocabulary.special_tokens[token] for token in ("[INST]", "[/INST]", "</s>", *media))
    ids = [begin, *placeholders, 2000, end, 2001, *placeholders, 2002, eos]
    assert runs(masker_of(marker_set, tokenizer, "turn")(ids)) == [[2001], [2002, eos]]
    everything = rolemask.load(marker_set).compile(tokenizer, train_on_inputs=True)(ids)
    assert not set(everything) & set(placeholders)


def test_a_transcription_is_trained_and_its_language_is_not() -> None:
    tokenizer = tekken(7, audio=True)
    vocabulary = read_vocabulary(tokenizer)
    inner = tokenizer.instruct_tokenizer.tokenizer
    for language in ([], inner.encode("lang:en", bos=False, eos=False)):
        control = vocabulary.special_tokens
        prompt = [control["[INST]"], control["[BEGIN_AUDIO]"], control["[AUDIO]"], control["[/INST]"], *language, control["[TRANSCRIBE]"]]
        answer = inner.encode(" Good morning.", bos=False, eos=True)
        assert runs(rolemask.load("voxtral").compile(tokenizer)(prompt + answer)) == [answer]


def test_the_tokenizer_class_of_transformers_is_understood() -> None:
    """Transformers wraps mistral-common in a class of its own, whose attributes differ from its other tokenizers'."""
    from importlib.resources import files

    from transformers.tokenization_mistral_common import MistralCommonBackend

    backend = MistralCommonBackend(str(files("mistral_common") / "data" / "tekken_240911.json"))
    tokenizer = packaged("tekken_240911.json")
    ids = encode(tokenizer, THREE_TURNS)
    assert rolemask.load("pixtral").compile(backend)(ids) == rolemask.load("pixtral").compile(tokenizer)(ids)
