"""What is trained on: the slice store and its contract, regions, class balance, mixing."""
