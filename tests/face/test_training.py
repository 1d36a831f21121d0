"""One real training step: the loss is that of the trained tokens and of nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, DataCollatorWithPadding, LlamaConfig, LlamaForCausalLM

import rolemask

CHATS = [
    [("user", "Hello there."), ("assistant", "Hello world, hello there."), ("user", "\n\n hello"), ("assistant", "there.\n")],
    [("system", "user"), ("user", "Hello"), ("assistant", "world")],
]


@pytest.fixture
def tokenizer(small_tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_tokenizer_folder)


def features(tokenizer: Any) -> list[dict[str, list[int]]]:
    texts = [
        tokenizer.apply_chat_template([{"role": role, "content": content} for role, content in chat], tokenize=False) for chat in CHATS
    ]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in (tokenizer.encode(text) for text in texts)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<|pad|>", "<|im_end|>"])
@pytest.mark.parametrize("kind", ["padding", "language modelling"])
def test_loss_and_gradient_are_those_of_the_trained_tokens(tokenizer: Any, side: str, pad: str, kind: str) -> None:
    tokenizer.padding_side, tokenizer.pad_token = side, pad
    base: Any = DataCollatorWithPadding(tokenizer) if kind == "padding" else DataCollatorForLanguageModeling(tokenizer, mlm=False)
    collator = rolemask.RoleMaskCollator(base, rolemask.load("chatml").compile(tokenizer))
    batch = collator(features(tokenizer))
    ids, labels = batch["input_ids"], batch["labels"]
    assert labels.shape == ids.shape

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    trained = [tokenizer.decode(row[row != -100]) for row in labels]
    assert trained == ["Hello world, hello there.<|im_end|>there.\n<|im_end|>", "world<|im_end|>"]
    assert (labels == end).sum() == 3

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    model = LlamaForCausalLM(config).double()
    captured: dict[str, torch.Tensor] = {}

    def keep_logits(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        output.retain_grad()
        captured["logits"] = output
        return output

    model.lm_head.register_forward_hook(keep_logits)
    loss = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels).loss
    loss.backward()

    log_probabilities = captured["logits"].detach().float().log_softmax(-1)  # the model computes its loss in float32
    by_hand = [
        -log_probabilities[row, at - 1, ids[row, at]]
        for row in range(ids.shape[0])
        for at in range(1, ids.shape[1])
        if labels[row, at] != -100
    ]
    assert len(by_hand) == (labels != -100).sum()
    torch.testing.assert_close(loss.detach(), torch.stack(by_hand).mean(), rtol=1e-5, atol=0)
    gradient = captured["logits"].grad
    assert gradient is not None
    predicts_trained = torch.zeros_like(labels, dtype=torch.bool)
    predicts_trained[:, :-1] = labels[:, 1:] != -100
    assert (gradient[~predicts_trained] == 0).all()
    assert (gradient[predicts_trained].abs().sum(-1) > 0).all()


def test_a_base_collator_without_input_ids_is_told(tokenizer: Any) -> None:
    collator = rolemask.RoleMaskCollator(lambda features: {"pixels": 1}, rolemask.load("chatml").compile(tokenizer))
    with pytest.raises(rolemask.RoleMaskError, match="the batch has no 'input_ids', only pixels"):
        collator([])
    collator = rolemask.RoleMaskCollator(lambda features: [1], rolemask.load("chatml").compile(tokenizer))  # type: ignore[arg-type, return-value]
    with pytest.raises(rolemask.RoleMaskError, match="returned a list, expected a mapping"):
        collator([])
