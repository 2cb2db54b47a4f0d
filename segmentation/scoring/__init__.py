"""From two label maps to figures, under named rules."""
