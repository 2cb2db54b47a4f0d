"""The box around the left ventricle: network, training, use."""
