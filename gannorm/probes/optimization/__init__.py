"""Optimization probes: covariate shift, landscape, gradients, noise, propagation. One quantity a file."""
