"""DICOM slices: checked headers, files, series grouped by phase and place, and volumes built of them."""
