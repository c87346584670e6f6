"""From ranked items to metrics and tables."""
