"""Drawing slices from masks with a trained generator."""
