"""Stage `tokens`: documents, split by name, become sequences of tokens."""

from __future__ import annotations

from pipeline.progress import Progress
from pipeline.stage import StageContext, run_stage
from sae.config import InputError
from sae.corpus.documents import CorpusConfig, iter_documents
from sae.corpus.subject import SubjectConfig, context_length, load_model_config, load_tokenizer
from sae.corpus.tokens import SPLITS, TokensConfig, TokenSet, build_token_sets


def body(ctx: StageContext) -> str:
    corpus, subject = ctx.section("corpus", CorpusConfig), ctx.section("subject", SubjectConfig)
    config = ctx.section("tokens", TokensConfig)
    revision = ctx.read_json("data/inputs/tokenizer.json")["revision"]
    longest = context_length(load_model_config(subject, revision))
    if longest is not None and config.context > longest:
        raise InputError(
            "the context is longer than the model's", where="tokens.context", found=config.context, expected=f"at most {longest}"
        )
    documents = iter_documents(corpus, ctx.read_json("data/inputs/corpus.json").get("revision"))
    with Progress("tokens", config.train + config.held_out, "tokens") as progress:
        sets = build_token_sets(documents, load_tokenizer(subject, revision), config, corpus.held_out, progress)
    with ctx.output("data/tokens") as out:
        for split in SPLITS:
            (out / split).mkdir()
            sets[split].save(out / split)
    parts = [
        f"{split} {int((~tokens.special_SC).sum()):,} tokens in {len(tokens.tokens_SC):,} sequences of {_length(tokens)}"
        + ("" if tokens.complete else f" (all that the corpus has; {getattr(config, split):,} were wanted)")
        for split, tokens in sets.items()
    ]
    return "; ".join(parts) + f"; {progress.seconds:.0f} s → data/tokens"


def _length(tokens: TokenSet) -> str:
    context = tokens.tokens_SC.shape[1]
    if tokens.attention_SC is None:
        return str(context)
    return f"up to {context} ({float((~tokens.attention_SC).float().mean()):.0%} padding)"


if __name__ == "__main__":
    raise SystemExit(run_stage("tokens", body))
