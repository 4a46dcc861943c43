"""Stage `inputs`: fingerprints of the corpus, the subject and a user's own architecture. Cheap, and always run."""

from __future__ import annotations

import json
from typing import Any

from pipeline.fingerprints import FileHashes, fingerprint_architecture, fingerprint_corpus, fingerprint_start, fingerprint_subject
from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.stage import WORK, StageContext, run_stage
from sae.corpus.documents import CorpusConfig
from sae.corpus.subject import SubjectConfig


def body(ctx: StageContext) -> str:
    hashes = FileHashes(ctx.root / WORK / "hashes.json")
    corpus = fingerprint_corpus(ctx.section("corpus", CorpusConfig), hashes)
    tokenizer, subject = fingerprint_subject(ctx.section("subject", SubjectConfig), hashes)
    # These sections' own classes would pull in torch, and this stage is to cost nothing.
    params = read_yaml(ctx.root / PARAMS_FILE)
    architecture = fingerprint_architecture(str((params.get("sae") or {}).get("architecture", "")), hashes)
    start = fingerprint_start((params.get("train") or {}).get("start_from"), hashes)
    with ctx.output("data/inputs") as out:
        everything: dict[str, dict[str, Any]] = {
            "corpus": corpus,
            "tokenizer": tokenizer,
            "subject": subject,
            "architecture": architecture,
            "start": start,
        }
        for name, fingerprint in everything.items():
            (out / f"{name}.json").write_text(json.dumps(fingerprint, indent=1) + "\n")
    hashes.remember()
    size = (
        f"{corpus['files']:,} files, {corpus['bytes'] / 1e6:,.1f} MB" if "files" in corpus else f"revision {corpus['revision']}"
    )
    return f"corpus {corpus['source']} ({size}) and subject fingerprinted → data/inputs"


if __name__ == "__main__":
    raise SystemExit(run_stage("inputs", body))
