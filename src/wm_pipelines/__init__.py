"""Train, evaluate and compare world models on worlds whose laws are known."""

__version__ = "0.1.0"
