"""A language model and a tokenizer that are built in a moment: a Llama of random weights, and words ``w0`` … ``w59``."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae.config import seeded_global_rng

WORDS = 60
BOS, EOS, UNK = 60, 61, 62


def tiny_tokenizer(*, bos: bool = True, eos: bool = True) -> Any:
    """Token i is the word ``w{i}``; then come <s>, </s> and <unk>."""
    vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<s>": BOS, "</s>": EOS, "<unk>": UNK}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"unk_token": "<unk>"} | ({"bos_token": "<s>"} if bos else {}) | ({"eos_token": "</s>"} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def tiny_llama(layers: int = 3, width: int = 16) -> Any:
    """A Llama with random weights, large enough that its predictions differ."""
    config = LlamaConfig(
        vocab_size=UNK + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    with seeded_global_rng(0, "tiny llama"):
        model = LlamaForCausalLM(config)
    return model.eval().requires_grad_(False)


def random_tokens(sequences: int, context: int, seed: int = 0) -> torch.Tensor:
    """Words at random, each sequence begun with BOS."""
    tokens_SC = torch.randint(0, WORDS, (sequences, context), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    tokens_SC[:, 0] = BOS
    return tokens_SC
