"""What happens beside the steps of a run: metrics, samples, probes, checkpoints."""
