"""The networks, their building blocks and the table that names them: modules of PyTorch that know no file."""
