"""What both trainers share: device and precision, checkpoints, model folders, schedules.

What does not live here: a network, a loss or a loop; those belong to `gan` and `segmentation`.
"""
