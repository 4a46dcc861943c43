"""Language models and a tokenizer that are built in a moment: a Llama and a Bert of random weights, words ``w0`` … ``w59``."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae.config import seeded_global_rng

WORDS = 60
BOS, EOS, UNK = 60, 61, 62
MASK = UNK + 1  # of the Bert alone


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


def tiny_bert(layers: int = 3, width: int = 16, *, head: bool = True) -> Any:
    """A Bert with random weights: with the head that predicts masked tokens, or the encoder alone."""
    config = BertConfig(
        vocab_size=MASK + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    with seeded_global_rng(0, "tiny bert"):
        model = BertForMaskedLM(config) if head else BertModel(config)
    return model.eval().requires_grad_(False)


def random_tokens(sequences: int, context: int, seed: int = 0) -> torch.Tensor:
    """Words at random, each sequence begun with BOS."""
    tokens_SC = torch.randint(0, WORDS, (sequences, context), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    tokens_SC[:, 0] = BOS
    return tokens_SC
