"""What makes this package a plugin: registration of its models with RecBole, and repairs of RecBole."""
