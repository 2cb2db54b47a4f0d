"""The HTML kit: one Jinja environment, one stylesheet, one set of macros, the look of charts, and names in words."""
