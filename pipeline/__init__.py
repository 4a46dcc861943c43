"""The orchestration: DVC stages, Prefect flows, the command line. Built on `sae`, which knows nothing of it."""
