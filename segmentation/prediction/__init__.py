"""From a new study to its label map."""
