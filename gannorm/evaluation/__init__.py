"""Comparable scores: IS, FID, KID, precision and recall through torch-fidelity.

runs            score_runs: the checkpoints of run directories, into their scores.json
scores          Evaluator, evaluate, Scores: one extraction pass, protocol beside every number
generators      any generator as one interface; warnings where an assumption about its images fails
inputs          real or generated images from tensors, arrays, folders, or data sets by name
ruler           whether an extractor's features depend on their batch
sampling        images from a generator, under running, batch or standing statistics
extractors      Inception, the in-domain classifier and others, by name; weights verified before loading
in_domain       a classifier trained on the dataset's labels in seconds (needs torch-fidelity, imported lazily)
reference       features and statistics of the real images, cached on disk under a content hash
metrics         the four scores of features: torch-fidelity's functions
reconstruction  how near a generator comes to held-out images
arithmetic      full precision around it all
"""

from gannorm.evaluation.extractors import Extractor, build_extractor, train_in_domain
from gannorm.evaluation.reconstruction import Reconstruction, reconstruction_score
from gannorm.evaluation.runs import Scored, score_runs, score_table
from gannorm.evaluation.scores import Evaluator, Scores, evaluate

__all__ = [
    "Evaluator",
    "Extractor",
    "Reconstruction",
    "Scored",
    "Scores",
    "build_extractor",
    "evaluate",
    "reconstruction_score",
    "score_runs",
    "score_table",
    "train_in_domain",
]
