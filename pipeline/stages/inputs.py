"""Stage `inputs`: fingerprints of the corpus, the subject and a user's own architecture. Cheap, and always run."""

from __future__ import annotations

import json

from pipeline.fingerprints import FileHashes, fingerprints
from pipeline.sections import PARAMS_FILE, read_yaml
from pipeline.stage import WORK, StageContext, run_stage
from sae.corpus.documents import CorpusConfig
from sae.corpus.subject import SubjectConfig


def body(ctx: StageContext) -> str:
    hashes = FileHashes(ctx.root / WORK / "hashes.json")
    params = read_yaml(ctx.root / PARAMS_FILE)
    made = fingerprints(ctx.section("corpus", CorpusConfig), ctx.section("subject", SubjectConfig), params, hashes)
    with ctx.output("data/inputs") as out:
        for name, fingerprint in made.items():
            (out / f"{name}.json").write_text(json.dumps(fingerprint, indent=1) + "\n")
    hashes.remember()
    corpus = made["corpus"]
    size = (
        f"{corpus['files']:,} files, {corpus['bytes'] / 1e6:,.1f} MB" if "files" in corpus else f"revision {corpus['revision']}"
    )
    return f"corpus {corpus['source']} ({size}) and subject fingerprinted → data/inputs"


if __name__ == "__main__":
    raise SystemExit(run_stage("inputs", body))
