"""Training: trainers of all models, their optimizers, and checkpoints."""
