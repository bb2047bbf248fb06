"""How good a language model is."""
