"""Ground truths of small templates, with the expected answers written by hand."""

import pytest

from rolemask import ChatTemplate
from rolemask.chat_templates.ground_truth import GroundTruth, GroundTruthFinder, lies_within
from rolemask.chat_templates.rendering import (
    AmbiguousScenarioError,
    Renderer,
    UnsupportedScenarioError,
    common_prefix,
    guess_special_tokens,
)
from rolemask.chat_templates.scenarios import IMAGE, REASONING, SCENARIOS, SYSTEM, THREE_TURNS, TOOLS, Scenario

LOOP = "{% for m in messages %}"
CHATML = (
    LOOP
    + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The same, but nothing shows which message a piece was written for.
COLLECTED = (
    "{% set ns = namespace(text='') %}"
    + LOOP
    + "{% set ns.text = ns.text + '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' %}{% endfor %}"
    + "{{ ns.text }}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
NAMED = {scenario.name: scenario for scenario in SCENARIOS}


def regions(source: str, tokens: list[str], scenario: Scenario, **variables: str) -> list[str]:
    return GroundTruthFinder(ChatTemplate(source, "toy", variables), tokens).find(scenario).region_texts


def test_neither_the_prompt_nor_what_follows_the_stop_token_is_generated() -> None:
    assert regions(CHATML, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3.<|im_end|>"]


def test_white_space_of_the_answer_is_generated() -> None:
    assert regions(CHATML, CHATML_TOKENS, NAMED["newlines at the edges"]) == ["\n\nReply1\n<|im_end|>", "\tReply2 \n\n<|im_end|>"]


def test_an_empty_answer_is_its_stop_token() -> None:
    assert regions(CHATML, CHATML_TOKENS, NAMED["an empty answer"]) == ["<|im_end|>", "Reply2.<|im_end|>"]


def test_one_marker_may_end_the_user_and_start_the_assistant() -> None:
    source = LOOP + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    assert regions(source, ["[INST]", "[/INST]", "</s>"], THREE_TURNS) == ["Reply1.</s>", "Reply2.</s>", "Reply3.</s>"]
    with pytest.raises(AmbiguousScenarioError, match="renders nothing between two answers"):
        regions(source, ["[INST]", "[/INST]", "</s>"], NAMED["answers in a row"])


GLM = LOOP + "<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
GLM_TOKENS = ["<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"]


def test_stop_rule_first_token_of_next_turn() -> None:
    assert regions(GLM, GLM_TOKENS, THREE_TURNS) == ["\nReply1.<|user|>", "\nReply2.<|user|>", "\nReply3."]


def test_the_header_of_another_answer_is_no_stop_token() -> None:
    assert regions(GLM, GLM_TOKENS, NAMED["answers in a row"]) == ["\nReply1.", "\nReply2.<|user|>", "\nReply3."]


def test_stop_rule_usual_stop_token() -> None:
    source = CHATML.replace(
        "<|im_end|>\n{% endfor %}", "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
    )
    assert regions(source, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3."]


def test_a_token_at_the_end_of_the_whole_text_is_no_stop_token() -> None:
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if not add_generation_prompt %}</s>{% else %}")
    assert regions(source, [*CHATML_TOKENS, "</s>"], THREE_TURNS)[-1] == "Reply3.<|im_end|>"


def test_stop_rule_own_stop_token_is_the_eos_or_else_the_last() -> None:
    source = CHATML.replace("<|im_end|>\n", "<|end_text|><|im_end|>\n")
    tokens = [*CHATML_TOKENS, "<|end_text|>"]
    assert regions(source, tokens, THREE_TURNS)[0] == "Reply1.<|end_text|><|im_end|>"
    assert regions(source, tokens, THREE_TURNS, eos_token="<|end_text|>")[0] == "Reply1.<|end_text|>"


def test_a_dangling_header_is_not_generated() -> None:
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
    assert regions(source, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3.<|im_end|>"]


THINKING = (
    LOOP
    + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    + "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_a_template_may_change_earlier_turns() -> None:
    scenario = NAMED["reasoning in earlier turns"]
    truth = GroundTruthFinder(ChatTemplate(THINKING, "toy", {}), CHATML_TOKENS).find(scenario)
    assert truth.region_texts == ["Reply1.<|im_end|>", "<think>\nThought2.\n</think>\n\nReply2.<|im_end|>"]
    assert not truth.prefix_stable


def test_start_rule_whole_prompt_takes_the_longest() -> None:
    source = THINKING.replace("{{ m.reasoning_content }}", "{{ m.reasoning_content or '' }}")
    assert regions(source, CHATML_TOKENS, REASONING) == ["<think>\nThought1.\n</think>\n\nReply1.<|im_end|>"]
    assert regions(source, CHATML_TOKENS, NAMED["reasoning off"]) == ["Reply1.<|im_end|>"]


def test_start_rule_part_of_prompt() -> None:
    source = THINKING.replace("{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}", "<think>\n")
    assert regions(source, CHATML_TOKENS, NAMED["reasoning in earlier turns"]) == [
        "Reply1.<|im_end|>",
        "Thought2.\n</think>\n\nReply2.<|im_end|>",
    ]


def test_tool_results_are_not_generated() -> None:
    source = LOOP + (
        "<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert regions(source, CHATML_TOKENS, TOOLS) == ['<call>{"city": "Place1"}</call><|im_end|>', "Reply1.<|im_end|>", "Reply2<|im_end|>"]


@pytest.mark.parametrize(
    ("source", "scenario", "reason"),
    [
        (CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"), SYSTEM, "leaves out 'Order1' of message 0, system"),
        (CHATML, TOOLS, "leaves out 'Place1' of message 1, assistant"),
        (CHATML, IMAGE, "renders lists of parts as they are"),
        (CHATML, REASONING, "leaves out 'Thought1'"),
        (CHATML, NAMED["reasoning off"], "has no option for reasoning"),
        ("{{ raise_exception('Roles must alternate') }}", THREE_TURNS, "Roles must alternate"),
        ("{{ messages | map(attribute='content') | reverse | join }}", THREE_TURNS, "message 1 before the one that precedes it"),
    ],
)  # fmt: skip
def test_why_a_scenario_is_not_supported(source: str, scenario: Scenario, reason: str) -> None:
    with pytest.raises(UnsupportedScenarioError, match=reason):
        regions(source, CHATML_TOKENS, scenario)


def test_generation_blocks_are_kept() -> None:
    source = CHATML.replace("{{ m.content }}<|im_end|>", "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}")
    truth = GroundTruthFinder(ChatTemplate(source, "toy", {}), CHATML_TOKENS).find(NAMED["one turn"])
    assert [truth.text[start:stop] for start, stop in truth.generated] == ["Query1<|im_end|>", "Reply1!<|im_end|>"]


def test_small_helpers() -> None:
    assert common_prefix(["abc", "abd", "ab"]) == "ab"
    assert common_prefix([]) == ""
    assert lies_within(2, 4, [(0, 1), (2, 5)])
    assert not lies_within(0, 4, [(0, 3), (3, 5)])


def test_a_dangling_header_of_another_role_is_not_generated() -> None:
    """Command-R renders the instructions for tools after each call, without a stop token before them."""
    source = (
        LOOP + "<s>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.city }}{% else %}{{ m.content }}</e>{% endif %}"
        "{% endfor %}{% if tools %}<s>system\nUse tools.</e>{% endif %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    assert regions(source, ["<s>", "</e>"], NAMED["a call at the end"]) == ["Place1"]


def test_a_header_that_the_prompt_does_not_have_is_ambiguous() -> None:
    """Diffusion Gemma's prompt has no header after a tool result; the rendered scenario has one."""
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt and messages[-1].role != 'tool' %}").replace(
        "{{ m.content }}", "{{ m.content or '' }}{% for call in m.tool_calls or () %}{{ call.function.arguments }}{% endfor %}"
    )
    with pytest.raises(AmbiguousScenarioError, match="message 3 has a header that the generation prompt doesn't have"):
        regions(source, CHATML_TOKENS, TOOLS)


def test_start_rule_header_with_extra_white_space() -> None:
    source = (
        LOOP
        + "# {{ m.role }}:\n{{ m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}{% if add_generation_prompt %}# assistant:\n{% endif %}"
    )
    assert regions(source, [], THREE_TURNS) == ["Reply1.", "Reply2.", "Reply3."]


def test_of_content_none_and_content_empty_the_shorter_text_is_taken() -> None:
    call = "{% for call in m.tool_calls or () %}{{ call.function.arguments }}{% endfor %}"
    for made_of, taken in [
        ("{% if m.content is not none %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}", None),
        ("{{ m.content }}", ""),
    ]:
        source = LOOP + made_of + call + "{% endfor %}"
        accepted, _ = Renderer(ChatTemplate(source, "toy", {}), CHATML_TOKENS).render_in_accepted_form(NAMED["a call at the end"])
        assert accepted.messages[1]["content"] == taken


def test_a_message_in_two_turns_is_ambiguous() -> None:
    source = (
        LOOP
        + "<|{{ m.role }}|>{% for call in m.tool_calls or () %}{{ call.function.arguments }}</s><|assistant|>{% endfor %}{{ m.content }}</s>"
    )
    source += "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    with pytest.raises(AmbiguousScenarioError, match="message 1 as two turns"):
        regions(source, [*GLM_TOKENS, "</s>"], NAMED["words before a call"], eos_token="</s>")


def test_a_template_that_renders_only_a_prompt_gets_a_verdict() -> None:
    source = "<|user|>Judge.\n" + LOOP + "{{ m.role }}: {{ m.content }}\n{% endfor %}Is it safe?<|assistant|>"
    assert regions(source, GLM_TOKENS, THREE_TURNS, eos_token="</s>") == ["No.\n- S1</s>"]


def test_a_verdict_may_have_a_header_that_the_prompt_adds() -> None:
    """Granite Guardian."""
    source = "<|user|>Judge.\n" + LOOP + "{{ m.role }}: {{ m.content }}\n{% endfor %}Is it safe?</s>"
    source += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    assert regions(source, [*GLM_TOKENS, "</s>"], THREE_TURNS, eos_token="</s>") == ["No.\n- S1</s>"]


def test_a_header_after_each_answer_is_not_a_prompt_only() -> None:
    source = LOOP + "<|{{ m.role }}|>{% if m.role == 'assistant' %}<start>{% endif %}{{ m.content }}</s>{% endfor %}<|assistant|>"
    assert regions(source, [*GLM_TOKENS, "<start>", "</s>"], THREE_TURNS, eos_token="</s>")[:2] == [
        "<start>Reply1.</s>",
        "<start>Reply2.</s>",
    ]


@pytest.mark.parametrize("ending", ["<|im_end|>\n", "<|im_end|></s>", "\n###"])
def test_a_template_without_a_generation_prompt_is_not_a_prompt_only(ending: str) -> None:
    source = "<|im_start|>system\nHi.<|im_end|>\n" + LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}" + ending + "{% endfor %}"
    assert not Renderer(ChatTemplate(source, "toy", {"eos_token": "<|endoftext|>"}), [*CHATML_TOKENS, "</s>"]).renders_prompt_only


# --- the rules for the start and the stop, one test each (some are above)


def test_start_rule_whole_prompt_also_with_an_option_that_changes_the_question() -> None:
    """GLM adds `/nothink` to the question with the option that puts an empty reasoning block into the prompt."""
    source = LOOP + (
        "<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}{% endif %}"
    )
    with_block = source.replace("{{ m.content }}", "{% if m.role == 'assistant' %}<think></think>\n{% endif %}{{ m.content }}")
    assert regions(source, CHATML_TOKENS, THREE_TURNS)[0] == "Reply1.<|im_end|>"
    assert regions(with_block, CHATML_TOKENS, THREE_TURNS)[0] == "Reply1.<|im_end|>"


def test_start_rule_header_without_extra_turn() -> None:
    """Command-R's prompt has a turn with documents before the header."""
    documents = "<|im_start|>system\nDocuments: none.<|im_end|>\n"
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}" + documents)
    assert regions(source, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3.<|im_end|>"]


def test_start_rule_part_of_prompt_does_not_cut_words() -> None:
    source = COLLECTED.replace("assistant\n{% endif %}", "assistant_now\n{% endif %}")
    with pytest.raises(AmbiguousScenarioError, match="message 1 doesn't start with what the generation prompt contains"):
        regions(source, CHATML_TOKENS, THREE_TURNS)


def test_start_rule_header_in_history_of_a_template_with_another_prompt() -> None:
    source = CHATML.replace("assistant\n{% endif %}", "assistant_now\n{% endif %}")
    assert regions(source, CHATML_TOKENS, THREE_TURNS) == ["Reply1.<|im_end|>", "Reply2.<|im_end|>", "Reply3.<|im_end|>"]


@pytest.mark.parametrize(
    "scenario", [THREE_TURNS, NAMED["answers in a row"], NAMED["an empty answer"], NAMED["an answer that opens the chat"]]
)
def test_a_template_without_a_generation_prompt_has_its_header_in_the_history(scenario: Scenario) -> None:
    without_prompt = CHATML.partition("{% if add_generation_prompt %}")[0]
    assert regions(without_prompt, CHATML_TOKENS, scenario) == regions(CHATML, CHATML_TOKENS, scenario)


def test_of_a_header_in_the_history_the_last_blank_is_the_models() -> None:
    source = LOOP + "{{ 'Human: ' if m.role == 'user' else 'Robot: ' }}{{ m.content }}</s>\n{% endfor %}"
    assert regions(source, ["</s>"], THREE_TURNS, eos_token="</s>") == [" Reply1.</s>", " Reply2.</s>", " Reply3.</s>"]


def test_what_an_answer_closes_again_is_no_header() -> None:
    """Hunyuan has no generation prompt, and the model writes <answer> itself."""
    source = LOOP + "{% if m.role == 'user' %}<s>{{ m.content }}<sep>{% else %}<answer>{{ m.content }}</answer></s>{% endif %}{% endfor %}"
    assert regions(source, ["<s>", "<sep>", "</s>"], THREE_TURNS, eos_token="</s>")[0] == "<answer>Reply1.</answer></s>"


def test_an_empty_answer_that_is_not_rendered_is_not_generated() -> None:
    """Functionary renders nothing for it: what follows the question is the next question's header."""
    source = CHATML.replace(LOOP, LOOP + "{% if m.content %}").replace("{% endfor %}", "{% endif %}{% endfor %}", 1)
    assert regions(source, CHATML_TOKENS, NAMED["an empty answer"]) == ["", "Reply2.<|im_end|>"]


def test_a_header_that_is_always_rendered_at_the_end_is_no_stop_token() -> None:
    """GLM Edge: an answer stops at the user's header, and never at its own."""
    source = GLM.replace("{% if add_generation_prompt %}<|assistant|>{% endif %}", "<|assistant|>")
    assert regions(source, GLM_TOKENS, THREE_TURNS) == ["\nReply1.<|user|>", "\nReply2.<|user|>", "\nReply3."]


def test_without_a_generation_prompt_a_scenario_is_ambiguous() -> None:
    source = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}{{ raise_exception('never') }}")
    with pytest.raises(AmbiguousScenarioError, match="no generation prompt for message 1"):
        regions(source, CHATML_TOKENS, THREE_TURNS)


CALLS = (
    LOOP + "<|{{ m.role }}|>{% if m.tool_calls %}{{ m.content }}{{ m.tool_calls[0].function.arguments.city }}{{ after_call }}"
    "{% else %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_stop_rule_usual_stop_token_after_a_call_that_something_follows() -> None:
    """Nemotron Nano 2 closes a call only if something follows."""
    source = CALLS.replace("{{ after_call }}", "{% if not loop.last %}</s>{% endif %}")
    tokens = [*GLM_TOKENS, "</s>"]
    assert regions(source, tokens, TOOLS)[0] == "Place1</s>"
    assert regions(source, tokens, NAMED["a call at the end"]) == ["Place1"]


def test_stop_rule_first_token_of_next_turn_needs_a_template_that_leaves_answers_open() -> None:
    """DeepSeek R1 closes answers, and renders nothing between a call and its result: `<|tool|>` is no stop token there."""
    assert regions(CALLS, [*GLM_TOKENS, "</s>"], TOOLS)[0] == "Place1"
    leaves_open = CALLS.replace("{% if m.role == 'assistant' %}</s>{% endif %}", "")
    assert regions(leaves_open, GLM_TOKENS, TOOLS)[0] == "Place1<|tool|>"


def test_stop_rule_without_stop_token() -> None:
    source = LOOP + "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    assert regions(source, [], NAMED["one turn"]) == [" Reply1!\n"]


UNCLOSED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
SHARED = "{% for m in messages %}{{ '[ASK]' + m.content + '[/ASK]' if m.role == 'user' else m.content + '</s>' }}{% endfor %}"
BARE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% else %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}{{ m.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
DROPPED = UNCLOSED.replace("<|{{ m.role }}|>", "{% if not (loop.first and m.role == 'assistant') %}<|{{ m.role }}|>{% endif %}")


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        (CHATML, "two questions in a row", ["Reply1.<|im_end|>"]),
        (CHATML, "two questions, an answer, a question", ["Reply1.<|im_end|>"]),
        (CHATML, "a system turn in the middle", ["Reply1.<|im_end|>", "Reply2.<|im_end|>"]),
        (CHATML, "an answer that opens the chat", ["Reply1.<|im_end|>", "Reply2.<|im_end|>"]),
        (CHATML, "a question at the end", ["Reply1.<|im_end|>"]),
        ("<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML, "an answer that opens the chat", ["Reply1.<|im_end|>", "Reply2.<|im_end|>"]),
        (UNCLOSED, "a question at the end", ["Reply1.<|user|>"]),
        (UNCLOSED, "a system turn in the middle", ["Reply1.", "Reply2."]),  # the model doesn't wait for the system
        (SHARED, "two questions in a row", ["Reply1.</s>"]),
        (SHARED, "an answer that opens the chat", "no header before an answer that opens the chat"),
        (DROPPED, "an answer that opens the chat", "no header before an answer that opens the chat"),
        (BARE, "a system turn in the middle", "no header before a system turn, so it reads as part of the answer"),
        (BARE, "an answer that opens the chat", "no header before an answer that opens the chat"),
    ],
)
def test_chats_in_which_questions_and_answers_do_not_alternate(source: str, name: str, expected: list[str] | str) -> None:
    template = ChatTemplate(source, "toy", {"eos_token": "</s>"})
    ((_, truth),) = GroundTruthFinder(template, guess_special_tokens(template)).find_all([NAMED[name]])
    if isinstance(expected, str):
        assert expected in str(truth)
    else:
        assert isinstance(truth, GroundTruth)
        assert truth.region_texts == expected
