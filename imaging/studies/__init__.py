"""Patients: a study and its checks, preparation on the 1 mm grid, the box, the archive, the split, leakage."""
