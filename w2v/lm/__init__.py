"""n-gram and Transformer language models."""
