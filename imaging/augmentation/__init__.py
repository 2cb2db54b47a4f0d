"""Classical augmentation: the recipe for one slice with its artefacts, and stores of varied slices."""
