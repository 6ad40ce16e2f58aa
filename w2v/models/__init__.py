"""Models, found by `--arch`. Importing this package registers the built-in ones."""

from w2v.models.base import MODELS, W2vModel, register_model, register_model_architecture

__all__ = ["MODELS", "W2vModel", "register_model", "register_model_architecture"]
