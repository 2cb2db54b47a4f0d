"""One module a command of `scarforge`."""
