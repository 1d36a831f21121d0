"""Labels equal other projects' masks, or differ for a reason that docs/differences.md gives."""

import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest
from peer_masks import ByteTokenizer, compare, compare_renderer, set_for, training_templates, unexplained
from peers import NO_RENDERER_SETS, REASONS, RENDERER_SETS
from real import byte_level, deepseek, from_folder

from rolemask import IGNORE_INDEX
from rolemask.chat_templates.rendering import Renderer, UnsupportedScenarioError
from rolemask.chat_templates.scenarios import SCENARIOS
from rolemask.chat_templates.template import ChatTemplate, variables_of
from rolemask.markers.registry import load

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATES = dict(training_templates())
GEMMA = ("<bos>", "<start_of_turn>", "<end_of_turn>")
QWEN: Callable[[], Any] = lambda: byte_level("qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")  # noqa: E731
LLAMA: Callable[[], Any] = lambda: byte_level("llama3", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")  # noqa: E731
NO_RENDERERS = "renderers is not installed: pip install renderers (Python 3.11)"
REAL: dict[str, Callable[[], Any]] = {
    "qwen3": QWEN,
    "qwen3.5": lambda: byte_level("qwen3_6", eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    "llama-3": LLAMA,
    "gemma4": lambda: from_folder("gemma4"),
    "deepseek-v3": deepseek,
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_difference_from_trl_has_a_reason(name: str) -> None:
    markers = set_for(name)
    assert markers is not None, f"no marker set was verified on trl's {name}.jinja"
    comparison = compare(name, TEMPLATES[name], markers)
    assert comparison.compared >= 9
    assert unexplained("TRL", comparison) == []


@pytest.mark.parametrize(
    ("name", "make"),
    [("qwen3", QWEN), ("qwen2_5", QWEN), ("llama3", LLAMA), ("deepseekv3", deepseek), ("gemma", lambda: byte_level("qwen2_5", GEMMA))],
)
def test_the_mask_that_transformers_returns_holds_all_that_we_train(name: str, make: Callable[[], Any]) -> None:
    """With a real tokenizer: TRL's path itself, `return_assistant_tokens_mask`. Whatever more it trains is on the page."""
    tokenizer, markers = make(), set_for(name)
    assert markers is not None
    masker = load(markers.name).compile(tokenizer, on_empty="ignore")
    renderer = Renderer(ChatTemplate(TEMPLATES[name], name, variables_of(tokenizer)), markers.special_tokens)
    allowed = {text for who, text in REASONS if who == "TRL"}
    compared = 0
    for scenario in SCENARIOS:
        try:
            accepted, _ = renderer.render_in_accepted_form(scenario)
        except UnsupportedScenarioError:
            continue
        found = tokenizer.apply_chat_template(
            list(accepted.messages),
            tools=list(accepted.tools) or None,
            chat_template=TEMPLATES[name],
            return_dict=True,
            return_assistant_tokens_mask=True,
            **accepted.options,
        )
        labels = masker(found["input_ids"])
        pairs = list(zip(found["input_ids"], labels, found["assistant_masks"], strict=True))
        assert all(theirs for _, label, theirs in pairs if label != IGNORE_INDEX)
        runs = "".join(tokenizer.decode([id_]) if theirs and label == IGNORE_INDEX else "\0" for id_, label, theirs in pairs)
        # White space of a header and of the answer after it may be one token: it is header.
        assert {run.rstrip(" \t\n") for run in runs.split("\0")} - {""} <= {text.rstrip("\n") for text in allowed}
        compared += 1
    assert compared >= 9


@pytest.mark.parametrize("name", RENDERER_SETS)
def test_every_difference_from_renderers_has_a_reason(name: str) -> None:
    pytest.importorskip("renderers", reason=NO_RENDERERS)
    markers = load(RENDERER_SETS[name])
    comparison = compare_renderer(name, markers, ByteTokenizer(markers))
    assert comparison.compared >= 18
    assert unexplained("renderers", comparison) == []


@pytest.mark.parametrize("name", REAL)
def test_with_a_real_tokenizer_renderers_differs_in_the_same(name: str) -> None:
    pytest.importorskip("renderers", reason=NO_RENDERERS)
    markers = load(RENDERER_SETS[name])
    bytewise, real = compare_renderer(name, markers, ByteTokenizer(markers)), compare_renderer(name, markers, REAL[name]())
    assert (real.compared, real.equal) == (bytewise.compared, bytewise.equal)
    assert [(one.theirs, one.text) for one in real.differences] == [(one.theirs, one.text) for one in bytewise.differences]


def test_every_renderer_is_compared_or_it_is_said_why_not() -> None:
    renderers = pytest.importorskip("renderers", reason=NO_RENDERERS)
    configs = get_args(get_args(renderers.RendererConfig)[0])
    names = {get_args(config.model_fields["name"].annotation)[0] for config in configs}
    assert {*RENDERER_SETS, *NO_RENDERER_SETS} == names


def test_the_generated_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if done.stdout:
        pytest.skip(done.stdout.strip())


def test_every_set_is_on_the_page_of_formats() -> None:
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    names = [path.stem for path in (DOCS.parent / "registry").glob("*.yaml")]
    assert [name for name in names if f"[{name}](../registry/{name}.yaml)" not in page] == []


def test_trl_has_training_templates_at_all() -> None:
    assert len(TEMPLATES) >= 20
    assert (files("trl") / "chat_templates").is_dir()
