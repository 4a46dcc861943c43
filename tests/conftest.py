"""Shared by all tests: one thread, no network, reproducible property tests, and a tiny language model with its tokenizer."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

# Before any test imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="sae-tests-")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


import pytest
import torch
from hypothesis import settings

# A job that a script puts into the background ignores Ctrl-C, and so do the processes that the tests would press it in.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # the models are tiny: on busy cores two threads mostly wait for each other
settings.register_profile("repository", deadline=None, database=None, derandomize=True, max_examples=50)
settings.load_profile("repository")

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon"


def sentence(seed: int, words: int = 200) -> str:
    """Text that is the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    known = WORDS.split()
    return " ".join(known[int(i)] for i in torch.randint(len(known), (words,), generator=rng))


def make_subject(directory: Path, *, seed: int = 0, context: int = 32, width: int = 16, layers: int = 2) -> None:
    """Write a tiny Llama with random weights and a byte-level tokenizer of its own as a Hugging Face directory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([sentence(0, 500)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny_subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny subject model."""
    directory = tmp_path_factory.mktemp("subject")
    make_subject(directory)
    return directory
