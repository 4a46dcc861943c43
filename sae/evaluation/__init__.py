"""What a trained SAE is worth, measured on held-out documents."""
