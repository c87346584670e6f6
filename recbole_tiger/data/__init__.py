"""From RecBole's interactions to token tensors."""
