"""From images to label maps: localiser, networks, training, prediction, scores, statistics.

What does not live here: synthesis, readers, and anything that knows Dagster or MLflow.
"""
