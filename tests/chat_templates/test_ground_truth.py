"""The truth, told of small templates whose answers are written out by hand."""

import pytest

from rolemask import ChatTemplate
from rolemask.chat_templates.ground_truth import GroundTruthFinder, lies_within, region_texts
from rolemask.chat_templates.rendering import UnsupportedScenarioError, common_prefix
from rolemask.chat_templates.scenarios import IMAGE, REASONING, SCENARIOS, SYSTEM, THREE_TURNS, TOOLS, Scenario

LOOP = "{% for m in messages %}"
CHATML = (
    LOOP
    + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
SHAPES = {conversation.name: conversation for conversation in SCENARIOS}


def regions(source: str, tokens: list[str], conversation: Scenario, **variables: str) -> list[str]:
    return region_texts(GroundTruthFinder(ChatTemplate(source, "toy", variables), tokens).find(conversation))


def test_what_the_prompt_supplies_and_what_follows_the_stop_token_is_not_the_models() -> None:
    assert regions(CHATML, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3.<|im_end|>"]


def test_white_space_of_the_answer_is_the_models() -> None:
    assert regions(CHATML, CHATML_TOKENS, SHAPES["newlines at the edges"]) == ["\n\nReply1\n<|im_end|>", "\tReply2 \n\n<|im_end|>"]


def test_an_empty_answer_is_its_stop_token() -> None:
    assert regions(CHATML, CHATML_TOKENS, SHAPES["an empty answer"]) == ["<|im_end|>", "Reply2.<|im_end|>"]


def test_one_marker_may_end_the_user_and_start_the_assistant() -> None:
    source = LOOP + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    assert regions(source, ["[INST]", "[/INST]", "</s>"], THREE_TURNS) == ["Reply1.</s>", "Reply2.</s>", "Reply3.</s>"]
    with pytest.raises(UnsupportedScenarioError, match="nothing between two answers"):
        regions(source, ["[INST]", "[/INST]", "</s>"], SHAPES["answers in a row"])


GLM = LOOP + "<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
GLM_TOKENS = ["<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"]


def test_where_nothing_closes_an_answer_the_next_header_stops_it() -> None:
    assert regions(GLM, GLM_TOKENS, THREE_TURNS) == ["\nReply1.<|user|>", "\nReply2.<|user|>", "\nReply3."]


def test_the_header_of_another_answer_stops_nothing() -> None:
    assert regions(GLM, GLM_TOKENS, SHAPES["answers in a row"]) == ["\nReply1.", "\nReply2.<|user|>", "\nReply3."]


def test_an_answer_that_is_left_open_when_it_is_last() -> None:
    source = CHATML.replace(
        "<|im_end|>\n{% endfor %}", "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
    )
    assert regions(source, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3."]


def test_what_closes_the_whole_text_is_no_stop_token() -> None:
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if not add_generation_prompt %}</s>{% else %}")
    assert regions(source, [*CHATML_TOKENS, "</s>"], THREE_TURNS)[-1] == "Reply3.<|im_end|>"


def test_of_several_closing_tokens_the_last_is_the_stop_token_or_the_eos() -> None:
    source = CHATML.replace("<|im_end|>\n", "<|end_text|><|im_end|>\n")
    tokens = [*CHATML_TOKENS, "<|end_text|>"]
    assert regions(source, tokens, THREE_TURNS)[0] == "Reply1.<|end_text|><|im_end|>"
    assert regions(source, tokens, THREE_TURNS, eos_token="<|end_text|>")[0] == "Reply1.<|end_text|>"


def test_a_header_left_dangling_is_not_the_models() -> None:
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
    assert regions(source, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3.<|im_end|>"]


THINKING = (
    LOOP
    + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    + "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_a_template_that_rewrites_the_past_is_followed() -> None:
    shape = SHAPES["reasoning in earlier turns"]
    truth = GroundTruthFinder(ChatTemplate(THINKING, "toy", {}), CHATML_TOKENS).find(shape)
    assert region_texts(truth) == ["Reply1.<|im_end|>", "<think>\nThought2.\n</think>\n\nReply2.<|im_end|>"]
    assert not truth.prefix_stable


def test_empty_reasoning_that_some_prompt_supplies_is_the_prompts() -> None:
    source = THINKING.replace("{{ m.reasoning_content }}", "{{ m.reasoning_content or '' }}")
    assert regions(source, CHATML_TOKENS, REASONING) == ["<think>\nThought1.\n</think>\n\nReply1.<|im_end|>"]
    assert regions(source, CHATML_TOKENS, SHAPES["reasoning off"]) == ["Reply1.<|im_end|>"]


def test_an_opening_that_the_prompt_writes_and_history_loses() -> None:
    source = THINKING.replace("{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}", "<think>\n")
    assert regions(source, CHATML_TOKENS, SHAPES["reasoning in earlier turns"]) == [
        "Reply1.<|im_end|>",
        "Thought2.\n</think>\n\nReply2.<|im_end|>",
    ]


def test_tool_results_are_nobodys_to_generate() -> None:
    source = LOOP + (
        "<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert regions(source, CHATML_TOKENS, TOOLS) == ['<call>{"city": "Place1"}</call><|im_end|>', "Reply1.<|im_end|>", "Reply2<|im_end|>"]


@pytest.mark.parametrize(
    ("source", "conversation", "reason"),
    [
        (CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"), SYSTEM, "leaves out 'Order1' of message 0, system"),
        (CHATML, TOOLS, "leaves out 'Place1' of message 1, assistant"),
        (CHATML, IMAGE, "writes lists of parts as they are"),
        (CHATML, REASONING, "leaves out 'Thought1'"),
        (CHATML, SHAPES["reasoning off"], "has no such switch"),
        ("{{ raise_exception('Roles must alternate') }}", THREE_TURNS, "Roles must alternate"),
        ("{{ messages | map(attribute='content') | reverse | join }}", THREE_TURNS, "message 1 before the one that precedes it"),
    ],
)  # fmt: skip
def test_what_a_template_does_not_write_is_told(source: str, conversation: Scenario, reason: str) -> None:
    with pytest.raises(UnsupportedScenarioError, match=reason):
        regions(source, CHATML_TOKENS, conversation)


def test_generation_blocks_are_handed_on() -> None:
    source = CHATML.replace("{{ m.content }}<|im_end|>", "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}")
    truth = GroundTruthFinder(ChatTemplate(source, "toy", {}), CHATML_TOKENS).find(SHAPES["one turn"])
    assert [truth.text[start:stop] for start, stop in truth.generated] == ["Query1<|im_end|>", "Reply1!<|im_end|>"]


def test_small_helpers() -> None:
    assert common_prefix(["abc", "abd", "ab"]) == "ab"
    assert common_prefix([]) == ""
    assert lies_within(2, 4, [(0, 1), (2, 5)])
    assert not lies_within(0, 4, [(0, 3), (3, 5)])


def test_the_beginning_of_anothers_turn_behind_an_answer_is_not_the_answers() -> None:
    """Command-R writes the instructions for tools behind each call, and no stop token before them."""
    source = (
        LOOP + "<s>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.city }}{% else %}{{ m.content }}</e>{% endif %}"
        "{% endfor %}{% if tools %}<s>system\nUse tools.</e>{% endif %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    assert regions(source, ["<s>", "</e>"], SHAPES["a call at the end"]) == ["Place1"]


def test_what_comes_behind_a_header_that_the_prompt_does_not_write_is_not_told() -> None:
    """Diffusion Gemma goes on behind a result without a header when asked to, and writes one in history."""
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt and messages[-1].role != 'tool' %}").replace(
        "{{ m.content }}", "{{ m.content or '' }}{% for call in m.tool_calls or () %}{{ call.function.arguments }}{% endfor %}"
    )
    with pytest.raises(UnsupportedScenarioError, match="writes a header for message 3 that its generation prompt does not write"):
        regions(source, CHATML_TOKENS, TOOLS)


def test_history_may_have_white_space_before_the_header_that_the_prompt_has_not() -> None:
    source = (
        LOOP
        + "# {{ m.role }}:\n{{ m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}{% if add_generation_prompt %}# assistant:\n{% endif %}"
    )
    assert regions(source, [], THREE_TURNS) == ["Reply1.", "Reply2.", "Reply3."]


def test_of_no_content_and_an_empty_one_the_form_is_taken_of_which_less_is_made() -> None:
    call = "{% for call in m.tool_calls or () %}{{ call.function.arguments }}{% endfor %}"
    for made_of, taken in [
        ("{% if m.content is not none %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}", None),
        ("{{ m.content }}", ""),
    ]:
        source = LOOP + made_of + call + "{% endfor %}"
        put, _ = GroundTruthFinder(ChatTemplate(source, "toy", {}), CHATML_TOKENS).put(SHAPES["a call at the end"])
        assert put.messages[1]["content"] == taken


def test_a_message_in_two_turns_is_not_told() -> None:
    source = (
        LOOP
        + "<|{{ m.role }}|>{% for call in m.tool_calls or () %}{{ call.function.arguments }}</s><|assistant|>{% endfor %}{{ m.content }}</s>"
    )
    source += "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    with pytest.raises(UnsupportedScenarioError, match="message 1 as two turns"):
        regions(source, [*GLM_TOKENS, "</s>"], SHAPES["words before a call"], eos_token="</s>")


def test_where_the_template_only_asks_for_a_verdict_one_is_put_behind_it() -> None:
    source = "<|user|>Judge.\n" + LOOP + "{{ m.role }}: {{ m.content }}\n{% endfor %}Is it safe?<|assistant|>"
    assert regions(source, GLM_TOKENS, THREE_TURNS, eos_token="</s>") == ["No.\n- S1</s>"]


def test_a_header_behind_each_answer_asks_for_no_verdict() -> None:
    source = LOOP + "<|{{ m.role }}|>{% if m.role == 'assistant' %}<start>{% endif %}{{ m.content }}</s>{% endfor %}<|assistant|>"
    assert regions(source, [*GLM_TOKENS, "<start>", "</s>"], THREE_TURNS, eos_token="</s>")[:2] == [
        "<start>Reply1.</s>",
        "<start>Reply2.</s>",
    ]


@pytest.mark.parametrize("ending", ["<|im_end|>\n", "<|im_end|></s>", "\n###"])
def test_a_template_that_writes_no_prompt_asks_for_no_verdict(ending: str) -> None:
    source = "<|im_start|>system\nHi.<|im_end|>\n" + LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}" + ending + "{% endfor %}"
    assert not GroundTruthFinder(ChatTemplate(source, "toy", {"eos_token": "<|endoftext|>"}), [*CHATML_TOKENS, "</s>"]).writes_prompts_only
