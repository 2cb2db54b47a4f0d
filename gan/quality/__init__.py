"""How good synthetic slices are: realism, adherence, variety, copies, utility, and their page."""
