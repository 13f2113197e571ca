"""Distillation: a small encoder learns the embedding of an adapted teacher, on images that nobody has labelled."""
