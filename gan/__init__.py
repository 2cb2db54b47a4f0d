"""From label maps to images: mask simulator, Pix2Pix, generation, synthesis quality.

What does not live here: segmenters. What judges a synthetic slice comes in as an argument.
"""
