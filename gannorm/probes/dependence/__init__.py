"""Dependence of each answer on the other samples of its batch: one quantity a file."""
