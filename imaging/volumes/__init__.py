"""File formats and geometry: NIfTI, DICOM, pictures, MATLAB, the orientation of an array, new studies without labels.

What does not live here: the layout of a published data set (`imaging.sources`).
"""
