"""Train the small language model that ships in ``data/subject/``: ``python -m pipeline.subject``.

A Llama of a few million parameters learns the source text of the Python standard library, on the training documents of
the pipeline's own split, so that the pipeline's held-out documents are unseen by the language model too. The result
is an ordinary Hugging Face directory with a card; nothing else in the project knows that it is ours.

Shapes: B sequences, T tokens each, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae.config import generator, seeded_global_rng
from sae.corpus.documents import CorpusConfig, Document, iter_documents
from sae.corpus.split import is_held_out

BOS = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """All that decides the model, less the text."""

    vocabulary: int = 4096
    layers: int = 4
    width: int = 192
    heads: int = 4
    mlp: int = 512
    context: int = 256
    batch: int = 32
    steps: int = 2800
    lr_matrices: float = 0.02
    lr_rest: float = 4e-3
    warmup: int = 100
    seed: int = 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.subject", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/subject"))
    parser.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")
    for name, value in asdict(Recipe()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    out, compile_step = options.pop("out"), options.pop("compile")
    recipe = Recipe(**options)

    started = time.monotonic()
    documents = list(iter_documents(CorpusConfig()))
    held_out_share = CorpusConfig().held_out
    train = [d for d in documents if not is_held_out(d.name, held_out_share)]
    held_out = [d for d in documents if is_held_out(d.name, held_out_share)]
    tokenizer = train_tokenizer(train, recipe.vocabulary)
    train_T = token_stream(tokenizer, train)
    held_out_T = token_stream(tokenizer, held_out)
    held_out_bytes = sum(len(str(d.content).encode("utf-8", "replace")) for d in held_out)
    bytes_per_token = held_out_bytes / (len(held_out_T) - len(held_out))
    print(
        f"{len(train)} training documents, {len(train_T):,} tokens; {len(held_out)} held out, {len(held_out_T):,} tokens",
        flush=True,
    )

    model = train_model(recipe, train_T, compile_step)
    model.half().float()  # the directory holds float16, so that is what is measured
    print("measuring on held-out documents", flush=True)
    by_position = held_out_loss(model, held_out_T, recipe)
    baselines = {
        "unigram": unigram_loss(train_T, held_out_T, recipe.vocabulary),
        "interpolated_bigram": bigram_loss(train_T, held_out_T, recipe.vocabulary),
    }
    nats = float(by_position.mean())
    card = {
        "data": {
            "source": "source text of the Python standard library, its tests included",
            "python": sys.version.split()[0],
            "train_documents": len(train),
            "train_tokens": len(train_T),
            "held_out_documents": len(held_out),
            "held_out_tokens": len(held_out_T),
            "held_out_bytes_per_token": round(bytes_per_token, 4),
        },
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "trained_tokens": recipe.steps * recipe.batch * recipe.context,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "held_out": {
            "nats_per_token": round(nats, 4),
            "bits_per_byte": round(nats / math.log(2) / bytes_per_token, 4),
            "nats_by_position": {
                f"{lo}-{hi}": round(float(by_position[lo - 1 : hi].mean()), 4) for lo, hi in _octaves(len(by_position))
            },
        },
        "baselines": {name: round(value, 4) for name, value in baselines.items()},
    }
    save(out, model, tokenizer, recipe, card)
    print(json.dumps(card["held_out"] | {"baselines": card["baselines"]}, indent=2))
    return 0


def train_tokenizer(documents: list[Document], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer, which loses no text; every encoded document begins with `BOS`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((str(d.content) for d in documents), trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: list[Document]) -> torch.Tensor:
    """All documents as one row of token ids, each behind a `BOS`."""
    bos: int = tokenizer.token_to_id(BOS)  # type: ignore[assignment]  # it is in the vocabulary
    stream: list[int] = []
    for encoding in tokenizer.encode_batch([str(d.content) for d in documents]):
        stream.append(bos)
        stream.extend(encoding.ids)
    return torch.tensor(stream)


def batches(tokens_T: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Endless batches [B, context + 1]: every epoch cuts the stream at a new offset and visits its pieces in a new order."""
    rng = generator(recipe.seed, "subject", "batches")
    length = recipe.context
    while True:
        offset = int(torch.randint(length, (1,), generator=rng))
        pieces = (len(tokens_T) - offset - 1) // length
        order = torch.randperm(pieces, generator=rng)
        for chosen in order[: pieces - pieces % recipe.batch].view(-1, recipe.batch):
            starts = offset + chosen * length
            yield tokens_T[starts[:, None] + torch.arange(length + 1)]


