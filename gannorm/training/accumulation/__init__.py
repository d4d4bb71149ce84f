"""Gradients of a batch that does not fit into memory, from microbatches."""
