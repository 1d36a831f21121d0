"""mistral-common's tokenizers, of every version that its packaged files can be made into."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mistral_common.protocol.instruct.chunk import TextChunk, ThinkChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from rolemask.chat_templates.scenarios import Scenario
from rolemask.chat_templates.template import Message

AUDIO = {
    "sampling_rate": 16000,
    "frame_rate": 12.5,
    "chunk_length_s": 30.0,
    "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
}


@cache
def packaged(name: str) -> MistralTokenizer:
    """A tokenizer file as mistral-common ships it."""
    return MistralTokenizer.from_file(str(files("mistral_common") / "data" / name), mode=ValidationMode.finetuning)


@cache
def tekken(version: int, *, audio: bool = False) -> MistralTokenizer:
    """The packaged Tekken vocabulary under a later version number, with the special tokens and the settings that the version adds."""
    data = json.loads((files("mistral_common") / "data" / "tekken_240911.json").read_text())
    data["config"]["version"] = f"v{version}"
    names = {token["rank"]: getattr(token["token_str"], "value", token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS}
    if version >= 11:
        names |= {32: "[ARGS]", 33: "[CALL_ID]"}
    if audio:
        names |= {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
        del data["image"]
        data["audio"] = AUDIO
    elif version >= 13:
        names |= {34: "[THINK]", 35: "[/THINK]"}
    if version >= 15:
        names |= {36: "[MODEL_SETTINGS]", 37: "[/MODEL_SETTINGS]"}
        data["model_settings_builder"] = {"reasoning_effort": {"values": ["none", "high"], "accepts_none": True, "default": "none"}}
    data["special_tokens"] = [
        {"rank": rank, "token_str": names.get(rank, f"<SPECIAL_{rank}>"), "is_control": True} for rank in range(max(names) + 1)
    ]
    path = Path(mkdtemp()) / f"tekken_{version}.json"
    path.write_text(json.dumps(data))
    return MistralTokenizer.from_file(str(path), mode=ValidationMode.finetuning)


def encode(tokenizer: MistralTokenizer, scenario: Scenario) -> list[int]:
    """Return the ids that mistral-common makes of a conversation, or of a prompt: one that does not end with the assistant."""
    tools = [Tool(function=Function(**tool["function"])) for tool in scenario.tools]
    thinks = getattr(tokenizer.instruct_tokenizer, "BEGIN_THINK", None) is not None
    settings = {"reasoning_effort": "high" if scenario.options["enable_thinking"] else "none"} if scenario.options else {}
    messages = [_message(message, thinks=thinks) for message in scenario.messages]
    request: Any = ChatCompletionRequest(messages=messages, tools=tools or None, **settings)
    ends = scenario.messages[-1]["role"] == "assistant"
    tokenizer._chat_completion_request_validator._mode = ValidationMode.finetuning if ends else ValidationMode.test
    return tokenizer.encode_chat_completion(request).tokens


def _message(message: Message, *, thinks: bool) -> Any:
    content = message["content"]
    if message["role"] == "user":
        return UserMessage(content=content)
    if message["role"] == "system":
        return SystemMessage(content=content)
    if message["role"] == "tool":
        return ToolMessage(content=content, name=message["name"], tool_call_id=message["tool_call_id"])
    calls = [
        ToolCall(id=call["id"], function=FunctionCall(name=call["function"]["name"], arguments=json.dumps(call["function"]["arguments"])))
        for call in message.get("tool_calls", ())
    ]
    if thought := message.get("reasoning_content"):
        # Where there are no tokens for it, the first Magistral's way: tags in the text.
        words = [TextChunk(text=content)] if content else []
        content = [ThinkChunk(thinking=thought), *words] if thinks else f"<think>\n{thought}\n</think>\n{content}"
    return AssistantMessage(content=content or None, tool_calls=calls or None)
