"""A second look at the whole heart: its wall unrolled, and whether there is a lesion in it."""
