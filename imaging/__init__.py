"""From studies to prepared slices: readers, the phantom, preparation, splits, augmentation, the slice store.

What does not live here: anything that is trained, and anything that knows Dagster, MLflow or PyTorch.
"""
