"""Capturing on several machines: each does a share of the parts; a shared folder or a DVC remote brings them together."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.capturing import captures
from pipeline.progress import Progress
from pipeline.remote import RemoteFolder
from pipeline.stage import StageContext
from sae.activations.capture import ActivationsConfig, Capture
from sae.activations.plan import plan
from sae.config import InputError
from sae.corpus.subject import SubjectConfig

PARTS = "parts"  # folder in the remote


def capture_share(root: Path, share: tuple[int, int], *, push: str | None = None, pull: str | None = None) -> None:
    """Capture a share of the parts into the stage's folder of unfinished work, where the stage finds them.

    Machines that share the project's folder need no more than that: the parts are claimed under locks that network file
    systems know. Others push their parts to a DVC remote, under the hash of all that the stage depends on, and the one
    that puts the stores together pulls them.

    Args:
        root: the project; its stages up to `tokens` have run.
        share: (i, n): of every n parts the one that leaves i.
        push: a DVC remote to copy the parts to afterwards.
        pull: one to fetch parts from before.

    Raises:
        InputError: no such remote, or the stage `tokens` has not run.
        Failure: the disk or the memory is too small, or the remote can't be reached.
    """
    os.chdir(root)
    ctx = StageContext("activations", root)
    for needed in ("data/inputs/subject.json", "data/tokens"):
        if not (root / needed).exists():
            raise InputError("there are no tokens yet", where=needed, expected="python -m pipeline run --stages inputs,tokens")
    config, subject = ctx.section("activations", ActivationsConfig), ctx.section("subject", SubjectConfig)
    work = captures(ctx, config, subject)
    if pull is not None:
        fetched = sum(_pull(RemoteFolder(root, pull, "--pull"), ctx.key, split, capture) for split, capture in work.items())
        print(f"{fetched} parts fetched from {pull}", flush=True)
    expected = plan(list(work.values()), share[1])
    print(f"activations: {expected}", flush=True)
    expected.check(ctx.work)
    with Progress("activations", expected.rows // share[1], "rows") as progress:
        for capture in work.values():
            capture.write_parts(progress, share)
    count = sum(sum(map(capture.writer.has_part, range(capture.writer.count))) for capture in work.values())
    print(f"{count} of {sum(capture.writer.count for capture in work.values())} parts are here", flush=True)
    if push is not None:
        sent = sum(_push(RemoteFolder(root, push, "--push"), ctx.key, split, capture) for split, capture in work.items())
        print(f"{sent} parts copied to {push}", flush=True)


def _push(remote: RemoteFolder, key: str, split: str, capture: Capture) -> int:
    sent = 0
    for part in range(capture.writer.count):
        source = capture.writer.part_path(part)
        target = remote.path(PARTS, key, split, source.name)
        if source.exists() and not remote.exists(target):
            remote.put(source, target)
            sent += 1
    return sent


def _pull(remote: RemoteFolder, key: str, split: str, capture: Capture) -> int:
    fetched = 0
    for part in range(capture.writer.count):
        target = capture.writer.part_path(part)
        source = remote.path(PARTS, key, split, target.name)
        if not target.exists() and remote.exists(source):
            remote.get(source, target)
            fetched += 1
    return fetched
