"""How Pix2Pix is trained: configuration, loop, steps, losses, batches, validation."""
