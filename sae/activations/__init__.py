"""Activations of a language model: capturing them, storing them, reading them back."""
