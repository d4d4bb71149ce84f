"""Figures, pages and W&B views of what `comparison` computed."""
