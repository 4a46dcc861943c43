"""The trainer and what it is made of. Knows nothing of language models or files of activations: a source is handed to it."""