def train_model(recipe: Recipe, train_T: torch.Tensor, compile_step: bool) -> LlamaForCausalLM:
    """Train with Muon on the matrices of the blocks and AdamW on the rest; both rates fall to zero along a line."""
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with seeded_global_rng(recipe.seed, "subject", "weights"):
        model = LlamaForCausalLM(config)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.lr_matrices, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=recipe.lr_rest, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _lr_factor(step, recipe)) for o in optimizers]

    def loss_of(tokens_BT: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), tokens_BT[:, 1:].flatten())

    if compile_step:
        loss_of = torch.compile(loss_of)
    started, running = time.monotonic(), None
    for step, tokens_BT in enumerate(batches(train_T, recipe)):
        if step == recipe.steps:
            break
        loss = loss_of(tokens_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            rate = (step + 1) * recipe.batch * recipe.context / (time.monotonic() - started)
            print(f"step {step + 1}/{recipe.steps}  loss {running:.3f}  {rate:,.0f} tokens/s", flush=True)
    return model


def _lr_factor(step: int, recipe: Recipe) -> float:
    return min((step + 1) / recipe.warmup, max(0.0, (recipe.steps - step) / (recipe.steps - recipe.warmup)))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokens_T: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean cross-entropy in nats by position 1 to context - 1, over all whole windows of the held-out stream."""
    model.eval()
    windows = tokens_T[: len(tokens_T) // recipe.context * recipe.context].view(-1, recipe.context)
    total = torch.zeros(recipe.context - 1, dtype=torch.float64)
    for tokens_BT in windows.split(recipe.batch):
        logits_BTV = model(input_ids=tokens_BT, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none")
        total += loss.view(len(tokens_BT), -1).double().sum(0)
    return total / len(windows)


def unigram_loss(train_T: torch.Tensor, held_out_T: torch.Tensor, vocabulary: int) -> float:
    """Cross-entropy in nats of p(w) = (n(w) + 1) / (N + V)."""
    return float(-_unigram(train_T, vocabulary).log()[held_out_T[1:]].mean())


def bigram_loss(train_T: torch.Tensor, held_out_T: torch.Tensor, vocabulary: int) -> float:
    """Cross-entropy in nats of the bigram interpolated with the unigram by Witten and Bell's weights.

    p(w | c) = (n(c, w) + t(c) p(w)) / (n(c) + t(c)), with t(c) the number of distinct tokens seen after c
    (Witten & Bell 1991, method C; Chen & Goodman 1998, section 2.6).
    """
    pairs = train_T[:-1] * vocabulary + train_T[1:]
    counts = torch.bincount(pairs, minlength=vocabulary * vocabulary).view(vocabulary, vocabulary)
    seen, types = counts.sum(1).double(), (counts > 0).sum(1).double().clamp(min=1)
    context, word = held_out_T[:-1], held_out_T[1:]
    unigram = _unigram(train_T, vocabulary)[word]
    p = (counts[context, word] + types[context] * unigram) / (seen[context] + types[context])
    return float(-p.log().mean())


def _unigram(train_T: torch.Tensor, vocabulary: int) -> torch.Tensor:
    counts = torch.bincount(train_T, minlength=vocabulary).double()
    return (counts + 1) / (counts.sum() + vocabulary)


def _octaves(positions: int) -> list[tuple[int, int]]:
    edges = [1]
    while edges[-1] * 2 <= positions:
        edges.append(edges[-1] * 2)
    return [(lo, min(2 * lo - 1, positions)) for lo in edges]


def save(out: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe, card: dict[str, Any]) -> None:
    """Write the Hugging Face directory and its card."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    (out / "README.md").write_text(_card_text(card))


def _card_text(card: dict[str, Any]) -> str:
    data, recipe, held_out, baselines = card["data"], card["recipe"], card["held_out"], card["baselines"]
    positions = "\n".join(f"| {span} | {nats:.3f} |" for span, nats in held_out["nats_by_position"].items())
    return f"""# The subject model

A causal language model of {card["parameters"] / 1e6:.2f} million parameters (Llama architecture, {recipe["layers"]} layers of width
{recipe["width"]}, byte-level BPE vocabulary of {recipe["vocabulary"]:,}, context {recipe["context"]}), stored as float16. It exists so that the
pipeline has a real language model to work on where no model hub can be reached.

- **Data**: {data["source"]}, of Python {data["python"]} (PSF License). {data["train_documents"]:,} documents, {data["train_tokens"]:,} tokens for
  training; {data["held_out_documents"]:,} documents, {data["held_out_tokens"]:,} tokens held out, by the same split as the pipeline's.
- **Training**: `python -m pipeline.subject --compile`, {recipe["steps"]:,} steps of {recipe["batch"]} × {recipe["context"]} tokens
  ({card["trained_tokens"] / 1e6:.1f} million), seed {recipe["seed"]}, {card["minutes"]} minutes on two CPU cores.
- **Limits**: it has seen Python and little else. Use it to study sparse autoencoders, not to write code.

| held-out documents | nats per token | bits per byte |
|---|---|---|
| this model | {held_out["nats_per_token"]:.3f} | {held_out["bits_per_byte"]:.3f} |
| interpolated bigram (Witten–Bell) | {baselines["interpolated_bigram"]:.3f} | {_bpb(baselines["interpolated_bigram"], data):.3f} |
| unigram | {baselines["unigram"]:.3f} | {_bpb(baselines["unigram"], data):.3f} |

| position in the context | nats per token |
|---|---|
{positions}
"""


def _bpb(nats: float, data: dict[str, Any]) -> float:
    return float(nats / math.log(2) / data["held_out_bytes_per_token"])


if __name__ == "__main__":
    raise SystemExit(main())
