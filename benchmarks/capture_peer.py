"""SAELens' cached-activations runner, in the environment that `make peers` makes: called by `capture.py`.

    python benchmarks/capture_peer.py MODEL HOOK_POINT TOKENS.npy FOLDER BATCH

Prints a JSON object: tokens, and seconds of its `run`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig


def main(model: str, hook_point: str, tokens_file: str, folder: str, batch: int) -> None:
    torch.set_num_threads(2)
    tokens_SC = np.load(tokens_file)
    sequences, context = tokens_SC.shape
    dataset = Dataset.from_dict({"input_ids": tokens_SC}).with_format("torch")
    d_in = json.loads(Path(model, "config.json").read_text())["hidden_size"]
    config = CacheActivationsRunnerConfig(
        dataset_path="",
        model_name=model,
        model_class_name="AutoModelForCausalLM",
        model_batch_size=batch,
        hook_name=hook_point,
        d_in=d_in,
        model_from_pretrained_kwargs={"dtype": torch.float32},  # as ours; its own default here is float16, slow on a CPU
        buffer_size_gb=1.01 * sequences * context * d_in * 2 / 1e9,  # it fills whole buffers, of 2 GB if nothing is said
        training_tokens=sequences * context,
        context_size=context,
        new_cached_activations_path=folder,
        dtype="float16",
        device="cpu",
        prepend_bos=False,
        streaming=False,
        shuffle=True,
    )
    runner = CacheActivationsRunner(config, override_dataset=dataset)
    began = time.perf_counter()
    runner.run()
    print(json.dumps({"tokens": sequences * context, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
