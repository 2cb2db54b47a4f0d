"""How a segmenter is trained: configuration, loop, losses, batches, optimisers, validation."""
