"""What both trainers share: device and precision, processes, checkpoints, model folders.

What does not live here: a network, a loss or a loop; those belong to `gan` and `segmentation`.
"""
