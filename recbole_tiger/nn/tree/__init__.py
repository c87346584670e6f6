"""Networks over the prefix tree of a catalogue: states of histories in, likelihoods of items out."""
