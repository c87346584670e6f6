"""One run: from settings to data, model, training, test and a recorded result."""
