"""Read runs, group them into conditions, estimate and decide; no drawing and no HTML."""
