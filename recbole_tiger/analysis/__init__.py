"""What the paper measures beside accuracy: cold start, diversity, invalid IDs, latency, and what the IDs are worth."""
