"""The room `mfa`: activation space as a mixture of Gaussian regions, each with its own few directions."""
