"""Where studies come from: a reader a format, and the table that names them.

A format is one module here and one line in `table`. What does not live here: file formats as such (`imaging.volumes`).
"""
