"""What every room needs: errors, seeds, frozen configuration, whole-or-absent files, progress, workers, pages.

What does not live here: anything that knows a patient, a slice or a network.
"""
