"""Free functions on tensors and arrays; every source of randomness is an argument."""
