"""Text in: documents by name, their split, the tokenizer, and sequences of tokens."""
