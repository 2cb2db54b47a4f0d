"""`scarforge sweep`: the segmenter trained at several shares of synthetic slices."""
