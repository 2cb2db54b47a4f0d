"""What several assets share: checks, the partition, opening of inputs, pictures, how something is trained."""
