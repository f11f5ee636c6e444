"""RASP-L: a language for what transformers learn to compute on sequences of any length."""
