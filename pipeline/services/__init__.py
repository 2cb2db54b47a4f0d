"""Both user interfaces of this machine, and what it has."""
