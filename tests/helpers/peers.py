"""The other projects whose masks rolemask is compared with, and the reason for each difference.

docs/generate.py writes docs/differences.md from this; tests/peers fails where a difference has no reason.
"""

# TRL: the set for a training template if no set was verified on its original.
# DiffusionGemma repeats the model's header after a tool result, but its generation prompt does not: what the model generates there is open.
TRL_SETS = {"diffusion_gemma": "gemma4"}

# renderers: the set for each renderer.
RENDERER_SETS = {
    "deepseek-r1": "deepseek_r1",
    "deepseek-v3": "deepseek_v3",
    "deepseek-v4": "deepseek_v4",
    "gemma4": "gemma4",
    "glm-4.5": "glm4_moe",
    "glm-5": "glm4_7",
    "glm-5.1": "glm4_7",
    "glm-5.3": "glm5_2",
    "hy3": "hy3",
    "kimi-k2": "kimi_k2",
    "kimi-k2.5": "kimi_k2_5",
    "laguna-m.1": "laguna_xs",
    "laguna-s-2.1": "laguna_s",
    "laguna-xs-2.1": "laguna_s",
    "laguna-xs.2": "laguna_xs",
    "llama-3": "llama3",
    "minimax-m2": "minimax_m2",
    "nemotron-3": "nemotron_3",
    "nemotron-3-ultra": "nemotron_3",
    "nemotron-3.5": "nemotron_3",
    "prime-qwen3": "qwen3",
    "qwen3": "qwen3",
    "qwen3-vl": "qwen3",
    "qwen3.5": "qwen3_5",
    "qwen3.6": "qwen3_5",
    "qwen3.8": "qwen3_5",
}
# renderers: those that are not compared, and why.
NO_RENDERER_SETS = {
    "auto": "not a format of its own",
    "custom": "not a format of its own",
    "default": "it wraps any chat template, and doesn't say which tokens the model generates",
    "gpt-oss": "it downloads its vocabulary, so it can't run offline",
    "inkling": "there is no marker set for it",
}

_PROMPT = "the generation prompt supplies it"
_ON, _OFF = f"{_PROMPT}, with reasoning on", f"{_PROMPT}, with reasoning off"
_AFTER_STOP = "it follows the stop token: generation has ended"
_FILLED = "the model generates a filled reasoning block; the renderer assumes that reasoning is off"
# (who trains it, what) -> why the other one doesn't.
REASONS = {
    ("TRL", "\n"): _AFTER_STOP,
    ("TRL", "\n<|endoftext|>"): "it closes the whole text; generation has ended at `<|end|>`",
    ("TRL", "<|system|>"): "it starts a system turn, which the model does not wait for: GLM stops at `<|user|>` and `<|observation|>`",
    ("TRL", "<|start|>assistant"): _PROMPT,
    ("TRL", "<｜Assistant｜>"): _PROMPT,
    ("TRL", "<｜tool▁outputs▁end｜>"): "it closes the tool results, which are part of the prompt",
    ("TRL", "<think>\n"): _ON,
    ("TRL", "<think></think>"): _OFF,
    ("TRL", "<think>\n\n</think>\n\n"): _OFF,
    ("TRL", "\n<think></think>"): _OFF,
    ("rolemask", "<|tool_response>"): "generation stops at it, to wait for the tool result",
    (
        "renderers",
        "Reply1.<｜end▁of▁sentence｜>",
    ): "it opens the chat, and the template writes no header before it: ids don't tell whose words they are",
    ("renderers", "<think>"): _ON,
    ("renderers", "<think>\n"): _ON,
    ("renderers", "<|channel>thought\n"): f"{_PROMPT} after a tool result, with reasoning on",
    ("renderers", "</think>"): _OFF,
    ("renderers", "Reply2.<｜end▁of▁sentence｜>"): "the second of two answers in a row has no header, so ids don't tell whose it is",
    ("renderers", "<think></think>"): _OFF,
    ("renderers", "<think>\n\n</think>\n\n"): _OFF,
    ("rolemask", "\n"): "the header ends before it: it is the first token that the model generates",
    ("rolemask", "Thought1.</think:opensource>"): _FILLED,
    ("rolemask", "Thought2.</think:opensource>"): _FILLED,
}
